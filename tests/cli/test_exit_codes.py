"""The exit codes of the commands, and the systemd units that depend on them."""

import re
from pathlib import Path

import pytest

from trioanytls.cli.common.exit_codes import MEANINGS, ExitCode, after_signal

from ..helpers.cli_process import program

UNITS = Path(__file__).parent.parent.parent / "docs" / "systemd"


def test_every_code_has_a_meaning() -> None:
    assert list(MEANINGS) == [*(str(code.value) for code in ExitCode), "128 and above"]
    assert after_signal(15) == 143


@pytest.mark.parametrize("command", ["client", "server"])
@pytest.mark.parametrize("content", ["no-such-key = 1", "[connection]\nidle_timeout = -1", "="])
async def test_systemd_does_not_restart_after_an_invalid_configuration(
    tmp_path: Path, command: str, content: str
) -> None:
    unit = (UNITS / f"trioanytls-{command}.service").read_text(encoding="utf-8")
    [prevented] = re.findall(r"^RestartPreventExitStatus=(.*)$", unit, re.MULTILINE)
    config = tmp_path / "config.toml"
    config.write_text(content)
    async with program(command, "--config", config) as process:
        assert await process.wait() == int(prevented) == ExitCode.INVALID
    assert process.err.lines[0].startswith("Error: ")

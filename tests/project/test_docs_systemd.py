"""The systemd units and configuration files of the documentation match the commands, and the pages show them."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from trioanytls._workers.handle import _GRACE
from trioanytls.cli.main import trioanytls

DOCS = Path(__file__).parent.parent.parent / "docs"
UNITS = DOCS / "systemd"
ANALYZE = shutil.which("systemd-analyze")


def read(name: str) -> dict[str, list[str]]:
    """Read the settings of a unit file; a key can be there several times."""
    settings: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            key, equals, value = line.partition("=")
            assert equals, line
            settings.setdefault(key, []).append(value)
    return settings


def options_of(command: str) -> dict[str, click.Option]:
    found = trioanytls.commands[command]
    return {name: one for one in found.params if isinstance(one, click.Option) for name in one.opts}


@pytest.mark.parametrize("command", ["server", "client"])
def test_a_unit_runs_the_command_and_leaves_it_time_to_drain(command: str) -> None:
    unit = read(f"trioanytls-{command}.service")
    [start] = unit["ExecStart"]
    program, given, *rest = shlex.split(start)
    assert (Path(program).name, given) == ("trioanytls", command)
    options = options_of(command)
    assert rest
    assert [word for word in rest if word.startswith("-") and word not in options] == []
    assert unit["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert unit["KillSignal"] == ["SIGTERM"]
    assert unit["Restart"] == ["on-failure"]
    drain_timeout = options["--drain-timeout"].default
    assert isinstance(drain_timeout, int | float)
    assert int(unit["TimeoutStopSec"][0]) > drain_timeout + (_GRACE if command == "server" else 0)
    assert int(unit["LimitNOFILE"][0]) >= 4096


@pytest.mark.parametrize(
    ("name", "command"), [("server.toml", "server"), ("server-certificate.toml", "server"), ("client.toml", "client")]
)
def test_the_configuration_files_name_options(name: str, command: str) -> None:
    text = (UNITS / name).read_text(encoding="utf-8")
    keys = list(tomllib.loads(text))
    # Keys in comments, too.
    keys += re.findall(r"^# ([a-z-]+) = ", text, re.MULTILINE)
    assert keys
    assert [key for key in keys if f"--{key}" not in options_of(command)] == []


def test_the_credentials_are_where_the_configuration_looks_for_them() -> None:
    loaded = {value.partition(":")[0] for value in read("certificate.conf")["LoadCredential"]}
    configuration = tomllib.loads((UNITS / "server-certificate.toml").read_text(encoding="utf-8"))
    directory = "/run/credentials/trioanytls-server.service/"
    named = {configuration[key] for key in ("password-file", "cert", "key")}
    assert named == {directory + one for one in loaded}
    drain_timeout = configuration["drain-timeout"]
    assert int(read("trioanytls-server.service")["TimeoutStopSec"][0]) > drain_timeout + _GRACE


def test_the_pages_show_each_file() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    for file in UNITS.iterdir():
        assert f"```{{literalinclude}} systemd/{file.name}\n" in pages


@pytest.mark.skipif(ANALYZE is None, reason="systemd is not installed")
@pytest.mark.parametrize("command", ["server", "client"])
def test_systemd_accepts_the_units(tmp_path: Path, command: str) -> None:
    name = f"trioanytls-{command}.service"
    text = (UNITS / name).read_text(encoding="utf-8")
    # systemd-analyze checks that the program exists, so name one that does.
    text, count = re.subn(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", text)
    assert count == 1
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert ANALYZE is not None
    done = subprocess.run([ANALYZE, "verify", tmp_path / name], capture_output=True, text=True, timeout=60)
    assert (done.returncode, [line for line in done.stderr.splitlines() if name in line]) == (0, [])

"""Fixtures of the tests of the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from trioanytls.cli import main
from trioanytls.cli.common.certificates import make_certificate
from trioanytls.cli.server import run as server_run
from trioanytls.cli.server.settings import ServerSettings

#: A configuration of a server, with files that `collect_server` creates.
SERVER_CONFIG = """
cert = "one.pem"
password-file = "password"
"""


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRIOANYTLS_PASSWORD", "TRIOANYTLS_SERVER", "JOURNAL_STREAM"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def collect_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ServerSettings]:
    """Return a function that collects the settings of `trioanytls server` with some arguments."""
    for name in ("one", "two"):
        made = make_certificate("relay.example")
        (tmp_path / f"{name}.pem").write_bytes(made.key + made.certificate)
    for name in ("password", "other"):
        (tmp_path / name).write_text(f"sesame of {name}")
        (tmp_path / name).chmod(0o600)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, config: str | None = None, environment: dict[str, Any] | None = None) -> ServerSettings:
        settings: list[ServerSettings] = []

        def note(one: ServerSettings) -> int:
            settings.append(one)
            return 0

        monkeypatch.setattr(server_run, "run", note)
        if config is not None:
            (tmp_path / "config.toml").write_text(config)
            (tmp_path / "config.toml").chmod(0o600)
            arguments = ("--config", "config.toml", *arguments)
        result = CliRunner(env=environment).invoke(main.trioanytls, ["server", *map(str, arguments)])
        assert result.exit_code == 0, result.output
        return settings[0]

    return run

"""The formats of the log, and the options of all commands that set them."""

import io
import json
import logging
from typing import Any

import click
import pytest
from click.testing import CliRunner

from trioanytls.cli import main
from trioanytls.cli.common.errors import UserError
from trioanytls.cli.common.logging import LogSettings, TextFormatter, log_options


def log(settings: LogSettings, *arguments: str, **options: Any) -> str:
    out = io.StringIO()
    settings.set_up(out)
    logging.getLogger("trioanytls.relay").info(*arguments, **options)
    return out.getvalue()


def test_text_format() -> None:
    line = log(LogSettings(), "user %r: %s", "bob", "evil\nline \x1b[31m\u202e")
    assert line.endswith(" INFO    user 'bob': evil\\nline \\x1b[31m\\u202e\n")
    assert line.count("\n") == 1
    assert log(LogSettings(show_process=True), "x").split("] ")[0].split("[")[1].isdigit()


def test_tracebacks() -> None:
    try:
        raise UserError("wrong")
    except UserError as error:
        caught = error
    assert log(LogSettings(), "failed", exc_info=caught).count("\n") == 1
    assert "Traceback" in log(LogSettings(logging.DEBUG), "failed", exc_info=caught)
    record = json.loads(log(LogSettings(format="json"), "failed", exc_info=caught))
    assert record["exception"].startswith("Traceback")


def test_json_format() -> None:
    about = {"connection": 7, "peer": "192.0.2.7:1", "user": None}
    line = log(LogSettings(format="json"), "a\nb", extra=about)
    assert line.count("\n") == 1
    record = json.loads(line)
    assert record["time"].endswith("+00:00")
    del record["time"], record["process"]
    assert record == {"level": "info", "logger": "trioanytls.relay", "message": "a\\nb", **about}


def test_level_and_second_set_up() -> None:
    assert log(LogSettings(logging.WARNING), "x") == ""
    # The second call replaces the handler of the first.
    assert log(LogSettings(), "x").count("x") == 1


# Options


def options_of(command: str) -> dict[str | None, dict[str, Any]]:
    described = {one.name: one.to_info_dict() for one in main.trioanytls.commands[command].params}
    return {name: described[name] for name in ("log_format", "quiet", "verbose")}


def test_client_and_server_have_the_same_options() -> None:
    client, server = options_of("client"), options_of("server")
    for options in (client, server):
        assert options["quiet"].pop("help").startswith("Log only warnings and errors; do not print the ")
    assert client == server


@click.command()
@log_options(not_printed="output")
@click.pass_context
def command(context: click.Context, /, **_options: object) -> None:
    """Print the level and the format."""
    settings = LogSettings.from_options(context)
    click.echo(f"{logging.getLevelName(settings.level)} {settings.format}")


@pytest.mark.parametrize(
    ("arguments", "file", "output"),
    [
        ([], {}, "INFO text"),
        (["-q", "--log-format", "json"], {}, "WARNING json"),
        (["-v"], {}, "DEBUG text"),
        ([], {"quiet": True, "log_format": "json"}, "WARNING json"),
        # The command line overrides the file.
        (["-v"], {"quiet": True}, "DEBUG text"),
        (["-q"], {"verbose": True}, "WARNING text"),
        (["-q", "-v"], {}, "Error: --quiet and --verbose are mutually exclusive"),
        ([], {"quiet": True, "verbose": True}, "Error: --quiet and --verbose are mutually exclusive"),
    ],
)
def test_settings_from_options(arguments: list[str], file: dict[str, object], output: str) -> None:
    result = CliRunner().invoke(command, arguments, default_map=file)
    assert result.output == f"{output}\n"
    assert result.exit_code == (2 if output.startswith("Error") else 0)


@pytest.mark.parametrize("arguments", [["demo", "--no-fetch"], ["bench", "--quick"]])
def test_other_commands_log_warnings_in_the_same_format(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    from trioanytls.cli.bench import measure
    from trioanytls.cli.demo import upload

    monkeypatch.setattr(measure, "run", lambda *_arguments, **_options: 0)
    monkeypatch.setattr(upload, "run", lambda *_arguments, **_options: 0)
    assert CliRunner().invoke(main.trioanytls, arguments).exit_code == 0
    logger = logging.getLogger("trioanytls")
    assert logger.level == logging.WARNING
    assert [type(handler.formatter) for handler in logger.handlers] == [TextFormatter]

"""The formats of the log."""

import io
import json
import logging
from typing import Any

from trioanytls.cli.common.errors import UserError
from trioanytls.cli.common.logging import LogSettings


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

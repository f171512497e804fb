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


def test_a_line_for_people() -> None:
    line = log(LogSettings(), "user %r: %s", "bob", "evil\nline \x1b[31m\u202e")
    assert line.endswith(" INFO    user 'bob': evil\\nline \\x1b[31m\\u202e\n")
    assert line.count("\n") == 1
    assert log(LogSettings(show_process=True), "x").split("] ")[0].split("[")[1].isdigit()


def test_what_went_wrong_in_detail() -> None:
    try:
        raise UserError("wrong")
    except UserError as error:
        caught = error
    assert log(LogSettings(), "failed", exc_info=caught).count("\n") == 1
    assert "Traceback" in log(LogSettings(logging.DEBUG), "failed", exc_info=caught)
    told = json.loads(log(LogSettings(format="json"), "failed", exc_info=caught))
    assert told["exception"].startswith("Traceback")


def test_a_line_for_machines() -> None:
    about = {"connection": 7, "peer": "192.0.2.7:1", "user": None}
    line = log(LogSettings(format="json"), "a\nb", extra=about)
    assert line.count("\n") == 1
    told = json.loads(line)
    assert told["time"].endswith("+00:00")
    del told["time"], told["process"]
    assert told == {"level": "info", "logger": "trioanytls.relay", "message": "a\\nb", **about}


def test_what_is_said_depends_on_the_level() -> None:
    assert log(LogSettings(logging.WARNING), "x") == ""
    # A second time, nothing is said twice.
    assert log(LogSettings(), "x").count("x") == 1

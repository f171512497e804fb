"""What a long-running command says: one line for each event, on the standard error."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import sys
from typing import IO, Final, Literal, TextIO

import click
from attrs import frozen

from trioanytls import one_line

Format = Literal["text", "json"]

#: The option of both ends of the relay.
LOG_FORMAT: Final = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How a line of the log is written: for people, or as one JSON object.",
)

#: All of a record's own fields that are worth telling; further ones are the library's: who it is about.
_ABOUT: Final = ("connection", "peer", "user")


@frozen
class LogSettings:
    """How much is said, and how.

    Attributes:
      level: of `logging`.
      format: for people, or for machines.
      show_process: whether a line for people says which process it is from.
    """

    level: int = logging.INFO
    format: Format = "text"
    show_process: bool = False

    def set_up(self, stream: IO[str] | None = None) -> None:
        """Let all loggers of the library write to the standard error. A second call takes the place of the first."""
        handler = _StandardErrorHandler() if stream is None else logging.StreamHandler(stream)
        traceback = self.level <= logging.DEBUG
        handler.setFormatter(JSONFormatter() if self.format == "json" else TextFormatter(self.show_process, traceback))
        logger = logging.getLogger("trioanytls")
        for old in logger.handlers[:]:
            logger.removeHandler(old)
        logger.addHandler(handler)
        logger.setLevel(self.level)
        # Where nobody reads any more, there is nobody to be told of that.
        logging.raiseExceptions = False


class _StandardErrorHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever is the standard error at the time: a status display puts something else in its place."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # the class has an attribute there
        """See `logging.StreamHandler`."""
        return sys.stderr


class TextFormatter(logging.Formatter):
    """A line for people: when, how bad, what."""

    def __init__(self, show_process: bool, traceback: bool) -> None:
        super().__init__()
        self._process = f"[{os.getpid()}] " if show_process else ""
        self._traceback = traceback

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        when = dt.datetime.fromtimestamp(record.created).astimezone()
        text = one_line(record.getMessage(), limit=None)
        line = f"{when:%Y-%m-%d %H:%M:%S} {record.levelname:<7} {self._process}{text}"
        if record.exc_info and self._traceback:
            # Indented, so that no line of an error's text looks like a line of the log.
            traceback = self.formatException(record.exc_info).split("\n")
            line += "".join(f"\n  {one_line(part, limit=None)}" for part in traceback)
        return line


class JSONFormatter(logging.Formatter):
    """A line for machines: an object of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        fields: dict[str, object] = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        fields |= {name: getattr(record, name) for name in _ABOUT if hasattr(record, name)}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)

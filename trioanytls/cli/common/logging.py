"""The log of a command: its options, and one line for each event on the standard error."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import sys
from collections.abc import Callable
from typing import IO, Any, Final, Literal, TextIO, TypeVar

import click
from attrs import frozen
from click.core import ParameterSource

from trioanytls import one_line

from .errors import InvalidSettings

F = TypeVar("F", bound=Callable[..., Any])
Format = Literal["text", "json"]

_LEVELS: Final = {"quiet": logging.WARNING, "verbose": logging.DEBUG}
#: The attributes of a record that the library adds, and that the JSON format contains.
_ABOUT: Final = ("connection", "peer", "user")


def log_options(*, not_printed: str) -> Callable[[F], F]:
    """Add the options `--log-format`, `--quiet` and `--verbose` to a command.

    Args:
      not_printed: the output of the command that --quiet suppresses.
    """
    options = (
        click.option(
            "--log-format",
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            help="Format of the log: text for people, or one JSON object per line.",
        ),
        click.option(
            "-q", "--quiet", is_flag=True, help=f"Log only warnings and errors; do not print the {not_printed}."
        ),
        click.option("-v", "--verbose", is_flag=True, help="Also log each stream and its destination."),
    )

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@frozen
class LogSettings:
    """The settings of the log.

    Attributes:
      level: as in `logging`.
      format: "text" or "json".
      show_process: whether a line of text contains the process ID.
    """

    level: int = logging.INFO
    format: Format = "text"
    show_process: bool = False

    @classmethod
    def from_options(cls, context: click.Context, *, show_process: bool = False) -> LogSettings:
        """Make the settings from the options that `log_options` adds.

        Raises:
          InvalidSettings: --quiet and --verbose are both set.
        """
        chosen = [name for name in _LEVELS if context.params[name]]
        if len(chosen) > 1:
            # The command line overrides the configuration file.
            chosen = [name for name in chosen if context.get_parameter_source(name) is not ParameterSource.DEFAULT_MAP]
            if len(chosen) != 1:
                raise InvalidSettings("--quiet and --verbose are mutually exclusive")
        level = _LEVELS[chosen[0]] if chosen else logging.INFO
        return cls(level, context.params["log_format"], show_process)

    def set_up(self, stream: IO[str] | None = None) -> None:
        """Write the records of all loggers of the library to the standard error. This replaces an earlier call."""
        handler = _StandardErrorHandler() if stream is None else logging.StreamHandler(stream)
        traceback = self.level <= logging.DEBUG
        handler.setFormatter(JSONFormatter() if self.format == "json" else TextFormatter(self.show_process, traceback))
        logger = logging.getLogger("trioanytls")
        for old in logger.handlers[:]:
            logger.removeHandler(old)
        logger.addHandler(handler)
        logger.setLevel(self.level)
        # If the log cannot be written, its own errors cannot either.
        logging.raiseExceptions = False


class _StandardErrorHandler(logging.StreamHandler[TextIO]):
    """A handler that writes to the current `sys.stderr`, which a status display replaces."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # the class has an attribute there
        """See `logging.StreamHandler`."""
        return sys.stderr


class TextFormatter(logging.Formatter):
    """Formatter of lines for people: time, level, message."""

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
    """Formatter of JSON objects, one per line."""

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

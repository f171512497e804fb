"""Log records about a connection, which identify it in the text and in extra attributes.

Each record has the attributes `connection`, `peer` and `user`, for log collectors: the connection's number in this
process, the peer's address and port, and the user's name. They are None if unknown. No record contains a secret or a
payload.

The text of a record is one line of bounded length. A peer may control a part of it, such as the text of an ALERT, and
could forge log records with a second line. A filter on each logger of the package enforces this.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections.abc import Mapping
from typing import Any, Final, Protocol

import trio

from trioanytls._protocol.text import one_line
from trioanytls._transport.addresses import format_address

# Without a lock: most connections make two of the objects below.
_get_logger = functools.cache(logging.getLogger)


class LogSubject(Protocol):
    """The identity of a connection in the log."""

    @property
    def connection_id(self) -> int:
        """The number of the connection."""

    @property
    def peer_address(self) -> tuple[str, int] | None:
        """The address and port of the peer."""

    @property
    def user(self) -> str | None:
        """The name of the authenticated user."""


class ConnectionLoggerAdapter(logging.LoggerAdapter[logging.Logger]):
    """A logger whose records are about one connection."""

    def __init__(self, name: str, connection: LogSubject) -> None:
        super().__init__(_get_logger(name))
        self._connection = connection

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """See `logging.LoggerAdapter`. All other methods call this one."""
        if not self.isEnabledFor(level):
            return
        connection = self._connection
        user, peer = connection.user, format_address(connection.peer_address)
        who = f"{connection.connection_id}{f', {peer}' if peer else ''}{f', user {user!r}' if user is not None else ''}"
        kwargs["extra"] = {"connection": connection.connection_id, "peer": peer, "user": user}
        # The record names the caller of this method.
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        printable = (_printable(arg) for arg in args)
        # The connection's identity is passed as an argument, so that the format string is constant and '%' in it is
        # harmless.
        text = f"connection %s: {msg}"
        self.logger.log(level, text, who, *printable, **kwargs)


class _Printable:
    """An argument of a record as one short line, see `one_line`. The text is made when the record is formatted."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return one_line(str(self._value))

    def __repr__(self) -> str:
        return one_line(repr(self._value))


def _printable(arg: object) -> object:
    # Numbers are unchanged, for %d and %f.
    return arg if isinstance(arg, (int, float, _Printable)) else _Printable(arg)


class PrintableFilter(logging.Filter):
    """Makes the text of each record one line, regardless of the formatter."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        if isinstance(record.args, Mapping):
            record.args = {name: _printable(arg) for name, arg in record.args.items()}
        elif record.args:
            record.args = tuple(map(_printable, record.args))
        elif isinstance(record.msg, str):
            record.msg = one_line(record.msg, limit=None)
        return True


#: The names of all loggers of the package, below `trioanytls`.
LOGGERS: Final = ("connection", "server", "client", "fallback", "workers", "metrics", "relay", "cli")

# Records pass the filters of their own logger only.
for _name in LOGGERS:
    logging.getLogger(f"trioanytls.{_name}").addFilter(PrintableFilter())


# The interval at which `LogThrottle` repeats a level, in seconds.
_SELDOM = 60.0


class LogThrottle:
    """Rate-limits log records that an unauthenticated peer can trigger at will."""

    def __init__(self) -> None:
        # Each event loop has its own clock, which starts at a random number. Several loops may share one object,
        # consecutively or in threads: a fallback of `relay_to`, for example.
        self._said: trio.lowlevel.RunVar[float] = trio.lowlevel.RunVar("trioanytls.seldom", -math.inf)

    def level(self, level: int, now: float) -> int:
        """Return `level`, or DEBUG within a minute of the last call that returned `level` in this event loop.

        `now` is in seconds, on Trio's clock.
        """
        if now < self._said.get() + _SELDOM:
            return logging.DEBUG
        self._said.set(now)
        return level


_numbers = itertools.count(1)


def number_connection() -> int:
    """Return a number that no other connection of this process has."""
    return next(_numbers)

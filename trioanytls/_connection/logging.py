"""What is logged of a connection: who it is, in the text and in fields of its own.

The fields `connection`, `peer` and `user` are in each record, for whoever collects them: the connection's number in
this process, the peer's address and port, and the user's name; None where they are not known. No record has a secret
or a payload in it.

Whatever goes into a record's text is one line, and not a long one: a peer may have had a hand in it, as in the text of
an ALERT, and a second line could say anything of anybody. A filter on each logger of the package sees to that.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping
from typing import Any, Final, Protocol

import trio

from trioanytls._protocol.text import one_line
from trioanytls._transport.addresses import format_address


class LogSubject(Protocol):
    """What a log wants to know of a connection."""

    @property
    def connection_id(self) -> int:
        """Its number."""

    @property
    def peer_address(self) -> tuple[str, int] | None:
        """Its peer."""

    @property
    def user(self) -> str | None:
        """Its user."""


class ConnectionLoggerAdapter(logging.LoggerAdapter[logging.Logger]):
    """A logger whose records are about one connection."""

    def __init__(self, name: str, connection: LogSubject) -> None:
        super().__init__(logging.getLogger(name))
        self._connection = connection

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """See `logging.LoggerAdapter`. All that is logged comes by here."""
        if not self.isEnabledFor(level):
            return
        connection = self._connection
        user, peer = connection.user, format_address(connection.peer_address)
        who = f"{connection.connection_id}{f', {peer}' if peer else ''}{f', user {user!r}' if user is not None else ''}"
        kwargs["extra"] = {"connection": connection.connection_id, "peer": peer, "user": user}
        # It was said by whoever called this.
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        printable = (_printable(arg) for arg in args)
        # Who it is goes among the arguments: the text is one for all connections, and percent signs are only that.
        text = f"connection %s: {msg}"
        self.logger.log(level, text, who, *printable, **kwargs)


class _Printable:
    """An argument of a record whose text is one short line, see `one_line`; made when the record is formatted."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return one_line(str(self._value))

    def __repr__(self) -> str:
        return one_line(repr(self._value))


def _printable(arg: object) -> object:
    # Numbers are for %d and %f.
    return arg if isinstance(arg, (int, float, _Printable)) else _Printable(arg)


class PrintableFilter(logging.Filter):
    """Makes the text of each record one line, whoever formats it."""

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


# In seconds.
_SELDOM = 60.0


class LogThrottle:
    """How loud to say what strangers can make happen as often as they like: the log is not theirs to fill."""

    def __init__(self) -> None:
        # Each event loop has its own clock, which begins at a random number, and several loops may share one object,
        # one after the other or in threads: a fallback of `relay_to`, for example.
        self._said: trio.lowlevel.RunVar[float] = trio.lowlevel.RunVar("trioanytls.seldom", -math.inf)

    def level(self, level: int, now: float) -> int:
        """Return `level`; within a minute of the last time that it was returned in this event loop, DEBUG.

        `now` is in seconds, on Trio's clock.
        """
        if now < self._said.get() + _SELDOM:
            return logging.DEBUG
        self._said.set(now)
        return level


_numbers = itertools.count(1)


def number_connection() -> int:
    """A number that no other connection of this process has."""
    return next(_numbers)

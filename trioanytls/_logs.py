"""What is logged of a connection: who it is, in the text and in fields of its own.

The fields `connection`, `peer` and `user` are in each record, for whoever collects them: the connection's number in
this process, the peer's address and port, and the user's name; None where they are not known. No record has a secret
or a payload in it.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import MutableMapping
from typing import Any, Protocol


class Described(Protocol):
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


class ConnectionLog(logging.LoggerAdapter[logging.Logger]):
    """A logger whose records are about one connection."""

    def __init__(self, name: str, connection: Described) -> None:
        super().__init__(logging.getLogger(name))
        self._connection = connection

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """See `logging.LoggerAdapter`."""
        connection = self._connection
        user, peer = connection.user, format_address(connection.peer_address)
        kwargs["extra"] = {"connection": connection.connection_id, "peer": peer, "user": user}
        who = "".join((f", {peer}" if peer else "", f", user {user!r}" if user is not None else ""))
        # What was put into the text has no place among the arguments: its percent signs are its own.
        return f"connection {connection.connection_id}{who}: ".replace("%", "%%") + msg, kwargs


_numbers = itertools.count(1)


def number_connection() -> int:
    """A number that no other connection of this process has."""
    return next(_numbers)


def format_address(address: tuple[str, int] | None) -> str | None:
    """An address and a port as they are written, IPv6 in brackets."""
    if address is None:
        return None
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

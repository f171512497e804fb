"""Notifications of a client, for logging and counting."""

from __future__ import annotations

import logging

from trioanytls._connection.connection import Connection
from trioanytls._connection.stream import Stream
from trioanytls._exceptions import ConnectionClosed
from trioanytls._protocol.padding_scheme import PaddingScheme

_log = logging.getLogger("trioanytls.client")


class ClientEvents:
    """The notifications of a client. Override methods, and pass an instance to `open_client` as `events`.

    The methods are called synchronously by the client's tasks. An exception that they raise is logged
    (`trioanytls.client`), and the client goes on.
    """

    def on_connect(self, connection: Connection) -> None:
        """Handle a new connection."""

    def on_connect_failed(self, error: Exception, attempt: int) -> None:
        """Handle a failed attempt to connect. `attempt` is its number in a row of failures, from 1."""

    def on_close(self, connection: Connection, reason: ConnectionClosed | None) -> None:
        """Handle a connection that has closed."""

    def on_stream(self, stream: Stream) -> None:
        """Handle a new stream."""

    def on_scheme(self, scheme: PaddingScheme) -> None:
        """Handle another padding scheme from the server. It applies from the next connection on."""


def notify(events: ClientEvents, name: str, *arguments: object) -> None:
    """Call a method of `events`, and log the exception that it raises."""
    try:
        getattr(events, name)(*arguments)
    except Exception:  # noqa: BLE001 - any exception is logged, and the client goes on
        _log.exception("%s of %r raised an exception", name, events)

"""What a client tells whoever wants to log or count it."""

from __future__ import annotations

import logging

from trioanytls._connection.connection import Connection
from trioanytls._connection.stream import Stream
from trioanytls._exceptions import ConnectionClosed
from trioanytls._protocol.padding_scheme import PaddingScheme

_log = logging.getLogger("trioanytls.client")


class ClientEvents:
    """Override what you want to know, and give an object to `open_client` as `events`.

    The methods are called from within the client's own work: they must not wait. What they raise is logged
    (`trioanytls.client`) and changes nothing.
    """

    def on_connect(self, connection: Connection) -> None:
        """A connection was made."""

    def on_connect_failed(self, error: Exception, attempt: int) -> None:
        """An attempt to connect failed, the first, second, ... in a row."""

    def on_close(self, connection: Connection, reason: ConnectionClosed | None) -> None:
        """A connection has ended."""

    def on_stream(self, stream: Stream) -> None:
        """A stream was opened."""

    def on_scheme(self, scheme: PaddingScheme) -> None:
        """The server wants another padding scheme used, from the next connection on."""


def notify(events: ClientEvents, name: str, *arguments: object) -> None:
    """Call one of the methods."""
    try:
        getattr(events, name)(*arguments)
    except Exception:  # noqa: BLE001 - whatever it is: logged, and the client goes on
        _log.exception("%s of %r failed", name, events)

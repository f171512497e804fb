"""The interface by which the pool receives the events of a connection."""

from __future__ import annotations

from typing import Protocol

from trioanytls._protocol.padding_scheme import PaddingScheme


class Observer(Protocol):
    """Receives the events of a client's connection. It is called synchronously and must not block."""

    def negotiated(self) -> None:
        """Act on the first answer of the server: it speaks ANYTLS, and accepts the password."""

    def stream_accepted(self, stream_id: int) -> None:
        """Act on the acceptance of a stream by the server's application."""

    def stream_gone(self, stream_id: int) -> None:
        """Act on the end of a stream, for any reason."""

    def scheme_received(self, scheme: PaddingScheme) -> None:
        """Take the scheme that the server wants used for later connections."""

    def going_away(self) -> None:
        """Act on the announcement of the server that it leaves: no stream can be opened any more."""

    def closing(self) -> None:
        """Act on the beginning of the close. The streams end next."""

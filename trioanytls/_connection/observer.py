"""The interface by which the pool learns what happens to a connection."""

from __future__ import annotations

from typing import Protocol

from trioanytls._protocol.padding_scheme import PaddingScheme


class Observer(Protocol):
    """Receives the events of a client's connection. It is called synchronously and must not block."""

    def negotiated(self) -> None:
        """The server has answered: it speaks ANYTLS, and accepts the password."""

    def stream_accepted(self, stream_id: int) -> None:
        """The server's application has accepted a stream."""

    def stream_gone(self, stream_id: int) -> None:
        """A stream has ended, for any reason."""

    def scheme_received(self, scheme: PaddingScheme) -> None:
        """The server wants this scheme used for later connections."""

    def closing(self) -> None:
        """The connection is about to close. Its streams end next."""

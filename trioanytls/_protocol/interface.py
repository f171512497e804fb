"""The interface between a connection and a wire format: what each end of a wire format implements.

Bytes go in through `receive`, which yields events. Answers to the peer collect in `replies`. What the application does
is a method that returns the frame to send. Nothing here does I/O, waits, or knows the time.

`anytls1.client.ClientProtocol` and `anytls1.server.ServerProtocol` implement it. The types are structural: a wire
format does not inherit from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from .events import EventTuple
from .state_machine import ConnectionState


class FrameCounters(Protocol):
    """Counters of the frames received, and the progress of the last call of `receive`.

    Attributes:
      frames: the number of frames begun, indexed by the frame type on the wire.
      payload_bytes: the number of payload bytes received in frames of stream data and padding, indexed the same way.
      progressed: whether the last call brought a frame, or a piece of payload that is passed on as it arrives. It did
        not if all its bytes belong to one frame that is still incomplete.
    """

    frames: list[int]
    payload_bytes: list[int]
    progressed: bool


class WireProtocol(Protocol):
    """One end of a connection, without I/O.

    Attributes:
      state: the state of this end.
      replies: encoded frames that answer the peer's. The connection takes them out and sends them in this order.
      version: the protocol version agreed upon; None before that.
    """

    state: ConnectionState
    replies: list[bytes]
    version: int | None

    @property
    def decoder(self) -> FrameCounters:
        """The decoder's counters."""

    @property
    def unconsumed(self) -> bytes:
        """The bytes that were not consumed when `receive` raised. Valid until the next checkpoint."""

    @property
    def incomplete(self) -> bytes:
        """The bytes received that do not make a complete frame yet."""

    def receive(self, data: bytes | memoryview) -> Iterator[EventTuple]:
        """Consume `data` and yield its events. The iterator must be exhausted before the next call.

        Raises:
          ProtocolViolation: the peer broke the protocol.
          AuthenticationFailed: (server) the client did not authenticate.
        """

    def handshake_done(self) -> None:
        """Begin the connection: the TLS handshake is done."""

    def ping(self) -> bytes:
        """Return the frame that asks the peer for a sign of life. The answer is `Event.PONG`."""

    def close_stream(self, stream_id: int) -> bytes | None:
        """Close a stream. Return the frame to send, None if the stream was closed before."""

    def leave(self) -> None:
        """Close this end: ignore everything that arrives from now on."""

    def transport_closed(self) -> None:
        """Note that the transport has ended."""


class ClientWireProtocol(WireProtocol, Protocol):
    """The client's end."""

    @property
    def exhausted(self) -> bool:
        """True if all stream ids are used up."""

    def first_frames(self, padding_length: int) -> tuple[bytes, bytes]:
        """Return the authentication with `padding_length` bytes of padding, and the frame that must follow it."""

    def open_stream(self) -> tuple[int, bytes]:
        """Open the next stream. Return its id and the frame to send.

        Raises:
          RuntimeError: all stream ids are used up.
        """


class ServerWireProtocol(WireProtocol, Protocol):
    """The server's end.

    Attributes:
      user: the name of the authenticated user; None before that.
      peer_identifier: the name and version that the client's implementation gives itself; None before that.
    """

    user: str | None
    peer_identifier: str | None

    def acknowledge(self, stream_id: int) -> bytes | None:
        """Accept a stream. Return the frame to send, None if there is none to send."""

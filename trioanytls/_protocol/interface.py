"""The interface between a connection and a wire format: what each end of a wire format implements.

Bytes go in through `receive`, which yields events. Answers to the peer collect in `replies`. What the application does
is a method that returns the frame to send. Nothing here does I/O, waits, or knows the time.

`ClientProtocol` and `ServerProtocol` of `anytls1`, and their like of `legacy`, implement it. The types are structural:
a wire format does not inherit from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, Protocol

from .close_codes import CloseCode
from .events import EventTuple
from .extensions import Extension
from .state_machine import ConnectionState
from .stream_codes import NO_REASON, StreamReason
from .traffic_shaper import PaddingFrames

#: A wire format: that of the specification, or that of anytls-go, sing-box and mihomo.
WireFormat = Literal["anytls1", "legacy"]
#: The format that both ends use unless they are told otherwise.
DEFAULT_FORMATS: Final[tuple[WireFormat, ...]] = ("anytls1",)


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
      extensions: the extensions in force; None before the negotiation.
      receive_window: with `window`, the credit that each stream begins with in the direction towards this end, in
        bytes. None without it.
      send_window: the same in the other direction.
      peer_pings: whether the peer has sent a ping itself. One can cross a ping of this end, and each end then takes the
        other's request for its answer.
    """

    state: ConnectionState
    replies: list[bytes]
    version: int | None
    extensions: frozenset[Extension] | None
    receive_window: int | None
    send_window: int | None
    peer_pings: bool

    @property
    def name(self) -> WireFormat | None:
        """The wire format; None before it is known."""

    @property
    def greeting(self) -> str:
        """The name of the frame that a client sends after its authentication, with its stream."""

    @property
    def PADDING(self) -> int:  # noqa: N802 - a constant of the wire format
        """The type of the frame that is padding, on the wire."""

    @property
    def padding_frames(self) -> PaddingFrames:
        """The frames to pad with."""

    @property
    def follows_scheme(self) -> bool:
        """Whether a running connection is shaped with a new scheme at once."""

    @property
    def ends_with_transport(self) -> bool:
        """Whether a connection ends in an orderly way when its transport does, as no frame says so."""

    @property
    def max_data(self) -> int:
        """The most data of one frame that this end sends, in bytes."""

    @property
    def max_stall_timeout(self) -> float:
        """The longest time that a peer accepts that this end does not read, in seconds. Bounds `stall_timeout`."""

    @property
    def decoder(self) -> FrameCounters:
        """The decoder's counters."""

    @property
    def data_bytes_received(self) -> int:
        """The number of bytes received for streams."""

    def describe(self, kind: int) -> str:
        """Return the name of a frame type for texts."""

    def data_prefix(self, stream_id: int) -> bytes:
        """Return what each data frame of a stream begins with. The length and the data follow."""

    def encode_length(self, length: int) -> bytes:
        """Encode the length of a data frame's data."""

    def encode_close(self, code: CloseCode) -> bytes | None:
        """Return the frame that says that this end closes the connection, None if the format has none."""

    def encode_alert(self, text: str) -> bytes | None:
        """Return the frame that tells the peer about its violation, None if this end sends none."""

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

    @property
    def can_ping(self) -> bool:
        """Whether the peer is known to answer a ping."""

    @property
    def acknowledges(self) -> bool:
        """Whether a stream is accepted by a frame of its own, as far as this end knows."""

    def ping(self) -> bytes:
        """Return the frame that asks the peer for a sign of life. The answer is `Event.PONG`.

        Raises:
          NotSupported: `can_ping` is false.
        """

    def close_stream(self, stream_id: int) -> tuple[bytes, ...]:
        """Close a stream whose data is complete. Return the frames to send, none if it was closed before."""

    def reset_stream(self, stream_id: int, reason: StreamReason = NO_REASON) -> tuple[bytes, ...]:
        """Abort a stream. Return the frames to send, none if the stream was closed before."""

    def encode_reset(self, stream_id: int, reason: StreamReason = NO_REASON) -> bytes:
        """Return the frame that aborts a stream, with the reason if the peer knows a frame for it."""

    @property
    def undecided(self) -> frozenset[Extension]:
        """The extensions that this end has offered, as long as it does not know whether the peer has them."""

    def encode_close_of_stream(self, stream_id: int) -> tuple[bytes, ...]:
        """Return the frames that close a stream whose data is complete, for one that `close_stream` has closed."""

    def finish_stream(self, stream_id: int) -> tuple[bytes, ...]:
        """End a stream in the direction from this end. Return the frames to send, none if it has ended already.

        Raises:
          NotSupported: the extension `fin` is not in force.
        """

    def encode_window(self, stream_id: int, increment: int) -> bytes:
        """Return the frame that grants more credit on a stream.

        Raises:
          NotSupported: the extension `window` is not in force.
        """

    def count_grant(self, stream_id: int, *, idle: bool) -> None:
        """Count a grant of credit as a frame with content, or as an idle one: it answers no data of this end.

        Raises:
          LimitExceeded: there were too many consecutive idle frames.
        """

    def encode_goaway(self, highest_id: int) -> bytes:
        """(server) Return the frame that says that no stream above this id is served.

        Raises:
          NotSupported: the extension `goaway` is not in force.
        """

    def is_open(self, stream_id: int) -> bool:
        """Return whether a stream is open in at least one direction."""

    def leave(self) -> None:
        """Close this end: ignore everything that arrives from now on."""

    def transport_closed(self) -> None:
        """Note that the transport has ended."""


class ClientWireProtocol(WireProtocol, Protocol):
    """The client's end."""

    @property
    def exhausted(self) -> bool:
        """True if all stream ids are used up."""

    @property
    def first_frame_names(self) -> tuple[str, ...]:
        """The names of the frames in `first_writes`."""

    @property
    def frames_in_first_write(self) -> int:
        """The number of frames of the first stream that belong into one Write with what precedes them."""

    @property
    def opens_alone(self) -> bool:
        """Whether the frame that opens a stream is a Write of its own, after the first Write."""

    def first_writes(self, padding_length: int) -> tuple[bytes, bytes]:
        """Return what is written alone, and what the first frames follow in one Write.

        The authentication has `padding_length` bytes of padding.
        """

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

    @property
    def highest_id(self) -> int:
        """The highest id of a stream that the client has opened, 0 if there is none."""

    def refuse(self, stream_id: int, reason: StreamReason = NO_REASON) -> tuple[bytes, ...]:
        """Refuse a stream, for this reason. Return the frames to send, none if the stream is closed already."""

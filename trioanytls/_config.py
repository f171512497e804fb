"""The settings of a connection, each checked when it is set."""

from __future__ import annotations

import math
from typing import Literal

from attrs import Attribute, field, fields, frozen
from attrs.validators import in_

from trioanytls._protocol.anytls1.frames import MAX_CONTROL_PAYLOAD
from trioanytls._protocol.limits import ProtocolLimits

Acknowledge = Literal["auto", "manual"]
OnViolation = Literal["alert", "fallback"]


def _seconds(_instance: object, attribute: Attribute[float], value: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or math.isnan(value) or value <= 0:
        raise ValueError(f"{attribute.name} is a positive number of seconds, or math.inf, not {value!r}")


def _delay(_instance: object, attribute: Attribute[float], value: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise ValueError(f"{attribute.name} is a finite number of seconds, not {value!r}")


def _count(_instance: object, attribute: Attribute[int], value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{attribute.name} is a whole number of at least 1, not {value!r}")


def _payload(instance: object, attribute: Attribute[int], value: int) -> None:
    _count(instance, attribute, value)
    if value > MAX_CONTROL_PAYLOAD:
        raise ValueError(f"{attribute.name} is at most {MAX_CONTROL_PAYLOAD}, not {value!r}")


def _rate(_instance: object, attribute: Attribute[float], value: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 1:
        raise ValueError(f"{attribute.name} is a number of at least 1, or math.inf, not {value!r}")


def _count_or_none(_instance: object, attribute: Attribute[int], value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{attribute.name} is a whole number of at least 0, not {value!r}")


def _flag(_instance: object, attribute: Attribute[bool], value: bool) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{attribute.name} is True or False, not {value!r}")


@frozen(kw_only=True)
class Config:
    """How a connection behaves. Times are in seconds, `math.inf` for never; sizes are in bytes.

    Raises:
      ValueError: a value is out of range; the text names the field.
    """

    #: How long the TLS handshake may take, in seconds; on the client from the end of the TCP connect.
    handshake_timeout: float = field(default=30.0, validator=_seconds)
    #: (server) How long a client may take for AUTH, and then again for NEGO, in seconds (protocol: 4).
    auth_timeout: float = field(default=10.0, validator=_seconds)
    #: How long no frame may pass in either direction before the connection is closed, in seconds
    #: (spec: Connections / Timeout). The payload of DATA and PADDING counts as it comes, all other frames when they are
    #: complete.
    idle_timeout: float = field(default=300.0, validator=_seconds)
    #: How long no frame of a stream may pass before the stream is closed, in seconds (spec: Streams / Stream Timeout).
    stream_idle_timeout: float = field(default=600.0, validator=_seconds)
    #: How long nothing may arrive before a PINGPONG is sent, in seconds; `math.inf` turns keep-alive off.
    keepalive_interval: float = field(default=math.inf, validator=_seconds)
    #: How long a PINGPONG may be unanswered before the connection is closed, in seconds. It holds for those of
    #: `Connection.ping` too.
    keepalive_timeout: float = field(default=20.0, validator=_seconds)
    #: How long one write to the transport may take before the peer counts as gone, in seconds.
    write_timeout: float = field(default=60.0, validator=_seconds)
    #: How long the end of a connection may take, in seconds: sending what was accepted, the last frame, and the end of
    #: TLS and TCP directly after it; then reading on, up to 1 MiB, until the peer has ended its side too (protocol: 4).
    close_timeout: float = field(default=5.0, validator=_seconds)
    #: How long a stream whose application does not read may hold up the others of its connection, in seconds. After
    #: that, it alone is closed. One that is read, but slowly, has this time again whenever it has freed a quarter of
    #: what its buffer held too much of when the wait began: so it holds up others for four times as long at most. A
    #: stream that is alone on its connection just pushes back on the peer.
    stall_timeout: float = field(default=30.0, validator=_seconds)
    #: (client) How long AUTH and NEGO wait for the first stream to join them, in seconds (protocol: 6).
    initial_flush_delay: float = field(default=0.05, validator=_delay)
    #: (server) How long connections may go on when the server is drained, in seconds, see `ServerControl.drain`.
    drain_timeout: float = field(default=30.0, validator=_seconds)
    #: (server) How many connections there may be, fallbacks included; further ones are closed as they come.
    max_connections: int = field(default=10_000, validator=_count)
    #: (server) How many connections there may be that have not authenticated; further ones are closed as they come.
    max_unauthenticated: int = field(default=1000, validator=_count)
    #: (server) How many of them may come from one address (IPv6: from one /64 network); further ones are closed as they
    #: come.
    max_unauthenticated_per_address: int = field(default=100, validator=_count)
    #: (server) How many connections may be with the fallback. For a further one, the one that has been idle for longest
    #: is closed; if none has been idle for 5 seconds, the further one.
    max_fallbacks: int = field(default=1000, validator=_count)
    #: (server) How many of them may come from one address (IPv6: from one /64 network). For a further one, one of the
    #: same address is closed in the same way.
    max_fallbacks_per_address: int = field(default=100, validator=_count)
    #: (server) How many streams a connection may have open; further ones are refused. A stream counts until its
    #: handler has returned.
    max_streams: int = field(default=1024, validator=_count)
    #: (server) How many streams a client may open on a connection at once, and how many a second from then on; further
    #: ones are refused. At least one; `math.inf` for any number.
    max_stream_rate: float = field(default=10_000.0, validator=_rate)
    #: How many bytes are buffered for a stream whose application has not asked for them; each piece in which they came
    #: counts for 64 more. What one read of the transport brought comes on top of it, at most.
    receive_buffer_size: int = field(default=256 * 1024, validator=_count)
    #: How many bytes are buffered for all streams of a connection together, counted and exceeded in the same way.
    connection_receive_buffer_size: int = field(default=16 * 1024 * 1024, validator=_count)
    #: How many bytes a connection holds that were accepted for sending and have not gone out; one frame of at most
    #: 64 KiB can come on top.
    send_buffer_size: int = field(default=256 * 1024, validator=_count)
    #: How many answers may wait to be sent, beyond two for each stream of `max_streams`. A peer that asks for more
    #: without reading them is disconnected.
    max_pending_control: int = field(default=1024, validator=_count)
    #: How many frames in a row may carry nothing: PADDING, DATA without data, and whatever else only restarts a timer.
    #: PINGPONG does not count. A peer that sends more is disconnected.
    max_idle_frames: int = field(default=10_000, validator=_count)
    #: How many bytes of PADDING may come between frames that carry something. A peer that sends more is disconnected.
    max_idle_bytes: int = field(default=64 * 1024 * 1024, validator=_count)
    #: How many bytes the payload of a frame other than DATA and PADDING may have, at most 64 KiB (protocol: 2). More is
    #: a violation.
    max_control_payload: int = field(default=MAX_CONTROL_PAYLOAD, validator=_payload)
    #: (server) How many bytes of padding AUTH may have, at most 64 KiB (protocol: 4). More is a failed authentication.
    max_auth_padding: int = field(default=MAX_CONTROL_PAYLOAD, validator=_payload)
    #: (client) How many bytes a padding scheme may have that the server sends. It is disconnected otherwise.
    max_scheme_size: int = field(default=MAX_CONTROL_PAYLOAD, validator=_payload)
    #: (client) The largest `stop` that such a scheme may have. The server is disconnected otherwise.
    max_scheme_stop: int = field(default=1000, validator=_count)
    #: (client) How many bytes the sizes of one deliver of such a scheme may have together, each at its largest. The
    #: server is disconnected otherwise.
    max_scheme_deliver: int = field(default=256 * 1024, validator=_count)
    #: (client) How many bytes the sizes of all delivers of such a scheme may have together, each at its largest: what
    #: each connection sends for it at most, beside its data. The server is disconnected otherwise.
    max_scheme_total: int = field(default=4 * 1024 * 1024, validator=_count)
    #: (server) What a violation of the protocol by an authenticated client leads to: ALERT, and the connection's end
    #: ("alert"), or the fallback, which receives what the client sent from the offending frame on ("fallback").
    on_violation: OnViolation = field(default="alert", validator=in_(("alert", "fallback")))
    #: (server) When a stream is acknowledged: when its handler starts ("auto"), or when that calls
    #: `Stream.acknowledge` ("manual").
    acknowledge: Acknowledge = field(default="auto", validator=in_(("auto", "manual")))
    #: (server) Whether what the server sends is shaped, too (protocol: 6).
    shape_server: bool = field(default=False, validator=_flag)

    @property
    def limits(self) -> ProtocolLimits:
        """Those of the fields that are for the protocol itself."""
        return ProtocolLimits(**{name: getattr(self, name) for name in _LIMITS})


_LIMITS = [limit.name for limit in fields(ProtocolLimits)]


@frozen(kw_only=True)
class PoolConfig:
    """How a client uses its connections, see `open_client`. Times are in seconds, `math.inf` for never.

    Raises:
      ValueError: a value is out of range; the text names the field.
    """

    #: How many streams a connection carries at once. With 1, it carries one after the other, as the reference does.
    max_streams_per_connection: int = field(default=100, validator=_count)
    #: How many connections there may be, those included that are being made, closing, or past `max_lifetime`.
    max_connections: int = field(default=32, validator=_count)
    #: How many connections without streams are kept; they are verified whenever they have been silent for
    #: `idle_timeout`. None is made only for that.
    min_idle: int = field(default=1, validator=_count_or_none)
    #: How long a connection is kept without streams, in seconds. Below 30: servers in the field close idle ones then.
    idle_timeout: float = field(default=25.0, validator=_seconds)
    #: How often idle connections are looked at, in seconds.
    check_interval: float = field(default=5.0, validator=_seconds)
    #: How long a connection is given new streams, in seconds from its beginning; after that it is closed when its last
    #: stream has ended. If no new connection can be made, it is given new streams until then.
    max_lifetime: float = field(default=3600.0, validator=_seconds)
    #: How long one attempt to connect may take, TCP and TLS together, in seconds.
    connect_timeout: float = field(default=10.0, validator=_seconds)
    #: How long `open_stream` may take, in seconds: waiting for its turn, all attempts to connect and verify included.
    open_timeout: float = field(default=30.0, validator=_seconds)
    #: How long the server's application may take to accept a stream, in seconds. The stream is closed then; if nothing
    #: at all has come from the server since it was opened, so is its connection.
    acknowledge_timeout: float = field(default=30.0, validator=_seconds)
    #: How long a connection may have been silent to be used without a question, in seconds.
    verify_after: float = field(default=1.0, validator=_seconds)
    #: How long the answer to that question may take, in seconds; another connection is used then.
    verify_timeout: float = field(default=3.0, validator=_seconds)
    #: How long to wait after the first failed attempt to connect, in seconds; twice as long after each further one.
    retry_delay: float = field(default=0.1, validator=_seconds)
    #: The longest such wait, in seconds. Each is shortened by a random part of up to a half.
    max_retry_delay: float = field(default=0.8, validator=_seconds)

"""The settings of a connection and of a pool. Each value is checked when it is set."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Collection
from typing import Literal

from attrs import Attribute, evolve, field, fields, frozen
from attrs.validators import in_, optional

from trioanytls._checks import check_type
from trioanytls._protocol.anytls1.frames import MAX_CONTROL_PAYLOAD
from trioanytls._protocol.anytls1.negotiation import IDENTIFIER
from trioanytls._protocol.extensions import EXTENSIONS, MAX_WINDOW, MIN_WINDOW, Extension, ExtensionOffer
from trioanytls._protocol.interface import WireFormat
from trioanytls._protocol.limits import ProtocolLimits

Acknowledge = Literal["auto", "manual"]
OnViolation = Literal["alert", "fallback"]
#: One of the two ends of a connection.
Side = Literal["client", "server"]


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {value!r}")


def _check_integer(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")


def _seconds(_instance: object, attribute: Attribute[float], value: float) -> None:
    _check_number(attribute.name, value)
    if math.isnan(value) or value <= 0:
        raise ValueError(f"{attribute.name} must be a positive number of seconds, or math.inf, not {value!r}")


def _delay(_instance: object, attribute: Attribute[float], value: float) -> None:
    _check_number(attribute.name, value)
    if not 0 <= value < math.inf:
        raise ValueError(f"{attribute.name} must be a finite number of seconds of at least 0, not {value!r}")


def _count(_instance: object, attribute: Attribute[int], value: int) -> None:
    _check_integer(attribute.name, value)
    if value < 1:
        raise ValueError(f"{attribute.name} must be at least 1, not {value!r}")


def _payload(instance: object, attribute: Attribute[int], value: int) -> None:
    _count(instance, attribute, value)
    if value > MAX_CONTROL_PAYLOAD:
        raise ValueError(f"{attribute.name} must be at most {MAX_CONTROL_PAYLOAD}, not {value!r}")


def _rate(_instance: object, attribute: Attribute[float], value: float) -> None:
    _check_number(attribute.name, value)
    if not value >= 1:
        raise ValueError(f"{attribute.name} must be at least 1, or math.inf, not {value!r}")


def _count_or_zero(_instance: object, attribute: Attribute[int], value: int) -> None:
    _check_integer(attribute.name, value)
    if value < 0:
        raise ValueError(f"{attribute.name} must be at least 0, not {value!r}")


def _flag(_instance: object, attribute: Attribute[bool], value: bool) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{attribute.name} must be True or False, not {value!r}")


def _identifier(_instance: object, attribute: Attribute[str], value: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name} must be a str, not {value!r}")
    # The characters that a value of NEGO and of Settings can have.
    if not re.fullmatch(r"[!-+\--<>-~]{0,255}", value):
        raise ValueError(
            f"{attribute.name} must have at most 255 printable ASCII characters, none of them a space, "
            f"a comma or an equals sign, not {value!r}"
        )


#: The default of `Config.extensions`. The tests run with all, and with none.
default_extensions: frozenset[Extension] = frozenset(EXTENSIONS)


def _extension_set(value: Collection[Extension]) -> frozenset[Extension]:
    if isinstance(value, str | bytes) or not isinstance(value, Collection):
        raise TypeError(f"extensions must be a collection of names, not {value!r}")
    for name in value:
        if name not in EXTENSIONS:
            raise ValueError(f"each of extensions must be one of {', '.join(map(repr, EXTENSIONS))}, not {name!r}")
    return frozenset(value)


def _window(instance: object, attribute: Attribute[int], value: int) -> None:
    _check_integer(attribute.name, value)
    if not MIN_WINDOW <= value <= MAX_WINDOW:
        raise ValueError(f"{attribute.name} must be a number of bytes from {MIN_WINDOW} to {MAX_WINDOW}, not {value!r}")


#: Metadata of the fields that have a meaning at one end of a connection only.
_CLIENT: dict[str, Side] = {"side": "client"}
_SERVER: dict[str, Side] = {"side": "server"}


@frozen(kw_only=True)
class Config:
    """The settings of a connection. Times are in seconds, `math.inf` for never; sizes are in bytes.

    A field marked (client) or (server) has a meaning at that end only. The other end accepts its default alone.

    Raises:
      TypeError: a value has the wrong type; the text names the field.
      ValueError: a value is out of range; the text names the field.
    """

    #: The timeout of the TLS handshake, in seconds. On the client, it starts when TCP is connected.
    handshake_timeout: float = field(default=30.0, validator=_seconds)
    #: (server) The timeout for a client's AUTH frame, and then again for its NEGO frame, in seconds (protocol: 4).
    auth_timeout: float = field(default=10.0, validator=_seconds, metadata=_SERVER)
    #: Close the connection after this time without a frame in either direction, in seconds
    #: (spec: Connections / Timeout). The payload of DATA and PADDING counts as it arrives, every other frame when it is
    #: complete.
    idle_timeout: float = field(default=300.0, validator=_seconds)
    #: Close a stream after this time without one of its frames, in seconds (spec: Streams / Stream Timeout).
    stream_idle_timeout: float = field(default=600.0, validator=_seconds)
    #: Send a PINGPONG after this time without a received frame, in seconds; `math.inf` turns keep-alive off.
    keepalive_interval: float = field(default=math.inf, validator=_seconds)
    #: Close the connection if a PINGPONG is not answered within this time, in seconds. It applies to
    #: `Connection.ping`, too.
    keepalive_timeout: float = field(default=20.0, validator=_seconds)
    #: Close the connection if the peer accepts no data for this time while a write is waiting, in seconds.
    write_timeout: float = field(default=60.0, validator=_seconds)
    #: The timeout of the close handshake, in seconds: sending the accepted data, the last frame, and the end of TLS and
    #: TCP directly after it; then reading on, up to 1 MiB, until the peer has ended its side (protocol: 4).
    close_timeout: float = field(default=5.0, validator=_seconds)
    #: How long an unread stream may hold up the other streams of its connection, in seconds. After that, this stream
    #: alone is closed. A stream that is read, but slowly, gets this time again whenever it has freed a quarter of the
    #: excess in its buffer at the start of the wait. It therefore holds up others for four times as long at most. The
    #: only stream of a connection is not closed: it exerts back-pressure on the peer. At most 4 s with
    #: `protocol="legacy"`, whose programs close a connection that is not read for 5 s.
    stall_timeout: float = field(default=30.0, validator=_seconds)
    #: (client) How long AUTH and NEGO wait for the first stream to join them, in seconds (protocol: 6).
    initial_flush_delay: float = field(default=0.05, validator=_delay, metadata=_CLIENT)
    #: (client) The name that the client gives its implementation, as in `name/version`. Some servers refuse clients by
    #: it. With the wire format "legacy", it may be empty.
    client_identifier: str = field(default=IDENTIFIER, validator=_identifier, metadata=_CLIENT)
    #: (server) How long open streams may continue when the server is drained, in seconds; see `ServerControl.drain`.
    drain_timeout: float = field(default=30.0, validator=_seconds, metadata=_SERVER)
    #: (server) The maximum number of connections, fallbacks included. Further ones are closed on arrival.
    max_connections: int = field(default=10_000, validator=_count, metadata=_SERVER)
    #: (server) The maximum number of unauthenticated connections. Further ones are closed on arrival.
    max_unauthenticated: int = field(default=1000, validator=_count, metadata=_SERVER)
    #: (server) The same for each client address (IPv6: for each /64 network).
    max_unauthenticated_per_address: int = field(default=100, validator=_count, metadata=_SERVER)
    #: (server) The maximum number of connections at the fallback. A further one replaces the connection that has been
    #: idle for longest, if that is 5 seconds or more; otherwise the further one is closed.
    max_fallbacks: int = field(default=1000, validator=_count, metadata=_SERVER)
    #: (server) The same for each client address (IPv6: for each /64 network). A further connection replaces one of the
    #: same address.
    max_fallbacks_per_address: int = field(default=100, validator=_count, metadata=_SERVER)
    #: (server) The maximum number of open streams on a connection. Further ones are refused. A stream counts until its
    #: handler has returned.
    max_streams: int = field(default=1024, validator=_count, metadata=_SERVER)
    #: (server) The number of streams that a client may open on a connection at once, and per second after that.
    #: Further ones are refused. At least 1; `math.inf` for no limit.
    max_stream_rate: float = field(default=10_000.0, validator=_rate, metadata=_SERVER)
    #: The receive buffer of a stream, in bytes. Each piece, as it arrived, costs 64 bytes more. One read of the
    #: transport may exceed the buffer.
    receive_buffer_size: int = field(default=256 * 1024, validator=_count)
    #: The receive buffer of all streams of a connection together, in bytes, counted and exceeded in the same way.
    connection_receive_buffer_size: int = field(default=64 * 1024 * 1024, validator=_count)
    #: The send buffer of a connection, in bytes. One frame of at most 64 KiB may exceed it.
    send_buffer_size: int = field(default=256 * 1024, validator=_count)
    #: The maximum number of queued answers to the peer, plus two for each stream of `max_streams`. A peer that requests
    #: more without reading them is disconnected.
    max_pending_control: int = field(default=1024, validator=_count)
    #: The maximum number of consecutive frames without content: PADDING, empty DATA, and every other frame that only
    #: restarts a timer, PINGPONG excepted. A peer that sends more is disconnected.
    max_idle_frames: int = field(default=10_000, validator=_count)
    #: The maximum number of PADDING bytes between two frames with content. A peer that sends more is disconnected.
    max_idle_bytes: int = field(default=64 * 1024 * 1024, validator=_count)
    #: The maximum payload of a frame other than DATA and PADDING, in bytes, at most 64 KiB (protocol: 2). A larger one
    #: is a violation.
    max_control_payload: int = field(default=MAX_CONTROL_PAYLOAD, validator=_payload)
    #: (server) The maximum padding of AUTH, in bytes, at most 64 KiB (protocol: 4). More is a failed authentication.
    max_auth_padding: int = field(default=MAX_CONTROL_PAYLOAD, validator=_payload, metadata=_SERVER)
    #: (client) The maximum size of a padding scheme from the server, in bytes. Otherwise the server is disconnected.
    max_scheme_size: int = field(default=MAX_CONTROL_PAYLOAD, validator=_payload, metadata=_CLIENT)
    #: (client) The maximum `stop` of such a scheme. Otherwise the server is disconnected.
    max_scheme_stop: int = field(default=1000, validator=_count, metadata=_CLIENT)
    #: (client) The maximum sum of the sizes of one deliver of such a scheme, in bytes, each at its largest. Otherwise
    #: the server is disconnected.
    max_scheme_deliver: int = field(default=256 * 1024, validator=_count, metadata=_CLIENT)
    #: (client) The maximum sum of the sizes of all delivers of such a scheme, in bytes, each at its largest: the most
    #: that each connection sends for the scheme in addition to its data. Otherwise the server is disconnected.
    max_scheme_total: int = field(default=4 * 1024 * 1024, validator=_count, metadata=_CLIENT)
    #: (server) The consequence of a protocol violation by an authenticated client. "alert": send ALERT and close the
    #: connection. "fallback": pass the connection to the fallback, from the offending frame on.
    on_violation: OnViolation = field(default="alert", validator=in_(("alert", "fallback")), metadata=_SERVER)
    #: (server) When to acknowledge a stream. "auto": when its handler starts. "manual": when the handler calls
    #: `Stream.acknowledge`.
    acknowledge: Acknowledge = field(default="auto", validator=in_(("auto", "manual")), metadata=_SERVER)
    #: (server) Whether to shape the server's writes, too (protocol: 6).
    shape_server: bool = field(default=False, validator=_flag, metadata=_SERVER)
    #: The extensions of the protocol to offer (client) or to accept (server), by name: "fin", "goaway", "reset",
    #: "window". One is in force if both ends have it (extensions: 1). `()` for none. The wire format "legacy" has none.
    extensions: frozenset[Extension] = field(factory=lambda: default_extensions, converter=_extension_set)
    #: With "window", the data that the peer may send on each new stream before this end has read any of it, in bytes,
    #: at least 16 KiB. If `max_streams` of it (on a client: 1,024) exceed `connection_receive_buffer_size`, each stream
    #: gets an equal part instead. If the part is less than 16 KiB, "window" is not used.
    stream_window: int = field(default=64 * 1024, validator=_window)
    #: With "window", the maximum unread data of a stream, in bytes. A window grows up to it if a whole window is read
    #: within two round trips, and if half of `connection_receive_buffer_size` has room.
    max_stream_window: int = field(default=16 * 1024 * 1024, validator=_window)

    def __attrs_post_init__(self) -> None:
        if self.max_stream_window < self.stream_window:
            raise ValueError(
                f"max_stream_window must be at least stream_window ({self.stream_window}), "
                f"not {self.max_stream_window!r}"
            )

    @property
    def limits(self) -> ProtocolLimits:
        """The fields that limit the peer within the protocol itself."""
        return ProtocolLimits(**{name: getattr(self, name) for name in _LIMITS})


def offer_of(config: Config) -> ExtensionOffer:
    """Return the extensions that an end with these settings offers or accepts."""
    window = min(config.stream_window, config.connection_receive_buffer_size // config.max_streams)
    if window < MIN_WINDOW:
        return ExtensionOffer(config.extensions - {"window"})
    return ExtensionOffer(config.extensions, window)


_LIMITS = [limit.name for limit in fields(ProtocolLimits)]


@functools.lru_cache(maxsize=16)
def protocol_settings(config: Config) -> tuple[ProtocolLimits, ExtensionOffer]:
    """Return the settings of the protocol's end. Connections with the same configuration share them."""
    return config.limits, offer_of(config)


def fields_of(side: Side) -> list[str]:
    """Return the names of the fields that have a meaning at one end only, at the one that `side` names."""
    return [one.name for one in fields(Config) if one.metadata.get("side") == side]


_FOREIGN: dict[Side, tuple[Side, list[str]]] = {
    "client": ("server", fields_of("server")),
    "server": ("client", fields_of("client")),
}


def check_config(config: Config, side: Side) -> None:
    """Check that `config` is a `Config` that has a meaning at this end of a connection.

    Raises:
      TypeError: it is not a `Config`.
      ValueError: a field of the other end differs from its default.
    """
    check_type("config", config, Config)
    if config == _DEFAULT:
        return
    other, names = _FOREIGN[side]
    for name in names:
        value = getattr(config, name)
        if value != getattr(_DEFAULT, name):
            raise ValueError(f"{name}={value!r} has no effect on a {side}: it is a setting of the {other}")


_DEFAULT = Config()


@frozen(kw_only=True)
class PoolConfig:
    """The settings of a client's connection pool, see `open_client`. Times are in seconds, `math.inf` for never.

    None stands for a default that depends on the wire format, see `open_connection`.

    Raises:
      TypeError: a value has the wrong type; the text names the field.
      ValueError: a value is out of range; the text names the field.
    """

    #: The maximum number of concurrent streams on a connection. None: 100, or 1 with "legacy". With 1, a connection
    #: carries one stream after the other, as anytls-go, sing-box and mihomo use theirs.
    max_streams_per_connection: int | None = field(default=None, validator=optional(_count))
    #: The maximum number of connections, including those that are being opened, are closing, or are past
    #: `max_lifetime`. None: 32, or 256 with "legacy", where each stream needs a connection. Connections whose server
    #: has said that it is shutting down (extensions: 5) do not count, up to the same number again.
    max_connections: int | None = field(default=None, validator=optional(_count))
    #: Whether a connection carries another stream after its first one has ended. False: each stream has a connection of
    #: its own, which is closed with it. The server and the network then cannot link two streams by their connection, at
    #: the price of a TLS handshake for each stream. `max_streams_per_connection` must be None or 1.
    reuse: bool = field(default=True, validator=_flag)
    #: The number of connections without streams to keep. None: 1, or 0 with "legacy". Each is verified when it has been
    #: silent for `idle_timeout`. No connection is opened only to reach this number.
    min_idle: int | None = field(default=None, validator=optional(_count_or_zero))
    #: How long to keep a connection without streams, in seconds. None: 25, since common servers close idle connections
    #: after 30, or 30 with "legacy".
    idle_timeout: float | None = field(default=None, validator=optional(_seconds))
    #: The interval between two checks of idle connections, in seconds. None: 5, or 30 with "legacy". There, an idle
    #: connection is therefore closed after 30 to 60 seconds, as anytls-go, sing-box and mihomo do it.
    check_interval: float | None = field(default=None, validator=optional(_seconds))
    #: The age after which a connection gets no new streams, in seconds. It is closed when its last stream has ended. If
    #: no new connection can be made, it continues to get new streams.
    max_lifetime: float = field(default=3600.0, validator=_seconds)
    #: The timeout of one connection attempt, TCP and TLS together, in seconds.
    connect_timeout: float = field(default=10.0, validator=_seconds)
    #: The timeout of `open_stream`, in seconds, including the wait in the queue and all attempts to connect and verify.
    open_timeout: float = field(default=30.0, validator=_seconds)
    #: The timeout for the server's application to accept a stream, in seconds. After that, the stream is closed; its
    #: connection is closed, too, if nothing at all was received from the server since the stream was opened.
    acknowledge_timeout: float = field(default=30.0, validator=_seconds)
    #: Ping a connection before reuse if nothing was received from it for this long, in seconds. None: 1, or 10 with
    #: "legacy". There, unless this is `math.inf`, a connection is also pinged if nothing was received from it for 3
    #: seconds after a stream was opened.
    verify_after: float | None = field(default=None, validator=optional(_seconds))
    #: The timeout for the answer to that ping, in seconds. After that, another connection is used.
    verify_timeout: float = field(default=3.0, validator=_seconds)
    #: The delay after the first failed connection attempt, in seconds. It doubles after each further one.
    retry_delay: float = field(default=0.1, validator=_seconds)
    #: The maximum delay, in seconds. Each delay is shortened by a random part of up to a half.
    max_retry_delay: float = field(default=0.8, validator=_seconds)

    def __attrs_post_init__(self) -> None:
        if not self.reuse and self.max_streams_per_connection not in (None, 1):
            value = self.max_streams_per_connection
            raise ValueError(f"max_streams_per_connection must be None or 1 with reuse=False, not {value!r}")


@frozen(kw_only=True)
class PoolLimits:
    """The settings of a pool whose defaults depend on the wire format. See the fields of `PoolConfig`."""

    max_streams_per_connection: int
    max_connections: int
    min_idle: int
    idle_timeout: float
    check_interval: float
    verify_after: float


_POOL_LIMIT_NAMES = [limit.name for limit in fields(PoolLimits)]
_POOL_LIMITS: dict[WireFormat, PoolLimits] = {
    "anytls1": PoolLimits(
        max_streams_per_connection=100,
        max_connections=32,
        min_idle=1,
        idle_timeout=25.0,
        check_interval=5.0,
        verify_after=1.0,
    ),
    # The times of anytls-go, sing-box and mihomo (legacy: 5), except that these verify no connection. A connection is
    # silent between two streams: with a shorter time, nearly each stream would wait for a ping.
    "legacy": PoolLimits(
        max_streams_per_connection=1,
        max_connections=256,
        min_idle=0,
        idle_timeout=30.0,
        check_interval=30.0,
        verify_after=10.0,
    ),
}


def pool_limits(pool: PoolConfig, protocol: WireFormat) -> PoolLimits:
    """Return the fields of `pool` that may be None, with the defaults for this wire format in place of None."""
    chosen = {name: getattr(pool, name) for name in _POOL_LIMIT_NAMES}
    if not pool.reuse:
        chosen["max_streams_per_connection"] = 1
    return evolve(_POOL_LIMITS[protocol], **{name: value for name, value in chosen.items() if value is not None})

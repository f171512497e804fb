"""The counters of a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from attrs import evolve, field, fields, frozen


@frozen(kw_only=True)
class ServerStats:
    """The counters of a server at one moment (`ServerControl.snapshot`).

    Attributes:
      draining: whether it takes no more connections and streams.
      connections: connections open now, fallbacks included.
      unauthenticated: those of them that have not authenticated yet.
      fallback_connections: those of them that are with the fallback.
      streams: streams whose handlers run now.
      connections_accepted: connections that TCP has accepted.
      connections_refused: those of them that were closed at once, by the name of the limit that stood against them.
      connections_closed: connections that have ended, by the code of the CLOSE that ended them, "LOST" where there was
        none, "UNAUTHENTICATED", "FALLBACK", or "HANDSHAKE" for those that did not get past TLS.
      handshakes_failed: TLS handshakes, and headers of the PROXY protocol, that failed or took too long.
      authentications: clients that have authenticated.
      authentications_failed: those that have not.
      fallbacks: connections that the fallback was given.
      fallbacks_refused: those that it was not given, by the name of the limit that was reached.
      fallbacks_displaced: those that it was given, and that were closed when idle to make room for others.
      violations: connections that were ended because the client broke the protocol or went beyond a limit of it.
      streams_opened: streams that were opened, those included that were refused.
      streams_refused: those that were refused, by the name of the limit, or "drain".
      streams_timed_out: those that were closed by `stream_idle_timeout` ("IDLE") or `stall_timeout` ("STALLED").
      handlers_failed: handlers that raised something else than that their stream was broken.
      bytes_received, bytes_sent: bytes over all transports, under TLS, without those of fallbacks.
    """

    draining: bool = False
    connections: int = 0
    unauthenticated: int = 0
    fallback_connections: int = 0
    streams: int = 0
    connections_accepted: int = 0
    connections_refused: Mapping[str, int] = field(factory=dict)
    connections_closed: Mapping[str, int] = field(factory=dict)
    handshakes_failed: int = 0
    authentications: int = 0
    authentications_failed: int = 0
    fallbacks: int = 0
    fallbacks_refused: Mapping[str, int] = field(factory=dict)
    fallbacks_displaced: int = 0
    violations: int = 0
    streams_opened: int = 0
    streams_refused: Mapping[str, int] = field(factory=dict)
    streams_timed_out: Mapping[str, int] = field(factory=dict)
    handlers_failed: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0

    def __add__(self, other: ServerStats) -> ServerStats:
        """The counters of two servers, together."""
        return evolve(self, **{name: _add(getattr(self, name), getattr(other, name)) for name in _FIELDS})


#: The fields of `ServerStats` that say what is now; all others only grow.
MOMENTARY = ("draining", "connections", "unauthenticated", "fallback_connections", "streams")


def counted(stats: ServerStats) -> ServerStats:
    """What remains of the counters of a server when it has gone."""
    return evolve(stats, **{name: getattr(_NOTHING, name) for name in MOMENTARY})


_NOTHING = ServerStats()
_FIELDS = [attribute.name for attribute in fields(ServerStats)]


def _add(one: Any, other: Any) -> Any:
    if isinstance(one, bool):
        return one or other
    return one + other if isinstance(one, int) else dict(Counter(one) + Counter(other))

"""The counters of a client."""

from __future__ import annotations

from attrs import define, field, frozen


@define(kw_only=True)
class ClientCounters:
    """The events that a client has counted so far. A client updates them in place; see `ClientStats`."""

    connections_made: int = 0
    connections_failed: int = 0
    connections_resumed: int = 0
    connections_closed: dict[str, int] = field(factory=dict)
    verified: int = 0
    streams_opened: int = 0
    streams_failed: int = 0
    streams_unacknowledged: int = 0


@frozen(kw_only=True)
class ClientStats(ClientCounters):
    """The counters of a client at one moment (`Client.stats`).

    Attributes:
      connections: open connections, including those that are given no more streams.
      connecting: attempts under way, including the pauses after failed ones.
      idle: connections without streams.
      streams: open streams.
      waiting: calls of `open_stream` that wait for a connection.
      connections_made, connections_failed: attempts to connect so far, by outcome.
      connections_resumed: connections made whose TLS handshake resumed an earlier session.
      connections_closed: closed connections by reason: "idle", "lifetime", "silent" (the server did not answer),
        "used" (its stream has ended, and `PoolConfig.reuse` is off), "goaway" (the server was shutting down and has
        said so), "closed" (by `Client.aclose`), "lost" for all others.
      verified: connections that were sent a PINGPONG before reuse.
      streams_opened, streams_failed: calls of `open_stream` so far, by outcome; cancelled ones are in neither.
      streams_unacknowledged: streams that were closed by `acknowledge_timeout`.
    """

    connections: int
    connecting: int
    idle: int
    streams: int
    waiting: int

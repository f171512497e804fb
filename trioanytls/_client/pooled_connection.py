"""A connection of the pool: its leases, its retirement, and the events that the pool needs to know of.

This is the one place where the pool reads the state of a connection that is not public.
"""

from __future__ import annotations

from collections.abc import Callable

import trio
from attrs import frozen

from trioanytls._connection import close_reason
from trioanytls._connection.connection import Connection, multiplexer_of
from trioanytls._connection.stream import Stream, core_of
from trioanytls._connection.stream_core import StreamEnd
from trioanytls._exceptions import ConnectionClosed
from trioanytls._protocol.padding_scheme import PaddingScheme


@frozen
class PoolCallbacks:
    """The functions by which a pooled connection reports to the pool. They are called synchronously.

    Attributes:
      lease_returned: a lease has ended, so there is room for another stream.
      server_answered: the server speaks ANYTLS and accepts the password.
      server_did_not_answer: the connection closed before the server sent any frame, with this error.
      stream_settled: a stream was accepted, or has ended.
      scheme_received: the server wants another scheme used for later connections.
      server_leaves: the server of this connection is shutting down and accepts no more streams on it.
    """

    lease_returned: Callable[[], None]
    server_answered: Callable[[], None]
    server_did_not_answer: Callable[[ConnectionClosed], None]
    stream_settled: Callable[[Stream], None]
    scheme_received: Callable[[PaddingScheme], None]
    server_leaves: Callable[[PooledConnection], None]


class PooledConnection:
    """A connection of the pool, and the `Observer` of that connection.

    A connection that is *retired* is given no new streams and is closed after its last one. There is one exception: a
    *reserve* connection was retired for its age alone and still works. It is used while no new connection can be made.

    Attributes:
      connection: the connection.
      opened_at, idle_since: when it was opened, and when its last lease ended, on Trio's clock.
      leases: the number of leases, each the right to one stream.
      reason: the key under which `ClientStats.connections_closed` will count it.
      retired: whether it is given no new streams.
      leaving: whether its server is shutting down: it carries its streams to their ends, and no others.
      close_requested: set when it is to be closed.
      closed: set when it is closed and removed from the pool.
    """

    def __init__(self, connection: Connection, callbacks: PoolCallbacks, *, reuse: bool = True) -> None:
        self.connection = connection
        self.opened_at = self.idle_since = trio.current_time()
        self.leases = 0
        self.reason = "lost"
        self.retired = False
        self.leaving = False
        self.close_requested = trio.Event()
        self.closed = trio.Event()
        # Retired for another reason than its age.
        self._failed = False
        self._callbacks = callbacks
        self._reuse = reuse
        self._streams: dict[int, Stream] = {}
        self._multiplexer = multiplexer_of(connection)
        self._multiplexer.observer = self

    # Leases

    @property
    def is_reserve(self) -> bool:
        """Whether it was retired for its age alone, and still works."""
        return self.retired and not self._failed and not self.close_requested.is_set()

    def hand_over_lease(self, stream: Stream) -> None:
        """Turn a lease into one that ends with this stream."""
        if stream.closed:
            self.return_lease()
        else:
            self._streams[stream.stream_id] = stream

    def return_lease(self) -> None:
        """End a lease."""
        self.leases -= 1
        if not self.leases:
            self.idle_since = trio.current_time()
            # A caller that was cancelled before it had a stream leaves the connection as it was.
            if not self._reuse and self.streams_opened:
                self.retire("used")
            if self.retired:
                self.close_requested.set()
        self._callbacks.lease_returned()

    def retire(self, reason: str) -> None:
        """Give the connection no more streams, and close it when it has none."""
        if not self.retired:
            self.retired = True
            self.reason = reason
        self._failed |= reason != "lifetime"
        if not self.leases:
            self.close_requested.set()

    # The state of the connection

    @property
    def open_streams(self) -> int:
        """The number of open streams."""
        return len(self._multiplexer.streams)

    @property
    def streams_opened(self) -> int:
        """The number of streams that were opened on it so far."""
        return self._multiplexer.streams_opened

    @property
    def last_received(self) -> float:
        """When a frame was last received, on Trio's clock."""
        return self._multiplexer.progress.last_received

    @property
    def can_ping(self) -> bool:
        """Whether the server is known to answer a ping."""
        return self._multiplexer.protocol.can_ping

    @property
    def acknowledges(self) -> bool | None:
        """Whether the server sends a frame for each stream that it accepts, None if that is not known yet."""
        protocol = self._multiplexer.protocol
        return True if protocol.acknowledges else None if protocol.version is None else False

    @property
    def has_answered(self) -> bool:
        """Whether the server has shown that it accepts the password."""
        # A legacy server of version 1 has nothing to say before the first stream, unless it has another scheme.
        return self.connection.version is not None or self.connection.server_padding_scheme is not None

    @property
    def is_stalled(self) -> bool:
        """Whether reading is suspended, as the application does not read a stream whose buffer is full."""
        return self._multiplexer.progress.is_stalled

    @property
    def stalled_until(self) -> float:
        """When reading was last resumed after a stall, on Trio's clock."""
        return self._multiplexer.progress.stalled_until

    @property
    def is_ping_outstanding(self) -> bool:
        """Whether a PINGPONG was sent whose answer has not arrived yet."""
        return self._multiplexer.ping is not None

    async def catch_up(self) -> None:
        """Let the reader process all data that has arrived, before a timer is taken for expired."""
        await self._multiplexer.progress.catch_up()

    def abandon(self, why: str) -> None:
        """Close the connection to a server that does not answer."""
        self.retire("silent")
        self._multiplexer.close(close_reason.transport_lost(f"the server is silent: {why}"))

    def close_if_broken(self) -> None:
        """Close the connection if it can no longer send.

        Its reader goes on for as long as the application leaves received data unread. Close it all the same if new
        connections need its place.
        """
        if self._failed and not self.leaving and not self.close_requested.is_set():
            self._multiplexer.close_after_write_error()

    def expire_unacknowledged(self, stream: Stream) -> None:
        """Close a stream that the server has not accepted in time."""
        self._multiplexer.expire_stream(core_of(stream), StreamEnd.UNACKNOWLEDGED)

    # Observer

    def negotiated(self) -> None:
        self._callbacks.server_answered()

    def stream_accepted(self, stream_id: int) -> None:
        if (stream := self._streams.get(stream_id)) is not None:
            self._callbacks.stream_settled(stream)

    def stream_gone(self, stream_id: int) -> None:
        if (stream := self._streams.pop(stream_id, None)) is not None:
            self._callbacks.stream_settled(stream)
            self.return_lease()

    def scheme_received(self, scheme: PaddingScheme) -> None:
        self._callbacks.scheme_received(scheme)

    def going_away(self) -> None:
        if not self.leaving:
            self.leaving = True
            self.retire("goaway")
            self._callbacks.server_leaves(self)

    def closing(self) -> None:
        self.retired = True
        self.close_requested.set()
        error = self.connection.close_reason
        if error is not None and not self.has_answered and not self._multiplexer.is_closed_locally:
            self._callbacks.server_did_not_answer(error)

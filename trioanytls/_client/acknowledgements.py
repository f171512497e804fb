"""The timeout for streams that the server's application neither accepts nor refuses."""

from __future__ import annotations

import math
from collections.abc import Callable

import trio
from attrs import define

from trioanytls._connection.stream import Stream

from .pooled_connection import PooledConnection
from .stats import ClientCounters


@define
class _Pending:
    pooled: PooledConnection
    opened_at: float
    #: When to verify its connection, if nothing was received since the stream was opened.
    verify_at: float


class AcknowledgementTimer:
    """Closes streams that are not accepted within `PoolConfig.acknowledge_timeout`, if the server says so at all.

    Attributes:
      pending: the streams that were opened and are not accepted yet.
    """

    def __init__(
        self,
        timeout: float,
        verify_after: float,
        counters: ClientCounters,
        verify: Callable[[PooledConnection], None],
        abandon: Callable[[PooledConnection, str], None],
    ) -> None:
        """Take the callbacks of the pool.

        Args:
          timeout: see `PoolConfig.acknowledge_timeout`.
          verify_after: how long a server may be silent after a stream was opened until its connection is verified.
          counters: the counters of the client.
          verify: verifies a connection in the background.
          abandon: closes a connection, for this reason.
        """
        self.pending: dict[Stream, _Pending] = {}
        self._timeout = timeout
        self._verify_after = verify_after
        self._counters = counters
        self._verify = verify
        # What is known of the server from other connections.
        self._acknowledges = False
        self._abandon = abandon
        self._added = trio.Event()

    def add(self, stream: Stream, pooled: PooledConnection) -> None:
        """Start the timeout of a stream that was opened now."""
        if not stream.closed and not stream.is_acknowledged and self._timeout < math.inf:
            now = trio.current_time()
            self.pending[stream] = _Pending(pooled, now, now + self._verify_after)
            self._added.set()

    def discard(self, stream: Stream) -> None:
        """Stop the timeout of a stream that was accepted or has ended."""
        pending = self.pending.pop(stream, None)
        if pending is not None and pending.pooled.acknowledges is not None:
            self._acknowledges = pending.pooled.acknowledges

    async def run(self) -> None:
        """Close the streams whose timeout expires. Runs until cancelled."""
        while True:
            if not self.pending:
                self._added = trio.Event()
                await self._added.wait()
                # The stream may have been accepted at once.
                continue
            now = trio.current_time()
            self._verify_silent(now)
            due = min(min(self._deadline(pending, now), pending.verify_at) for pending in self.pending.values())
            if now < due:
                await trio.sleep_until(due)
                continue
            overdue = [stream for stream in self.pending if self._deadline(self.pending[stream], now) <= now]
            for pooled in {self.pending[stream].pooled for stream in overdue}:
                await pooled.catch_up()
            for stream in overdue:
                # An abandoned connection has taken its other streams along.
                if stream in self.pending and self._deadline(self.pending[stream], now) <= now:
                    self._expire(stream)

    def _verify_silent(self, now: float) -> None:
        """Verify the connections on which nothing was received since a stream was opened some time ago."""
        for pending in self.pending.values():
            if pending.verify_at <= now:
                pending.verify_at = math.inf
                if pending.pooled.last_received <= pending.opened_at:
                    self._verify(pending.pooled)

    def _deadline(self, pending: _Pending, now: float) -> float:
        """Return when the server must have accepted a stream, or when to look again."""
        # While the reader is stalled, the server's answer may be waiting to be read. A legacy server of version 1 does
        # not answer. One that has not sent anything yet is taken for what it was on other connections.
        acknowledges = pending.pooled.acknowledges
        if pending.pooled.is_stalled or not (self._acknowledges if acknowledges is None else acknowledges):
            return now + self._timeout
        return max(pending.opened_at, pending.pooled.stalled_until) + self._timeout

    def _expire(self, stream: Stream) -> None:
        """Close a stream, or, if nothing was received since it was opened, its connection."""
        pending = self.pending.pop(stream)
        self._counters.streams_unacknowledged += 1
        if pending.pooled.last_received > pending.opened_at:
            pending.pooled.expire_unacknowledged(stream)
        else:
            self._abandon(pending.pooled, "it neither accepted nor refused a stream")

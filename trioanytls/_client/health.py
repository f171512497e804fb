"""Checks that connections of the pool still work, and the end of those that are not needed.

A connection may be dead without a sign: a NAT has forgotten it, or the network has changed. It is verified by a
PINGPONG before reuse if it has been silent, and at intervals while it is idle.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence

import trio

from trioanytls._config import PoolConfig, PoolLimits
from trioanytls._exceptions import ConnectionClosed

from .pooled_connection import PooledConnection
from .stats import ClientCounters


class HealthMonitor:
    """Verifies the connections of a pool, and closes the idle ones.

    Args:
      connections: the connections in the pool, which change meanwhile.
      needs_room: returns whether a caller waits for a connection.
    """

    def __init__(
        self,
        connections: Sequence[PooledConnection],
        pool: PoolConfig,
        limits: PoolLimits,
        counters: ClientCounters,
        needs_room: Callable[[], bool],
    ) -> None:
        self._connections = connections
        self._pool = pool
        self._limits = limits
        self._counters = counters
        self._needs_room = needs_room
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Check the connections at intervals. Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            while True:
                await trio.sleep(self._limits.check_interval)
                self._check()

    def _check(self) -> None:
        """Retire connections that are too old or not needed, the oldest first, and verify the other idle ones."""
        now = trio.current_time()
        for pooled in self._connections:
            if pooled.opened_at + self._pool.max_lifetime <= now:
                pooled.retire("lifetime")
        idle = [pooled for pooled in self._connections if not pooled.leases and not pooled.retired]
        surplus = len(idle) - self._limits.min_idle
        for pooled in idle:
            if now < pooled.idle_since + self._limits.idle_timeout:
                continue
            if surplus > 0:
                surplus -= 1
                pooled.retire("idle")
            elif now >= pooled.last_received + self._limits.idle_timeout:
                self._start_verifying(pooled)
        if self._needs_room() and len(self._connections) >= self._limits.max_connections:
            for pooled in self._connections:
                pooled.close_if_broken()

    async def is_alive(self, pooled: PooledConnection) -> bool:
        """Verify a connection if it has been silent. Abandon it and return False if the server does not answer.

        Raises:
          ConnectionClosed, trio.ClosedResourceError: see `Connection.ping`.
        """
        now = trio.current_time()
        # A stalled reader could not receive the answer.
        if now < pooled.last_received + self._limits.verify_after or pooled.is_stalled:
            return True
        return await self._answers(pooled)

    def verify_soon(self, pooled: PooledConnection) -> None:
        """Verify a connection in the background, even if it has not been silent for long."""
        if self._nursery is not None and not pooled.close_requested.is_set():
            self._nursery.start_soon(self._verify, self._answers, pooled)

    async def _answers(self, pooled: PooledConnection) -> bool:
        """Ping a connection. Abandon it and return False if the server does not answer."""
        if not pooled.can_ping:
            # A server of the legacy format that has not said that it answers.
            return True
        now = trio.current_time()
        # Callers that verify at the same time share one PINGPONG.
        self._counters.verified += not pooled.is_ping_outstanding
        with trio.move_on_after(self._pool.verify_timeout):
            await pooled.connection.ping()
            return True
        await pooled.catch_up()
        if pooled.last_received > now:
            # The answer is on its way, after much other data.
            return True
        self.abandon(pooled, "it did not answer a PINGPONG")
        return False

    def abandon(self, pooled: PooledConnection, why: str) -> None:
        """Close a connection to a server that does not answer, and verify all others at once.

        A change of network kills all connections at the same time. If each caller discovered them one after the other,
        `open_timeout` would expire after a few.
        """
        pooled.abandon(why)
        for other in self._connections:
            if not other.close_requested.is_set() and not other.is_ping_outstanding:
                self._start_verifying(other)

    def _start_verifying(self, pooled: PooledConnection) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._verify, self.is_alive, pooled)

    @staticmethod
    async def _verify(check: Callable[[PooledConnection], Awaitable[bool]], pooled: PooledConnection) -> None:
        with contextlib.suppress(ConnectionClosed, trio.ClosedResourceError):
            await check(pooled)

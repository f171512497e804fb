"""Leases: the right to one stream on one connection of the pool, given to callers in the order of their calls."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from .pooled_connection import PooledConnection


class Waiter:
    """A caller in the queue. It waits for a connection with a lease for it, or for an error."""

    __slots__ = ("asleep", "outcome", "task")

    def __init__(self) -> None:
        self.task = trio.lowlevel.current_task()
        # False while the caller itself runs: it may find its own outcome.
        self.asleep = False
        self.outcome: PooledConnection | Exception | None = None

    def wake(self, outcome: PooledConnection | Exception) -> None:
        """Give the caller its outcome."""
        self.outcome = outcome
        if self.asleep:
            trio.lowlevel.reschedule(self.task)


class LeaseQueue:
    """The connections of a pool, and the callers that wait for a lease.

    Attributes:
      connections: the connections in the pool, the newest last.
      waiting: the callers that wait, in the order of their calls.
    """

    def __init__(self, streams_per_connection: int, max_lifetime: float, caller_added: Callable[[], None]) -> None:
        self.connections: list[PooledConnection] = []
        self.waiting: deque[Waiter] = deque()
        self._streams_per_connection = streams_per_connection
        self._max_lifetime = max_lifetime
        self._caller_added = caller_added

    async def acquire(self, deadline: float) -> PooledConnection | None:
        """Return a connection with a lease for the caller; None if there was none before the deadline.

        Raises:
          Exception: the error that another task gave to `fail_all`.

        Cancellation: no lease was taken.
        """
        if not self.waiting and (pooled := self._find_room()) is not None:
            pooled.leases += 1
            return pooled
        waiter = Waiter()
        self.waiting.append(waiter)
        self._caller_added()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self.waiting.remove(waiter)
            return trio.lowlevel.Abort.SUCCEEDED

        with trio.move_on_at(deadline):
            if waiter.outcome is None:
                waiter.asleep = True
                await trio.lowlevel.wait_task_rescheduled(abort)
        if isinstance(waiter.outcome, Exception):
            raise waiter.outcome
        return waiter.outcome

    def grant(self) -> None:
        """Give leases to waiting callers while connections have room."""
        while self.waiting and (pooled := self._find_room()) is not None:
            self._grant_next(pooled)

    def grant_reserves(self, keep_waiting: int) -> None:
        """Give leases on reserve connections to waiting callers, but leave this number of callers waiting."""
        while len(self.waiting) > keep_waiting and (pooled := self._find_reserve()) is not None:
            self._grant_next(pooled)

    def fail_all(self, make_error: Callable[[], Exception]) -> None:
        """Give each waiting caller an error of its own."""
        while self.waiting:
            self.waiting.popleft().wake(make_error())

    def _grant_next(self, pooled: PooledConnection) -> None:
        pooled.leases += 1
        self.waiting.popleft().wake(pooled)

    def _find_room(self) -> PooledConnection | None:
        """Return the newest connection that can carry one more stream."""
        now = trio.current_time()
        for pooled in reversed(self.connections):
            if not pooled.retired and pooled.opened_at + self._max_lifetime <= now:
                pooled.retire("lifetime")
            if not pooled.retired and pooled.leases < self._streams_per_connection:
                return pooled
        return None

    def _find_reserve(self) -> PooledConnection | None:
        """Return the newest reserve connection that can carry one more stream.

        The newest, so that the others become empty and make room for new connections.
        """
        for pooled in reversed(self.connections):
            if pooled.is_reserve and pooled.leases < self._streams_per_connection:
                return pooled
        return None

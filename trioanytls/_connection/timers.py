"""The timers of connections (spec: Connections / Timeout; Streams / Stream Timeout).

Setting a deadline costs as much as a frame may cost in all, so no deadline is set when a frame passes. The time is
noted, and at the old deadline, the timer is checked again. Each timer is a `Check`, which is next to the state that it
looks at.

One task of the event loop waits for the timers of all its connections: a task for each would take 4 KiB. It only looks
at deadlines. If one is over, a task of the connection acts, in the connection's nursery.

A deadline in the past does not prove that the peer was silent: the event loop may have been stopped (a blocking call,
SIGSTOP, a suspended machine), and the answer may be in the socket. So before a check acts, the reader catches up
(`ReceiveProgress.catch_up`), and the deadline is computed again, for the moment at which it seemed to be over. For the
same reason no timer of a connection is a deadline of Trio's: those cancel before any task has run.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

# How many entries of timers that were stopped are tolerated in addition to as many as there are timers.
_SPARE_ENTRIES: Final = 64


class Check:
    """One timer. All times are in seconds, on Trio's clock."""

    __slots__ = ()

    def deadline(self, now: float) -> float:
        """Return when the timer expires. While it is not running, return the earliest time at which it could expire if
        it started later than `now`.
        """
        raise NotImplementedError

    def expired(self, now: float) -> None:
        """Act on the timer, which has expired."""
        raise NotImplementedError

    def has_started_since(self, _now: float) -> bool:
        """Return whether the timer has started since then and must be restarted once the reader and the writer have had
        a turn: the event loop may be stopped before that.
        """
        return False

    def restart(self) -> None:
        """Restart the timer, see `has_started_since`."""


class Timers:
    """The timers of one connection.

    Args:
      checks: the timers, in the order in which they act if several expire at once.
      is_closing: returns whether the connection closes: then no timer acts any more.
      catch_up: waits until the reader has processed the data that has arrived.
      spawn: starts a task of the connection, with a function and its argument. The task must handle errors.
    """

    __slots__ = ("_catch_up", "_checks", "_is_closing", "_number", "_spawn")

    def __init__(
        self,
        checks: Sequence[Check],
        is_closing: Callable[[], bool],
        catch_up: Callable[[], Awaitable[None]],
        spawn: Callable[[Callable[[float], Awaitable[None]], float], object],
    ) -> None:
        self._checks = checks
        self._is_closing = is_closing
        self._catch_up = catch_up
        self._spawn = spawn
        # The key of the timekeeper for them.
        self._number = 0

    def start(self) -> None:
        """Run the timers until `stop` is called, or the connection closes."""
        self._number = _timekeeper().add(self, self._due(trio.current_time()))

    def stop(self) -> None:
        """Stop the timers, once the connection closes."""
        _timekeeper().discard(self._number)

    def look(self, now: float) -> float:
        """Return when to look again. If timers seem to have expired, start a task for them: look no more then."""
        if self._is_closing():
            return math.inf
        due = self._due(now)
        if now < due:
            return due
        self._spawn(self._act, now)
        return math.inf

    def _due(self, now: float) -> float:
        try:
            return min((check.deadline(now) for check in self._checks), default=math.inf)
        except Exception:  # noqa: BLE001 - raised again in a task of the connection, the only one that it concerns
            return now

    async def _act(self, now: float) -> None:
        """Let the timers act that had expired at this time, and go on."""
        await self._catch_up()
        for check in self._checks:
            # For that time: data that came before it was processed, and data since then has moved the deadline.
            if not self._is_closing() and check.deadline(now) <= now:
                check.expired(now)
        for check in self._checks:
            if check.has_started_since(now):
                await self._catch_up()
                check.restart()
        if not self._is_closing():
            self.stop()
            self.start()


class _Timekeeper:
    """Waits for the timers of all connections of an event loop."""

    def __init__(self) -> None:
        self._timers: dict[int, Timers] = {}
        self._numbers = itertools.count(1)
        # When to look at timers, with their number. Entries of timers that were stopped are skipped.
        self._heap: list[tuple[float, int]] = []
        self._sleep = trio.CancelScope()

    async def run(self) -> None:
        """Look at timers when they are due, forever."""
        heap = self._heap
        while True:
            self._sleep = trio.CancelScope(deadline=heap[0][0] if heap else math.inf)
            with self._sleep:
                await trio.sleep_forever()
            now = trio.current_time()
            while heap and heap[0][0] <= now:
                _, number = heapq.heappop(heap)
                if number in self._timers:
                    self._wait(number, self._timers[number].look(now))

    def add(self, timers: Timers, due: float) -> int:
        """Look at timers, first at this time. Return their number."""
        number = next(self._numbers)
        self._timers[number] = timers
        self._wait(number, due)
        return number

    def discard(self, number: int) -> None:
        """Look no more at the timers with this number."""
        self._timers.pop(number, None)
        heap = self._heap
        if len(heap) > 2 * len(self._timers) + _SPARE_ENTRIES:
            heap[:] = [entry for entry in heap if entry[1] in self._timers]
            heapq.heapify(heap)

    def _wait(self, number: int, due: float) -> None:
        if due < math.inf:
            heapq.heappush(self._heap, (due, number))
            if due < self._sleep.deadline:
                self._sleep.deadline = due


_timekeepers: Final[trio.lowlevel.RunVar[_Timekeeper]] = trio.lowlevel.RunVar("trioanytls.timekeeper")


def _timekeeper() -> _Timekeeper:
    """Return the timekeeper of this event loop."""
    try:
        return _timekeepers.get()
    except LookupError:
        timekeeper = _Timekeeper()
        _timekeepers.set(timekeeper)
        trio.lowlevel.spawn_system_task(timekeeper.run)
        return timekeeper

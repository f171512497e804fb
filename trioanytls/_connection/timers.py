"""One task for all timers of a connection (spec: Connections / Timeout; Streams / Stream Timeout).

Setting a deadline costs as much as a frame may cost in all, so no deadline is set when a frame passes. The time is
noted, and the task, which wakes at the old deadline, checks whether that still holds. Each timer is a `Check`, which is
next to the state that it looks at.

A deadline in the past does not prove that the peer was silent: the event loop may have been stopped (a blocking call,
SIGSTOP, a suspended machine), and the answer may be in the socket. So before a check acts, the reader catches up
(`ReceiveProgress.catch_up`), and the deadline is computed again, for the moment at which it seemed to be over. For the
same reason no timer of a connection is a deadline of Trio's: those cancel before any task has run.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence

import trio


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


class TimerTask:
    """The task that runs the checks of one connection.

    Args:
      checks: the timers, in the order in which they act if several expire at once.
      is_closing: returns whether the connection closes, which ends the task.
      catch_up: waits until the reader has processed the data that has arrived.
    """

    def __init__(
        self, checks: Sequence[Check], is_closing: Callable[[], bool], catch_up: Callable[[], Awaitable[None]]
    ) -> None:
        self._checks = checks
        self._is_closing = is_closing
        self._catch_up = catch_up

    async def run(self) -> None:
        """Run the checks until the connection closes."""
        while not self._is_closing():
            now = trio.current_time()
            due = min((check.deadline(now) for check in self._checks), default=math.inf)
            if now < due:
                await trio.sleep_until(due)
                continue
            await self._catch_up()
            for check in self._checks:
                # For that time: data that came before it was processed, and data since then has moved the deadline.
                if not self._is_closing() and check.deadline(now) <= now:
                    check.expired(now)
            for check in self._checks:
                if check.has_started_since(now):
                    await self._catch_up()
                    check.restart()

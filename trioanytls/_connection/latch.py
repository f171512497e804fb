"""An event that is small until a task waits for it."""

from __future__ import annotations

import trio


class Latch:
    """A `trio.Event` that has a set of tasks only if several wait. Most of those of a connection have none until its
    end, and a set takes 216 bytes.
    """

    __slots__ = ("_event", "_is_set", "_waiter")

    def __init__(self) -> None:
        self._is_set = False
        # The first task that waits. All others use the event.
        self._waiter: trio.lowlevel.Task | None = None
        self._event: trio.Event | None = None

    def is_set(self) -> bool:
        """Return whether `set` was called."""
        return self._is_set

    def set(self) -> None:
        """Wake all tasks that wait, now and later."""
        self._is_set = True
        if self._waiter is not None:
            task, self._waiter = self._waiter, None
            trio.lowlevel.reschedule(task)
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Wait until `set` is called. It is a checkpoint in any case."""
        if self._is_set:
            await trio.lowlevel.checkpoint()
        elif self._waiter is None:
            self._waiter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        else:
            if self._event is None:
                self._event = trio.Event()
            await self._event.wait()

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._waiter = None
        return trio.lowlevel.Abort.SUCCEEDED

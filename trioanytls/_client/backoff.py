"""The pauses between attempts to connect to a server that fails."""

from __future__ import annotations

import math
import random

import trio


class Backoff:
    """Pauses that all attempts to connect share. They double, up to a limit, until the server answers.

    Each is shortened at random, so that the clients of a server that has restarted do not connect at the same moment.

    Attributes:
      failures: failed attempts since the server last answered.
      last_error: the error of the last of them.
    """

    def __init__(self, first: float, longest: float) -> None:
        self.failures = 0
        self.last_error: Exception | None = None
        self._first = first
        self._longest = longest
        self._pauses = 0
        self._pause_end = -math.inf
        self._was_reset = trio.Event()

    @property
    def is_pausing(self) -> bool:
        """Whether the last attempt has failed and the pause after it is not over."""
        return self.failures > 0 and trio.current_time() < self._pause_end

    def record_failure(self, error: Exception) -> None:
        """Count a failed attempt."""
        self.failures += 1
        self.last_error = error

    def pause(self) -> None:
        """Begin a pause, unless one lasts: attempts that were concurrent fail for the same reason."""
        now = trio.current_time()
        if now >= self._pause_end:
            length = min(self._first * 2.0 ** min(self._pauses, 32), self._longest)
            self._pauses += 1
            self._pause_end = now + length * random.uniform(0.5, 1.0)  # noqa: S311 - to spread attempts

    def reset(self) -> None:
        """Forget the failures and end the pause."""
        self.failures = self._pauses = 0
        self.last_error = None
        self._pause_end = -math.inf
        self._was_reset.set()
        self._was_reset = trio.Event()

    async def wait(self) -> None:
        """Wait until the pause is over."""
        with trio.move_on_at(self._pause_end):
            await self._was_reset.wait()

"""A limit on the rate of events."""

from __future__ import annotations

import math


class TokenBucket:
    """A token bucket: a burst of `rate` events, and `rate` events a second after that. `rate` must be at least 1."""

    __slots__ = ("_last", "_rate", "_tokens")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._tokens = rate
        self._last = -math.inf

    def take(self, now: float) -> bool:
        """Take a token for an event at the time `now`, in seconds. Return whether the event is allowed."""
        if self._rate == math.inf:
            return True
        if now > self._last:
            self._tokens = min(self._rate, self._tokens + (now - self._last) * self._rate)
            self._last = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

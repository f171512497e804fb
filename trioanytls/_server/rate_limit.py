"""How often something may happen."""

from __future__ import annotations

import math


class TokenBucket:
    """`rate` times at once, and `rate` times a second from then on; `rate` is at least 1. It is told the time."""

    __slots__ = ("_last", "_rate", "_tokens")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._tokens = rate
        self._last = -math.inf

    def take(self, now: float) -> bool:
        """Whether it may happen now, `now` in seconds; if so, it counts."""
        if self._rate == math.inf:
            return True
        if now > self._last:
            self._tokens = min(self._rate, self._tokens + (now - self._last) * self._rate)
            self._last = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

"""The timer that closes idle streams (protocol: 5)."""

from __future__ import annotations

import math

from .multiplexer import Multiplexer
from .timers import Check


class StreamIdleCheck(Check):
    """Closes the streams that have been idle for `Config.stream_idle_timeout`.

    Four times within that time, a sweep over all streams finds those whose timers may expire before the next sweep. No
    other stream can expire before it, nor can a stream that is opened, or carries a frame, after the sweep. So each
    stream is looked at a few times only, however many there are.
    """

    __slots__ = ("_multiplexer", "_next_sweep", "_soon", "_timeout")

    def __init__(self, multiplexer: Multiplexer) -> None:
        self._multiplexer = multiplexer
        self._timeout = multiplexer.config.stream_idle_timeout
        # The deadlines before the next sweep, and the ids of their streams, the earliest one last.
        self._soon: list[tuple[float, int]] = []
        self._next_sweep = -math.inf

    def deadline(self, now: float) -> float:
        """Return when a stream may have been idle for too long, or when the next sweep is due."""
        timeout, soon = self._timeout, self._soon
        if now >= self._next_sweep:
            self._next_sweep = now + timeout / 4
            streams = self._multiplexer.streams
            deadlines = ((stream.last_frame + timeout, stream_id) for stream_id, stream in streams.items())
            soon[:] = sorted((entry for entry in deadlines if entry[0] <= self._next_sweep), reverse=True)
        while soon:
            deadline, stream_id = soon[-1]
            if now < deadline or self._is_idle(stream_id, now):
                return deadline
            soon.pop()
        return self._next_sweep

    def expired(self, now: float) -> None:
        """Close the idle streams."""
        soon = self._soon
        while soon and soon[-1][0] <= now:
            _, stream_id = soon.pop()
            if self._is_idle(stream_id, now):
                self._multiplexer.expire_idle_stream(self._multiplexer.streams[stream_id])

    def _is_idle(self, stream_id: int, now: float) -> bool:
        """Return whether a stream is still open and has been idle for too long."""
        stream = self._multiplexer.streams.get(stream_id)
        return stream is not None and stream.last_frame + self._timeout <= now

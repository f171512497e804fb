"""The set of stream ids that were ever opened, in bounded memory (protocol: 5)."""

from __future__ import annotations

import bisect

# A peer that leaves a gap before each id makes each id a run. If there are more runs than this, the oldest are merged.
_MAX_RUNS = 1024


class OpenedStreamIds:
    """The ids that were opened, as runs of consecutive ones.

    All streams that a peer opens without gaps are one run. If gaps make more than `max_runs`, the two oldest runs are
    merged, and the ids skipped between them count as opened. A frame on one of these is then dropped like a frame on a
    closed stream, which is less strict but harmless.
    """

    __slots__ = ("_ends", "_max_runs", "_starts")

    def __init__(self, max_runs: int = _MAX_RUNS) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._max_runs = max_runs

    @property
    def highest(self) -> int:
        """The highest id so far, 0 before the first."""
        return self._ends[-1] if self._ends else 0

    @property
    def runs(self) -> int:
        """The number of runs kept."""
        return len(self._starts)

    def add(self, stream_id: int) -> None:
        """Add an id, which must be larger than all others."""
        if stream_id == self.highest + 1 and self._ends:
            self._ends[-1] = stream_id
            return
        self._starts.append(stream_id)
        self._ends.append(stream_id)
        if len(self._starts) > self._max_runs:
            del self._starts[1]
            del self._ends[0]

    def __contains__(self, stream_id: int) -> bool:
        run = bisect.bisect_right(self._starts, stream_id) - 1
        return run >= 0 and stream_id <= self._ends[run]

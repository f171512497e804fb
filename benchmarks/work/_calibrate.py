"""Amounts of work that take a given time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable


async def calibrated(run: Callable[[int], Awaitable[float]], start: int, seconds: float) -> tuple[int, float]:
    """Run with `start` units to warm up, then with as many as take about `seconds`. Return the number and the time."""
    taken = await run(start)
    if taken < seconds / 20:
        start *= 10
        taken = await run(start)
    units = max(start // 4, 1, round(start * seconds / taken))
    return units, await run(units)

"""One task that keeps the time of a connection.

Setting a deadline costs as much as a frame may cost in all, so none is set when a frame passes: the time is noted, and
whoever wakes at the old deadline looks whether it still holds. A check is called with the time, does what is due, and
returns when it wants to be called next; where its timer is not running, that is the earliest moment at which one
started from now on could run out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

#: Takes the time, does what is due, returns when to be called next (both on Trio's clock).
Check = Callable[[float], float]


async def keep_time(checks: Iterable[Check]) -> None:
    """Call the checks whenever one of them wants it, until cancelled."""
    checks = tuple(checks)
    while True:
        now = trio.current_time()
        await trio.sleep_until(min(check(now) for check in checks))

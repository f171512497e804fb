"""The task that runs the timers of a connection, with checks that record what it does."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from trioanytls._connection.timers import Check, TimerTask

Clock = trio.testing.MockClock


class Recorded(Check):
    """A timer that expires once at `due`, and records it."""

    def __init__(self, name: str, due: float, log: list[tuple[str, float]]) -> None:
        self.name = name
        self.due = due
        self.log = log
        self.started_at = -math.inf

    def deadline(self, _now: float) -> float:
        return self.due

    def expired(self, now: float) -> None:
        self.log.append((self.name, now))
        self.due = math.inf

    def has_started_since(self, now: float) -> bool:
        return self.started_at >= now

    def restart(self) -> None:
        self.log.append((f"{self.name} restarted", trio.current_time()))
        self.started_at = -math.inf


async def at_once() -> None:
    await trio.lowlevel.checkpoint()


def never() -> bool:
    return False


async def run_for(
    seconds: float,
    *checks: Check,
    is_closing: Callable[[], bool] = never,
    catch_up: Callable[[], Awaitable[None]] = at_once,
) -> None:
    with trio.move_on_after(seconds):
        await TimerTask(checks, is_closing, catch_up).run()


async def test_each_check_expires_at_its_deadline(autojump_clock: Clock) -> None:
    start, log = trio.current_time(), list[tuple[str, float]]()
    await run_for(100, Recorded("late", start + 20, log), Recorded("early", start + 10, log))
    assert log == [("early", start + 10), ("late", start + 20)]


async def test_checks_that_expire_together_act_in_their_order(autojump_clock: Clock) -> None:
    due, log = trio.current_time() + 5, list[tuple[str, float]]()
    await run_for(100, *(Recorded(name, due, log) for name in "abc"))
    assert [name for name, _ in log] == ["a", "b", "c"]


async def test_no_check_acts_after_one_has_closed_the_connection(autojump_clock: Clock) -> None:
    due, log = trio.current_time() + 5, list[tuple[str, float]]()
    await run_for(100, *(Recorded(name, due, log) for name in "abc"), is_closing=lambda: bool(log))
    assert [name for name, _ in log] == ["a"]
    # The task ends by itself then.
    assert trio.current_time() == due


async def test_data_that_the_reader_catches_up_with_moves_a_deadline(autojump_clock: Clock) -> None:
    start, log = trio.current_time(), list[tuple[str, float]]()
    check = Recorded("idle", start + 10, log)

    async def catch_up() -> None:
        await trio.lowlevel.checkpoint()
        if trio.current_time() == start + 10:
            check.due = start + 30

    await run_for(100, check, catch_up=catch_up)
    assert log == [("idle", start + 30)]


@pytest.mark.parametrize("starts", [False, True])
async def test_a_timer_that_has_started_is_restarted_after_another_turn_of_the_reader(
    autojump_clock: Clock, starts: bool
) -> None:
    start, log = trio.current_time(), list[tuple[str, float]]()

    class Ping(Recorded):
        def expired(self, now: float) -> None:
            super().expired(now)
            if starts:
                self.started_at = trio.current_time()

    async def catch_up() -> None:
        log.append(("caught up", trio.current_time()))
        await trio.lowlevel.checkpoint()

    await run_for(50, Ping("ping", start + 10, log), catch_up=catch_up)
    expected = ["caught up", "ping", *(["caught up", "ping restarted"] if starts else [])]
    assert [name for name, _ in log] == expected


async def test_without_checks_the_task_waits(autojump_clock: Clock) -> None:
    start = trio.current_time()
    await run_for(10)
    assert trio.current_time() == start + 10

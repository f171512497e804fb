"""The timers of connections, with checks that record what is done."""

from __future__ import annotations

import contextvars
import logging
import math
import weakref
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls._connection.keepalive import PingCheck
from trioanytls._connection.timers import Check, Timers, _timekeepers
from trioanytls.testing import memory_connection_pair

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
    """Run the checks of one connection for this time, or until it closes."""
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:

            async def act(task: Callable[[float], Awaitable[None]], now: float) -> None:
                await task(now)
                if is_closing():
                    nursery.cancel_scope.cancel()

            timers = Timers(checks, is_closing, catch_up, lambda task, now: nursery.start_soon(act, task, now))
            timers.start()
            try:
                await trio.sleep_forever()
            finally:
                timers.stop()


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
    # Nothing happens after that.
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


async def test_without_checks_nothing_happens(autojump_clock: Clock) -> None:
    start = trio.current_time()
    await run_for(10)
    assert trio.current_time() == start + 10


async def test_the_timers_of_many_connections_are_independent(autojump_clock: Clock) -> None:
    start, log = trio.current_time(), list[tuple[str, float]]()

    async with trio.open_nursery() as nursery:

        def spawn(task: Callable[[float], Awaitable[None]], now: float) -> None:
            nursery.start_soon(task, now)

        timers = [
            Timers([Recorded(str(number), start + due, log)], never, at_once, spawn)
            for number, due in enumerate([50, 30, math.inf, 40, 20])
        ]
        for one in timers:
            one.start()
        await trio.sleep(35)
        timers[3].stop()
        await trio.sleep(35)
        # Started again, the others do not act once more.
        timers[3].start()
        await trio.sleep(10)
        for one in timers:
            one.stop()
    assert log == [("4", start + 20), ("1", start + 30), ("0", start + 50), ("3", start + 70)]


async def test_a_mistake_is_raised_in_a_task_of_its_own_connection(autojump_clock: Clock) -> None:
    start, log = trio.current_time(), list[tuple[str, float]]()
    raised: list[Exception] = []

    class Mistaken(Check):
        def deadline(self, now: float) -> float:
            if now >= start + 5:
                raise KeyError("a mistake")
            return start + 5

    async def act(task: Callable[[float], Awaitable[None]], now: float) -> None:
        try:
            await task(now)
        except KeyError as error:
            raised.append(error)

    async with trio.open_nursery() as nursery:

        def spawn(task: Callable[[float], Awaitable[None]], now: float) -> None:
            nursery.start_soon(act, task, now)

        timers = [Timers([check], never, at_once, spawn) for check in (Mistaken(), Recorded("good", start + 9, log))]
        for one in timers:
            one.start()
        await trio.sleep(20)
        for one in timers:
            one.stop()
    assert len(raised) == 1
    assert log == [("good", start + 9)]


async def test_timers_that_were_stopped_leave_nothing(autojump_clock: Clock) -> None:
    def spawn(_task: object, _now: float) -> None:
        raise AssertionError("nothing is due")

    for _ in range(1000):
        check = Recorded("late", trio.current_time() + 1000, [])
        timers, seen = Timers([check], never, at_once, spawn), weakref.ref(check)
        timers.start()
        timers.stop()
        del check, timers
        assert seen() is None
    assert len(_timekeepers.get()._heap) <= 65


async def test_a_mistake_closes_one_connection_in_its_own_context(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="unset")
    seen: list[str] = []

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(name.get())

    mistaken: list[PingCheck] = []
    deadline = PingCheck.deadline

    def mistake(check: PingCheck, now: float) -> float:
        if check in mistaken:
            raise KeyError("a mistake")
        return deadline(check, now)

    logger, recorder = logging.getLogger("trioanytls.connection"), Recorder(logging.ERROR)
    logger.addHandler(recorder)
    try:
        async with memory_connection_pair(client_config=trioanytls.Config(idle_timeout=90)) as (other, _):
            name.set("the context")
            async with memory_connection_pair(client_config=trioanytls.Config(idle_timeout=40)) as (client, _):
                await trio.sleep(1)
                mistaken += [check for check in client._checks if isinstance(check, PingCheck)]
                monkeypatch.setattr(PingCheck, "deadline", mistake)
                with trio.fail_after(60):
                    await client.wait_closed()
                assert isinstance(client.close_reason, trioanytls.ConnectionClosed)
                assert client.close_reason.code is trioanytls.CloseCode.INTERNAL_ERROR
            assert not other.closed
    finally:
        logger.removeHandler(recorder)
    assert seen == ["the context"]

"""The start, replacement and end of workers, with workers that are tasks of the test."""

from __future__ import annotations

import functools
import itertools
import logging
import socket

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import ServerStats, WorkersControl
from trioanytls._workers.child import WorkerFunction

from ..conftest import HOST
from ..helpers import worker_tasks
from ..helpers.worker_tasks import (
    Tasks,
    fails,
    first_lives_long,
    never_listens,
    returns,
    running_workers,
    serves,
    serves_among_others,
    settled,
    speaker,
)

pytestmark = pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="needs SO_REUSEPORT")

Clock = trio.testing.MockClock


async def test_the_start_waits_for_all_to_listen(tasks: Tasks) -> None:
    async with running_workers(serves, workers=3) as control:
        assert control.running
        assert len(tasks.started) == 3
        assert (await control.refresh()).authentications == 30
        assert repr(control) == "<trioanytls.WorkersControl of running workers>"
    assert not control.running
    assert all(task.succeeded for task in tasks.started)


async def test_the_start_does_not_wait_for_ever(
    tasks: Tasks, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    begin = trio.current_time()
    async with running_workers(never_listens, workers=2):
        assert trio.current_time() - begin == pytest.approx(30)
        assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
            "worker 1: not listening yet after 30 s",
            "worker 2: not listening yet after 30 s",
        ]


async def test_a_worker_that_fails_does_not_delay_the_start(tasks: Tasks, autojump_clock: Clock) -> None:
    begin = trio.current_time()
    async with running_workers(fails, workers=2):
        assert trio.current_time() == begin


@pytest.mark.parametrize("worker", [fails, returns])
async def test_the_delay_increases_if_workers_exit_repeatedly(
    tasks: Tasks, autojump_clock: Clock, caplog: pytest.LogCaptureFixture, worker: WorkerFunction
) -> None:
    async with running_workers(worker):
        await trio.sleep(100)
    assert tasks.times == pytest.approx([0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 61.5, 91.5])
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    code = 0 if worker is returns else 1
    assert errors[-1].getMessage() == f"worker 1 (pid 9): exited with code {code}"
    if worker is fails:
        assert errors[-2].exc_info[0] is RuntimeError  # type: ignore[index]  # of a table


async def test_the_delay_is_reset_by_a_worker_that_lived_for_a_minute(
    tasks: Tasks, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_tasks, "lives", itertools.count())
    async with running_workers(first_lives_long):
        await trio.sleep(64)
    assert tasks.times == pytest.approx([0, 0.5, 1.5, 62, 63])


async def test_a_start_that_fails_is_retried(
    tasks: Tasks, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.failure = OSError(11, "Resource temporarily unavailable")
    async with running_workers(serves) as control:
        assert "worker 1: cannot start the process: [Errno 11]" in caplog.text
        tasks.failure = None
        await trio.sleep(2)
        assert tasks.times == pytest.approx([0, 0.5])
        assert (await control.refresh()).connections == 1


async def test_a_bug_in_the_program_is_not_retried(tasks: Tasks) -> None:
    """For example, `if __name__ == "__main__"` is missing."""
    tasks.failure = RuntimeError("the start of a process within the start of one")
    with pytest.raises(ExceptionGroup) as info:
        async with running_workers(serves):
            pytest.fail("it has started")
    assert info.group_contains(RuntimeError, match="within the start of one")


async def test_a_later_worker_has_the_settings_before_it_serves(
    tasks: Tasks, autojump_clock: Clock, told: list[object]
) -> None:
    async with running_workers(serves) as control:
        control.replace_users({"bob": "new"})
        tasks.started[0].kill()
        await tasks.started[0].wait()
        told.clear()
        await trio.sleep(1)
        await settled()
        assert told == [("users", {"bob": "new"})]


async def test_all_are_drained(tasks: Tasks, told: list[object]) -> None:
    async with running_workers(serves, workers=2) as control:
        await control.drain(7)
        assert told == [("drain", 7)] * 2
        assert not control.running
        # The counters of events remain.
        assert await control.refresh() == ServerStats(authentications=20)
        await control.drain()


async def test_the_default_drain_timeout(tasks: Tasks, told: list[object]) -> None:
    async with running_workers(serves, drain_timeout=12) as control:
        await control.drain()
        assert told == [("drain", 12)]


async def test_cancellation_drains(tasks: Tasks, autojump_clock: Clock, told: list[object]) -> None:
    async with running_workers(serves, workers=2, drain_timeout=3):
        pass
    assert told == [("drain", 3)] * 2
    tasks.main = speaker()
    begin = trio.current_time()
    async with running_workers(serves, drain_timeout=3):
        pass
    assert trio.current_time() - begin == pytest.approx(13)


async def test_cancellation_shortens_the_time(tasks: Tasks, autojump_clock: Clock) -> None:
    tasks.main = speaker()
    begin = trio.current_time()
    async with trio.open_nursery() as nursery, running_workers(serves, drain_timeout=3) as control:
        nursery.start_soon(control.drain, 100)
        await trio.sleep(1)
    assert trio.current_time() - begin == pytest.approx(1 + 13)


async def test_no_worker_is_replaced_while_draining(tasks: Tasks, autojump_clock: Clock) -> None:
    async with running_workers(fails, workers=2) as control:
        await trio.sleep(0.1)
        begin = trio.current_time()
        # The replacements are still delayed.
        await control.drain(5)
        assert trio.current_time() == begin
    assert len(tasks.started) == 2


async def test_a_worker_that_does_not_serve_yet_is_drained(tasks: Tasks, autojump_clock: Clock) -> None:
    async with trio.open_nursery() as nursery:
        control = WorkersControl()
        serve = functools.partial(trioanytls.serve_workers, never_listens, 0, host=HOST, workers=1, control=control)
        nursery.start_soon(serve)
        await settled()
        begin = trio.current_time()
        await control.drain(5)
        assert trio.current_time() == begin
    assert [task.exit_status for task in tasks.started] == ["exited with code 0"]


async def test_a_worker_that_is_not_up_yet_is_drained(tasks: Tasks, autojump_clock: Clock) -> None:
    up, main = trio.Event(), tasks.main

    async def starts_slowly(end: socket.socket, number: int) -> int:
        await up.wait()
        return await main(end, number)

    tasks.main = starts_slowly
    async with trio.open_nursery() as nursery:
        control = WorkersControl()
        serve = functools.partial(trioanytls.serve_workers, serves, 0, host=HOST, workers=1, control=control)
        nursery.start_soon(serve)
        await settled()
        # A worker that is not up is not asked.
        assert await control.refresh() == ServerStats()
        control.replace_users({"bob": "new"})
        nursery.start_soon(control.drain, 5)
        await settled()
        up.set()
    assert [task.exit_status for task in tasks.started] == ["exited with code 0"]


async def test_other_tasks_of_the_worker_function_are_cancelled(tasks: Tasks, autojump_clock: Clock) -> None:
    async with running_workers(serves_among_others) as control:
        begin = trio.current_time()
        await control.drain(30)
        assert trio.current_time() - begin == pytest.approx(3)
    assert tasks.started[0].succeeded

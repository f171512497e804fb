"""Workers that do not exit, do not answer, or cannot apply a change."""

from __future__ import annotations

import logging
import math
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from trioanytls import ServerStats
from trioanytls._workers import child, ipc

from ..helpers.worker_tasks import (
    Server,
    Tasks,
    returns,
    running_workers,
    serves,
    settled,
    speaker,
)

pytestmark = pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="needs SO_REUSEPORT")

Clock = trio.testing.MockClock


@pytest.mark.parametrize("timeout", [0, 7])
async def test_workers_that_do_not_exit_are_killed(
    tasks: Tasks,
    autojump_clock: Clock,
    caplog: pytest.LogCaptureFixture,
    timeout: float,  # noqa: ASYNC109
) -> None:
    tasks.main = speaker()
    async with running_workers(serves, workers=2) as control:
        begin = trio.current_time()
        await control.drain(timeout)
        assert trio.current_time() - begin == pytest.approx(timeout + 10)
    for text in ("did not exit in time, killing it", "killed by SIGKILL"):
        assert [record.levelname for record in caplog.records if text in record.getMessage()] == ["ERROR"] * 2


async def test_a_second_drain_can_only_shorten_the_time(tasks: Tasks, autojump_clock: Clock) -> None:
    heard: list[ipc.Message] = []
    tasks.main = speaker(heard=heard)
    async with running_workers(serves) as control, trio.open_nursery() as nursery:
        begin = trio.current_time()
        for timeout in (20, 30, 5, 7):
            nursery.start_soon(control.drain, timeout)
            await settled()
        await control.drain()
        assert trio.current_time() - begin == pytest.approx(15)
        assert [message["timeout"] for message in heard if message["kind"] == "drain"] == [20, 5]


async def test_a_worker_that_drains_itself_is_replaced_at_once(tasks: Tasks, autojump_clock: Clock) -> None:
    heard: list[ipc.Message] = []
    main, tasks.main = tasks.main, speaker({"kind": "leaving"}, heard=heard)
    async with running_workers(serves, drain_timeout=20) as control:
        tasks.main = main
        await trio.sleep(1)
        assert len(tasks.started) == 2
        assert not tasks.started[0].ended.is_set()
        assert (await control.refresh(0.1)).connections == 1
        await trio.sleep(30)
        assert tasks.started[0].exit_status == "killed by SIGKILL"
        assert not tasks.started[1].ended.is_set()


async def test_a_worker_that_does_not_exit_after_its_last_message_is_killed(
    tasks: Tasks, autojump_clock: Clock
) -> None:
    """Its function has returned, but its process does not exit, for example because of a thread."""
    main = tasks.main

    async def lingers(end: socket.socket, number: int) -> int:
        await main(end, number)
        await trio.sleep_forever()
        raise AssertionError

    tasks.main = lingers
    async with running_workers(returns):
        await trio.sleep(11)
        assert tasks.started[0].exit_status == "killed by SIGKILL"
        assert tasks.times == pytest.approx([0, 10.5])


async def test_a_certificate_that_one_worker_cannot_use(
    tasks: Tasks,
    autojump_clock: Clock,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running_workers(serves) as control:
        monkeypatch.setattr(Server, "error", PermissionError("not for\neverybody"))
        control.replace_certificate(certificate)
        await settled()
        assert r"worker 1 (pid 1): cannot apply the new certificate: not for\neverybody" in caplog.text
        # A worker that is started later keeps the certificate that it has.
        tasks.started[0].kill()
        await trio.sleep(1)
        await settled()
        assert f"cannot load certificate {certificate}, keeping the previous one" in caplog.text
        assert (await control.refresh()).connections == 1


def warnings(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    """Return the warnings that contain `text`."""
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    return [message for message in messages if text in message]


async def test_a_worker_that_does_not_answer(
    tasks: Tasks, autojump_clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "_REPORT_INTERVAL", math.inf)
    async with running_workers(serves, workers=2) as control:
        assert await control.refresh() == ServerStats(connections=2, authentications=20)
        wakes, handle = trio.Event(), child.WorkerMain._handle_message
        done: list[Any] = []

        async def sleeps(self: child.WorkerMain, message: ipc.Message) -> None:
            if self._number == 2:
                await wakes.wait()
                done.append(message.get("value", message["kind"]))
            await handle(self, message)

        monkeypatch.setattr(child.WorkerMain, "_handle_message", sleeps)
        begin = trio.current_time()
        # Its counters are included. Its open connections are unknown.
        assert await control.refresh(3) == ServerStats(connections=1, authentications=20)
        assert trio.current_time() - begin == pytest.approx(3)
        assert control.snapshot() == ServerStats(connections=1, authentications=20)
        (warning,) = warnings(caplog, "no statistics received within 3 s, using the last known values")
        assert re.match(r"worker 2 \(pid \d\): ", warning)
        for number in range(100):
            control.replace_users({"bob": f"{number}" + "x" * 10_000})
            await control.refresh(0.01)
        await trio.sleep(5)
        (warning,) = warnings(caplog, "has not confirmed the new users within 5 s")
        assert re.match(r"worker 2 \(pid \d\): ", warning)
        wakes.set()
        assert await control.refresh() == ServerStats(connections=2, authentications=20)
        await settled()
        # It has received the last change, and fewer messages were kept for it than were posted.
        assert len(done) < 100
        assert [value for value in done if value != "snapshot"][-1]["bob"].startswith("99x")


async def test_a_worker_that_is_killed_before_it_answers(
    tasks: Tasks, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_workers(serves, workers=2) as control:
        await control.refresh()

        async def dies(self: child.WorkerMain, message: ipc.Message) -> None:
            tasks.started[self._number - 1].kill()
            await trio.sleep_forever()

        monkeypatch.setattr(child.WorkerMain, "_handle_message", dies)
        begin = trio.current_time()
        control.replace_users({"bob": "new"})
        assert await control.refresh() == ServerStats(authentications=20)
        assert trio.current_time() == begin


async def test_counters_are_reported_once_a_second(
    tasks: Tasks, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_workers(serves, workers=2) as control:
        assert control.snapshot() == ServerStats()
        await trio.sleep(1.01)
        assert control.snapshot() == ServerStats(connections=2, authentications=20)
        monkeypatch.setattr(Server, "stats", ServerStats(connections=3, authentications=30))
        assert control.snapshot() == ServerStats(connections=2, authentications=20)
        await trio.sleep(1)
        assert control.snapshot() == ServerStats(connections=6, authentications=60)
        # The last report of a worker that was killed counts.
        tasks.started[0].kill()
        await settled()
        assert control.snapshot() == ServerStats(connections=3, authentications=60)


async def test_a_worker_that_stops_reporting(
    tasks: Tasks, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.main = speaker({"kind": "stats", "stats": {"connections": 1, "authentications": 10}})
    async with running_workers(serves) as control:
        await trio.sleep(4.5)
        assert control.snapshot() == ServerStats(connections=1, authentications=10)
        assert warnings(caplog, "") == []
        await trio.sleep(1)
        assert control.snapshot() == ServerStats(authentications=10)
        await trio.sleep(60)
    assert warnings(caplog, "") == ["worker 1 (pid 1): no statistics received within 5 s, using the last known values"]


async def test_a_change_that_is_not_confirmed(
    tasks: Tasks, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.main = speaker()
    async with running_workers(serves) as control:
        for _ in range(6):
            # A later change does not restart the timeout.
            control.replace_users({"bob": "new"})
            await trio.sleep(1)
        await trio.sleep(60)
    assert warnings(caplog, "confirmed") == ["worker 1 (pid 1): has not confirmed the new users within 5 s"]


async def test_changes_that_are_confirmed(
    tasks: Tasks, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_workers(serves, workers=2) as control:
        for number in range(20):
            control.replace_users({"bob": f"{number}"})
            await trio.sleep(1)
    assert warnings(caplog, "") == []

"""A worker, without a supervisor."""

from __future__ import annotations

import contextlib
import math
import pickle
import signal
import socket

import pytest
import trio
import trio.testing

from trioanytls._workers import ipc

from ..helpers.worker_tasks import (
    Task,
    Tasks,
    serves,
    start_alone,
)

pytestmark = pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="needs SO_REUSEPORT")

Clock = trio.testing.MockClock


async def test_a_worker_drains_when_its_parent_has_exited(
    autojump_clock: Clock, tasks: Tasks, told: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    alarms: list[tuple[object, ...]] = []
    monkeypatch.setattr(signal, "setitimer", lambda *arguments: alarms.append(arguments))
    async with trio.open_nursery() as nursery:
        task, channel = await start_alone(nursery, tasks.main, serves)
        await channel.send({"kind": "start", "drain_timeout": 20, "port": 1, "users": None, "certificate": None})
        assert await channel.receive() == {"kind": "listening"}
        channel.close()
    assert told == [("drain", 20)]
    assert task.succeeded
    # A timer kills the worker if it does not exit.
    assert alarms == [(signal.ITIMER_REAL, 30)]


async def test_a_worker_whose_parent_exits_before_it_is_up_exits(autojump_clock: Clock, tasks: Tasks) -> None:
    async with trio.open_nursery() as nursery:
        ours, theirs = socket.socketpair()
        early = Task(1)
        nursery.start_soon(early.run, theirs, 1, tasks.main)
        ours.close()
        late, channel = await start_alone(nursery, tasks.main, serves)
        channel.close()
    assert early.succeeded
    assert late.succeeded


async def test_a_function_that_cannot_be_unpickled_is_logged(
    autojump_clock: Clock, tasks: Tasks, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be defined under `if __name__ == "__main__":`."""
    async with trio.open_nursery() as nursery:
        ours, theirs = socket.socketpair()
        task = Task(1)
        nursery.start_soon(task.run, theirs, 1, tasks.main)
        with contextlib.closing(ipc.Channel.over(ours, math.inf)) as channel:
            await channel.send_bytes(pickle.dumps(serves).replace(b"serves", b"absent"))
            await task.wait()
    assert task.exit_status == "exited with code 1"
    assert "worker 1: cannot unpickle the worker function" in caplog.text
    assert "AttributeError" in caplog.text

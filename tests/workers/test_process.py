"""One worker process: its start, its exit, and signals."""

from __future__ import annotations

import os
import signal
import socket
from multiprocessing import resource_tracker

import pytest
import trio

from trioanytls._workers.process import WorkerProcess

pytestmark = pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="needs SO_REUSEPORT")


@pytest.mark.parametrize("pidfd", [True, False])
async def test_ctrl_c_does_not_kill_a_worker_that_is_starting(monkeypatch: pytest.MonkeyPatch, pidfd: bool) -> None:
    # As in a program that has not started a process yet: the resource tracker of multiprocessing is started first.
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]  # of the class that the test uses
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    ours, theirs = socket.socketpair()
    with ours:
        process = WorkerProcess.start(theirs, 1)
        os.kill(process.pid, signal.SIGINT)
    # The parent's end of the channel is closed, so it exits.
    with trio.fail_after(10):
        await process.wait()
    assert process.exit_status == "exited with code 0"
    assert process.succeeded
    process.close()


# The first real-time signal has a name, the second has none.
UNNAMED = getattr(signal, "SIGRTMIN", 34) + 1


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (UNNAMED, f"signal {UNNAMED}"), (0, None)])
async def test_a_process_that_is_killed(number: int, name: str | None) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        process = WorkerProcess.start(theirs, 1)
        assert process.exit_status == "exit status unknown"
        if number:
            os.kill(process.pid, number)
        else:
            process.close()
        with trio.fail_after(10):
            await process.wait()
    if number:
        assert process.exit_status == f"killed by {name}"
        assert not process.succeeded
        process.kill()
        process.close()

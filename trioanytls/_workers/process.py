"""A process of `multiprocessing`, as a Trio task wants it: started in the "spawn" way, and waited for."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess

import trio
from attrs import define

from .child import work

# How long a process that is as good as gone is waited for, in seconds, and how often it is looked at.
_REAP_TIMEOUT = 5.0
_REAP_INTERVAL = 0.01


@define(eq=False)
class WorkerProcess:
    """One worker's process."""

    _process: SpawnProcess
    # Where the system has it: the sentinel tells of the end only when the worker's own children have ended, too.
    _pidfd: int | None
    pid: int

    @classmethod
    def start(cls, end: socket.socket, number: int) -> WorkerProcess:
        """Start the process; the other end of the channel is `end`, which is closed here.

        Raises:
          OSError: the system lets no process be started now.
        """
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=work, args=(end, number), name=f"trioanytls worker {number}")
        with end:
            # What multiprocessing needs beside it: as it starts that, it would unblock what is blocked below.
            resource_tracker.ensure_running()
            # Ctrl-C is not to meet the process before it is ready for it: it inherits what is blocked.
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        assert process.pid is not None  # noqa: S101 - for mypy
        pidfd = None
        with contextlib.suppress(AttributeError, OSError):
            pidfd = os.pidfd_open(process.pid)
        return cls(process, pidfd, process.pid)

    async def wait(self) -> None:
        """Wait until the process has ended."""
        await trio.lowlevel.wait_readable(self._process.sentinel if self._pidfd is None else self._pidfd)
        with trio.move_on_after(_REAP_TIMEOUT):
            while self._process.exitcode is None:  # noqa: ASYNC110 - there is no event for it
                await trio.sleep(_REAP_INTERVAL)

    def kill(self) -> None:
        """End the process; nothing happens where it has ended."""
        self._process.kill()

    @property
    def end(self) -> str:
        """How it has ended."""
        code = self._process.exitcode
        if code is None:
            return "in an unknown way"
        if code >= 0:
            return f"with exit code {code}"
        try:
            return f"by signal {signal.Signals(-code).name}"
        except ValueError:
            return f"by signal {-code}"

    @property
    def succeeded(self) -> bool:
        """Whether it has ended, and with exit code 0."""
        return self._process.exitcode == 0

    def close(self) -> None:
        """Forget the process; it is killed if it runs still."""
        if self._process.exitcode is None:
            self._process.kill()
        else:
            self._process.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

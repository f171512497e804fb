"""A `multiprocessing` process for Trio: started with the "spawn" method, and awaited."""

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

# How long to poll for the exit code of a process that is exiting, and the interval; in seconds.
_REAP_TIMEOUT = 5.0
_REAP_INTERVAL = 0.01


@define(eq=False)
class WorkerProcess:
    """The process of one worker."""

    _process: SpawnProcess
    # None if the system has none. The sentinel would signal the exit only when the worker's own children have exited.
    _pidfd: int | None
    pid: int

    @classmethod
    def start(cls, end: socket.socket, number: int) -> WorkerProcess:
        """Start a process.

        Args:
          end: the worker's end of the channel, which is closed here.
          number: the number of the worker.

        Raises:
          OSError: the system cannot start a process now.
        """
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=work, args=(end, number), name=f"trioanytls worker {number}")
        with end:
            # Started first: as multiprocessing starts its resource tracker, it unblocks SIGINT.
            resource_tracker.ensure_running()
            # SIGINT must not reach the process before it is ready. It inherits the blocked signals.
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
        """Wait until the process has exited."""
        await trio.lowlevel.wait_readable(self._process.sentinel if self._pidfd is None else self._pidfd)
        with trio.move_on_after(_REAP_TIMEOUT):
            while self._process.exitcode is None:  # noqa: ASYNC110 - there is no event for it
                await trio.sleep(_REAP_INTERVAL)

    def kill(self) -> None:
        """Kill the process. Nothing happens if it has exited."""
        self._process.kill()

    @property
    def exit_status(self) -> str:
        """The way in which the process has exited, for the log."""
        code = self._process.exitcode
        if code is None:
            return "exit status unknown"
        if code >= 0:
            return f"exited with code {code}"
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"

    @property
    def succeeded(self) -> bool:
        """True if the process has exited with code 0."""
        return self._process.exitcode == 0

    def close(self) -> None:
        """Release the process. It is killed if it is still running."""
        if self._process.exitcode is None:
            self._process.kill()
        else:
            self._process.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

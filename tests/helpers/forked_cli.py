"""Start processes of the command line by forking one that has imported it: see `programs.cli_forker`."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import trio
from attrs import define, field

from .programs import cli_forker

#: Whether this system can fork, and wait for the exit of another process's child.
AVAILABLE = hasattr(os, "fork") and hasattr(os, "pidfd_open")
#: The options of the interpreter. Warnings are errors, so that a resource that is not closed is an error.
OPTIONS = ["-W", "error", "-X", "dev"]


class Forker:
    """A process that forks processes of the command line."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                # `-u`, as the processes share the buffering of its standard streams.
                [sys.executable, "-u", *OPTIONS, str(Path(cli_forker.__file__)), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def fork(self, arguments: list[str], environment: dict[str, str], streams: list[int]) -> int:
        """Start a process in its own session, with these standard streams. Return its process id."""
        request = {"arguments": arguments, "environment": environment, "directory": str(Path.cwd())}
        return self._ask(request, streams)

    def wait(self, pid: int) -> int:
        """Wait for a process that has exited. Return its exit code."""
        return self._ask({"wait": pid}, [])

    def _ask(self, request: Mapping[str, object], streams: list[int]) -> int:
        socket.send_fds(self._control, [json.dumps(request).encode()], streams)
        answer = self._control.recv(1000)
        assert answer, "the process that forks the command line has exited"
        return int(json.loads(answer))

    def close(self) -> None:
        self._control.close()
        self._process.wait()


@functools.cache
def forker() -> Forker:
    made = Forker()
    atexit.register(made.close)
    return made


@define(eq=False)
class ForkedProcess:
    """A process of the command line, with the methods of `trio.Process` that tests need."""

    pid: int
    stdout: trio.lowlevel.FdStream
    stderr: trio.lowlevel.FdStream
    _exit_code: int | None = field(init=False, default=None)
    _descriptor: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._descriptor = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        if self._exit_code is None and select.select([self._descriptor], [], [], 0)[0]:
            self._exit_code = forker().wait(self.pid)
            os.close(self._descriptor)
        return self._exit_code

    async def wait(self) -> int:
        if self._exit_code is None:
            await trio.lowlevel.wait_readable(self._descriptor)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def start(arguments: list[str], environment: dict[str, str]) -> ForkedProcess:
    """Start the command line in its own session, with pipes for its output."""
    out, theirs_out = os.pipe()
    err, theirs_err = os.pipe()
    nothing = os.open(os.devnull, os.O_RDONLY)
    theirs = [nothing, theirs_out, theirs_err]
    try:
        pid = forker().fork(arguments, environment, theirs)
    except BaseException:
        os.close(out)
        os.close(err)
        raise
    finally:
        for descriptor in theirs:
            os.close(descriptor)
    return ForkedProcess(pid, trio.lowlevel.FdStream(out), trio.lowlevel.FdStream(err))

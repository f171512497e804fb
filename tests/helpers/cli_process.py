"""The command line as a process of its own, of which a test sees the lines as they come."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable

import trio
from attrs import define, field

#: How the command line is run: what it forgets to close is an error.
COMMAND = [sys.executable, "-W", "error", "-X", "dev", "-m", "trioanytls"]
# How long anything may take, in seconds: a test that waits for so long has failed.
PATIENCE = 30


@define(eq=False)
class Lines:
    """What comes from a stream, line by line."""

    lines: list[str] = field(factory=list)
    ended: trio.Event = field(factory=trio.Event)
    _changed: trio.Event = field(factory=trio.Event)

    async def collect(self, stream: trio.abc.ReceiveStream) -> None:
        buffer = b""
        async for data in stream:
            *lines, buffer = (buffer + data).split(b"\n")
            self.lines += [line.decode() for line in lines]
            self._change()
        if buffer:
            self.lines.append(buffer.decode())
        self.ended.set()
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def find(self, what: str | Callable[[str], bool], after: int = 0) -> str:
        """The first line with something in it, also if it is still to come."""
        fits = (lambda line: what in line) if isinstance(what, str) else what
        with trio.fail_after(PATIENCE):
            while True:
                for line in self.lines[after:]:
                    if fits(line):
                        return line
                assert not self.ended.is_set(), f"there is no {what!r} in {self.lines}"
                await self._changed.wait()


@define(eq=False)
class Program:
    """A process that runs, or has run.

    Attributes:
      out, err: what it says.
    """

    _process: trio.Process
    out: Lines = field(factory=Lines)
    err: Lines = field(factory=Lines)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def wait(self) -> int:
        """Its exit code, when it and all of its children have ended: those have its standard output as well."""
        with trio.fail_after(PATIENCE):
            code = await self._process.wait()
            await self.out.ended.wait()
            await self.err.ended.wait()
        assert not [line for line in self.err.lines if "Traceback" in line or "Warning" in line], self.err.lines
        return code


@contextlib.asynccontextmanager
async def program(*arguments: object, environment: dict[str, str] | None = None) -> AsyncIterator[Program]:
    """`trioanytls` with these arguments; killed at the end, if it runs still."""
    process = await trio.lowlevel.open_process(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        # So that its children can be ended with it.
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    running = Program(process)
    try:
        async with process.stdout, process.stderr, trio.open_nursery() as nursery:
            nursery.start_soon(running.out.collect, process.stdout)
            nursery.start_soon(running.err.collect, process.stderr)
            yield running
            nursery.cancel_scope.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()

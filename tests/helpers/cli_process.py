"""Run the command line in its own process, and read its output line by line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence

import trio
from attrs import define, field

from . import forked_cli

COMMAND = [sys.executable, *forked_cli.OPTIONS, "-m", "trioanytls"]
# The timeout of each step of a test, in seconds.
TIMEOUT = 30


@define(eq=False)
class Lines:
    """The lines received from a stream.

    Attributes:
      lines: the lines received so far.
      ended: set at the end of the stream.
    """

    lines: list[str] = field(factory=list)
    ended: trio.Event = field(factory=trio.Event)
    _changed: trio.Event = field(factory=trio.Event)

    async def collect(self, stream: trio.abc.ReceiveStream) -> None:
        """Receive all lines of a stream."""
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
        """Return the first line that contains, or satisfies, `what`. Wait for it if necessary."""
        fits = (lambda line: what in line) if isinstance(what, str) else what
        with trio.fail_after(TIMEOUT):
            while True:
                for line in self.lines[after:]:
                    if fits(line):
                        return line
                assert not self.ended.is_set(), f"no {what!r} in {self.lines}"
                await self._changed.wait()


@define(eq=False)
class Program:
    """A process that is running or has exited.

    Attributes:
      out, err: the lines on its standard output and standard error.
    """

    _process: trio.Process | forked_cli.ForkedProcess
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
        """Wait for the process and its children, which share its standard output. Return its exit code."""
        with trio.fail_after(TIMEOUT):
            code = await self._process.wait()
            await self.out.ended.wait()
            await self.err.ended.wait()
        assert not [line for line in self.err.lines if "Traceback" in line or "Warning" in line], self.err.lines
        return code


async def _start(
    arguments: list[str], environment: dict[str, str], prefix: Sequence[str]
) -> trio.Process | forked_cli.ForkedProcess:
    """Start it in its own session, so that its children can be killed with it."""
    if forked_cli.AVAILABLE and not prefix:
        return forked_cli.start(arguments, environment)
    return await trio.lowlevel.open_process(
        [*prefix, *COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )


@contextlib.asynccontextmanager
async def program(
    *arguments: object, environment: dict[str, str] | None = None, prefix: Sequence[str] = ()
) -> AsyncIterator[Program]:
    """Run `trioanytls` with these arguments. Kill it at the end if it is still running.

    Args:
      prefix: a command that replaces itself by the command after it, as `ip netns exec NAME` does.
    """
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
    process = await _start([*map(str, arguments)], variables, prefix)
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

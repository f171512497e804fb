"""Relays: the common part. An application connects to a destination through SOCKS5.

Both ends are programs of their own, started with each session. The harness's server process is the destination, and its
client process is the application, so that four processes take part:

    application -- SOCKS5 --> client end == TLS 1.3 ==> server end --> destination

The connection to the destination is plain TCP on loopback, as is that of the application.
"""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import trio

from benchmarks.handler import receive_exactly
from benchmarks.peer import HOST, Handler, Session, closing, serve_transport
from benchmarks.peer import Peer as AbstractPeer

PASSWORD = "benchmark"
START_LIMIT = 15.0
"""Timeout for the start of a program, in seconds."""


@asynccontextmanager
async def program(
    command: Sequence[str | os.PathLike[str]], says: str, *, output: str, uri: str = ""
) -> AsyncIterator[tuple[int, str]]:
    """Run a program. Yield its process id, and the line of its `output` ("stdout" or "stderr") that contains `says`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRIOANYTLS_")}
    if uri:
        environment["TRIOANYTLS_SERVER"] = uri
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if output == "stdout" else subprocess.DEVNULL,
        stderr=subprocess.PIPE if output == "stderr" else subprocess.DEVNULL,
        env=environment,
    )
    said: trio.abc.ReceiveStream = getattr(process, output)
    try:
        async with said, trio.open_nursery() as nursery:
            yield process.pid, await nursery.start(_read_lines, said, says)
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()


async def _read_lines(
    said: trio.abc.ReceiveStream, awaited: str, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Report the line that contains `awaited`. Discard the lines after it, so that the pipe never fills."""
    text = b""
    with trio.fail_after(START_LIMIT):
        while not (found := [line for line in text.decode().split("\n")[:-1] if awaited in line]):
            data = await said.receive_some()
            if not data:
                raise RuntimeError(f"a program has ended at its start: {text.decode(errors='replace')[-300:]}")
            text += data
    task_status.started(found[0])
    async for _ in said:
        pass


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its children until now.

    Linux has a clock for each process, which counts nanoseconds (clock_getcpuclockid(3)). The times of exited children
    are not included.
    """
    taken = time.clock_gettime(~pid << 3 | 2)
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            taken += sum(map(cpu_seconds, map(int, (task / "children").read_text(encoding="ascii").split())))
    return taken


async def connect_through(socks: int, port: int) -> trio.SocketStream:
    """Connect to a port of `HOST` through a SOCKS5 server on another one."""
    address = b"\x01" + bytes(map(int, HOST.split("."))) + struct.pack("!H", port)
    stream = await trio.open_tcp_stream(HOST, socks)
    try:
        await stream.send_all(b"\x05\x01\x00\x05\x01\x00" + address)
        # The answer to the methods, and the reply with an IPv4 address.
        answer = await receive_exactly(stream, 12)
        if answer[:5] != b"\x05\x00\x05\x00\x00" or len(answer) < 12:
            raise RuntimeError(f"no connection through SOCKS5: {answer!r}")
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


class _Session(Session):
    def __init__(self, socks: int, port: int, pids: Sequence[int], stack: contextlib.AsyncExitStack) -> None:
        self._socks = socks
        self._port = port
        self._pids = pids
        self._stack = stack

    async def open_stream(self) -> trio.abc.Stream:
        return await self._stack.enter_async_context(closing(await connect_through(self._socks, self._port)))

    def cpu_seconds(self) -> float:
        return sum(map(cpu_seconds, self._pids))


class Peer(AbstractPeer):
    """A relay. The harness's port is that of the destination."""

    @abstractmethod
    def run_ends(self) -> AbstractAsyncContextManager[tuple[int, Sequence[int]]]:
        """Run both ends. Yield the port for SOCKS5, and the process ids."""

    async def serve(self, handler: Handler, *, task_status: trio.TaskStatus[int]) -> None:
        await serve_transport(handler, task_status=task_status)

    @asynccontextmanager
    async def connect(self, port: int) -> AsyncIterator[Session]:
        async with self.run_ends() as (socks, pids), contextlib.AsyncExitStack() as stack:
            yield _Session(socks, port, pids, stack)


def port_of(line: str) -> int:
    """Return the port at the end of a line."""
    return int(line.rpartition(":")[2])

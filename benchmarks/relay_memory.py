"""Measure the memory of the relay: `trioanytls server` and `trioanytls client`, as separate processes.

    python -m benchmarks.relay_memory [--connections N] [--size BYTES] [--streams N] [--rounds N] [--json]

Applications open N connections (500) through SOCKS5 to an echo destination on loopback. When all of them are open, each
sends different BYTES (1 MiB), and compares the digest of the answer. Then, with new processes, the same number is
opened, and no side reads: applications and destination send until no more data is accepted, which fills all buffers.
Both parts are repeated (3 times), to show whether memory grows. The output is the resident memory of each process: at
rest, at its peak, and after all connections have closed.

It needs Linux, for /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import trio
from attrs import asdict, define, field
from rich.console import Console
from rich.table import Table

from trioanytls.destination import Destination, encode

HOST = "127.0.0.1"
MIB = 1 << 20
PIECE = 64 * 1024
# The timeout for steps that should be immediate, in seconds.
PATIENCE = 60.0
# How long no data must be accepted for all buffers to count as full, in seconds.
STILL = 2.0
# Longer than the timeouts of the two processes after one side accepts no more data, in seconds.
LINGER = 6.0

Serve = Callable[[trio.SocketStream], Awaitable[None]]


@define
class Process:
    """A process, and its memory in bytes."""

    name: str
    pid: int

    @property
    def resident(self) -> int:
        return self._read("VmRSS")

    @property
    def peak(self) -> int:
        """Return the peak since `forget_peak`."""
        return self._read("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5", encoding="ascii")

    def _read(self, key: str) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        [kibibytes] = re.findall(rf"^{key}:\s+(\d+) kB$", status, re.MULTILINE)
        return int(kibibytes) * 1024


@define
class Figures:
    """The memory of a process in one part, in bytes.

    Attributes:
      peaks: the peak of each round.
      after: the memory after the last round.
    """

    part: str
    process: str
    rest: int
    peaks: list[int] = field(factory=list)
    after: int = 0


@define
class Result:
    """The result.

    Attributes:
      intact: how many connections have returned the data unchanged.
      connections: the number of connections.
      figures: the figures of each part and process.
    """

    intact: int = 0
    connections: int = 0
    figures: list[Figures] = field(factory=list)


@contextlib.asynccontextmanager
async def program(*arguments: str, says: str, uri: str = "") -> AsyncIterator[tuple[Process, str]]:
    """Run `trioanytls` with these arguments, and yield it with the awaited line of its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRIOANYTLS_")}
    if uri:
        environment["TRIOANYTLS_SERVER"] = uri
    run = functools.partial(
        trio.run_process,
        [sys.executable, "-m", "trioanytls", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    async with trio.open_nursery() as nursery:
        process = await nursery.start(run)
        said = b""
        with trio.fail_after(PATIENCE):
            while says.encode() not in said or not said.endswith(b"\n"):
                data = await process.stdout.receive_some()
                if not data:
                    raise SystemExit(f"trioanytls {arguments[0]} has ended at its start")
                said += data
        try:
            yield (
                Process(arguments[0], process.pid),
                next(line for line in said.decode().splitlines() if says in line),
            )
        finally:
            # Its connections are of no further use.
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def destination(serve: Serve) -> AsyncIterator[Destination]:
    async def serve_one(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await serve(stream)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=HOST, backlog=4096)
        nursery.start_soon(trio.serve_listeners, serve_one, listeners)
        yield Destination(HOST, listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


async def connect(socks: int, to: Destination) -> trio.SocketStream:
    stream = await trio.open_tcp_stream(HOST, socks)
    await stream.send_all(b"\x05\x01\x00\x05\x01\x00" + encode(to))
    answer = b""
    while len(answer) < 12:
        data = await stream.receive_some(12 - len(answer))
        if not data:
            break
        answer += data
    if answer[3:4] != b"\0":
        raise SystemExit(f"there is no connection through SOCKS5: {answer!r}")
    return stream


async def connect_all(
    count: int, socks: int, to: Destination, stack: contextlib.AsyncExitStack
) -> list[trio.SocketStream]:
    streams: list[trio.SocketStream] = []

    async def one() -> None:
        stream = await connect(socks, to)
        stack.push_async_callback(trio.aclose_forcefully, stream)
        streams.append(stream)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return streams


async def echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


async def there_and_back(stream: trio.SocketStream, seed: int, size: int) -> bool:
    """Send data, and return whether the answer is the same."""
    content = random.Random(seed)
    sent, received = hashlib.sha256(), hashlib.sha256()

    async def send() -> None:
        left = size
        while left:
            piece = content.randbytes(min(PIECE, left))
            left -= len(piece)
            sent.update(piece)
            await stream.send_all(piece)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        left = size
        while left and (data := await stream.receive_some(min(PIECE, left))):
            left -= len(data)
            received.update(data)
        if left:
            nursery.cancel_scope.cancel()
    return received.digest() == sent.digest()


async def exchange(count: int, size: int, socks: int, result: Result) -> None:
    """Send and read on all connections."""
    async with destination(echo) as to, contextlib.AsyncExitStack() as stack:
        streams = await connect_all(count, socks, to, stack)

        async def one(stream: trio.SocketStream, seed: int) -> None:
            # In two steps, since other tasks count concurrently.
            intact = await there_and_back(stream, seed, size)
            result.intact += intact
            result.connections += 1

        async with trio.open_nursery() as nursery:
            for seed, stream in enumerate(streams):
                nursery.start_soon(one, stream, seed)


async def flood(count: int, socks: int) -> None:
    """Send on all connections without reading, until no more data is accepted."""
    held = 0

    # The unread data delays later streams on the same connection to the server.
    all_are_there = trio.Event()

    async def pour(stream: trio.SocketStream) -> None:
        nonlocal held
        await all_are_there.wait()
        # The buffers of the system are not measured.
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)
        piece = bytes(PIECE)
        with contextlib.suppress(OSError):
            while True:
                sent = await stream.socket.send(piece)
                held += sent

    async with destination(pour) as to, contextlib.AsyncExitStack() as stack:
        streams = await connect_all(count, socks, to, stack)
        all_are_there.set()
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(pour, stream)
            before = -1
            while before != held:
                before = held
                await trio.sleep(STILL)
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def relay(streams: int) -> AsyncIterator[tuple[int, list[Process]]]:
    """Run both processes, and yield them with the port for SOCKS5."""
    with tempfile.TemporaryDirectory() as state:
        listen = ["--listen", f"{HOST}:0", "--allow", f"{HOST}/32", "--self-signed", "--state-dir", state]
        doors = ["--socks", f"{HOST}:0", "--streams", str(streams)]
        async with (
            program("server", *listen, says="anytls://") as (server, uri),
            program("client", *doors, says="SOCKS5 on", uri=uri) as (client, line),
        ):
            yield int(line.rpartition(":")[2]), [client, server]


async def measure(count: int, size: int, streams: int, rounds: int) -> Result:
    result = Result()
    for part in ("all sides read", "no side reads"):
        async with relay(streams) as (socks, processes):
            figures = [Figures(part, process.name, process.resident) for process in processes]
            for _ in range(rounds):
                for process in processes:
                    process.forget_peak()
                if part == "no side reads":
                    await flood(count, socks)
                else:
                    await exchange(count, size, socks, result)
                await trio.sleep(LINGER)
                for process, one in zip(processes, figures, strict=True):
                    one.peaks.append(process.peak)
                    one.after = process.resident
        result.figures += figures
    return result


def show(result: Result, size: int) -> None:
    table = Table("", "", "at rest", "peak of each round", "after")
    for one in result.figures:
        mib = [f"{value / MIB:.0f}" for value in (one.rest, *one.peaks, one.after)]
        table.add_row(one.part, one.process, mib[0], ", ".join(mib[1:-1]), f"{mib[-1]} MiB")
    console = Console()
    console.print(f"{result.intact} of {result.connections} connections brought back their {size / MIB:g} MiB intact.")
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay_memory", description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=500, metavar="N", help="at the same time (500)")
    parser.add_argument("--size", type=int, default=MIB, metavar="BYTES", help="for each connection (1 MiB)")
    parser.add_argument("--streams", type=int, default=32, metavar="N", help="as of `trioanytls client` (32)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of either part (3)")
    parser.add_argument("--json", action="store_true", help="print JSON, in bytes")
    given = parser.parse_args(arguments)
    result = trio.run(measure, given.connections, given.size, given.streams, given.rounds)
    if given.json:
        print(json.dumps(asdict(result), indent=2))
    else:
        show(result, given.size)
    return 0 if result.intact == result.connections else 1


if __name__ == "__main__":
    sys.exit(main())

"""Malformed and unusual exchanges through each front end of a running client, while other applications use it.

    python -m tests.fuzz.fuzz_fronts --exchanges 10000 --seed 1
    python -m tests.fuzz.fuzz_fronts --seed 1 --only 4711

Client and server are separate processes. Applications and sites of `_exchanges` use each front end, many at the same
time, split anywhere and ended anywhere. Meanwhile other applications send data through each front end, and compare the
echo. It is an error if

- the client or the server exits, or logs an internal error;
- the data of another application is not intact;
- an exchange does not end within the timeout of its front end;
- the client has more open files, or much more memory, afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import ipaddress
import math
import random
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import trio
from attrs import define, field

from trioanytls.destination import Destination, encode

from ..helpers.cli_process import Program, program
from ._exchanges import Exchange, Site, make_exchange, make_site

HOST: Final = "127.0.0.1"
#: The number of concurrent exchanges.
_AT_ONCE: Final = 64
# The time within which a front end must end an exchange that does not end itself, in seconds. Its longest timeout is
# that of HTTP for the next request. The rest is for a busy machine.
_LIMIT: Final = 60.0 + 30.0
# A site's timeout for reading, and a hanging site's timeout for the application's end, in seconds.
_SITE_PATIENCE: Final = 0.3
# The time that a closing application reads before, and the time that one of UDP waits for an answer, in seconds.
_APP_PATIENCE: Final = 0.2
_ANSWER_PATIENCE: Final = 1.0
# The maximum growth of memory in the second half of a run, in MiB.
_GROWTH: Final = 24.0
# All addresses except those of loopback.
_ELSEWHERE: Final = [
    *ipaddress.IPv4Network("0.0.0.0/0").address_exclude(ipaddress.IPv4Network("127.0.0.0/8")),
    *ipaddress.IPv6Network("::/0").address_exclude(ipaddress.IPv6Network("::1/128")),
]
_READ: Final = 64 * 1024
_RESET: Final = struct.pack("ii", 1, 0)


def begins_with(beginning: str) -> Callable[[str], bool]:
    return lambda text: text.startswith(beginning)


class Found(Exception):
    """The run found a fault."""


@define(eq=False)
class Fuzz:
    """One run.

    Attributes:
      seed: the seed of all exchanges.
      waits: whether applications wait for the client's timeouts.
    """

    seed: int
    waits: bool
    client: Program = field(init=False)
    server: Program = field(init=False)
    ports: dict[str, int] = field(init=False, factory=dict)
    ends: Counter[str] = field(init=False, factory=Counter)
    intact: Counter[str] = field(init=False, factory=Counter)
    longest: float = field(init=False, default=0.0)
    # The actions of the forwards' sites, which have one port for all exchanges.
    _sites: random.Random = field(init=False)
    _done: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self._sites = random.Random(f"{self.seed}:sites")

    async def run(self, numbers: range) -> None:
        """Run all of these exchanges.

        Raises:
          Found: there is a fault.
        """
        with tempfile.TemporaryDirectory() as state:
            async with self._forwarded() as (tcp, udp, echo), self._running(Path(state), tcp, udp, echo):
                files, memory = _open_files(self.client.pid), [_memory(self.client.pid)]
                async with trio.open_nursery() as nursery:
                    for work in (self._long_lived, self._repeated):
                        for way in ("socks", "connect", "forward"):
                            nursery.start_soon(work, way, echo)
                    await self._all(numbers, memory)
                    nursery.cancel_scope.cancel()
                await self._settle(files)
                memory.append(_memory(self.client.pid))
                self.judge(memory)

    # The processes

    @contextlib.asynccontextmanager
    async def _running(self, state: Path, tcp: int, udp: int, echo: int) -> AsyncIterator[None]:
        at = f"{HOST}:0"
        listen = ["--listen", at, "--allow", "127.0.0.0/8", "--allow", "::1", "--self-signed", "--state-dir", state]
        # A mutated destination could be a public address.
        for network in _ELSEWHERE:
            listen += ["--deny", network]
        async with program("server", *listen) as self.server:
            uri = await self.server.out.find("anytls://")
            doors = ["--socks", at, "--http", at, "--mixed", at, "--forward", f"0={HOST}:{tcp}"]
            doors += ["--forward", f"0={HOST}:{echo}", "--forward-udp", f"0={HOST}:{udp}"]
            async with program("client", *doors, environment={"TRIOANYTLS_SERVER": uri}) as self.client:
                for name, line in {
                    "socks": "SOCKS5 on ",
                    "http": "HTTP proxy on ",
                    "mixed": "mixed proxy on ",
                    "forward": f"forward to {HOST}:{tcp} on ",
                    "echo": f"forward to {HOST}:{echo} on ",
                    "udp-forward": f"UDP forward to {HOST}:{udp} on ",
                }.items():
                    said = await self.client.out.find(begins_with(line))
                    self.ports[name] = int(said.rpartition(":")[2])
                yield

    @contextlib.asynccontextmanager
    async def _forwarded(self) -> AsyncIterator[tuple[int, int, int]]:
        """Run the sites of the forwards: a malicious one, one for UDP, and an echo server."""

        async def bad(stream: trio.SocketStream) -> None:
            await _be_site(make_site(self._sites), stream)

        async with trio.open_nursery() as nursery:
            one = await nursery.start(partial(trio.serve_tcp, bad, 0, host=HOST))
            echo = await nursery.start(partial(trio.serve_tcp, _echo, 0, host=HOST))
            with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as local:
                await local.bind((HOST, 0))
                nursery.start_soon(_answer_datagrams, local, self._sites)
                tcp, back = (listeners[0].socket.getsockname()[1] for listeners in (one, echo))
                yield tcp, local.getsockname()[1], back
                nursery.cancel_scope.cancel()

    # The exchanges

    async def _all(self, numbers: range, memory: list[float]) -> None:
        slots = trio.CapacityLimiter(_AT_ONCE)
        step = max(1, len(numbers) // 10)
        started = time.monotonic()
        async with trio.open_nursery() as nursery:
            for number in numbers:
                await slots.acquire_on_behalf_of(number)
                nursery.start_soon(self.run_one, number, slots)
                if (number - numbers.start) % step == step - 1:
                    memory.append(_memory(self.client.pid))
                    print(f"{number + 1}: {memory[-1]:.1f} MiB, {time.monotonic() - started:.0f} s", flush=True)

    async def run_one(self, number: int, slots: trio.CapacityLimiter) -> None:
        """Run the exchange with this number, and release its slot."""
        try:
            started = trio.current_time()
            async with _site(self.seed, number, waits=self.waits) as (exchange, port):
                with trio.move_on_after(_LIMIT) as scope:
                    if exchange.front == "udp-forward":
                        how = await self._send_datagrams(exchange)
                    elif exchange.front == "udp-associate":
                        how = await self._associate(exchange, port)
                    else:
                        how = await self._exchange(exchange)
            if scope.cancelled_caught:
                raise Found(f"exchange {number} ({exchange.front}, {exchange.end}) did not end within {_LIMIT:g} s")
            if not self.client.running or not self.server.running:
                raise Found(f"a process has ended, at exchange {number}: {self.client.err.lines[-20:]}")
            self.longest = max(self.longest, trio.current_time() - started)
            self.ends[f"{exchange.front}: {how}"] += 1
            self._done += 1
        finally:
            slots.release_on_behalf_of(number)

    async def _exchange(self, exchange: Exchange) -> str:
        async with await self._connect(exchange.front) as stream, trio.open_nursery() as nursery:
            try:
                if exchange.end != "close":
                    nursery.start_soon(_read_all, stream, nursery.cancel_scope)
                for piece in exchange.pieces:
                    await stream.send_all(piece)
                    await trio.lowlevel.checkpoint()
                if exchange.end == "eof":
                    await stream.send_eof()
            except trio.BrokenResourceError:
                return "cut off"
            if exchange.end in ("close", "read-close", "reset"):
                if exchange.end == "read-close":
                    await trio.sleep(_APP_PATIENCE)
                if exchange.end == "reset":
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                nursery.cancel_scope.cancel()
                return exchange.end
            await trio.sleep_forever()
        return exchange.end

    async def _associate(self, exchange: Exchange, port: int) -> str:
        async with await self._connect("socks") as control:
            try:
                await control.send_all(b"\x05\x01\x00\x05\x03\x00\x01" + bytes(6))
                answer = await _exactly(control, 12)
            except trio.BrokenResourceError:
                return "cut off"
            if answer[3]:
                return "refused"
            await _datagrams((HOST, int.from_bytes(answer[10:], "big")), exchange.pieces)
            with contextlib.suppress(trio.BrokenResourceError):
                if exchange.end == "eof":
                    await control.send_eof()
                    while await control.receive_some(_READ):
                        pass
            if exchange.end == "reset":
                control.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        return exchange.end

    async def _send_datagrams(self, exchange: Exchange) -> str:
        return await _datagrams((HOST, self.ports["udp-forward"]), exchange.pieces)

    async def _connect(self, front: str) -> trio.SocketStream:
        try:
            return await trio.open_tcp_stream(HOST, self.ports[front])
        except OSError as error:
            raise Found(f"{front} cannot be connected to: {error}; {self.client.err.lines[-20:]}") from error

    # The other applications

    async def _long_lived(self, way: str, echo: int) -> None:
        """Use one connection all the time."""
        rng = random.Random(f"{self.seed}:{way}:long")
        async with await self._through(way, echo) as stream:
            while True:
                await self.compare(stream, rng.randbytes(rng.choice([1, 1000, 50_000])), f"long {way}")
                await trio.sleep(0.01)

    async def _repeated(self, way: str, echo: int) -> None:
        """Use one connection after another."""
        rng = random.Random(f"{self.seed}:{way}")
        while True:
            async with await self._through(way, echo) as stream:
                for _ in range(3):
                    await self.compare(stream, rng.randbytes(200_000), way)
                # A half-close would not reach the other side, which waits for it.
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    async def compare(self, stream: trio.SocketStream, data: bytes, what: str) -> None:
        """Send data to an echo server, and compare the answer.

        Raises:
          Found: the answer differs.
        """
        received: list[bytes] = []

        async def receive() -> None:
            received.append(await _exactly(stream, len(data)))

        try:
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(receive)
                    await stream.send_all(data)
        except (trio.TooSlowError, Exception) as error:
            raise Found(f"the transfer of another application ({what}) broke: {error!r}") from error
        if hashlib.sha256(received[0]).digest() != hashlib.sha256(data).digest():
            raise Found(f"the data of another application ({what}) is not intact")
        self.intact[what] += len(data)

    async def _through(self, way: str, echo: int) -> trio.SocketStream:
        front = {"socks": "socks", "connect": "http", "forward": "echo"}[way]
        stream = await self._connect(front)
        try:
            if way == "socks":
                await stream.send_all(b"\x05\x01\x00\x05\x01\x00" + encode(Destination(HOST, echo)))
                if (await _exactly(stream, 12))[3]:
                    raise Found("another application was refused by SOCKS")
            elif way == "connect":
                await stream.send_all(b"CONNECT %b:%d HTTP/1.1\r\nHost: x\r\n\r\n" % (HOST.encode(), echo))
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += await _exactly(stream, 1)
                if b" 200 " not in head[:16]:
                    raise Found(f"another application was refused by HTTP: {head!r}")
        except trio.BrokenResourceError as error:
            raise Found(f"another application ({way}) was cut off") from error
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    # The verdict

    async def _settle(self, before: int) -> None:
        """Wait until the client has closed all connections of exchanges. Its connections to the server may stay."""
        most = before + 32
        for _ in range(int(_LIMIT / 0.2)):
            if _open_files(self.client.pid) <= most:
                return
            await trio.sleep(0.2)
        raise Found(f"the client has {_open_files(self.client.pid)} open files, {before} at its start")

    def judge(self, memory: list[float]) -> None:
        """Check the logs and the memory, which was measured in the course of the run.

        Raises:
          Found: there is a fault.
        """
        mistakes = [*_mistakes("client", self.client.err.lines), *_mistakes("server", self.server.err.lines)]
        if mistakes:
            raise Found(f"{len(mistakes)} mistakes were logged; the first ones:\n{chr(10).join(mistakes[:3])}")
        half = memory[len(memory) // 2]
        growth = memory[-1] - half
        print(f"memory: {memory[0]:.1f} MiB at the start, {half:.1f} at half, {memory[-1]:.1f} at the end")
        if len(memory) > 6 and growth > _GROWTH:
            raise Found(f"the client's memory grew by {growth:.1f} MiB in the second half")


@contextlib.asynccontextmanager
async def _site(seed: int, number: int, *, waits: bool) -> AsyncIterator[tuple[Exchange, int]]:
    """Run an exchange and its site, which has one port for TCP and UDP."""
    rng = random.Random(f"{seed}:{number}:site")
    async with trio.open_nursery() as nursery:
        exchanges: list[Exchange] = []

        async def serve(stream: trio.SocketStream) -> None:
            await _be_site(exchanges[0].site, stream)

        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host=HOST))
        port = listeners[0].socket.getsockname()[1]
        exchanges.append(make_exchange(seed, number, HOST, port, waits=waits))
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as local:
            # Another process may have the port for UDP. Then there is no answer.
            with contextlib.suppress(OSError):
                await local.bind((HOST, port))
                nursery.start_soon(_answer_datagrams, local, rng)
            yield exchanges[0], port
            nursery.cancel_scope.cancel()


async def _be_site(site: Site, stream: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        left = site.reads
        with trio.move_on_after(_SITE_PATIENCE):
            while left > 0 and (data := await stream.receive_some(min(left, _READ))):
                left -= len(data)
        # Do not wait for a datagram that is not read.
        with trio.move_on_after(_SITE_PATIENCE * 3):
            for piece in site.pieces:
                await stream.send_all(piece)
                await trio.lowlevel.checkpoint()
        if site.end == "reset":
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        elif site.end == "eof":
            await stream.send_eof()
        if site.end in ("eof", "hang"):
            with trio.move_on_after(_SITE_PATIENCE * (1 if site.end == "eof" else 10)):
                while await stream.receive_some(_READ):
                    pass
    await trio.aclose_forcefully(stream)


async def _echo(stream: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        async for data in stream:
            await stream.send_all(data)


async def _answer_datagrams(local: trio.socket.SocketType, rng: random.Random) -> None:
    while True:
        with contextlib.suppress(OSError):
            data, sender = await local.recvfrom(_READ)
            for _ in range(rng.choice([0, 1, 1, 3])):
                await local.sendto(rng.choice([data, b"", rng.randbytes(50), rng.randbytes(65_000)]), sender)


async def _datagrams(address: tuple[str, int], datagrams: tuple[bytes, ...]) -> str:
    """Send datagrams, and wait for an answer."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as local:
        await local.bind((HOST, 0))
        for data in datagrams:
            with contextlib.suppress(OSError):
                await local.sendto(data, address)
        with trio.move_on_after(_ANSWER_PATIENCE), contextlib.suppress(OSError):
            await local.recvfrom(_READ)
            return "answered"
    return "silent"


async def _read_all(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while await stream.receive_some(_READ):
            pass
    scope.cancel()


async def _exactly(stream: trio.SocketStream, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        data = await stream.receive_some(size - len(received))
        if not data:
            raise trio.BrokenResourceError(f"it ended after {len(received)} of {size} bytes")
        received += data
    return bytes(received)


def _mistakes(who: str, lines: list[str]) -> list[str]:
    """Find log lines that are errors, each with some context."""
    found = [index for index, line in enumerate(lines) if "Traceback" in line or " ERROR " in line]
    return ["\n".join(f"{who}: {line}" for line in lines[max(0, index - 2) : index + 60]) for index in found]


def _open_files(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()) if sys.platform == "linux" else 0


def _memory(pid: int) -> float:
    """Return the resident memory, in MiB."""
    if sys.platform != "linux":
        return math.nan
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def main(arguments: list[str] | None = None) -> int:
    """Run the program. Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exchanges", type=int, default=10_000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of all exchanges (default: %(default)s)")
    parser.add_argument("--only", type=int, help="the number of one exchange, to see what it does")
    parser.add_argument("--no-wait", action="store_true", help="no application waits for the client's timeouts")
    given = parser.parse_args(arguments)
    numbers = range(given.exchanges) if given.only is None else range(given.only, given.only + 1)
    fuzz = Fuzz(given.seed, waits=not given.no_wait)
    run: Callable[[range], Awaitable[None]] = fuzz.run
    started = time.monotonic()
    found: list[BaseException] = []
    try:
        trio.run(run, numbers)
    except* Found as group:
        found = _leaves(group)
    if found:
        for error in found:
            print(f"FOUND: {error}", file=sys.stderr)
        return 1
    total = sum(fuzz.ends.values())
    print(f"{total} exchanges in {time.monotonic() - started:.0f} s; the longest took {fuzz.longest:.1f} s")
    for name, count in sorted(fuzz.ends.items()):
        print(f"  {count:6} {name}")
    print("intact meanwhile, in MiB: " + ", ".join(f"{name} {size / 2**20:.1f}" for name, size in fuzz.intact.items()))
    return 0


def _leaves(group: BaseException) -> list[BaseException]:
    if isinstance(group, BaseExceptionGroup):
        return [leaf for part in group.exceptions for leaf in _leaves(part)]
    return [group]


if __name__ == "__main__":
    sys.exit(main())

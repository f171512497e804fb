"""What the tests of malicious peers share: targets in processes of their own, and what has to hold for them.

`Attack.on_server` is around each test of a server: a well-behaved client exchanges something with the server all the
time while the block does its worst. Behind the block, the server lives, has taken no more memory than its bound, and
has logged no error. `Attack.lure` is the same for clients.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import trio

import trioanytls
from trioanytls._protocol.anytls1.frame_decoder import Frame
from trioanytls._protocol.anytls1.frames import FrameType
from trioanytls._transport.tls_stream import TLSStream

from ..conftest import HOST
from ..helpers.raw_peer import HELLO, RawPeer

KIB = 1024
MIB = 1024 * KIB

#: What the library asks a socket for at once. What one read brings is taken whole before any limit is looked at.
READ = 256 * KIB
#: A connection that does nothing: objects, tasks, OpenSSL's state. 46 to 52 KiB were measured.
IDLE_CONNECTION = 64 * KIB
#: A connection at its worst, but for what its streams are. What waits to be sent (send_buffer_size, and a frame on top)
#: and what a stream has received (receive_buffer_size, and a read on top); a read as ciphertext, and a write, in
#: buffers of OpenSSL's, which take a third more than they are asked for and never shrink.
CONNECTION = IDLE_CONNECTION + (256 + 64) * KIB + (256 * KIB + READ) + 2 * READ * 4 // 3
#: What a process takes however little it is asked for: pages that are touched for the first time, and what allocators
#: keep of what was freed. Where nothing else is kept, 0.1 to 1.5 MiB were measured; where many connections come and go,
#: and some of what they have left waits for the collector, up to 6.
SLACK = 8 * MIB

#: The attacker is alice: `HELLO` has her password. The well-behaved client is bob, whose streams are always echoed.
USERS = {"alice": "password", "bob": "builder"}

#: What may take long on a busy machine and never takes this long, in seconds.
PATIENCE = 60


class Launcher:
    """Starts targets, one at a time, see `_target`."""

    def __init__(self, directory: Path, **files: Path) -> None:
        self._files = {name: str(path) for name, path in files.items()}
        self._complaints = directory / "complaints"
        self._process: subprocess.Popen[str] | None = None
        self._child: int | None = None

    @contextlib.asynccontextmanager
    async def launched(self, role: str, **options: Any) -> AsyncIterator[dict[str, Any]]:
        """A target that lives as long as the block, and has nothing to complain about; what it says first."""
        if self._process is None:
            self._process = self._start()
        self._complaints.write_text("")
        try:
            target = await self.ask(role=role, **self._files, **options)
            self._child = target["pid"]
            yield target
            ended = await self.ask(stop=True)
        except BaseException:
            # Nobody knows where the conversation stands.
            self.close()
            print(self._complaints.read_text())
            raise
        self._child = None
        complaints = self._complaints.read_text()
        assert not complaints, complaints
        assert ended == {"exit": 0}

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", str(Path(__file__).with_name("_target.py"))]
        with self._complaints.open("a") as complaints:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True
            )

    async def ask(self, **request: Any) -> dict[str, Any]:
        with trio.fail_after(2 * PATIENCE):
            answer = await trio.to_thread.run_sync(self._ask, json.dumps(request), abandon_on_cancel=True)
        return json.loads(answer)

    def _ask(self, request: str) -> str:
        print(request, file=self._process.stdin, flush=True)
        return self._process.stdout.readline()

    def close(self) -> None:
        """End what was started: by closing its pipe, or, where something hangs, by force."""
        if self._process is None:
            return
        process, self._process = self._process, None
        child, self._child = self._child, None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(PATIENCE / 4)
        except subprocess.TimeoutExpired:
            if child is not None:
                # Not waited for yet, so that the number is still its own.
                os.kill(child, signal.SIGKILL)
            process.kill()
            process.wait()
        process.stdout.close()


class Target:
    """A server under attack.

    Attributes:
      port: where it listens.
      tasks: how many tasks it has, with the well-behaved client and nobody else.
    """

    def __init__(self, launcher: Launcher, port: int) -> None:
        self.port = port
        self.tasks = 0
        self._launcher = launcher
        # The well-behaved client has had another exchange.
        self._exchanged = trio.Event()

    async def report(self) -> dict[str, Any]:
        """What the server says of itself."""
        return await self._launcher.ask()

    async def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until the server's report is as it should be; the report."""
        with trio.fail_after(PATIENCE):
            while not condition(report := await self.report()):  # noqa: ASYNC110 - another process
                await trio.sleep(0.005)
        return report

    async def until_alone(self, connections: int = 0) -> dict[str, Any]:
        """Wait until all of the attacker's connections have come and gone, and their tasks as well; the report.

        Args:
          connections: how many there were; to be given where the attacker does not know whether they were accepted.
        """

        def is_alone(report: dict[str, Any]) -> bool:
            stats = report["stats"]
            return (
                stats["connections_accepted"] > connections
                and stats["connections"] == 1
                and report["tasks"] <= self.tasks
            )

        return await self.until(is_alone)

    async def still_answers(self) -> None:
        """Wait for exchanges of the well-behaved client which began after this call."""
        with trio.fail_after(2 * PATIENCE):
            # The first one may have begun before.
            for _ in range(2):
                await self._exchanged.wait()

    async def behave_well(self, connection: trioanytls.Connection) -> None:
        """Exchange something all the time; each answer has to come."""
        async with await connection.open_stream() as stream:
            while True:
                with trio.fail_after(PATIENCE):
                    await exchange(stream, b"there?")
                    await connection.ping()
                self._exchanged.set()
                self._exchanged = trio.Event()
                # Leaves time for who attacks: both are in one process.
                await trio.sleep(0.002)


async def exchange(stream: trioanytls.Stream, data: bytes) -> None:
    """Send, and receive the same."""
    await stream.send_all(data)
    received = bytearray()
    while len(received) < len(data):
        piece = await stream.receive_some()
        assert piece
        received += piece
    assert received == data


class Attack:
    """What tests use: starts targets, and connects to them in bad faith."""

    def __init__(self, launcher: Launcher, good_context: ssl.SSLContext) -> None:
        self.launcher = launcher
        self._good_context = good_context
        # Whoever attacks does not care whom.
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE

    @contextlib.asynccontextmanager
    async def on_server(
        self,
        *,
        bound: int,
        handler: str = "echo",
        send_buffer: int = 0,
        objects: int = 0,
        service: dict[str, Any] | None = None,
        **config: Any,
    ) -> AsyncIterator[Target]:
        """A server, to be attacked in the block; it may grow by `bound` bytes.

        Args:
          bound: in bytes of resident size.
          handler: what serves the attacker's streams: "echo", "sink", which answers nothing, or "deaf", which does not
            even read.
          send_buffer: the size of the kernel's buffer for what the server sends; 0 for what the system thinks right.
          objects: how many objects the server's application has beside it.
          service: the arguments of `relay_to`, with the port of a service on loopback; None for no fallback.
          config: what is not as by default in the server's `Config`.
        """
        options = {
            "handler": handler,
            "send_buffer": send_buffer,
            "objects": objects,
            "service": service,
            "config": config,
        }
        async with self.launcher.launched("server", **options) as said:
            target = Target(self.launcher, said["port"])
            async with self._connect_well(target.port) as connection:
                async with await connection.open_stream() as stream:
                    # What the first connections and the first big exchange take for ever is not the attacker's doing.
                    await exchange(stream, bytes(128 * KIB))
                # Its task ends a moment later than it does.
                await target.until(lambda report: report["stats"]["streams"] == 0)
                before = (await target.report())["memory"]["now"]
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(target.behave_well, connection)
                    await target.still_answers()
                    target.tasks = (await target.report())["tasks"]
                    yield target
                    await target.still_answers()
                    nursery.cancel_scope.cancel()
            with trio.fail_after(PATIENCE):
                async with (
                    self._connect_well(target.port) as connection,
                    await connection.open_stream() as stream,
                ):
                    await exchange(stream, b"a new client")
            report = await target.report()
            grown = report["memory"]["most"] - before
            print(f"grown by {grown / MIB:.1f} MiB, and {bound / MIB:.1f} MiB are allowed")
            assert grown <= bound
            assert report["stats"]["handlers_failed"] == 0
            assert not {"ERROR", "CRITICAL"} & report["logged"].keys()

    async def lure(
        self, port: int, good_port: int, *, bound: int, times: int = 1, application: str = "talk", **config: Any
    ) -> list[dict[str, Any]]:
        """Let a client connect to a malicious server, one time after the other; what its application met each time.

        Args:
          port: where the malicious server is.
          good_port: where another one is, with which the client exchanges something all the time.
          bound: what the client may grow by, in bytes of resident size.
          application: what it does with the connection, see `_target`.
          config: what is not as by default in its `Config`.
        """
        async with self.launcher.launched("client", good_port=good_port) as said:
            request = {"port": port, "application": application, "config": config}
            reports = [await self.launcher.ask(**request) for _ in range(times)]
        grown = reports[-1]["memory"]["most"] - said["memory"]["now"]
        print(f"grown by {grown / MIB:.1f} MiB, and {bound / MIB:.1f} MiB are allowed")
        assert grown <= bound
        for report in reports:
            assert not {"ERROR", "CRITICAL"} & report["logged"].keys()
            # Whatever a server said can be shown to a user, and is not too much.
            assert report["text"].replace("\n", "").isprintable()
            assert len(report["text"]) < 1000
        return reports

    def _connect_well(self, port: int) -> contextlib.AbstractAsyncContextManager[trioanytls.Connection]:
        return trioanytls.open_connection(HOST, port, password=USERS["bob"], ssl_context=self._good_context)

    @contextlib.asynccontextmanager
    async def connected(
        self,
        target: Target,
        *,
        hello: bytes = HELLO,
        receive_buffer: int = 0,
        context: ssl.SSLContext | None = None,
    ) -> AsyncIterator[RawPeer]:
        """A connection of the attacker's, on which it has said `hello`; it is cut off behind the block.

        Args:
          receive_buffer: the size of the kernel's buffer for what it receives; 0 for what the system thinks right.
          context: what TLS is made with, if it matters.
        """
        transport = await dial(target.port, receive_buffer)
        secured = TLSStream(transport, context or self.context)
        try:
            with trio.fail_after(PATIENCE):
                await secured.do_handshake()
                if hello:
                    await secured.send_all(hello)
            yield RawPeer(secured)
        finally:
            await trio.aclose_forcefully(secured)


async def dial(port: int, receive_buffer: int = 0) -> trio.SocketStream:
    """A TCP connection, without a word."""
    sock = trio.socket.socket()
    try:
        if receive_buffer:
            # Only before the connection is made does it say how much may be under way.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await sock.connect((HOST, port))
        return trio.SocketStream(sock)
    except BaseException:
        sock.close()
        raise


def reset(transport: trio.SocketStream) -> None:
    """Cut a TCP connection off by RST."""
    transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.socket.close()


def client_hello(context: ssl.SSLContext) -> bytes:
    """What a client says first, as a record."""
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


async def pour(peer: RawPeer, block: bytes, times: int) -> int:
    """Send `block` again and again, until the other side takes no more; how often it took it."""
    for sent in range(times):
        try:
            with trio.fail_after(PATIENCE):
                await peer.send(block)
        except trio.BrokenResourceError:
            return sent
    return times


async def last_word(peer: RawPeer) -> Frame | None:
    """Read up to the frame that ends the connection; None where it ends without one."""
    with trio.fail_after(PATIENCE):
        try:
            while (frame := await peer.receive()) is not None:
                if frame[0] in (FrameType.ALERT, FrameType.CLOSE):
                    return frame
        except trio.BrokenResourceError:
            pass
        return None


async def provoke(peer: RawPeer, block: bytes, times: int) -> Frame | None:
    """Send `block` again and again while reading; the frame that this leads to, see `last_word`."""
    async with trio.open_nursery() as nursery:
        # All of it goes out: the server has to bear what comes behind its last word, too.
        nursery.start_soon(pour, peer, block, times)
        return await last_word(peer)


async def leave(peer: RawPeer) -> list[Frame]:
    """Say that nothing follows; all frames that come until the other side leaves as well."""
    frames: list[Frame] = []
    # The other side may have gone in whatever way: that is not what is looked at.
    with trio.fail_after(PATIENCE), contextlib.suppress(trio.BrokenResourceError):
        await peer.transport.send_eof()
        while (frame := await peer.receive()) is not None:
            frames.append(frame)
    return frames


async def in_parallel(attack: Callable[[int], Awaitable[object]], count: int, at_once: int = 32) -> None:
    """Call `attack` with the numbers below `count`, several at once."""
    numbers: Iterator[int] = iter(range(count))

    async def work() -> None:
        for number in numbers:
            with trio.fail_after(PATIENCE):
                await attack(number)

    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(work)

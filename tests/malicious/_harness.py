"""The harness of the tests of malicious peers: targets in separate processes, and checks of their state.

Each test of a server uses `Attack.on_server`. While the block attacks the server, a well-behaved client exchanges data
with it all the time. After the block, the server must be alive, must not have used more memory than its bound, and must
not have logged an error. `Attack.lure` does the same for clients.
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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import trio

import trioanytls
from trioanytls._protocol.anytls1.frame_decoder import Frame
from trioanytls._protocol.anytls1.frames import FrameType
from trioanytls._transport.tls_stream import TLSStream

from ..conftest import HOST
from ..helpers.legacy_peer import LegacyPeer
from ..helpers.raw_peer import HELLO, RawPeer

KIB = 1024
MIB = 1024 * KIB

#: The size of the library's reads from a socket. All data of one read is processed before limits are checked.
READ = 256 * KIB
#: The memory of an idle connection: objects, tasks, OpenSSL's state. Measured: 46 to 52 KiB.
IDLE_CONNECTION = 64 * KIB
#: The maximum memory of a connection without its streams. It has the queued data (send_buffer_size and one more frame),
#: the received data of a stream (receive_buffer_size and one more read), and one read of ciphertext and one write in
#: OpenSSL's buffers, which are a third larger than requested and never shrink.
CONNECTION = IDLE_CONNECTION + (256 + 64) * KIB + (256 * KIB + READ) + 2 * READ * 4 // 3
#: The memory that a process gains in any case: pages used for the first time, and freed memory that allocators keep.
#: Measured: 0.1 to 1.5 MiB if nothing else is kept. Up to 6 MiB if many connections come and go, and some of their
#: objects wait for the garbage collector.
SLACK = 8 * MIB

#: The attacker is alice: `HELLO` has her password. The well-behaved client is bob, whose streams are always echoed.
USERS = {"alice": "password", "bob": "builder"}

#: A timeout that is long enough even for a busy machine, in seconds.
TIMEOUT = 60


#: The time between exchanges of the well-behaved client for which no test waits, in seconds.
PAUSE = 0.02


class Launcher:
    """Starts targets, one at a time, see `_target`."""

    def __init__(self, directory: Path, **files: Path) -> None:
        self._files = {name: str(path) for name, path in files.items()}
        self._complaints = directory / "complaints"
        self._process: subprocess.Popen[str] | None = None
        self._child: int | None = None

    @contextlib.asynccontextmanager
    async def launched(self, role: str, **options: Any) -> AsyncIterator[dict[str, Any]]:
        """Run a target during the block, and check that it reports no problem. Yield its first report."""
        if self._process is None:
            self._process = self._start()
        self._complaints.write_text("")
        try:
            target = await self.ask(role=role, **self._files, **options)
            self._child = target["pid"]
            yield target
            ended = await self.ask(stop=True)
        except BaseException:
            # The state of the conversation is unknown.
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
        with trio.fail_after(2 * TIMEOUT):
            answer = await trio.to_thread.run_sync(self._ask, json.dumps(request), abandon_on_cancel=True)
        report: dict[str, Any] = json.loads(answer)
        return report

    def _ask(self, request: str) -> str:
        print(request, file=self._process.stdin, flush=True)
        return self._process.stdout.readline()

    def close(self) -> None:
        """End the process that forks targets: by closing its pipe, or by force if it hangs."""
        if self._process is None:
            return
        process, self._process = self._process, None
        child, self._child = self._child, None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(TIMEOUT / 4)
        except subprocess.TimeoutExpired:
            if child is not None:
                # It was not waited for yet, so that the process id is still valid.
                os.kill(child, signal.SIGKILL)
            process.kill()
            process.wait()
        process.stdout.close()


class Target:
    """A server under attack.

    Attributes:
      port: the port on which it listens.
      tasks: the number of its tasks with the well-behaved client alone.
    """

    def __init__(self, launcher: Launcher, port: int) -> None:
        self.port = port
        self.tasks = 0
        self._launcher = launcher
        # Set for another exchange of the well-behaved client, and after one.
        self._asked = trio.Event()
        self._exchanged = trio.Event()

    async def report(self) -> dict[str, Any]:
        """Return the server's report on its state."""
        return await self._launcher.ask()

    async def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until the server's report satisfies the condition. Return the report."""
        with trio.fail_after(TIMEOUT):
            while not condition(report := await self.report()):  # noqa: ASYNC110 - another process
                await trio.sleep(0.005)
        return report

    async def until_alone(self, connections: int = 0) -> dict[str, Any]:
        """Wait until all of the attacker's connections and their tasks have ended. Return the report.

        Args:
          connections: the number of connections, if the attacker does not know whether they were accepted.
        """

        def is_alone(report: dict[str, Any]) -> bool:
            stats = report["stats"]
            return bool(
                stats["connections_accepted"] > connections
                and stats["connections"] == 1
                and report["tasks"] <= self.tasks
            )

        return await self.until(is_alone)

    async def still_answers(self) -> None:
        """Wait for exchanges of the well-behaved client that began after this call."""
        with trio.fail_after(2 * TIMEOUT):
            # The first one may have begun before this call.
            for _ in range(2):
                self._asked.set()
                await self._exchanged.wait()

    async def behave_well(self, connection: trioanytls.Connection) -> None:
        """Exchange data all the time. Every answer must arrive."""
        async with await connection.open_stream() as stream:
            while True:
                with trio.fail_after(TIMEOUT):
                    await exchange(stream, b"there?")
                    await connection.ping()
                self._exchanged.set()
                self._exchanged = trio.Event()
                # Leave time for the attacker, which runs in the same process.
                with trio.move_on_after(PAUSE):
                    await self._asked.wait()
                self._asked = trio.Event()


async def exchange(stream: trioanytls.Stream, data: bytes) -> None:
    """Send data, and receive the same data."""
    await stream.send_all(data)
    received = bytearray()
    while len(received) < len(data):
        piece = await stream.receive_some()
        assert piece
        received += piece
    assert received == data


class Attack:
    """Starts targets and attacks them."""

    def __init__(self, launcher: Launcher, good_context: ssl.SSLContext) -> None:
        self.launcher = launcher
        self._good_context = good_context
        # An attacker does not verify certificates.
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
        protocols: Sequence[str] = ("anytls1",),
        **config: Any,
    ) -> AsyncIterator[Target]:
        """Run a server, which the block attacks. It may grow by `bound` bytes.

        Args:
          bound: in bytes of resident size.
          handler: the handler of the attacker's streams: "echo", "sink", which sends nothing, or "deaf", which does not
            even read.
          send_buffer: the size of the server's send buffer in the kernel; 0 for the system's default.
          objects: the number of other objects in the server's application.
          service: the arguments of `relay_to`, with the port of a service on loopback; None for no fallback.
          protocols: the wire formats that the server accepts. The well-behaved client speaks "anytls1".
          config: the settings of the server's `Config` that differ from the defaults.
        """
        options = {
            "handler": handler,
            "send_buffer": send_buffer,
            "objects": objects,
            "service": service,
            "protocols": list(protocols),
            "config": config,
        }
        async with self.launcher.launched("server", **options) as said:
            target = Target(self.launcher, said["port"])
            async with self._connect_well(target.port) as connection:
                async with await connection.open_stream() as stream:
                    # The attacker does not cause the permanent memory of the first connections and large exchange.
                    await exchange(stream, bytes(128 * KIB))
                # Its task ends shortly after it.
                await target.until(lambda report: report["stats"]["streams"] == 0)
                before = (await target.report())["memory"]["now"]
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(target.behave_well, connection)
                    await target.still_answers()
                    target.tasks = (await target.report())["tasks"]
                    yield target
                    await target.still_answers()
                    nursery.cancel_scope.cancel()
            with trio.fail_after(TIMEOUT):
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
        self,
        port: int,
        good_port: int,
        *,
        bound: int,
        times: int = 1,
        application: str = "talk",
        protocol: str = "anytls1",
        **config: Any,
    ) -> list[dict[str, Any]]:
        """Let a client connect to a malicious server repeatedly. Return the results of its application.

        Args:
          port: the port of the malicious server.
          good_port: the port of another server, with which the client exchanges data all the time.
          bound: the limit on the client's growth, in bytes of resident size.
          application: the application that uses the connection, see `_target`.
          protocol: the wire format of the connection.
          config: the settings of the client's `Config` that differ from the defaults.
        """
        async with self.launcher.launched("client", good_port=good_port) as said:
            request = {"port": port, "application": application, "protocol": protocol, "config": config}
            reports = [await self.launcher.ask(**request) for _ in range(times)]
        grown = reports[-1]["memory"]["most"] - said["memory"]["now"]
        print(f"grown by {grown / MIB:.1f} MiB, and {bound / MIB:.1f} MiB are allowed")
        assert grown <= bound
        for report in reports:
            assert not {"ERROR", "CRITICAL"} & report["logged"].keys()
            # A text from a server is short and printable, so that it can be shown to a user.
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
        """Connect as the attacker, and send `hello`. The connection is reset after the block.

        Args:
          receive_buffer: the size of the attacker's receive buffer in the kernel; 0 for the system's default.
          context: the TLS context, if it matters.
        """
        transport = await dial(target.port, receive_buffer)
        secured = TLSStream(transport, context or self.context)
        try:
            with trio.fail_after(TIMEOUT):
                await secured.do_handshake()
                if hello:
                    await secured.send_all(hello)
            peer = RawPeer(secured)
            # The attacker may have agreed on any of them.
            peer.know(*EXTENSION_FRAMES)
            yield peer
        finally:
            await trio.aclose_forcefully(secured)


EXTENSION_FRAMES = (FrameType.STREAM_WINDOW, FrameType.STREAM_FIN, FrameType.STREAM_RESET, FrameType.GOAWAY)


async def dial(port: int, receive_buffer: int = 0) -> trio.SocketStream:
    """Open a TCP connection, and send nothing."""
    sock = trio.socket.socket()
    try:
        if receive_buffer:
            # It only limits the TCP window if it is set before connecting.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await sock.connect((HOST, port))
        return trio.SocketStream(sock)
    except BaseException:
        sock.close()
        raise


def reset(transport: trio.SocketStream) -> None:
    """Reset a TCP connection."""
    transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.socket.close()


def client_hello(context: ssl.SSLContext) -> bytes:
    """Return a ClientHello as a record."""
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


async def pour(peer: RawPeer | LegacyPeer, block: bytes, times: int) -> int:
    """Send `block` repeatedly until the other side accepts no more. Return how many times it was sent."""
    for sent in range(times):
        try:
            with trio.fail_after(TIMEOUT):
                await peer.send(block)
        except trio.BrokenResourceError:
            return sent
    return times


async def final_frame(peer: RawPeer) -> Frame | None:
    """Read up to the frame that ends the connection. Return the frame, None if the connection ends without one."""
    with trio.fail_after(TIMEOUT):
        try:
            while (frame := await peer.receive()) is not None:
                if frame[0] in (FrameType.ALERT, FrameType.CLOSE):
                    return frame
        except trio.BrokenResourceError:
            pass
        return None


async def provoke(peer: RawPeer, block: bytes, times: int) -> Frame | None:
    """Send `block` repeatedly while reading. Return the final frame, see `final_frame`."""
    async with trio.open_nursery() as nursery:
        # Send all of it: the server must also handle data after its final frame.
        nursery.start_soon(pour, peer, block, times)
        return await final_frame(peer)


async def leave(peer: RawPeer) -> list[Frame]:
    """Send CLOSE. Return all frames until the other side closes the connection as well."""
    frames: list[Frame] = []
    # The other side may close the connection in any way: this is not tested here.
    with trio.fail_after(TIMEOUT), contextlib.suppress(trio.BrokenResourceError):
        await peer.transport.send_eof()
        while (frame := await peer.receive()) is not None:
            frames.append(frame)
    return frames


async def in_parallel(attack: Callable[[int], Awaitable[object]], count: int, at_once: int = 32) -> None:
    """Call `attack` with the numbers below `count`, several at the same time."""
    numbers: Iterator[int] = iter(range(count))

    async def work() -> None:
        for number in numbers:
            with trio.fail_after(TIMEOUT):
                await attack(number)

    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(work)

"""The TLS transport under a connection."""

from __future__ import annotations

import functools
import os
import random
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

import trioanytls
from trioanytls._transport.handshake import handshake
from trioanytls._transport.tls_stream import TLSStream
from trioanytls.testing import RecordedTransport, echo

from ..conftest import HOST, USERS

Pair = tuple[TLSStream, TLSStream]


class Dribble(trio.abc.Stream):
    """A stream that splits sent data into small pieces."""

    def __init__(self, transport: trio.abc.Stream, seed: int) -> None:
        self._transport = transport
        self._draw = random.Random(seed)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            size = self._draw.choice([1, 2, 5, 100, 3000])
            await self._transport.send_all(view[:size])
            view = view[size:]

    async def wait_send_all_might_not_block(self) -> None:
        await self._transport.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._transport.receive_some(self._draw.choice([1, 3, 50, 2000]))

    async def aclose(self) -> None:
        await self._transport.aclose()


class Contexts:
    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext) -> None:
        self.server = server
        self.client = client

    async def pair(self, near: trio.abc.Stream, far: trio.abc.Stream) -> Pair:
        """Create both ends of a TLS connection over the two ends of a transport, the client first."""
        made: list[TLSStream] = []

        async def shake(transport: trio.abc.Stream, context: ssl.SSLContext, **options: Any) -> None:
            made.append(await handshake(transport, context, timeout=10, **options))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: shake(near, self.client, server_hostname=HOST))
            nursery.start_soon(lambda: shake(far, self.server, server_side=True))
        return made[0 if made[0].transport is near else 1], made[1 if made[0].transport is near else 0]

    async def sockets(self) -> tuple[trio.SocketStream, trio.SocketStream]:
        async with (await trio.open_tcp_listeners(0, host=HOST))[0] as listener:
            near = await trio.open_tcp_stream(HOST, listener.socket.getsockname()[1])
            return near, await listener.accept()


@pytest.fixture
def contexts(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> Contexts:
    return Contexts(server_context, client_context)


async def test_it_passes_trios_own_checks_over_memory(
    contexts: Contexts, autojump_clock: trio.testing.MockClock
) -> None:
    async def make() -> Pair:
        return await contexts.pair(*trio.testing.memory_stream_pair())

    async def make_clogged() -> Pair:
        # Without a buffer: nothing is sent before the other end receives.
        return await contexts.pair(*trio.testing.lockstep_stream_pair())

    await trio.testing.check_two_way_stream(make, make_clogged)


async def test_it_passes_trios_own_checks_over_sockets(contexts: Contexts) -> None:
    async def make() -> Pair:
        return await contexts.pair(*await contexts.sockets())

    await trio.testing.check_two_way_stream(make, None)


async def test_all_records_of_a_read_come_at_once(contexts: Contexts) -> None:
    near, far = await contexts.pair(*trio.testing.memory_stream_pair())
    for _ in range(20):
        await near.send_all(b"x" * 100)
    assert await far.receive_some() == b"x" * 2000
    await near.send_all(b"abc")
    assert await far.receive_some(2) == b"ab"
    assert await far.receive_some(2) == b"c"


# The BIO, which keeps the memory that it has once needed


class RecordingBIO:
    """A `MemoryBIO` that records how much it has held."""

    def __init__(self, stream: TLSStream) -> None:
        self._bio = stream._incoming
        self.most = self._bio.pending
        stream._incoming = self  # type: ignore[assignment]  # MemoryBIO cannot be subclassed

    @property
    def pending(self) -> int:
        return self._bio.pending

    def write(self, data: bytes | memoryview) -> int:
        written = self._bio.write(data)
        self.most = max(self.most, self._bio.pending)
        return written


async def test_a_large_read_is_decrypted_in_parts(contexts: Contexts) -> None:
    near, far = await contexts.pair(*trio.testing.memory_stream_pair())
    bio = RecordingBIO(far)
    data = random.Random(1).randbytes(250_000)
    await near.send_all(data)
    assert await far.receive_some() == data
    # A part of 64 KiB, after an incomplete record.
    assert 64 * 1024 <= bio.most <= (64 + 17) * 1024


async def test_nothing_after_the_end_is_decrypted(contexts: Contexts) -> None:
    near, far = await contexts.pair(*trio.testing.memory_stream_pair())
    data = random.Random(2).randbytes(100_000)
    await near.send_all(data)
    near._write_close_notify()
    await near._flush()
    # A part of its own, and not TLS.
    await near.transport.send_all(bytes(100_000))
    assert await far.receive_some() == data
    for _ in range(2):
        assert await far.receive_some() == b""


async def test_data_before_a_forged_record_of_the_same_read_is_received(contexts: Contexts) -> None:
    near, far = await contexts.pair(*trio.testing.memory_stream_pair())
    data = random.Random(3).randbytes(100_000)
    await near.send_all(data)
    await near.transport.send_all(b"\x17\x03\x03\x00\x20" + bytes(32) + bytes(100_000))
    assert await far.receive_some() == data
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match="TLS"):
            await far.receive_some()


async def test_a_client_cannot_fill_the_servers_memory_in_the_handshake(contexts: Contexts) -> None:
    near, far = await contexts.sockets()
    data = random.Random(4).randbytes(200_000)
    client = TLSStream(near, contexts.client, server_hostname=HOST)
    server = TLSStream(far, contexts.server, server_side=True)
    bio = RecordingBIO(server)
    async with trio.open_nursery() as nursery:

        async def send_at_once() -> None:
            await client.do_handshake()
            await client.send_all(data)

        nursery.start_soon(send_at_once)
        await server.do_handshake()
        assert bio.most <= 16 * 1024
        received = b""
        while len(received) < len(data):
            received += await server.receive_some()
    assert received == data
    await trio.aclose_forcefully(near)
    await trio.aclose_forcefully(far)


# The server's session tickets


class Writes:
    """A replacement for `os.write` that records the writes, and can write less or fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *sizes: int | OSError) -> None:
        self.made: list[bytes] = []
        self._sizes = list(sizes)
        self._write = os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, descriptor: int, data: memoryview) -> int:
        size = self._sizes.pop(0) if self._sizes else len(data)
        if isinstance(size, OSError):
            raise size
        self.made.append(bytes(data[:size]))
        return self._write(descriptor, data[:size])


def records(data: bytes) -> list[bytes]:
    """Split `data` into records."""
    made = []
    while data:
        end = 5 + int.from_bytes(data[3:5])
        made.append(data[:end])
        data = data[end:]
    return made


@pytest.mark.parametrize("tickets", [0, 1, 2, 5])
async def test_a_server_sends_its_tickets_with_the_end_of_the_handshake_each_in_a_write(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch, tickets: int
) -> None:
    contexts.server.num_tickets = tickets
    writes = Writes(monkeypatch)
    near, far = await contexts.pair(*await contexts.sockets())
    # ClientHello, the server's flight, Finished, and the data that the server sends after that.
    later = writes.made[3:]
    assert len(later) == tickets
    assert all(len(records(write)) == 1 for write in later)
    # The tickets arrived without any data.
    received = b""
    while len(received) < sum(map(len, later)):
        received += await near.transport.receive_some()
    assert received == b"".join(later)
    for transport in (near, far):
        await trio.aclose_forcefully(transport)


@pytest.mark.parametrize(
    "sizes",
    [(BlockingIOError(),), (10, BlockingIOError()), (1000, BlockingIOError()), (3, 4), (1000, 10, BlockingIOError())],
    ids=str,
)
async def test_tickets_that_cannot_be_sent_at_once_go_with_the_first_data(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int | OSError, ...]
) -> None:
    sockets = await contexts.sockets()
    # The first three belong to the handshake.
    Writes(monkeypatch, 10_000, 10_000, 10_000, *sizes)
    near, far = await contexts.pair(*sockets)
    for data in (b"first", b"second"):
        await far.send_all(data)
        assert await near.receive_some() == data
    assert near.take_session() is not None
    await near.send_all(b"answer")
    assert await far.receive_some() == b"answer"
    for transport in (near, far):
        await trio.aclose_forcefully(transport)


async def test_a_client_that_has_gone_before_the_tickets_is_an_error_of_what_follows(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets = await contexts.sockets()
    Writes(monkeypatch, 10_000, 10_000, 10_000, BrokenPipeError(), 10_000, BrokenPipeError())
    near, far = await contexts.pair(*sockets)
    await near.send_all(b"last words")
    assert await far.receive_some() == b"last words"
    with pytest.raises(trio.BrokenResourceError):
        await far.send_all(b"x")
    for transport in (near, far):
        await trio.aclose_forcefully(transport)


async def test_a_client_that_never_reads_does_not_hold_up_the_servers_handshake(
    contexts: Contexts, autojump_clock: trio.testing.MockClock
) -> None:
    # Without a buffer: a send that is not received would wait forever.
    near, far = trio.testing.lockstep_stream_pair()
    with trio.fail_after(1):
        client, server = await contexts.pair(near, far)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, b"only that")
        with trio.fail_after(1):
            assert await server.receive_some() == b"only that"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.send_all, b"answer")
        assert await client.receive_some() == b"answer"
    assert client.take_session() is not None


# Data together with the end of the handshake


class Gated(RecordedTransport):
    """A transport whose second read waits for `gate`, and then returns all data that has arrived."""

    def __init__(self, transport: trio.abc.Stream) -> None:
        super().__init__(transport)
        self.gate = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self.received:
            await self.gate.wait()
        return await super().receive_some(max_bytes)


async def test_what_comes_together_with_the_end_of_the_handshake_is_received(contexts: Contexts) -> None:
    near, far = trio.testing.memory_stream_pair()
    gated = Gated(far)
    async with trio.open_nursery() as nursery:

        async def send_at_once() -> None:
            client = await handshake(near, contexts.client, timeout=10, server_hostname=HOST)
            await client.send_all(b"first words")
            gated.gate.set()

        nursery.start_soon(send_at_once)
        server = await handshake(gated, contexts.server, timeout=10, server_side=True)
        # No more data will arrive: waiting for it would never end.
        with trio.fail_after(5):
            assert await server.receive_some() == b"first words"


async def test_a_batch_is_one_write_of_the_transport(contexts: Contexts) -> None:
    near, far = trio.testing.memory_stream_pair()
    recorded = RecordedTransport(near)
    client, server = await contexts.pair(recorded, far)
    before = len(recorded.sent)
    await client.send_all(bytes(100_000))
    assert len(recorded.sent) == before + 1
    received = 0
    while received < 100_000:
        received += len(await server.receive_some())


async def test_data_in_any_pieces_arrives_whole(contexts: Contexts) -> None:
    near, far = trio.testing.memory_stream_pair()
    client, server = await contexts.pair(Dribble(near, 1), Dribble(far, 2))
    data = os.urandom(200_000)
    for source, sink in ((client, server), (server, client)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.send_all, data)
            received = b""
            while len(received) < len(data):
                received += await sink.receive_some()
        assert received == data


async def test_a_connection_over_a_dribbling_stream_works(contexts: Contexts) -> None:
    near, far = trio.testing.memory_stream_pair()
    client, server = await contexts.pair(Dribble(near, 3), Dribble(far, 4))
    data = os.urandom(150_000)
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            await trioanytls.serve_connection(server, echo, users=USERS)

        nursery.start_soon(serve)
        async with (
            trioanytls.wrap_client(client, password=USERS["alice"]) as connection,
            await connection.open_stream() as stream,
            trio.open_nursery() as sending,
        ):
            sending.start_soon(stream.send_all, data)
            received = b""
            while len(received) < len(data):
                received += await stream.receive_some()
    assert received == data


async def test_a_close_notify_is_an_end(contexts: Contexts) -> None:
    near, far = await contexts.pair(*await contexts.sockets())
    await near.send_all(b"last words")
    await near.aclose()
    assert await far.receive_some() == b"last words"
    for _ in range(2):
        assert await far.receive_some() == b""
    await far.aclose()


async def test_a_close_notify_is_an_end_even_after_our_own(contexts: Contexts) -> None:
    near, far = await contexts.pair(*await contexts.sockets())
    await near.send_eof()
    assert await far.receive_some() == b""
    await far.send_all(b"last words")
    await far.aclose()
    assert await near.receive_some() == b"last words"
    for _ in range(2):
        assert await near.receive_some() == b""
    await near.aclose()


async def test_a_truncation_is_an_error_after_the_data(contexts: Contexts) -> None:
    near, far = await contexts.pair(*await contexts.sockets())
    await near.send_all(b"last words")
    assert isinstance(near.transport, trio.abc.HalfCloseableStream)
    await near.transport.send_eof()
    assert await far.receive_some() == b"last words"
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError) as caught:
            await far.receive_some()
        assert isinstance(caught.value.__cause__, ssl.SSLError)
    await trio.aclose_forcefully(near)
    await far.aclose()


async def test_a_forged_record_is_an_error_after_the_data(contexts: Contexts) -> None:
    near, far = await contexts.pair(*await contexts.sockets())
    await near.send_all(b"good")
    await near.transport.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
    await trio.testing.wait_all_tasks_blocked()
    assert await far.receive_some() == b"good"
    with pytest.raises(trio.BrokenResourceError, match="TLS"):
        await far.receive_some()
    await trio.aclose_forcefully(near)
    await trio.aclose_forcefully(far)


async def test_what_has_arrived_can_be_received_after_sending_has_failed(contexts: Contexts) -> None:
    near, far = await contexts.pair(*await contexts.sockets())
    await near.send_all(bytes(100_000))
    await near.aclose()
    with pytest.raises(trio.BrokenResourceError):
        while True:
            await far.send_all(bytes(10_000))
    with pytest.raises(trio.BrokenResourceError):
        await far.send_all(b"x")
    received = 0
    while piece := await far.receive_some():
        received += len(piece)
    assert received == 100_000
    await far.aclose()


async def test_receiving_can_be_cancelled_at_any_time(contexts: Contexts) -> None:
    near, far = await contexts.pair(*await contexts.sockets())
    data = os.urandom(300_000)
    received = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, data)
        draw = random.Random(5)
        while len(received) < len(data):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as receiving:

                    async def receive() -> None:
                        nonlocal received
                        received += await far.receive_some(draw.randint(1, 5000))

                    receiving.start_soon(receive)
                    for _ in range(draw.randint(0, 3)):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
    assert received == data
    await near.aclose()
    await far.aclose()


async def test_closing_wakes_a_task_that_receives(contexts: Contexts) -> None:
    near, far = await contexts.pair(*await contexts.sockets())
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await near.receive_some()

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await near.aclose()
    assert isinstance(near.transport, trio.SocketStream)
    assert near.transport.socket.fileno() == -1
    await trio.aclose_forcefully(far)


async def test_alpn_is_the_contexts(contexts: Contexts) -> None:
    contexts.server.set_alpn_protocols(["h2", "http/1.1"])
    contexts.client.set_alpn_protocols(["http/1.1"])
    near, far = await contexts.pair(*trio.testing.memory_stream_pair())
    assert near.selected_alpn_protocol() == far.selected_alpn_protocol() == "http/1.1"
    assert near.version() == "TLSv1.3"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="only OpenSSL's own client can ask for a KeyUpdate")
async def test_a_key_update_is_answered_and_survived(contexts: Contexts, authority: trustme.CA, tmp_path: Path) -> None:
    trusted = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(trusted)
    listener = (await trio.open_tcp_listeners(0, host=HOST))[0]
    port = listener.socket.getsockname()[1]
    command = ["openssl", "s_client", "-connect", f"{HOST}:{port}", "-CAfile", str(trusted)]
    async with listener, trio.open_nursery() as nursery:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "check": False}
        process = await nursery.start(functools.partial(trio.run_process, command, **pipes))
        far = await handshake(await listener.accept(), contexts.server, timeout=10, server_side=True)
        for number in range(3):
            # The line "K" makes the client update its keys, and request that we update ours.
            await process.stdin.send_all(b"K\n")
            await read_until(process.stderr, b"KEYUPDATE")
            await process.stdin.send_all(b"message %d\n" % number)
            await read_until(far, b"message %d\n" % number)
            # With our new keys. The client could not decrypt this if our own update had not been sent.
            await far.send_all(b"answer %d\n" % number)
            await read_until(process.stdout, b"answer %d\n" % number)
        await far.aclose()
        nursery.cancel_scope.cancel()


async def read_until(stream: trio.abc.ReceiveStream, end: bytes) -> None:
    received = b""
    while end not in received:
        piece = await stream.receive_some()
        assert piece
        received += piece

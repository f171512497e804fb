"""Copies between streams and TCP sockets: data that arrives is passed on by the reader, and the bounds hold."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import ssl
import statistics
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import SideBroken, StreamReset, copy_both_ways
from trioanytls._connection.copy import TwoWayCopy
from trioanytls._connection.stream import core_of
from trioanytls._transport.direct_socket import DirectSocket
from trioanytls._transport.tls_stream import TLSStream
from trioanytls.testing import StreamQueue, echo, memory_connection_pair

from ..conftest import HOST, USERS
from ..helpers.extensions import ALL, NO_EXTENSIONS, extending

KIBIBYTE = 1024
MEBIBYTE = 1 << 20
#: The most data of one direction that a copy holds, and the data that a stream with a small window may hold besides.
HELD = 256 * KIBIBYTE
WINDOW = 64 * KIBIBYTE
#: The sizes to ask for of the buffers of a socket. Linux takes twice as much.
SMALL_BUFFERS = 64 * KIBIBYTE
#: Both with and without the extensions.
EITHER = pytest.mark.parametrize("extensions", [NO_EXTENSIONS, ALL], ids=["plain", "extended"])

Extensions = Any


@contextlib.asynccontextmanager
async def tcp_pair(buffers: int | None = None) -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """Yield both ends of a TCP connection, with socket buffers of this size each."""
    listener = trio.socket.socket()
    with listener:
        if buffers is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
        await listener.bind((HOST, 0))
        listener.listen()
        client = trio.socket.socket()
        if buffers is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        await client.connect(listener.getsockname())
        server, _ = await listener.accept()
    async with trio.SocketStream(client) as one, trio.SocketStream(server) as other:
        yield one, other


@contextlib.asynccontextmanager
async def stream_pair(extensions: Extensions) -> AsyncIterator[tuple[trioanytls.Stream, trioanytls.Stream]]:
    """Yield both ends of a stream on a connection in memory."""
    queue = StreamQueue()
    config = extending(extensions, stream_window=WINDOW, max_stream_window=WINDOW)
    async with (
        memory_connection_pair(queue, client_config=config, server_config=config) as (client, _),
        await client.open_stream() as near,
        await queue.get() as far,
    ):
        yield near, far


class Copy:
    """A copy from a stream to a socket and back, and its counters.

    Attributes:
      taken, sent: the bytes received from the stream, and sent to the socket.
      held: the most bytes that the copy has held in this direction at once.
    """

    def __init__(self, far: trioanytls.Stream, near: trio.SocketStream) -> None:
        self.taken = self.sent = self.held = 0
        self.two_way = TwoWayCopy(near, far, on_received=self._received, on_sent=self._sent)

    def _received(self, _up: int, down: int) -> None:
        self.taken += down
        self.held = max(self.held, self.taken - self.sent)

    def _sent(self, _up: int, down: int) -> None:
        self.sent += down


@pytest.fixture
def received_in_turns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the sizes of all data that tasks have received from streams themselves."""
    sizes: list[int] = []
    receive_some = trioanytls.Stream.receive_some

    async def receive(self: trioanytls.Stream, max_bytes: int | None = None) -> bytes:
        data = await receive_some(self, max_bytes)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(trioanytls.Stream, "receive_some", receive)
    return sizes


async def receive_exactly(stream: trio.abc.Stream, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        piece = await stream.receive_some(min(size - len(received), 64 * KIBIBYTE))
        assert piece
        received += piece
    return bytes(received)


@EITHER
async def test_arriving_data_needs_no_turn_of_the_copy(extensions: Extensions, received_in_turns: list[int]) -> None:
    async with stream_pair(extensions) as (near, far), tcp_pair() as (sink, application):
        copy = Copy(near, sink)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(copy.two_way.run)
            await trio.testing.wait_all_tasks_blocked()
            for size in (1, 1000, 64 * KIBIBYTE, 200 * KIBIBYTE):
                data = os.urandom(size)
                nursery.start_soon(far.send_all, data)
                assert await receive_exactly(application, size) == data
            nursery.cancel_scope.cancel()
    assert not received_in_turns
    assert copy.taken == copy.sent == 1001 + 264 * KIBIBYTE


@EITHER
async def test_the_bytes_are_those_that_were_sent_if_the_application_reads_slowly(
    extensions: Extensions, received_in_turns: list[int]
) -> None:
    data = os.urandom(4 * MEBIBYTE)
    async with stream_pair(extensions) as (near, far), tcp_pair(16 * KIBIBYTE) as (sink, application):
        copy = Copy(near, sink)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(copy.two_way.run)
            nursery.start_soon(far.send_all, data)
            received = bytearray()
            while len(received) < len(data):
                # What the socket does not take is sent by the copy, and nothing that arrives meanwhile overtakes it.
                await trio.testing.wait_all_tasks_blocked()
                received += await application.receive_some(100_000)
            nursery.cancel_scope.cancel()
    assert bytes(received) == data
    assert received_in_turns
    assert copy.taken == copy.sent == len(data)
    assert copy.held <= HELD


async def test_a_stalled_application_bounds_what_its_direction_holds() -> None:
    async with stream_pair(ALL) as (near, far), tcp_pair(16 * KIBIBYTE) as (sink, application):
        copy = Copy(near, sink)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(copy.two_way.run)

            async def send_without_end() -> None:
                while True:
                    await far.send_all(bytes(256 * KIBIBYTE))

            nursery.start_soon(send_without_end)
            await trio.testing.wait_all_tasks_blocked()
            assert copy.taken - copy.sent <= HELD
            assert core_of(near).received.size <= WINDOW
            # The application reads a little, and stalls again, any number of times.
            for _ in range(20):
                await receive_exactly(application, 100_000)
                await trio.testing.wait_all_tasks_blocked()
                assert copy.taken - copy.sent <= HELD
                assert core_of(near).received.size <= WINDOW
            nursery.cancel_scope.cancel()
    assert copy.held <= HELD


async def test_a_stalled_stream_bounds_what_its_direction_holds() -> None:
    async with stream_pair(ALL) as (near, far), tcp_pair() as (source, application):
        held = taken = sent = 0

        def received(up: int, _down: int) -> None:
            nonlocal taken, held
            taken += up
            held = max(held, taken - sent)

        def passed(up: int, _down: int) -> None:
            nonlocal sent
            sent += up

        async with trio.open_nursery() as nursery:
            nursery.start_soon(TwoWayCopy(source, near, on_received=received, on_sent=passed).run)
            nursery.start_soon(application.send_all, bytes(8 * MEBIBYTE))
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(30):
                assert taken - sent <= HELD
                # What was sent is credit of the peer.
                assert core_of(far).received.size <= WINDOW
                assert await far.receive_some()
                await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert held <= HELD


@pytest.mark.parametrize(("wire_format", "frame"), [("anytls1", 64 * KIBIBYTE), ("legacy", 64 * KIBIBYTE - 1)])
async def test_a_piece_is_a_number_of_whole_frames(
    wire_format: trioanytls.WireFormat, frame: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: set[int] = set()
    receive_some = DirectSocket.receive_some

    async def receive(self: DirectSocket, max_bytes: int) -> bytes:
        sizes.add(max_bytes)
        return await receive_some(self, max_bytes)

    monkeypatch.setattr(DirectSocket, "receive_some", receive)
    async with (
        memory_connection_pair(protocol=wire_format) as (client, _),
        await client.open_stream() as near,
        tcp_pair() as (source, application),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(TwoWayCopy(source, near).run)
        await application.send_all(b"question")
        assert await receive_exactly(application, 8) == b"question"
        nursery.cancel_scope.cancel()
    assert sizes == {HELD - HELD % frame}


# Errors and ends


@EITHER
async def test_a_socket_that_is_reset_while_data_arrives(extensions: Extensions) -> None:
    errors: list[SideBroken] = []

    async def copy(near: trio.SocketStream, far: trioanytls.Stream) -> None:
        try:
            await copy_both_ways(near, far)
        except SideBroken as error:
            errors.append(error)

    async with (
        stream_pair(extensions) as (near, far),
        tcp_pair() as (sink, application),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(copy, sink, near)
        await far.send_all(b"the first part")
        assert await receive_exactly(application, 14) == b"the first part"
        application.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await application.aclose()
        # Before the copy has noticed it.
        await far.send_all(b"the second part")
        if extensions == ALL:
            with pytest.raises(StreamReset):
                await far.receive_some()
        else:
            assert await far.receive_some() == b""
    assert [error.side for error in errors] == ["near"]
    assert isinstance(errors[0].__cause__, trio.BrokenResourceError)


async def test_an_end_follows_the_data_that_was_passed_on() -> None:
    async with stream_pair(ALL) as (near, far), tcp_pair() as (sink, application), trio.open_nursery() as nursery:
        nursery.start_soon(copy_both_ways, sink, near)
        data = os.urandom(300 * KIBIBYTE)

        async def answer() -> None:
            await far.send_all(data)
            await far.send_eof()

        nursery.start_soon(answer)
        assert await receive_exactly(application, len(data)) == data
        assert await application.receive_some(1) == b""
        # The other direction goes on.
        await application.send_all(b"thanks")
        assert await receive_exactly(far, 6) == b"thanks"
        await application.send_eof()
        assert await far.receive_some() == b""


async def test_an_abort_follows_the_data_that_was_passed_on() -> None:
    async with stream_pair(ALL) as (near, far), tcp_pair() as (sink, application), trio.open_nursery() as nursery:

        async def copy() -> None:
            with pytest.raises(SideBroken) as caught:
                await copy_both_ways(sink, near)
            assert caught.value.side == "far"

        nursery.start_soon(copy)
        await far.send_all(b"half an answ")
        assert await receive_exactly(application, 12) == b"half an answ"
        await far.reset()
        with pytest.raises(trio.BrokenResourceError):
            await application.receive_some(1)


async def test_counters_contain_each_byte_once() -> None:
    counted = [0, 0]

    def on_bytes(up: int, down: int) -> None:
        counted[0] += up
        counted[1] += down

    async with (
        stream_pair(ALL) as (near, far),
        tcp_pair(16 * KIBIBYTE) as (sink, application),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(functools.partial(copy_both_ways, sink, near, on_bytes=on_bytes))
        nursery.start_soon(far.send_all, bytes(MEBIBYTE))
        nursery.start_soon(application.send_all, bytes(500_000))
        # The application begins to read late, so that some of the data is passed on and some is sent by the copy.
        await trio.testing.wait_all_tasks_blocked()
        await receive_exactly(application, MEBIBYTE)
        await receive_exactly(far, 500_000)
        await application.send_eof()
        await far.send_eof()
    assert counted == [500_000, MEBIBYTE]


async def test_data_that_is_passed_on_restarts_the_timeout(
    autojump_clock: trio.testing.MockClock, received_in_turns: list[int]
) -> None:
    async with stream_pair(ALL) as (near, far), tcp_pair() as (sink, application), trio.open_nursery() as nursery:
        copy = Copy(near, sink)
        copy.two_way.down.set_timeout(30)
        nursery.start_soon(copy.two_way.run)
        for _ in range(3):
            await trio.sleep(29)
            await far.send_all(b"still here")
            assert await receive_exactly(application, 10) == b"still here"
            assert copy.two_way.down.silent_for() < 1
        assert not received_in_turns
        assert not copy.two_way.down.scope.cancelled_caught
        await trio.sleep(31)
        assert copy.two_way.down.scope.cancelled_caught
        nursery.cancel_scope.cancel()


async def test_a_cancelled_copy_passes_nothing_on() -> None:
    async with stream_pair(ALL) as (near, far), tcp_pair() as (sink, application):
        copy = Copy(near, sink)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(copy.two_way.run)
            await far.send_all(b"one")
            assert await receive_exactly(application, 3) == b"one"
            copy.two_way.scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
        await far.send_all(b"two")
        assert await near.receive_some() == b"two"
        assert core_of(near).forward is None


# Fairness


async def test_an_answer_beside_eight_downloads_is_bounded(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """Over TLS on TCP, with copies at both ends: the bytes that all downloads get during an exchange of a ninth."""

    async def handle(stream: trioanytls.Stream) -> None:
        if await stream.receive_some(1) == b"E":
            await echo(stream)
            return
        async with tcp_pair() as (far, destination), trio.open_nursery() as nursery:
            nursery.start_soon(send_without_end, destination)
            await copy_both_ways(stream, far)

    async def send_without_end(destination: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while True:
                await destination.send_all(bytes(256 * KIBIBYTE))

    received = 0
    begun = trio.Event()

    async def read(application: trio.SocketStream) -> None:
        nonlocal received
        with contextlib.suppress(trio.ClosedResourceError):
            while data := await application.receive_some(256 * KIBIBYTE):
                received += len(data)
                if received > 4 * MEBIBYTE:
                    begun.set()

    passed = []
    async with tcp_pair(SMALL_BUFFERS) as (one, other), trio.open_nursery() as nursery:
        client, server = (
            TLSStream(one, client_context, server_hostname=HOST),
            TLSStream(other, server_context, server_side=True),
        )
        async with trio.open_nursery() as handshakes:
            handshakes.start_soon(client.do_handshake)
            handshakes.start_soon(server.do_handshake)
        nursery.start_soon(functools.partial(trioanytls.serve_connection, server, handle, users=USERS))
        async with (
            trioanytls.wrap_client(client, password=USERS["alice"]) as connection,
            contextlib.AsyncExitStack() as stack,
        ):
            for _ in range(8):
                sink, application = await stack.enter_async_context(tcp_pair())
                stream = await connection.open_stream()
                await stream.send_all(b"D")
                nursery.start_soon(copy_both_ways, sink, stream)
                nursery.start_soon(read, application)
            small = await connection.open_stream()
            await small.send_all(b"E")
            await begun.wait()
            for _ in range(20):
                before = received
                await small.send_all(b"ping")
                assert await receive_exactly(small, 4) == b"ping"
                passed.append(received - before)
            nursery.cancel_scope.cancel()
    # Ahead of the answer are the send queue, a frame of each download, the writes of a pass and the buffers of the two
    # sockets, 1.3 MiB. While the request and the answer pass through the event loop, more data does, too.
    assert statistics.median(passed) < 4 * MEBIBYTE

"""Reading and writing the descriptor of a socket."""

from __future__ import annotations

import os
import socket
import struct
import sys

import pytest
import trio
import trio.testing

from trioanytls._transport.direct_socket import DirectSocket, direct_socket

from ..conftest import HOST

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a socket is not a descriptor")

MEBIBYTE = 1 << 20


def socket_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    near, far = trio.socket.socketpair()
    return trio.SocketStream(near), trio.SocketStream(far)


async def test_only_a_socket_stream_has_one() -> None:
    near, far = socket_pair()
    async with near, far:
        assert direct_socket(near) is not None
    assert direct_socket(trio.testing.memory_stream_pair()[0]) is None


async def test_all_data_and_the_end_are_received() -> None:
    near, far = socket_pair()
    data = os.urandom(MEBIBYTE)
    async with near, far, trio.open_nursery() as nursery:
        nursery.start_soon(far.send_all, data)
        direct, received = DirectSocket(near), bytearray()
        while len(received) < len(data):
            with trio.testing.assert_checkpoints():
                piece = await direct.receive_some(1000)
            assert 0 < len(piece) <= 1000
            received += piece
        assert received == data
        await far.send_eof()
        with trio.testing.assert_checkpoints():
            assert await direct.receive_some(1000) == b""


async def test_data_that_just_fills_a_read_is_followed_by_a_wait() -> None:
    near, far = socket_pair()
    async with near, far, trio.open_nursery() as nursery:
        direct = DirectSocket(near)
        await far.send_all(b"full")
        assert await direct.receive_some(4) == b"full"

        async def receive_more() -> None:
            assert await direct.receive_some(4) == b"more"

        nursery.start_soon(receive_more)
        await trio.testing.wait_all_tasks_blocked()
        await far.send_all(b"more")


async def test_a_cancelled_receive_loses_nothing() -> None:
    near, far = socket_pair()
    async with near, far:
        direct = DirectSocket(near)
        with trio.move_on_after(0) as scope:
            await direct.receive_some(1000)
        assert scope.cancelled_caught
        await far.send_all(b"data")
        with trio.CancelScope() as scope:
            scope.cancel()
            await direct.receive_some(1000)
        assert scope.cancelled_caught
        assert await direct.receive_some(2) == b"da"
        with trio.CancelScope() as scope:
            scope.cancel()
            await direct.receive_some(2)
        assert scope.cancelled_caught
        assert await direct.receive_some(2) == b"ta"


async def test_a_send_does_not_wait() -> None:
    near, far = socket_pair()
    async with near, far:
        near.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        direct, data = DirectSocket(near), os.urandom(4 * MEBIBYTE)
        sent = 0
        while passed := direct.send_nowait(memoryview(data)[sent:]):
            sent += passed
        assert 0 < sent < len(data)
        received = b""
        while len(received) < sent:
            received += await far.receive_some()
        assert received == data[:sent]


async def test_the_rest_of_a_send_waits() -> None:
    near, far = socket_pair()
    async with near, far:
        direct, data = DirectSocket(near), os.urandom(4 * MEBIBYTE)
        sent = direct.send_nowait(data)
        assert 0 < sent < len(data)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(direct.send_rest, memoryview(data)[sent:])
            received = bytearray()
            while len(received) < len(data):
                await trio.testing.wait_all_tasks_blocked()
                received += await far.receive_some()
        assert received == data
        with trio.testing.assert_checkpoints():
            await direct.send_rest(memoryview(b"data"))
        assert await far.receive_some() == b"data"


async def test_a_socket_that_is_closed_while_tasks_wait_for_it() -> None:
    near, far = socket_pair()
    direct = DirectSocket(near)
    while direct.send_nowait(bytes(1000)):
        pass

    async def receive() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await direct.receive_some(1000)

    async def send() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await direct.send_rest(memoryview(b"data"))

    async with far, trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        await near.aclose()
    assert direct.send_nowait(b"data") == 0
    await receive()
    await send()


async def test_a_socket_that_is_closed_when_data_has_come() -> None:
    near, far = socket_pair()
    async with far:
        await far.send_all(bytes(2000))
        direct = DirectSocket(near)
        assert await direct.receive_some(1000) == bytes(1000)
        await near.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await direct.receive_some(1000)


async def test_a_reset_is_an_error_of_the_connection() -> None:
    async with (await trio.open_tcp_listeners(0, host=HOST))[0] as listener:
        near = await trio.open_tcp_stream(*listener.socket.getsockname())
        far = await listener.accept()
    async with near:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.socket.close()
        direct = DirectSocket(near)
        with pytest.raises(trio.BrokenResourceError, match="socket connection broken"):
            await direct.receive_some(1000)
        assert direct.send_nowait(b"data") == 0
        with pytest.raises(trio.BrokenResourceError, match="socket connection broken"):
            await direct.send_rest(memoryview(b"data"))

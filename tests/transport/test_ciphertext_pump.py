"""Moving ciphertext between a transport and the BIOs of TLS."""

from __future__ import annotations

import os
import socket

import pytest
import trio
import trio.testing

from trioanytls._transport import ciphertext_pump
from trioanytls._transport.ciphertext_pump import READ_SIZE, SocketPump, StreamPump, make_pump

SCRATCH = memoryview(bytearray(READ_SIZE))
needs_readv = pytest.mark.skipif(not hasattr(os, "readv"), reason="needs os.readv")


def socket_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    near, far = trio.socket.socketpair()
    return trio.SocketStream(near), trio.SocketStream(far)


@needs_readv
async def test_only_a_socket_is_read_by_its_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = socket_pair()
    async with near, far:
        assert isinstance(make_pump(near), SocketPump)
        assert isinstance(make_pump(trio.testing.memory_stream_pair()[0]), StreamPump)
        monkeypatch.setattr(ciphertext_pump, "_HAS_READV", False)
        assert isinstance(make_pump(near), StreamPump)


@pytest.mark.parametrize("kind", [pytest.param(SocketPump, marks=needs_readv), StreamPump])
async def test_data_in_both_directions_and_the_end(kind: type[SocketPump | StreamPump]) -> None:
    near, far = socket_pair()
    async with near, far:
        pump = kind(near)
        await pump.send(b"request")
        assert await far.receive_some() == b"request"
        await far.send_all(b"answer")
        assert bytes(await pump.receive(SCRATCH)) == b"answer"
        await far.send_eof()
        assert not await pump.receive(SCRATCH)


@pytest.mark.parametrize("kind", [pytest.param(SocketPump, marks=needs_readv), StreamPump])
async def test_no_more_is_received_than_the_buffer_holds(kind: type[SocketPump | StreamPump]) -> None:
    near, far = socket_pair()
    async with near, far:
        pump = kind(near)
        await far.send_all(b"abcdefgh")
        assert [bytes(await pump.receive(SCRATCH[:3])) for _ in range(3)] == [b"abc", b"def", b"gh"]


@needs_readv
async def test_a_send_that_cannot_wait_returns_the_rest() -> None:
    near, far = socket_pair()
    async with near, far:
        near.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        data = os.urandom(4 * 1024 * 1024)
        rest = SocketPump(near).send_nowait(data)
        assert 0 < len(rest) < len(data)
        received = b""
        while len(received) < len(data) - len(rest):
            received += await far.receive_some()
        assert received + bytes(rest) == data


def test_a_stream_sends_nothing_without_waiting() -> None:
    assert StreamPump(trio.testing.memory_stream_pair()[0]).send_nowait(b"data") == b"data"


@needs_readv
async def test_a_cancelled_receive_loses_nothing() -> None:
    near, far = socket_pair()
    async with near, far:
        pump = SocketPump(near)
        with trio.move_on_after(0) as scope:
            await pump.receive(SCRATCH)
        assert scope.cancelled_caught
        await far.send_all(b"data")
        assert bytes(await pump.receive(SCRATCH)) == b"data"


@needs_readv
async def test_a_closed_socket_is_an_error() -> None:
    near, far = socket_pair()
    pump = SocketPump(near)
    await near.aclose()
    await far.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await pump.send(b"data")
    with pytest.raises(trio.ClosedResourceError):
        await pump.receive(SCRATCH)
    assert bytes(pump.send_nowait(b"data")) == b"data"


@needs_readv
async def test_a_reset_is_a_broken_resource() -> None:
    async with (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0] as listener:
        near = await trio.open_tcp_stream(*listener.socket.getsockname())
        far = await listener.accept()
    async with near:
        far.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        far.socket.close()
        with pytest.raises(trio.BrokenResourceError, match="socket connection broken"):
            await SocketPump(near).receive(SCRATCH)

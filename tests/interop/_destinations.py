"""Destinations on loopback, and the applications' side of what they serve."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import trio

from trioanytls.destination import Destination

from ..conftest import HOST
from ._applications import connect, exactly

#: The time for one exchange of digests, in seconds.
TRANSFER_TIMEOUT = 120
#: The number of bytes in an answer to a number.
ANSWER_SIZE = 4000

_BLOCK = os.urandom(1 << 20)


async def _send_blocks(stream: trio.abc.SendStream, count: int) -> bytes:
    """Send blocks, all of them different. Return their digest."""
    digest = hashlib.sha256()
    for index in range(count):
        block = index.to_bytes(4, "big") + _BLOCK[4:]
        digest.update(block)
        await stream.send_all(block)
    return digest.digest()


async def _receive_blocks(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    """Receive blocks. Return their digest."""
    digest = hashlib.sha256()
    left = count * len(_BLOCK)
    while left:
        piece = await stream.receive_some(min(left, 1 << 18))
        if not piece:
            raise EOFError(f"{left} bytes are missing")
        digest.update(piece)
        left -= len(piece)
    return digest.digest()


async def _serve_blocks(stream: trio.SocketStream) -> None:
    """Receive as many blocks as the first two bytes say, answer with their digest, and send as many."""
    async with stream:
        count = int.from_bytes(await exactly(stream, 2), "big")
        await stream.send_all(await _receive_blocks(stream, count))
        await stream.send_all(await _send_blocks(stream, count))


async def exchange_blocks(socks: int, port: int, count: int) -> None:
    """Send this many MiB to a destination of `serving_blocks`, receive as many, and compare the digests."""
    with trio.fail_after(TRANSFER_TIMEOUT):
        async with await connect(socks, Destination(HOST, port)) as stream:
            await stream.send_all(count.to_bytes(2, "big"))
            sent = await _send_blocks(stream, count)
            assert await exactly(stream, len(sent)) == sent
            received = await _receive_blocks(stream, count)
            assert await exactly(stream, len(received)) == received
            assert await stream.receive_some() == b""


async def _serve_numbers(stream: trio.SocketStream) -> None:
    """Answer a number of four bytes with many repetitions of it, and close."""
    async with stream:
        await stream.send_all(await exactly(stream, 4) * (ANSWER_SIZE // 4))


async def ask_number(socks: int, port: int, number: int) -> None:
    """Ask a destination of `serving_numbers`, and compare the answer."""
    question = number.to_bytes(4, "big")
    with trio.fail_after(60):
        async with await connect(socks, Destination(HOST, port)) as stream:
            await stream.send_all(question)
            assert await exactly(stream, ANSWER_SIZE) == question * (ANSWER_SIZE // 4)
            assert await stream.receive_some() == b""


async def _echo(stream: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        async for data in stream:
            await stream.send_all(data)


@contextlib.asynccontextmanager
async def _serving(serve: Callable[[trio.SocketStream], Awaitable[object]]) -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host=HOST))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def serving_blocks() -> contextlib.AbstractAsyncContextManager[int]:
    """Run the destination of `exchange_blocks`, and yield its port."""
    return _serving(_serve_blocks)


def serving_numbers() -> contextlib.AbstractAsyncContextManager[int]:
    """Run the destination of `ask_number`, and yield its port."""
    return _serving(_serve_numbers)


def echoing() -> contextlib.AbstractAsyncContextManager[int]:
    """Run a destination that returns what it receives, and yield its port."""
    return _serving(_echo)

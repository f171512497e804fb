"""Two event loops in two threads of one process: neither receives data of the other."""

from __future__ import annotations

import contextlib
import functools
import ssl
import sys
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio

import trioanytls
from trioanytls._transport import tls_stream
from trioanytls._transport.handshake import handshake
from trioanytls._transport.tls_stream import TLSStream

from ..conftest import HOST, USERS

Pair = tuple[TLSStream, TLSStream]

#: The number of bytes that each loop transfers, and the size of one `send_all`.
AMOUNT = 24 * 1024 * 1024
PIECE = 256 * 1024
#: The timeout of a test that hangs, in seconds. It does not affect a passing test.
TIMEOUT = 60


@pytest.fixture
def switching() -> Iterator[None]:
    """Switch between threads as often as Python can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


async def make_pair(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> Pair:
    async with (await trio.open_tcp_listeners(0, host=HOST))[0] as listener:
        near = await trio.open_tcp_stream(HOST, listener.socket.getsockname()[1])
        far = await listener.accept()
    made: dict[bool, TLSStream] = {}

    async def shake(transport: trio.SocketStream, context: ssl.SSLContext, *, server_side: bool) -> None:
        name = None if server_side else HOST
        made[server_side] = await handshake(
            transport, context, timeout=TIMEOUT, server_side=server_side, server_hostname=name
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(shake, near, client_context, server_side=False))
        nursery.start_soon(functools.partial(shake, far, server_context, server_side=True))
    return made[False], made[True]


async def count(stream: trio.abc.ReceiveStream, letter: bytes, foreign: list[bytes]) -> None:
    """Receive everything from a stream. Keep data that does not consist of `letter`."""
    size = 0
    while size < AMOUNT and (data := await stream.receive_some()):
        size += len(data)
        if bytes(data).count(letter) != len(data):
            foreign.append(bytes(data).replace(letter, b"")[:100])
    if size != AMOUNT:
        foreign.append(b"%d bytes" % size)


async def send(stream: trio.abc.SendStream, letter: bytes) -> None:
    for _ in range(AMOUNT // PIECE):
        await stream.send_all(letter * PIECE)


async def over_streams(pair: Pair, letter: bytes, foreign: list[bytes]) -> None:
    """Transfer data both ways through a connection's stream."""

    async def handler(stream: trioanytls.Stream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, stream, letter)
            nursery.start_soon(count, stream, letter, foreign)
        # The client closes.
        assert not await stream.receive_some()

    near, far = pair
    async with trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(trioanytls.serve_connection, far, handler, users=USERS))
        async with trioanytls.wrap_client(near, password=USERS["alice"]) as connection:
            stream = await connection.open_stream()
            async with trio.open_nursery() as both:
                both.start_soon(send, stream, letter)
                both.start_soon(count, stream, letter, foreign)
            await stream.aclose()


async def over_transports(pair: Pair, letter: bytes, foreign: list[bytes]) -> None:
    """Transfer data both ways through the transports alone, as the fallback uses them."""
    async with trio.open_nursery() as nursery:
        for transport in pair:
            nursery.start_soon(send, transport, letter)
            nursery.start_soon(count, transport, letter, foreign)
    for transport in pair:
        await trio.aclose_forcefully(transport)


@pytest.mark.parametrize("move", [over_streams, over_transports])
@pytest.mark.parametrize("made", ["in its own loop", "in another loop"])
@pytest.mark.usefixtures("switching")
async def test_no_loop_receives_what_is_anothers(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, move: Callable[..., Awaitable[None]], made: str
) -> None:
    foreign: list[bytes] = []
    make = functools.partial(make_pair, server_context, client_context)

    async def run(pair: Pair | None, letter: bytes) -> None:
        with trio.fail_after(TIMEOUT):
            await move(pair or await make(), letter, foreign)

    def run_loop(pair: Pair | None, letter: bytes) -> None:
        # A broken transport lost data, or received data of another one.
        try:
            trio.run(run, pair, letter)
        except Exception as error:  # noqa: BLE001 - reported by the assertion
            foreign.append(repr(error).encode())
        finally:
            for transport in pair or ():
                with contextlib.suppress(OSError):
                    assert isinstance(transport.transport, trio.SocketStream)
                    transport.transport.socket.close()

    async with trio.open_nursery() as nursery:
        for letter in (b"A", b"B"):
            pair = await make() if made == "in another loop" else None
            nursery.start_soon(trio.to_thread.run_sync, run_loop, pair, letter)
    assert foreign == []


async def test_each_thread_has_buffers_of_its_own_and_all_connections_in_it_share_them() -> None:
    def buffers() -> object:
        return tls_stream.per_thread.buffers

    def buffers_of_two_loops() -> tuple[object, object]:
        async def run() -> object:
            return buffers()

        return trio.run(run), trio.run(run)

    mine = buffers()
    assert mine is buffers()
    first, second = await trio.to_thread.run_sync(buffers_of_two_loops)
    assert first is second
    assert first is not mine

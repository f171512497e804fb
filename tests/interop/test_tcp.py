"""TCP through both ends: much data, many requests, and destinations that cannot be reached."""

from __future__ import annotations

import contextlib

import trio

from trioanytls.destination import Destination

from ..conftest import HOST
from ._applications import connect, exactly, fails
from ._destinations import ask_number, echoing, exchange_blocks, serving_blocks, serving_numbers
from ._ends import Running

# Nothing listens there, and nothing may without being root.
CLOSED_PORT = 1
#: How a client shows that a destination cannot be reached. sing-box answers the application before it knows.
FAILURE = {"client": "ended without a byte", "server": "refused"}


async def test_100_megabytes_each_way_are_whole(ends: Running) -> None:
    async with serving_blocks() as port:
        await exchange_blocks(ends.socks, port, 100)


async def test_200_requests_at_40_at_once(ends: Running) -> None:
    limit = trio.CapacityLimiter(40)

    async def ask(number: int) -> None:
        async with limit:
            await ask_number(ends.socks, port, number)

    async with serving_numbers() as port, trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(ask, number)


async def test_a_destination_that_refuses(ends: Running) -> None:
    assert await fails(ends.socks, Destination(HOST, CLOSED_PORT)) == FAILURE[ends.pair.sing_box]
    async with serving_numbers() as port:
        await ask_number(ends.socks, port, 1)


async def test_a_name_that_does_not_resolve(ends: Running) -> None:
    assert await fails(ends.socks, Destination("nothing.invalid", 80)) == FAILURE[ends.pair.sing_box]
    async with serving_numbers() as port:
        await ask_number(ends.socks, port, 1)


async def test_the_server_restarts_in_mid_use(ends: Running) -> None:
    """Connections of before end, and new ones work as soon as the server does."""
    async with echoing() as port:
        streams = [await connect(ends.socks, Destination(HOST, port)) for _ in range(5)]
        for stream in streams:
            await stream.send_all(b"before")
            assert await exactly(stream, 6) == b"before"
        await ends.server.stop()
        for stream in streams:
            async with stream:
                # Whether as a broken connection is the client's choice.
                with trio.fail_after(10), contextlib.suppress(trio.BrokenResourceError):
                    assert await stream.receive_some() == b""
        assert await fails(ends.socks, Destination(HOST, port))
        await ends.server.start()
        for _ in range(5):
            async with await connect(ends.socks, Destination(HOST, port)) as stream:
                await stream.send_all(b"after")
                assert await exactly(stream, 5) == b"after"

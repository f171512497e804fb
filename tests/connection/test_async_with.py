"""A stream as an asynchronous context manager."""

from __future__ import annotations

import pytest
import trio

import trioanytls
from trioanytls.testing import StreamQueue, memory_connection_pair

from ..helpers.extensions import ALL, NO_EXTENSIONS, extending


async def test_the_end_of_the_block_closes_the_stream() -> None:
    queue = StreamQueue()
    async with memory_connection_pair(queue) as (client, _):
        async with await client.open_stream() as stream:
            await stream.send_all(b"whole")
        far = await queue.get()
        assert b"".join([data async for data in far]) == b"whole"
        assert stream.closed


async def test_an_error_in_the_block_aborts_the_stream() -> None:
    """Data that was cut off does not look complete (extensions: 3)."""
    queue, config = StreamQueue(), extending(ALL)
    async with memory_connection_pair(queue, client_config=config, server_config=config) as (client, _):
        await client.ping()
        with pytest.raises(OSError, match="the disk is full"):
            async with await client.open_stream() as stream:
                await stream.send_all(b"cut")
                far = await queue.get()
                assert await far.receive_some() == b"cut"
                raise OSError("the disk is full")
        with pytest.raises(trioanytls.StreamReset) as raised:
            await far.receive_some()
        assert raised.value.code is trioanytls.StreamCode.GENERAL_FAILURE
        assert raised.value.reason is None
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"more")


async def test_without_half_close_an_error_closes_the_stream() -> None:
    """The peer could not tell the two apart, so data that was sent before is not dropped."""
    queue, config = StreamQueue(), extending(NO_EXTENSIONS)
    async with memory_connection_pair(queue, client_config=config) as (client, _):
        await client.ping()
        with pytest.raises(OSError, match="the disk is full"):
            async with await client.open_stream() as stream:
                await stream.send_all(b"cut")
                raise OSError("the disk is full")
        far = await queue.get()
        assert b"".join([data async for data in far]) == b"cut"

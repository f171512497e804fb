"""Streams that the server does not accept in time are closed, with their connection if it is silent."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import PoolConfig
from trioanytls._protocol.extensions import EXTENSIONS
from trioanytls.testing import StreamQueue

from ..helpers.pool_harness import (
    MANUAL,
    Clock,
    never_accept,
    pooled,
    settle,
    use,
    work,
)


async def test_a_stream_that_is_not_accepted_fails_alone_while_the_connection_lives(autojump_clock: Clock) -> None:
    pool = PoolConfig(acknowledge_timeout=8)
    async with pooled(handler=never_accept, pool=pool) as (client, server):
        server.config = MANUAL
        other = await client.open_stream()
        server.config = trioanytls.Config()
        connection = other.connection
        await trio.sleep(5)
        late = await client.open_stream()
        assert late.connection is connection
        await trio.sleep(1)
        await use(late)
        with pytest.raises(trioanytls.StreamTimeout, match="did not accept the stream within acknowledge_timeout"):
            await other.receive_some()
        assert trio.current_time() == pytest.approx(8)
        # The other stream was not accepted either. Its timeout began later.
        await use(late)
        with pytest.raises(trioanytls.StreamTimeout):
            while True:
                await trio.sleep(0.5)
                await use(late)
        assert trio.current_time() == pytest.approx(13, abs=0.5)
        assert not connection.closed
        assert client.stats.streams_unacknowledged == 2
        assert await work(client) is connection


async def test_a_silent_connection_is_given_up_with_all_its_streams(autojump_clock: Clock) -> None:
    pool = PoolConfig(acknowledge_timeout=8, verify_after=1000)
    async with pooled(pool=pool) as (client, server):
        accepted = await client.open_stream()
        await use(accepted)
        await trio.sleep(1)
        server.links[0].swallows = True
        streams = [await client.open_stream() for _ in range(5)]
        async with trio.open_nursery() as nursery:

            async def meet(stream: trioanytls.Stream) -> None:
                with pytest.raises(trioanytls.ConnectionClosed, match="neither accepted nor refused a stream"):
                    await stream.receive_some()
                assert trio.current_time() == pytest.approx(9)

            for stream in [accepted, *streams]:
                nursery.start_soon(meet, stream)
        await settle()
        assert client.stats.connections_closed == {"silent": 1}
        # The client goes on, and still watches such streams.
        await work(client)
        server.links[-1].swallows = True
        with pytest.raises(trioanytls.ConnectionClosed, match="neither accepted nor refused"):
            await (await client.open_stream()).receive_some()
        await settle()
        assert client.stats.connections_closed == {"silent": 2}


async def test_the_time_to_accept_stands_still_while_our_own_application_does_not_read(autojump_clock: Clock) -> None:
    config = trioanytls.Config(receive_buffer_size=1000, stall_timeout=1000, extensions=frozenset())
    queue = StreamQueue()
    pool = PoolConfig(acknowledge_timeout=8)
    async with pooled(handler=queue, config=config, pool=pool) as (client, server):
        server.config = MANUAL
        flood = await client.open_stream()
        far = await queue.get()
        await far.acknowledge()
        await far.send_all(bytes(10_000))
        await trio.sleep(5)
        waiting, late = await client.open_stream(), await client.open_stream()
        far_waiting = await queue.get()
        await far_waiting.acknowledge()
        # The acknowledgement has arrived, after data that the application does not read.
        await trio.sleep(60)
        assert not waiting.closed
        received = 0
        while received < 10_000:
            received += len(await flood.receive_some())
        await waiting.wait_acknowledged()
        # The timeout of the other stream begins here.
        start = trio.current_time()
        with pytest.raises(trioanytls.StreamTimeout):
            await late.receive_some()
        assert trio.current_time() - start == pytest.approx(8)
        for stream in (far, far_waiting, await queue.get()):
            await stream.aclose()


async def test_with_flow_control_the_time_to_accept_does_not_depend_on_streams_that_are_not_read(
    autojump_clock: Clock,
) -> None:
    queue = StreamQueue()
    pool = PoolConfig(acknowledge_timeout=8)
    config = trioanytls.Config(receive_buffer_size=1000, stall_timeout=1000, extensions=EXTENSIONS)
    async with pooled(handler=queue, config=config, pool=pool) as (client, server):
        server.config = trioanytls.Config(acknowledge="manual", extensions=EXTENSIONS)
        flood = await client.open_stream()
        far = await queue.get()
        await far.acknowledge()
        await far.send_all(bytes(10_000))
        await trio.sleep(5)
        waiting, late = await client.open_stream(), await client.open_stream()
        start = trio.current_time()
        far_waiting = await queue.get()
        await trio.sleep(1)
        await far_waiting.acknowledge()
        # The acknowledgement arrives although the data before it is not read.
        await waiting.wait_acknowledged()
        assert trio.current_time() - start == 1
        with pytest.raises(trioanytls.StreamTimeout):
            await late.receive_some()
        assert trio.current_time() - start == pytest.approx(8)
        # The server is told the reason.
        with pytest.raises(trioanytls.StreamReset) as caught:
            await (far_late := await queue.get()).receive_some()
        assert caught.value.code is trioanytls.StreamCode.TIMED_OUT
        received = 0
        while received < 10_000:
            received += len(await flood.receive_some())
        for stream in (far, far_waiting, far_late):
            await stream.aclose()


async def test_without_a_time_to_accept_streams_wait_for_ever(autojump_clock: Clock) -> None:
    config = trioanytls.Config(stream_idle_timeout=math.inf, keepalive_interval=100)
    async with pooled(handler=never_accept, config=config, pool=PoolConfig(acknowledge_timeout=math.inf)) as (
        client,
        s,
    ):
        s.config = trioanytls.Config(acknowledge="manual", stream_idle_timeout=math.inf)
        stream = await client.open_stream()
        assert not client._acknowledgements.pending
        await trio.sleep(10_000)
        await use(stream)


async def test_a_stream_that_was_closed_is_not_waited_for(autojump_clock: Clock) -> None:
    async with pooled(handler=never_accept) as (client, server):
        server.config = MANUAL
        for _ in range(3):
            await work(client)
        assert not client._acknowledgements.pending
        await trio.sleep(100)
        assert client.stats.streams_unacknowledged == 0

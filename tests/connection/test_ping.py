"""PINGPONG: one frame is request and reply (protocol: 4)."""

from __future__ import annotations

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls._protocol.anytls1.frames import FrameType
from trioanytls.testing import memory_connection_pair

from ..helpers.raw_peer import PINGPONG, raw_client, raw_server


async def test_two_ends_that_ping_at_the_same_moment_exchange_two_frames_in_all() -> None:
    async with memory_connection_pair() as (client, server):
        # Both are past their first writes, so that no frame comes between the two calls.
        await client.ping()
        before = client.stats, server.stats
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.ping)
            nursery.start_soon(server.ping)
        await trio.testing.wait_all_tasks_blocked()
        after = client.stats, server.stats
        for old, new in zip(before, after, strict=True):
            assert new.frames_sent["PINGPONG"] - old.frames_sent["PINGPONG"] == 1
            assert new.frames_received["PINGPONG"] - old.frames_received["PINGPONG"] == 1


async def test_each_request_is_answered_exactly_once() -> None:
    async with raw_client() as (peer, _):
        await peer.send(PINGPONG * 3)
        assert [frame[0] for frame in await peer.pending()] == [FrameType.SERVER_NEGO] + [FrameType.PINGPONG] * 3
        assert await peer.pending() == []


async def test_an_answer_is_not_answered() -> None:
    async with raw_server() as (client, peer), trio.open_nursery() as nursery:
        nursery.start_soon(client.ping)
        await peer.receive_auth()
        assert FrameType.PINGPONG in [frame[0] for frame in await peer.pending()]
        await peer.send(PINGPONG)
        assert await peer.pending() == []


async def test_the_round_trip_is_measured_in_seconds(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_server() as (client, peer), trio.open_nursery() as nursery:

        async def answer() -> None:
            await peer.receive_auth()
            await peer.pending()
            await trio.sleep(3)
            await peer.send(PINGPONG)

        nursery.start_soon(answer)
        assert await client.ping() == pytest.approx(3)


async def test_calls_share_an_outstanding_ping() -> None:
    async with memory_connection_pair() as (client, _):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(client.ping)
        assert client.stats.frames_sent["PINGPONG"] == 1


async def test_a_cancelled_ping_is_answered_in_the_background() -> None:
    async with memory_connection_pair() as (client, server):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.ping)
                scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        await client.ping()
        await server.ping()
        assert not client.closed
        assert client.stats.frames_sent["PINGPONG"] == server.stats.frames_sent["PINGPONG"]


async def test_an_unanswered_ping_ends_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_server(trioanytls.Config(keepalive_timeout=7)) as (client, _):
        start = trio.current_time()
        with pytest.raises(trioanytls.ConnectionClosed, match="not answered") as caught:
            await client.ping()
        assert trio.current_time() - start == pytest.approx(7)
        assert caught.value.code is trioanytls.CloseCode.IDLE_TIMEOUT

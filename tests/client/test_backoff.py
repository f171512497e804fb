"""The pauses between failed attempts to connect."""

from __future__ import annotations

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import PoolConfig

from ..helpers.pool_harness import (
    Clock,
    pooled,
    work,
)


async def test_pauses_double_up_to_a_limit(autojump_clock: Clock, full_pauses: None) -> None:
    pool = PoolConfig(retry_delay=0.5, max_retry_delay=5, open_timeout=20)
    async with pooled(pool=pool, error=ConnectionRefusedError("connection refused")) as (client, server):
        message = r"^no connection could be made: connection refused \(within 20 s\)$"
        with pytest.raises(trioanytls.ConnectFailed, match=message) as caught:
            await client.open_stream()
        assert caught.value.__cause__ is server.error
        assert trio.current_time() == pytest.approx(20)
        assert server.dials == pytest.approx([0, 0.5, 1.5, 3.5, 7.5, 12.5, 17.5])
        assert client.stats.connections_failed == 7


async def test_each_pause_is_shortened_by_up_to_a_half(autojump_clock: Clock) -> None:
    pool = PoolConfig(retry_delay=1, max_retry_delay=1, open_timeout=1000)
    async with pooled(pool=pool, error=OSError("no")) as (client, server):
        with pytest.raises(trioanytls.ConnectFailed):
            await client.open_stream()
    pauses = [later - sooner for sooner, later in zip(server.dials, server.dials[1:], strict=False)]
    assert min(pauses) >= 0.5 - 1e-9
    assert max(pauses) <= 1 + 1e-9
    # The pauses are spread over the range: there are more than a thousand.
    assert max(pauses) - min(pauses) > 0.4
    assert sum(pauses) / len(pauses) == pytest.approx(0.75, abs=0.05)


async def test_pauses_begin_anew_when_the_server_has_answered(autojump_clock: Clock, full_pauses: None) -> None:
    async with pooled(pool=PoolConfig(retry_delay=0.5, max_retry_delay=100)) as (client, server):
        for _ in range(3):
            server.kill()
            began = len(server.dials)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, client)
                await trio.sleep(3)
                server.start()
            assert [at - server.dials[began] for at in server.dials[began:]] == pytest.approx([0, 0.5, 1.5, 3.5])
            await trio.sleep(1)


async def test_work_goes_on_within_a_second_when_the_server_comes_back(autojump_clock: Clock) -> None:
    for pool in (PoolConfig(), PoolConfig(max_streams_per_connection=1, max_connections=50)):
        async with pooled(pool=pool, latency=0.01) as (client, server):
            await work(client)
            server.kill()
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(work, client)
                await trio.sleep(13.2)
                server.start()
                back = trio.current_time()
            assert trio.current_time() - back < 1


async def test_all_go_on_as_soon_as_the_server_has_answered_one(autojump_clock: Clock, full_pauses: None) -> None:
    pool = PoolConfig(max_streams_per_connection=1, retry_delay=10, max_retry_delay=10)
    async with pooled(pool=pool, error=OSError("no"), latency=0.01) as (client, server):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(client.open_stream)
            await trio.sleep(5)
            server.start()
        assert trio.current_time() == pytest.approx(10, abs=0.1)
        assert client.stats.streams == 20

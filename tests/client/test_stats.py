"""The counters of a client."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import PoolConfig

from ..helpers.pool_harness import Clock, client_of, memory_server, use, work


async def test_each_counter_counts(autojump_clock: Clock) -> None:
    pool = PoolConfig(
        max_streams_per_connection=1,
        max_connections=2,
        min_idle=0,
        idle_timeout=50,
        max_lifetime=400,
        acknowledge_timeout=10,
        open_timeout=5,
        retry_delay=100,
        max_retry_delay=100,
    )
    async with memory_server() as server:
        async with client_of(server, pool=pool) as client:
            expected: dict[str, Any] = {field.name: 0 for field in attrs.fields(trioanytls.ClientStats)} | {
                "connections_closed": {}
            }
            reached: set[str] = set()

            def changed(**changes: Any) -> None:
                """Check that these counters have changed, and no others."""
                expected.update(changes)
                reached.update(changes)
                assert attrs.asdict(client.stats) == expected

            changed()
            async with trio.open_nursery() as nursery:
                server.latency = 1
                nursery.start_soon(work, client)
                await trio.sleep(0.5)
                changed(connecting=1, waiting=1)
            changed(connecting=0, waiting=0, connections=1, idle=1, connections_made=1, streams_opened=1)

            # Two connections are the maximum.
            first, second = await client.open_stream(), await client.open_stream()
            changed(connections=2, idle=0, streams=2, connections_made=2, streams_opened=3)
            with pytest.raises(trioanytls.ConnectFailed):
                await client.open_stream()
            changed(streams_failed=1)
            with trio.move_on_after(1):
                await client.open_stream()
            # A cancelled call is in no counter.
            changed()
            await first.aclose()
            await second.aclose()
            changed(idle=2, streams=0)

            # The first connection is verified and does not answer. The second is verified then, and does.
            client._leases.connections[-1].connection._transport.swallows = True  # type: ignore[attr-defined]  # of the class that the test uses
            await work(client)
            await trio.testing.wait_all_tasks_blocked()
            changed(connections=1, idle=1, verified=2, streams_opened=4, connections_closed={"silent": 1})

            await trio.sleep(60)
            changed(connections=0, idle=0, connections_closed={"silent": 1, "idle": 1})

            # A server that neither accepts nor refuses streams.
            server.config = trioanytls.Config(acknowledge="manual")
            stream = await client.open_stream()
            changed(connections=1, streams=1, connections_made=3, streams_opened=5)
            await trio.sleep(0.1)
            await use(stream)
            with pytest.raises(trioanytls.StreamTimeout):
                await stream.receive_some()
            changed(idle=1, streams=0, streams_unacknowledged=1)
            server.config = trioanytls.Config()

            client._leases.connections[0].connection._transport.lose()  # type: ignore[attr-defined]  # of the class that the test uses
            await trio.testing.wait_all_tasks_blocked()
            changed(connections=0, idle=0, connections_closed={"silent": 1, "idle": 1, "lost": 1})

            server.kill()
            with pytest.raises(trioanytls.ConnectFailed):
                await client.open_stream()
            # The attempt pauses, and will end as no caller waits any more.
            changed(connecting=1, streams_failed=2, connections_failed=1)
            await trio.sleep(100)
            changed(connecting=0)
            server.start()

            server.resumes = True
            stream = await client.open_stream()
            changed(connections=1, streams=1, connections_made=4, connections_resumed=1, streams_opened=6)
            await use(stream)
            for _ in range(5):
                await trio.sleep(90)
                await use(stream)
            # Past its lifetime, the connection is closed with its last stream.
            await stream.aclose()
            await trio.testing.wait_all_tasks_blocked()
            changed(
                connections=0,
                streams=0,
                connections_closed={"silent": 1, "idle": 1, "lost": 1, "lifetime": 1},
            )
            server.resumes = False
            await work(client)
            changed(connections=1, idle=1, connections_made=5, streams_opened=7)
        changed(
            connections=0, idle=0, connections_closed={"silent": 1, "idle": 1, "lost": 1, "lifetime": 1, "closed": 1}
        )
    assert reached == set(expected)


async def test_stats_are_of_one_moment(autojump_clock: Clock) -> None:
    async with memory_server() as server, client_of(server) as client:
        before = client.stats
        await work(client)
        assert before.connections_made == 0
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            before.connections_made = 3  # type: ignore[misc] # it is frozen

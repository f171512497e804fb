"""The keepalive: a PINGPONG if nothing is received, and the end of a peer that does not answer (protocol: 4)."""

from __future__ import annotations

import trio
import trio.testing

import trioanytls
from trioanytls.testing import memory_connection_pair

from ..helpers.raw_peer import HELLO, raw_client


async def test_keep_alive_pings_when_nothing_comes(autojump_clock: trio.testing.MockClock) -> None:
    config = trioanytls.Config(keepalive_interval=10, keepalive_timeout=5, idle_timeout=50)
    async with memory_connection_pair(client_config=config) as (client, _):
        await client.ping()
        await trio.sleep(1000)
        assert not client.closed
        # One every 10 seconds, in addition to the first. The one due at this moment may be sent or not.
        assert client.stats.frames_sent["PINGPONG"] in (100, 101)


async def test_keep_alive_finds_a_dead_peer(autojump_clock: trio.testing.MockClock) -> None:
    config = trioanytls.Config(keepalive_interval=10, keepalive_timeout=5)
    async with raw_client(config=config) as (peer, server):
        await peer.send(HELLO[:0])
        await trio.sleep(16)
        assert server.closed
        assert server.close_reason is not None
        assert server.close_reason.code is trioanytls.CloseCode.IDLE_TIMEOUT

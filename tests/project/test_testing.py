"""`trioanytls.testing`: the tools for tests of applications."""

from __future__ import annotations

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls.testing import RecordedTransport, StreamQueue, echo, memory_connection_pair, memory_stream_pair


async def test_a_pair_of_connections_echoes_by_default() -> None:
    async with memory_connection_pair() as (client, server):
        assert not client.is_server
        assert server.is_server
        async with await client.open_stream() as stream:
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
        assert server.user == "user"


@pytest.mark.parametrize("protocol", ["anytls1", "legacy"])
async def test_a_pair_speaks_the_wire_format_asked_for(protocol: trioanytls.WireFormat) -> None:
    async with memory_connection_pair(protocol=protocol) as (client, server):
        async with await client.open_stream() as stream:
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
        assert client.protocol == server.protocol == protocol
    async with memory_stream_pair(protocol=protocol) as (near, far):
        await far.send_all(b"x")
        assert await near.receive_some() == b"x"
        assert near.connection.protocol == far.connection.protocol == protocol


async def test_a_queue_hands_out_streams_in_order() -> None:
    queue = StreamQueue()
    async with memory_connection_pair(queue) as (client, _):
        opened = [await client.open_stream() for _ in range(3)]
        accepted = [await queue.get() for _ in range(3)]
        assert {stream.stream_id for stream in opened} == {stream.stream_id for stream in accepted}
        # The server's end stays open until the test closes it, even if the client has closed its end.
        await opened[0].aclose()
        await trio.testing.wait_all_tasks_blocked()
        first = next(stream for stream in accepted if stream.stream_id == 1)
        assert await first.receive_some() == b""
        await first.aclose()


async def test_a_pair_of_streams_is_connected() -> None:
    async with memory_stream_pair(client_config=trioanytls.Config(idle_timeout=7)) as (near, far):
        assert near.connection.config.idle_timeout == 7
        assert far.connection.is_server
        await far.send_all(b"x")
        assert await near.receive_some() == b"x"


async def test_errors_of_the_test_come_out_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError):
        async with memory_connection_pair():
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        async with memory_stream_pair():
            raise ZeroDivisionError


async def test_a_recorded_transport_remembers_both_directions() -> None:
    near, far = trio.testing.memory_stream_pair()
    recorded = RecordedTransport(near)
    async with memory_connection_pair(echo, transports=(recorded, far)) as (client, server):
        await client.ping()
        assert len(b"".join(recorded.sent)) == client.stats.bytes_sent == server.stats.bytes_received
        assert len(b"".join(recorded.received)) == client.stats.bytes_received == server.stats.bytes_sent
        await recorded.wait_send_all_might_not_block()

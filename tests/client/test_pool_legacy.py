"""The pool over the wire format "legacy": as anytls-go, sing-box and mihomo use their connections (legacy: 5)."""

from __future__ import annotations

import contextlib
import math
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import PoolConfig
from trioanytls._client.pool import Client
from trioanytls._protocol.legacy import client as legacy_client
from trioanytls._protocol.legacy.frame_decoder import FrameDecoder
from trioanytls._protocol.legacy.frames import Command
from trioanytls._protocol.legacy.preamble import PreambleDecoder
from trioanytls._protocol.legacy.scheme import parse_scheme

from ..conftest import HOST, USERS, Serving
from ..helpers.pool_harness import (
    MANUAL,
    Clock,
    Link,
    MemoryServer,
    client_of,
    memory_server,
    never_accept,
    settle,
    use,
    work,
)

SYN, PSH, FIN = int(Command.SYN), int(Command.PSH), int(Command.FIN)


@contextlib.asynccontextmanager
async def legacy(
    pool: PoolConfig | None = None, config: trioanytls.Config | None = None, **options: Any
) -> AsyncIterator[tuple[Client, MemoryServer]]:
    """Run a server that accepts the format "legacy" alone, and a client of it."""
    async with (
        memory_server(protocols=("legacy",), **options) as server,
        client_of(server, pool=pool, config=config, protocol="legacy") as client,
    ):
        yield client, server


@pytest.fixture
def version_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a server behave as one of version 1: without ServerSettings and SYNACK, since clients ask for version 1."""
    monkeypatch.setattr(legacy_client, "VERSION", 1)


def frames_sent(link: Link) -> list[tuple[int, int]]:
    """Return the command and the stream of each frame that the client has sent, in order."""
    preamble, decoder = PreambleDecoder(65535), FrameDecoder()
    for data in link.sent:
        if preamble.rest is None:
            preamble.feed(data)
    data = b"".join(link.sent)[len(preamble.received) :]
    return [(command, stream_id) for command, stream_id, _ in decoder.decode(data) if command != Command.WASTE]


# One stream after the other


async def test_a_connection_carries_one_stream_at_a_time_and_the_newest_idle_one_is_next(autojump_clock: Clock) -> None:
    async with legacy() as (client, server):
        streams = [await client.open_stream() for _ in range(4)]
        assert len({stream.connection for stream in streams}) == len(server.open) == 4
        for stream in streams:
            await use(stream)
        # In any order: the newest connection is the one that was opened last.
        for stream in (streams[3], streams[1], streams[2]):
            await stream.aclose()
        assert await work(client) is streams[3].connection
        async with await client.open_stream() as held:
            assert held.connection is streams[3].connection
            assert await work(client) is streams[2].connection
        await streams[0].aclose()
        assert client.stats.connections_made == 4


async def test_more_streams_at_once_than_connections_of_the_other_format(autojump_clock: Clock) -> None:
    async with legacy(latency=1) as (client, server):
        assert client.capacity == 256
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(work, client)
        assert server.peak == 200


async def test_idle_connections_are_closed_after_30_to_60_seconds(autojump_clock: Clock) -> None:
    async with legacy() as (client, server):
        for start in (100, 229.5):
            await trio.sleep_until(start)
            await work(client)
            await trio.sleep_until(start + 30)
            assert len(server.open) == 1
            await trio.sleep_until(start + 60.1)
            assert len(server.open) == 0
        assert client.stats.connections_closed == {"idle": 2}


async def test_fin_precedes_the_syn_of_the_next_stream(autojump_clock: Clock) -> None:
    async with legacy() as (client, server):
        for _ in range(10):
            await work(client)
        await settle()
        assert [frame for frame in frames_sent(server.links[0]) if frame[0] != Command.SETTINGS] == [
            (command, stream_id) for stream_id in range(1, 11) for command in (SYN, PSH, FIN)
        ]


@pytest.mark.parametrize("data", [b"", b"hello"], ids=["without data", "with data"])
async def test_fin_precedes_the_next_syn_when_both_join_the_first_write(autojump_clock: Clock, data: bytes) -> None:
    async with legacy() as (client, server):
        first = await client.open_stream()
        if data:
            await first.send_all(data)
        await first.aclose()
        await work(client)
        await settle()
        sent = [frame for frame in frames_sent(server.links[0]) if frame[0] != Command.SETTINGS]
        assert sent == [(SYN, 1), *[(PSH, 1)] * bool(data), (FIN, 1), (SYN, 2), (PSH, 2), (FIN, 2)]


# Without reuse


@pytest.mark.parametrize("protocol", ["anytls1", "legacy"])
async def test_without_reuse_a_connection_is_closed_with_its_stream(autojump_clock: Clock, protocol: Any) -> None:
    received = b""

    async def collect(stream: trioanytls.Stream) -> None:
        nonlocal received
        async for data in stream:
            received += data

    async with (
        memory_server(collect, protocols=(protocol,)) as server,
        client_of(server, pool=PoolConfig(reuse=False), protocol=protocol) as client,
    ):
        for number in range(1, 4):
            async with await client.open_stream() as stream:
                await stream.send_all(bytes(100_000))
            await settle()
            assert (len(server.links), len(server.open)) == (number, 0)
            assert client.stats.connections_closed == {"used": number}
        assert len(received) == 300_000
        async with await client.open_stream() as one, await client.open_stream() as other:
            assert one.connection is not other.connection


async def test_without_reuse_a_connection_that_carried_no_stream_yet_carries_one(autojump_clock: Clock) -> None:
    async with legacy(pool=PoolConfig(reuse=False), latency=1) as (client, server):
        with trio.move_on_after(0.5):
            await client.open_stream()
        await trio.sleep(1)
        assert client.stats.idle == 1
        await work(client)
        await settle()
        assert (len(server.links), len(server.open)) == (1, 0)


# A server that closes an idle connection


@pytest.mark.parametrize("passes", range(14))
async def test_the_end_of_an_idle_connection_fails_no_stream_of_which_nothing_was_sent(
    autojump_clock: Clock, passes: int
) -> None:
    async with legacy() as (client, server):
        for _ in range(2):
            await work(client)
        await settle()
        link = server.links[0]

        async def lose() -> None:
            for _ in range(passes):
                await trio.lowlevel.checkpoint()
            link.lose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose)
            try:
                await work(client)
            except trioanytls.ConnectionClosed:
                # The server may have received the beginning of the stream.
                assert (SYN, 3) in frames_sent(link)
        assert len(server.links) == 2 or (SYN, 3) in frames_sent(link)
        # The server had answered on this connection, so its end is no failed attempt.
        assert client.stats.connections_failed == 0
        start = trio.current_time()
        await work(client)
        assert trio.current_time() == start


async def test_a_write_of_syn_that_fails_fails_no_stream(autojump_clock: Clock) -> None:
    async with legacy() as (client, server):
        connection = await work(client)
        # The client's reader does not notice.
        server.links[0].far.receive_stream.close()
        assert await work(client) is not connection


async def test_an_inline_write_of_syn_that_fails_fails_no_stream(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send_nowait(data: bytes) -> bool:
        raise trio.BrokenResourceError

    async with legacy() as (client, _):
        connection = await work(client)
        for _ in range(3):
            await work(client)
        await settle()
        writer = client._leases.connections[0]._multiplexer.writer
        assert not writer.shaper.active
        writer.inline_writes_left = 1
        monkeypatch.setattr(writer, "_send_nowait", send_nowait)
        assert await work(client) is not connection


async def test_open_stream_can_be_cancelled_until_syn_is_sent(autojump_clock: Clock) -> None:
    async with legacy() as (client, server):
        connection = await work(client)
        await settle()
        held = server.links[0].held = trio.Event()
        # One frame is being written, so that the next one is not taken.
        pings = client._leases.connections[0]._multiplexer
        pings.send_ping(trio.current_time())
        await settle()
        with trio.move_on_after(5) as scope:
            await client.open_stream()
        assert scope.cancelled_caught
        assert client.stats.streams == 0
        held.set()
        server.links[0].held = None
        assert await work(client) is connection
        # The stream that was cancelled was not sent.
        assert [frame for frame in frames_sent(server.links[0]) if frame[0] == SYN] == [(SYN, 1), (SYN, 3)]


# Version 1


async def test_no_stream_is_closed_because_a_server_of_version_1_does_not_accept_it(
    autojump_clock: Clock, version_1: None
) -> None:
    async def answer_late(stream: trioanytls.Stream) -> None:
        await trio.sleep(100)
        await stream.send_all(await stream.receive_some())

    async with legacy(pool=PoolConfig(acknowledge_timeout=8), handler=answer_late) as (client, server):
        for _ in range(2):
            async with await client.open_stream() as stream:
                await use(stream)
                assert stream.is_acknowledged
                assert stream.connection.version == 1
        assert client.stats.streams_unacknowledged == 0
        assert len(server.links) == 1


async def test_a_server_of_version_1_is_never_pinged(autojump_clock: Clock, version_1: None) -> None:
    pool = PoolConfig(min_idle=2, idle_timeout=5, check_interval=1, verify_after=0.1)
    config = trioanytls.Config(keepalive_interval=1, keepalive_timeout=2)
    async with legacy(pool=pool, config=config) as (client, server):
        for _ in range(5):
            await work(client)
            await trio.sleep(20)
        stream = await client.open_stream()
        for _ in range(2):
            # Each time: it does not wait for an answer that does not come.
            with pytest.raises(trioanytls.NotSupported):
                await stream.connection.ping()
        assert len(server.links) == 1
        assert client.stats.verified == 0
        assert (int(Command.HEART_REQUEST), 0) not in frames_sent(server.links[0])


async def test_the_end_of_a_connection_to_a_server_of_version_1_is_no_failed_attempt(
    autojump_clock: Clock, version_1: None
) -> None:
    async with legacy(pool=PoolConfig(retry_delay=10, max_retry_delay=10)) as (client, server):
        await work(client)
        server.links[0].lose()
        await trio.sleep(1)
        await work(client)
        assert trio.current_time() == 1


async def test_a_server_of_version_1_whose_only_word_was_a_scheme_has_answered(
    autojump_clock: Clock, version_1: None
) -> None:
    scheme = trioanytls.PaddingScheme.parse(b"stop=2\n0=10-10\n1=300-400\n")
    pool = PoolConfig(retry_delay=10, max_retry_delay=10)
    async with legacy(pool=pool, handler=trioanytls.Stream.wait_closed, padding_scheme=scheme) as (
        client,
        server,
    ):
        await client.open_stream()
        await trio.sleep(1)
        server.links[0].lose()
        await trio.sleep(1)
        await client.open_stream()
        assert trio.current_time() == 2
        assert client.padding_scheme == scheme


# Version 2


async def test_a_stream_that_a_server_of_version_2_does_not_accept_is_closed(autojump_clock: Clock) -> None:
    async with legacy(pool=PoolConfig(acknowledge_timeout=8), handler=never_accept) as (client, server):
        server.config = MANUAL
        stream = await client.open_stream()
        with pytest.raises(trioanytls.StreamTimeout, match="did not accept the stream within acknowledge_timeout"):
            await stream.receive_some()
        assert trio.current_time() == 8
        # Not after 3 seconds, as other programs do: a destination that is slow costs nothing but time.
        assert client.stats.streams_unacknowledged == 1


@pytest.mark.parametrize("known", [True, False], ids=["a server of version 2", "a server of unknown version"])
async def test_a_new_connection_whose_server_is_silent_is_closed_if_the_server_has_version_2(
    autojump_clock: Clock, known: bool
) -> None:
    config = trioanytls.Config(idle_timeout=100)
    async with legacy(pool=PoolConfig(acknowledge_timeout=8), config=config) as (client, server):
        if known:
            await work(client)
            server.links[0].lose()
            await trio.sleep(1)
        stream = await client.open_stream()
        server.links[-1].swallows = True
        start = trio.current_time()
        with pytest.raises(trioanytls.ConnectionClosed):
            await stream.receive_some()
        assert trio.current_time() - start == pytest.approx(8 if known else 100, abs=0.1)


@pytest.mark.parametrize("silent", [True, False], ids=["a dead connection", "a slow destination"])
async def test_a_stream_that_is_not_accepted_for_3_seconds_has_its_connection_verified(
    autojump_clock: Clock, silent: bool
) -> None:
    async with legacy(handler=never_accept) as (client, server):
        server.config = MANUAL
        connection = await work(client)
        await trio.sleep(5)
        server.links[0].swallows = silent
        start = trio.current_time()
        stream = await client.open_stream()
        assert stream.connection is connection
        # Only the silence of the server counts.
        with pytest.raises(trioanytls.ConnectionClosed if silent else trioanytls.StreamTimeout):
            await stream.receive_some()
        assert trio.current_time() - start == (6 if silent else 30)
        assert connection.closed == silent
        assert client.stats.verified == 1


async def test_a_client_that_must_not_ping_closes_a_dead_connection_by_acknowledge_timeout(
    autojump_clock: Clock,
) -> None:
    async with legacy(pool=PoolConfig(verify_after=math.inf, acknowledge_timeout=3)) as (client, server):
        await work(client)
        await trio.sleep(20)
        server.links[0].swallows = True
        with pytest.raises(trioanytls.ConnectionClosed):
            await (await client.open_stream()).receive_some()
        assert trio.current_time() == 23
        await settle()
        assert (client.stats.verified, client.stats.connections_closed) == (0, {"silent": 1})
        assert (int(Command.HEART_REQUEST), 0) not in frames_sent(server.links[0])


async def test_a_dead_connection_to_a_server_of_version_2_is_found_before_it_is_used(autojump_clock: Clock) -> None:
    async with legacy() as (client, server):
        dead = await work(client)
        await trio.sleep(20)
        server.links[0].swallows = True
        assert await work(client) is not dead
        assert trio.current_time() == 20 + client.pool.verify_timeout
        assert client.stats.connections_closed == {"silent": 1}


# Schemes


async def test_a_lenient_scheme_of_the_server_is_used_by_the_next_start(autojump_clock: Clock, tmp_path: Path) -> None:
    text = b"stop=3\nname=value\n0=12-12,x\n1=400-300,30\n2=20-20\n\n"
    scheme = parse_scheme(text)
    store = trioanytls.FileSchemeStore(tmp_path)
    async with memory_server(protocols=("legacy",), padding_scheme=scheme) as server:
        for expected in (trioanytls.PaddingScheme.DEFAULT, scheme):
            async with client_of(server, protocol="legacy", scheme_store=store, key="memory:1/legacy") as client:
                assert client.padding_scheme == expected
                await work(client)
                assert client.padding_scheme.text == text
                # The preamble with the padding of line 0, and the digest of the text.
                sent = server.links[-1].sent
                assert len(sent[0]) == 34 + (30 if expected is not scheme else 12)
                assert f"padding-md5={expected.digest}".encode() in sent[1]
    assert store.path("memory:1/legacy").read_bytes() == text + b"\n"


# Over TLS


async def test_a_server_over_tls_that_ends_idle_connections_fails_no_stream(
    serving: Serving, client_context: ssl.SSLContext
) -> None:
    async def answer(stream: trioanytls.Stream) -> None:
        await stream.send_all(await stream.receive_some())
        await stream.receive_some()
        connections.append(stream.connection)

    connections: list[trioanytls.Connection] = []
    async with (
        serving(answer, protocols=("legacy",)) as port,
        trioanytls.open_client(
            HOST, port, password=USERS["alice"], ssl_context=client_context, protocol="legacy"
        ) as client,
    ):
        for number in range(20):
            async with await client.open_stream() as stream:
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"
                assert stream.connection.protocol == "legacy"
            if number % 2:
                while len(connections) <= number:
                    await trio.lowlevel.checkpoint()
                await connections[-1].aclose()
        assert client.stats.connections_made == 10
        assert client.stats.connections_failed == 0

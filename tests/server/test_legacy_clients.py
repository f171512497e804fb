"""The life of a legacy client's connection at a server, over TLS on loopback: refused streams, draining, the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import Config
from trioanytls._server.connection import ServerConnection
from trioanytls._transport.tls_stream import TLSStream
from trioanytls.testing import RecordedTransport, StreamQueue, memory_connection_pair

from ..helpers.fallback_harness import end_tcp, end_tls, end_tls_and_tcp, receive_all, receive_exactly
from ..helpers.legacy_bytes import HELLO, PREAMBLE, SERVER_SETTINGS_2, VERSION_1, fin, psh, syn, synack
from ..helpers.legacy_peer import legacy_client
from ..helpers.server_harness import Running, Start, eventually

LEGACY = {"protocols": ["legacy"]}


async def connect(server: Running, streams: int = 1) -> TLSStream:
    """Connect a client of version 2 that speaks bytes, with open streams from 1 on."""
    ids = range(1, streams + 1)
    peer = await server.raw(HELLO + b"".join(map(syn, ids)))
    assert isinstance(peer.transport, TLSStream)
    received = await receive_exactly(peer.transport, len(SERVER_SETTINGS_2) + streams * len(synack(1)))
    assert received.startswith(SERVER_SETTINGS_2)
    return peer.transport


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (Config(max_streams=1), "too many streams are open"),
        (Config(max_stream_rate=1), "too many streams were opened"),
    ],
)
async def test_a_stream_beyond_a_limit_is_refused_with_a_text(start: Start, config: Config, text: str) -> None:
    """FIN alone would not stop the client's watch, which closes its session (legacy: 3)."""
    async with start(StreamQueue(), config=config, **LEGACY) as server:
        client = await connect(server)
        await client.send_all(syn(2))
        refusal = synack(2, text) + fin(2)
        assert await receive_exactly(client, len(refusal)) == refusal
        await client.send_all(psh(2, b"late") + psh(1, b"data"))
        await trio.aclose_forcefully(client)


async def test_a_stream_beyond_a_limit_of_version_1_is_refused_by_fin(start: Start) -> None:
    async with start(StreamQueue(), config=Config(max_streams=1), **LEGACY) as server:
        peer = await server.raw(PREAMBLE + VERSION_1 + syn(1) + syn(2))
        assert await receive_exactly(peer.transport, len(fin(2))) == fin(2)
        await trio.aclose_forcefully(peer.transport)


# Draining


async def test_draining_ends_tls_when_the_last_handler_has_returned(start: Start, nursery: trio.Nursery) -> None:
    queue = StreamQueue()
    async with start(queue, config=Config(close_timeout=math.inf), **LEGACY) as server:
        client = await connect(server, streams=2)
        streams = sorted([await queue.get(), await queue.get()], key=lambda stream: stream.stream_id)
        done = await server.draining(nursery, math.inf)
        await client.send_all(syn(3))
        refusal = synack(3, "the server is shutting down") + fin(3)
        assert await receive_exactly(client, len(refusal)) == refusal
        await streams[0].send_all(b"last words")
        await streams[0].aclose()
        last = psh(1, b"last words") + fin(1)
        assert await receive_exactly(client, len(last)) == last
        await streams[1].send_all(b"x" * 100_000)
        await streams[1].aclose()
        rest = await receive_all(client)
        # Everything that was accepted, FIN, and then close_notify: no frame says that the connection ends.
        assert rest.endswith(fin(2))
        assert rest.count(b"x") == 100_000
        assert not done.is_set()
        await client.aclose()
        await done.wait()
        assert server.stats.connections_closed == {"SHUTTING_DOWN": 1}


async def test_draining_ends_connections_without_streams_at_once(start: Start, nursery: trio.Nursery) -> None:
    async with start(config=Config(close_timeout=math.inf), **LEGACY) as server:
        client = await connect(server, streams=0)
        done = await server.draining(nursery, math.inf)
        assert await receive_all(client) == b""
        assert not done.is_set()
        await client.aclose()
        await done.wait()


async def test_our_client_sees_the_end_of_a_drained_server(start: Start, nursery: trio.Nursery) -> None:
    queue = StreamQueue()
    async with start(queue, **LEGACY) as server, server.connect(protocol="legacy") as connection:
        near = await connection.open_stream()
        await near.send_all(b"x")
        far = await queue.get()
        done = await server.draining(nursery)
        await far.send_all(b"answer")
        await far.aclose()
        assert await near.receive_some() == b"answer"
        assert await near.receive_some() == b""
        await connection.wait_closed()
        await done.wait()
        reason = connection.close_reason
        assert reason is not None
        assert (reason.code, reason.reason) == (None, "the peer closed the connection")


async def test_a_drain_that_takes_too_long_cancels_the_handlers(start: Start) -> None:
    async with start(StreamQueue(), **LEGACY) as server:
        client = await connect(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.control.drain, 0.05)
            assert await receive_all(client) == b""
            await client.aclose()


async def test_draining_ends_undecided_connections_without_a_frame(
    start: Start, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How long the server waits for the rest of AUTH and NEGO.
    monkeypatch.setattr("trioanytls._server.connection._MAX_ANNOUNCEMENT", 0.1)
    async with start(config=Config(auth_timeout=math.inf), protocols=["anytls1", "legacy"]) as server:
        clients = [(await server.raw(first)).transport for first in (b"", b"\x00\x00", PREAMBLE[:40])]
        await eventually(lambda: server.stats.bytes_received == 42)
        done = await server.draining(nursery)
        for client in clients:
            assert await receive_all(client) == b""
        await done.wait()


async def test_a_cancelled_server_ends_tls_without_fin(start: Start) -> None:
    """A stream must not look finished: only our clients can tell, from the end of the connection."""

    async def handler(stream: trioanytls.Stream) -> None:
        await stream.receive_some()

    # Many times, since the order of cancellation is random.
    for _ in range(20):
        async with start(handler, **LEGACY) as server:
            client = await connect(server, streams=3)
            server.scope.cancel()
            assert await receive_all(client) == b""
            await client.aclose()


# The end of a connection


@pytest.mark.parametrize(("end", "reason"), [(end_tls, "NO_ERROR"), (end_tls_and_tcp, "NO_ERROR"), (end_tcp, "LOST")])
async def test_a_client_closes_its_connection_by_ending_tls(
    start: Start, end: Callable[[TLSStream], Any], reason: str
) -> None:
    queue = StreamQueue()
    async with start(queue, config=Config(close_timeout=math.inf), **LEGACY) as server:
        client = await connect(server)
        stream = await queue.get()
        await client.send_all(psh(1, b"data"))
        await end(client)
        assert await receive_exactly(stream, 4) == b"data"
        # The peer left without closing the stream, so it must not look complete.
        with pytest.raises(trioanytls.ConnectionClosed) as caught:
            await stream.receive_some()
        assert caught.value.code is None
        await stream.aclose()
        await eventually(lambda: server.stats.connections == 0)
        assert server.stats.connections_closed == {reason: 1}
        await trio.aclose_forcefully(client)


async def test_a_client_of_ours_ends_tls_and_reads_on_for_a_bounded_time(start: Start) -> None:
    queue = StreamQueue()
    async with start(queue, **LEGACY) as server:
        async with server.connect(protocol="legacy", config=Config(close_timeout=math.inf)) as connection:
            stream = await connection.open_stream()
            await stream.send_all(b"x" * 1000)
            far = await queue.get()
            # The answer that nobody reads is on its way when the client leaves.
            await far.send_all(b"y" * 60_000)
        assert await receive_exactly(far, 1000) == b"x" * 1000
        await far.aclose()
        await eventually(lambda: server.stats.connections == 0)
        assert server.stats.connections_closed == {"NO_ERROR": 1}


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_transport_without_half_close_is_closed_at_once(
    side: str, autojump_clock: trio.testing.MockClock
) -> None:
    """No frame tells the peer to close its side, so there is nothing to wait for."""
    transports = trio.testing.memory_stream_pair()
    near, far = map(RecordedTransport, transports)
    async with memory_connection_pair(StreamQueue(), transports=(near, far), protocol="legacy") as (client, server):
        stream = await client.open_stream()
        await stream.send_all(b"x")
        await trio.testing.wait_all_tasks_blocked()
        await (client if side == "client" else server).aclose()
        assert trio.current_time() == pytest.approx(0)
        for end in (client, server):
            await end.wait_closed()
        assert trio.current_time() == pytest.approx(0)


#: How the server closes: for its application, because the client broke the protocol, and because it is drained.
ENDS = ["aclose", "violation", "drain"]


@pytest.mark.parametrize("end", ENDS)
async def test_a_server_ends_tls_at_once_and_reads_on_until_close_timeout(
    end: str, autojump_clock: trio.testing.MockClock
) -> None:
    hello = PREAMBLE + syn(1) if end == "violation" else HELLO
    async with (
        legacy_client(config=Config(close_timeout=7), hello=hello) as (peer, server),
        trio.open_nursery() as nursery,
    ):
        if end == "aclose":
            await peer.pending()
            nursery.start_soon(server.aclose)
        elif end == "drain":
            await peer.pending()
            assert isinstance(server, ServerConnection)
            server.drain()
        await peer.receive_all()
        assert trio.current_time() == 0
        # Single bytes do not prolong it.
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await peer.send(b"x")
                await trio.sleep(0.5)
        await server.wait_closed()
        assert trio.current_time() == pytest.approx(7, abs=0.5)


async def test_a_server_reads_1_mib_after_its_end_and_no_more(autojump_clock: trio.testing.MockClock) -> None:
    async with legacy_client(config=Config(close_timeout=1000)) as (peer, server), trio.open_nursery() as nursery:
        await peer.pending()
        nursery.start_soon(server.aclose)
        assert await peer.receive_all() == []
        for _ in range(17):
            await peer.send(bytes(64 * 1024))
            await trio.testing.wait_all_tasks_blocked()
        await server.wait_closed()
        assert trio.current_time() == 0

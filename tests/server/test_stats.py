"""The counters of a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

import trioanytls
from trioanytls import CloseCode, Config, ServerStats
from trioanytls._protocol import data_blocks
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.credentials import hash_password
from trioanytls.testing import StreamQueue

from ..conftest import USERS
from ..helpers.raw_peer import AUTH, HELLO, NEGO, SCHEME, data
from ..helpers.server_harness import Start, eventually, is_accepted, last_frames

Clock = trio.testing.MockClock


_reached: set[str] = set()


def reaches(*counters: str) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Declare the counters that a test makes count."""
    _reached.update(counters)
    return lambda test: test


def test_each_counter_is_reached_by_a_test() -> None:
    assert _reached == {field.name for field in attrs.fields(ServerStats)}


async def test_a_new_server_has_counted_nothing(start: Start) -> None:
    async with start() as server:
        assert server.stats == ServerStats()


@reaches("connections", "unauthenticated", "connections_accepted", "authentications", "streams", "streams_opened")
async def test_what_is_open_is_counted(start: Start) -> None:
    queue = StreamQueue()
    async with start(queue) as server:
        transport = await server.tcp()
        await eventually(lambda: server.stats.connections_accepted == 1)
        assert (server.stats.connections, server.stats.unauthenticated) == (1, 1)
        peer = await server.raw(b"", transport=transport)
        assert (server.stats.connections, server.stats.unauthenticated, server.stats.authentications) == (1, 1, 0)
        other = await server.with_streams(2)
        streams = [await queue.get(), await queue.get()]
        stats = server.stats
        assert (stats.connections, stats.unauthenticated, stats.authentications) == (2, 1, 1)
        assert (stats.streams, stats.streams_opened) == (2, 2)
        await streams[0].aclose()
        await eventually(lambda: server.stats.streams == 1)
        await streams[1].aclose()
        await trio.aclose_forcefully(peer.transport)
        await trio.aclose_forcefully(other.transport)
        await eventually(lambda: server.stats.connections == 0)
        stats = server.stats
        assert (stats.unauthenticated, stats.streams, stats.streams_opened) == (0, 0, 2)
        assert (stats.connections_accepted, stats.authentications) == (2, 1)


@reaches("authentications_by_protocol")
async def test_authentications_are_counted_by_wire_format(start: Start) -> None:
    async with start(protocols=["anytls1", "legacy"]) as server:
        for protocol in ("legacy", "anytls1", "legacy"):
            async with server.connect(protocol=protocol) as connection, await connection.open_stream() as stream:
                # A legacy client says nothing before the first data of a stream.
                await stream.send_all(b"hello")
                await stream.receive_some()
        stats = server.stats
        assert stats.authentications_by_protocol == {"anytls1": 1, "legacy": 2}
        assert stats.authentications == 3


@reaches("draining")
async def test_draining_is_shown(start: Start) -> None:
    async with start() as server:
        assert not server.stats.draining
        await server.control.drain()
        assert server.stats.draining


@pytest.mark.parametrize("limit", ["max_connections", "max_unauthenticated", "max_unauthenticated_per_address"])
@reaches("connections_refused")
async def test_connections_beyond_a_limit_are_counted(start: Start, limit: str) -> None:
    async with start(config=Config(**dict[str, Any]({limit: 2}))) as server:
        kept = [await server.tcp() for _ in range(2)]
        await eventually(lambda: server.stats.connections == 2)
        refused = await server.tcp()
        assert await refused.receive_some() == b""
        assert server.stats.connections_refused == {limit: 1}
        # A connection that closes makes room.
        await kept.pop().aclose()
        await eventually(lambda: server.stats.connections == 1)
        await server.with_streams(0)
        assert server.stats.connections_refused == {limit: 1}
        await trio.aclose_forcefully(kept.pop())


@reaches("connections_closed", "handshakes_failed", "authentications_failed", "violations")
@pytest.mark.parametrize(
    ("hello", "label", "expected"),
    [
        (NEGO, "UNAUTHENTICATED", {"authentications_failed": 1}),
        (frames.encode_auth(hash_password("wrong"), 0), "UNAUTHENTICATED", {"authentications_failed": 1}),
        (b"known" + frames.encode_close(CloseCode.NO_ERROR), "NO_ERROR", {"authentications": 1}),
        (b"known" + frames.encode_close(CloseCode.INTERNAL_ERROR), "INTERNAL_ERROR", {"authentications": 1}),
        (b"known" + data(1, b""), "PROTOCOL_ERROR", {"authentications": 1, "violations": 1}),
        (b"known" + b"gone", "LOST", {"authentications": 1}),
        (None, "HANDSHAKE", {"handshakes_failed": 1}),
    ],
)
async def test_how_connections_end_is_counted(
    start: Start, hello: bytes | None, label: str, expected: dict[str, int]
) -> None:
    async with start() as server:
        if hello is None:
            await (await server.tcp()).send_all(b"GET / HTTP/1.1\r\n\r\n")
        elif not hello.startswith(b"known"):
            await server.raw(hello)
        else:
            peer = await server.with_streams(0)
            if hello.endswith(b"gone"):
                await trio.aclose_forcefully(peer.transport)
            else:
                await peer.send(hello.removeprefix(b"known"))
                await last_frames(peer)
        await eventually(lambda: server.stats.connections == 0)
        stats = server.stats
        assert stats.connections_closed == {label: 1}
        failures = ("handshakes_failed", "authentications", "authentications_failed", "violations")
        counted = {name: getattr(stats, name) for name in failures}
        assert counted == dict.fromkeys(failures, 0) | expected


async def test_a_handshake_that_is_cut_off_by_the_shutdown_is_counted(start: Start) -> None:
    async with start() as server:
        await server.tcp()
        await eventually(lambda: server.stats.connections == 1)
        await server.control.drain(0.001)
        assert server.stats.connections_closed == {"HANDSHAKE": 1}


@reaches("fallbacks", "fallback_connections")
async def test_fallbacks_are_counted(start: Start) -> None:
    go = trio.Event()

    async def fallback(stream: trioanytls.FallbackStream) -> None:
        await go.wait()

    async with start(fallback=fallback) as server:
        await server.raw(b"GET /")
        await eventually(lambda: server.stats.fallbacks == 1)
        stats = server.stats
        assert (stats.connections, stats.unauthenticated, stats.fallback_connections) == (1, 0, 1)
        assert stats.authentications_failed == 1
        go.set()
        await eventually(lambda: server.stats.connections == 0)
        stats = server.stats
        assert (stats.fallbacks, stats.fallback_connections) == (1, 0)
        assert stats.connections_closed == {"FALLBACK": 1}


@pytest.mark.parametrize("limit", ["max_fallbacks", "max_fallbacks_per_address"])
@reaches("fallbacks_refused", "fallbacks_displaced")
async def test_fallbacks_beyond_a_limit_are_counted(start: Start, mock_clock: Clock, limit: str) -> None:
    async def fallback(stream: trioanytls.FallbackStream) -> None:
        await trio.sleep_forever()

    async with start(fallback=fallback, config=Config(**dict[str, Any]({limit: 1}))) as server:
        await server.raw(b"GET /")
        await eventually(lambda: server.stats.fallback_connections == 1)
        await server.raw(b"GET /")
        await eventually(lambda: server.stats.fallbacks_refused == {limit: 1})
        mock_clock.jump(6)
        await server.raw(b"GET /")
        await eventually(lambda: server.stats.fallbacks == 2)
        await eventually(lambda: server.stats.connections == 1)
        stats = server.stats
        assert (stats.fallbacks_displaced, stats.fallback_connections) == (1, 1)
        assert stats.connections_closed == {"UNAUTHENTICATED": 1, "FALLBACK": 1}


@pytest.mark.parametrize("limit", ["max_streams", "max_stream_rate"])
@reaches("streams_refused")
async def test_streams_beyond_a_limit_are_counted(start: Start, mock_clock: Clock, limit: str) -> None:
    async with start(StreamQueue(), config=Config(**dict[str, Any]({limit: 2}))) as server:
        await server.raw(HELLO + b"".join(frames.encode_open(number) for number in (1, 2, 3, 4, 5)))
        await eventually(lambda: server.stats.streams_opened == 5)
        assert server.stats.streams_refused == {limit: 3}
        assert server.stats.streams == 2


@reaches("connections_drained")
async def test_connections_that_are_drained_are_counted(start: Start, mock_clock: Clock) -> None:
    goaway, without = Config(extensions=frozenset({"goaway"})), Config(extensions=frozenset())
    async with start(config=goaway) as server, trio.open_nursery() as nursery:
        # One that answers, one that does not, one that is not told, and one that has not authenticated.
        async with server.connect(config=goaway) as told, server.connect(config=without) as untold:
            await told.ping()
            await untold.ping()
            keys = {"v": ["1"], "client": ["raw/1"], "padding-md5": [SCHEME.digest], "ext": ["goaway"]}
            await server.raw(AUTH + frames.encode_client_nego(data_blocks.format_key_values(keys)))
            await server.raw(b"")
            await eventually(lambda: server.stats.authentications == 3)
            await server.draining(nursery)
            await eventually(lambda: server.stats.connections == 2)
            assert server.stats.connections_drained == {"answered": 1, "untold": 1}
            mock_clock.jump(3)
            await eventually(lambda: sum(server.stats.connections_drained.values()) == 3)
            assert server.stats.connections_drained == {"answered": 1, "untold": 1, "unanswered": 1}
        nursery.cancel_scope.cancel()


@reaches("streams_timed_out")
async def test_streams_that_are_idle_are_counted(start: Start, mock_clock: Clock) -> None:
    async with start(StreamQueue(), config=Config(stream_idle_timeout=20)) as server:
        await server.with_streams()
        mock_clock.jump(21)
        await eventually(lambda: server.stats.streams == 0)
        assert server.stats.streams_timed_out == {"IDLE": 1}


async def test_streams_that_stall_others_are_counted(start: Start, mock_clock: Clock) -> None:
    async with start(StreamQueue(), config=Config(receive_buffer_size=1000, stall_timeout=20)) as server:
        peer = await server.with_streams(2)
        await peer.send(data(1, bytes(5000)))
        await eventually(lambda: server.stats.bytes_received > 5000)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(21)
        await eventually(lambda: sum(server.stats.streams_timed_out.values()) == 1)
        assert server.stats.streams_timed_out == {"STALLED": 1}


@reaches("handlers_failed")
async def test_handlers_that_fail_are_counted(start: Start) -> None:
    async def handler(stream: trioanytls.Stream) -> None:
        async for _ in stream:
            raise ZeroDivisionError

    async with start(handler) as server, server.connect() as connection:
        for expected in (1, 2):
            stream = await connection.open_stream()
            await stream.send_all(b"x")
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(await stream.receive_some() or b"gone")
            assert server.stats.handlers_failed == expected
        # A handler whose peer disconnects has not failed.
        stream = await connection.open_stream()
        await stream.wait_acknowledged()
        await connection.aclose()
        await eventually(lambda: server.stats.connections == 0)
        assert server.stats.handlers_failed == 2


@reaches("bytes_received", "bytes_sent")
async def test_bytes_are_counted_while_a_connection_lasts_and_after_it(start: Start) -> None:
    async with start() as server:
        async with server.connect() as connection:
            stream = await connection.open_stream()
            await stream.send_all(b"x" * 10_000)
            received = 0
            while received < 10_000:
                received += len(await stream.receive_some())
            await connection.ping()
            # Shaped data is sent in several pieces.
            await eventually(lambda: server.stats.bytes_received == connection.stats.bytes_sent)
            before = server.stats
            assert before.bytes_received > 10_000
            assert before.bytes_sent == connection.stats.bytes_received
        await eventually(lambda: server.stats.connections == 0)
        # Padding after CLOSE is not read.
        assert before.bytes_received < server.stats.bytes_received <= connection.stats.bytes_sent
        assert server.stats.bytes_sent == before.bytes_sent


async def test_a_snapshot_does_not_change(start: Start) -> None:
    async with start() as server:
        assert not await is_accepted(server, "wrong")
        await eventually(lambda: server.stats.connections == 0)
        before = server.stats
        copy = attrs.evolve(before, connections_closed=dict(before.connections_closed))
        assert not await is_accepted(server, "wrong")
        await eventually(lambda: server.stats.connections == 0)
        assert before == copy
        assert server.stats.connections_closed == {"UNAUTHENTICATED": 2}


_counts = st.integers(0, 2**40)
_labels = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.integers(1, 2**40))
_stats = st.builds(
    ServerStats,
    **{
        field.name: {"bool": st.booleans(), "int": _counts, "_COUNTS": _labels}[str(field.type)]
        for field in attrs.fields(ServerStats)
    },
)


@settings(max_examples=50, deadline=None)
@given(_stats, _stats, _stats)
def test_adding_snapshots(one: ServerStats, two: ServerStats, three: ServerStats) -> None:
    assert one + two == two + one
    assert (one + two) + three == one + (two + three)
    assert one + ServerStats() == one
    total = one + two
    for field in attrs.fields(ServerStats):
        first, second, both = (getattr(stats, field.name) for stats in (one, two, total))
        if isinstance(both, bool):
            assert both == (first or second)
        elif isinstance(both, int):
            assert both == first + second
        else:
            assert both == {label: first.get(label, 0) + second.get(label, 0) for label in {*first, *second}}


async def test_the_last_counters_remain(start: Start) -> None:
    async with start() as server:
        assert await is_accepted(server, USERS["alice"])
    stats = server.control.snapshot()
    assert stats.connections_accepted == stats.authentications == stats.streams_opened == 1
    assert stats.bytes_received > 0
    assert server.control.snapshot() == stats

"""Upstream: connections that applications may have closed make room for others."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from attrs import define, field

import trioanytls
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.extensions import MAX_LAST_SERVED
from trioanytls.destination import Destination, encode
from trioanytls.relay.reply_codes import ReplyCode
from trioanytls.relay.upstream import HALF_CLOSED_TIMEOUT, LEAST_SILENCE, Unreachable, Upstream

from ..helpers.extensions import ALL, extending
from ..helpers.pool_harness import Clock, Link, MemoryServer, client_of, memory_server
from ..helpers.raw_peer import PINGPONG, RawPeer

THERE = Destination("there.example", 443)
# Only the silence of applications ends connections in these tests.
PATIENT = trioanytls.Config(idle_timeout=1e6, stream_idle_timeout=1e6)
MANUAL = trioanytls.Config(idle_timeout=1e6, stream_idle_timeout=1e6, acknowledge="manual")
# The same with all extensions, and without half-close.
EXTENDED = extending(ALL, idle_timeout=1e6, stream_idle_timeout=1e6)
EXTENDED_MANUAL = extending(ALL, idle_timeout=1e6, stream_idle_timeout=1e6, acknowledge="manual")
WITHOUT_FIN = attrs.evolve(MANUAL, extensions={"goaway", "reset", "window"})


async def keep(stream: trioanytls.Stream) -> None:
    """Echo, and do not close before the client."""
    await stream.acknowledge()
    async for data in stream:
        await stream.send_all(data)


class Applications:
    """Local applications of a client with three streams."""

    def __init__(self, upstream: Upstream, nursery: trio.Nursery) -> None:
        self._upstream = upstream
        self._nursery = nursery

    async def open(self) -> trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]:
        """Open a connection that the relay has accepted.

        Raises:
          Unreachable: no stream is available.
        """
        application, near = trio.testing.memory_stream_pair()
        far = await self._upstream.open_stream(THERE)
        self._nursery.start_soon(self._upstream.relay, near, far)
        return application


async def works(
    application: trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream],
) -> bool:
    await application.send_all(b"hello")
    received = bytearray()
    while not received.endswith(b"hello"):
        data = await application.receive_some()
        if not data:
            return False
        received += data
    return True


async def is_reset(
    application: trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream],
) -> bool:
    # In memory, a reset looks like an end. There was none before.
    with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(1):
        async for _ in application:
            pass
    return True


async def test_connections_closed_by_applications_make_room_for_others(autojump_clock: Clock) -> None:
    # An application that closes 1.7 connections a second would fill all 1,024 streams of a client in ten minutes.
    pool = trioanytls.PoolConfig(max_connections=1, max_streams_per_connection=3, open_timeout=1)
    async with (
        memory_server(keep, config=WITHOUT_FIN) as server,
        client_of(server, pool=pool, config=PATIENT) as client,
        trio.open_nursery() as nursery,
    ):
        applications = Applications(Upstream(client, capacity=3), nursery)
        open_ = await applications.open()
        first, second = await applications.open(), await applications.open()
        await first.send_eof()
        await trio.sleep(LEAST_SILENCE / 2)
        await second.send_eof()
        # Both may still wait for an answer.
        with pytest.raises(Unreachable):
            await applications.open()
        await trio.sleep(LEAST_SILENCE / 2)
        # Only the connection that has been silent for longest makes room.
        third = await applications.open()
        assert await is_reset(first)
        with pytest.raises(Unreachable):
            await applications.open()
        await trio.sleep(LEAST_SILENCE)
        fourth = await applications.open()
        assert await is_reset(second)
        # Open connections do not make room, even if silent.
        await trio.sleep(HALF_CLOSED_TIMEOUT * 2)
        with pytest.raises(Unreachable):
            await applications.open()
        assert [await works(one) for one in (open_, third, fourth)] == [True] * 3
        nursery.cancel_scope.cancel()


async def test_an_answer_in_progress_keeps_its_stream(autojump_clock: Clock) -> None:
    async def answer(stream: trioanytls.Stream) -> None:
        await stream.acknowledge()
        while True:
            await stream.send_all(b"more")
            await trio.sleep(LEAST_SILENCE - 1)

    pool = trioanytls.PoolConfig(max_connections=1, max_streams_per_connection=1, open_timeout=1)
    async with (
        memory_server(answer, config=MANUAL) as server,
        client_of(server, pool=pool, config=PATIENT) as client,
        trio.open_nursery() as nursery,
    ):
        applications = Applications(Upstream(client, capacity=1), nursery)
        application = await applications.open()
        await application.send_eof()
        for _ in range(20):
            assert await application.receive_some() == b"more"
            with pytest.raises(Unreachable):
                await applications.open()
        nursery.cancel_scope.cancel()


async def test_without_need_they_stay(autojump_clock: Clock) -> None:
    async with (
        memory_server(keep, config=WITHOUT_FIN) as server,
        client_of(server, config=PATIENT) as client,
        trio.open_nursery() as nursery,
    ):
        upstream = Upstream(client, capacity=2)
        applications = Applications(upstream, nursery)
        application = await applications.open()
        await application.send_eof()
        await trio.sleep(HALF_CLOSED_TIMEOUT - 1)
        await applications.open()
        assert client.stats.streams == 2
        await trio.sleep(2)
        assert client.stats.streams == 1
        assert len(upstream._half_closed) == 0
        nursery.cancel_scope.cancel()


async def test_with_half_close_the_destination_learns_of_the_end(autojump_clock: Clock) -> None:
    pool = trioanytls.PoolConfig(max_connections=1, max_streams_per_connection=1, open_timeout=1)
    async with (
        memory_server(keep, config=EXTENDED_MANUAL) as server,
        client_of(server, pool=pool, config=EXTENDED) as client,
        trio.open_nursery() as nursery,
    ):
        upstream = Upstream(client, capacity=1)
        applications = Applications(upstream, nursery)
        start = trio.current_time()
        for _ in range(3):
            application = await applications.open()
            await application.send_all(b"the last words")
            await application.send_eof()
            assert b"".join([bytes(piece) async for piece in application]) == encode(THERE) + b"the last words"
            # The stream ends with both its directions, and makes room.
            assert len(upstream._half_closed) == 0
        assert trio.current_time() - start < 1
        nursery.cancel_scope.cancel()


async def test_with_half_close_a_destination_that_ends_first_receives_the_rest(autojump_clock: Clock) -> None:
    received: list[bytes] = []

    async def greet(stream: trioanytls.Stream) -> None:
        await stream.acknowledge()
        await stream.send_all(b"go ahead")
        await stream.send_eof()
        received.extend([piece async for piece in stream])

    async with (
        memory_server(greet, config=EXTENDED_MANUAL) as server,
        client_of(server, config=EXTENDED) as client,
        trio.open_nursery() as nursery,
    ):
        application = await Applications(Upstream(client), nursery).open()
        assert await application.receive_some() == b"go ahead"
        assert await application.receive_some() == b""
        await trio.sleep(HALF_CLOSED_TIMEOUT - 1)
        await application.send_all(b"the request")
        await trio.sleep(HALF_CLOSED_TIMEOUT - 1)
        await application.send_all(b", and more")
        await application.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        assert b"".join(received) == encode(THERE) + b"the request, and more"
        assert client.stats.streams == 0


async def test_with_half_close_an_answer_may_take_long(autojump_clock: Clock) -> None:
    async def think(stream: trioanytls.Stream) -> None:
        await stream.acknowledge()
        async for _ in stream:
            pass
        await trio.sleep(3 * HALF_CLOSED_TIMEOUT)
        await stream.send_all(b"the answer")

    async with (
        memory_server(think, config=EXTENDED_MANUAL) as server,
        client_of(server, config=EXTENDED) as client,
        trio.open_nursery() as nursery,
    ):
        application = await Applications(Upstream(client), nursery).open()
        await application.send_all(b"the question")
        await application.send_eof()
        assert b"".join([bytes(piece) async for piece in application]) == b"the answer"


# A server that is shutting down


@define(eq=False)
class LeavingServers:
    """Servers that shut down without having seen a stream; the server of `then` replaces them.

    Attributes:
      left: how many connections they accept.
      accepts: whether they accept the stream before that, against the protocol.
      received: the data that they have received on streams.
    """

    nursery: trio.Nursery
    then: MemoryServer
    left: int
    accepts: bool = False
    received: list[object] = field(init=False, factory=list)

    async def dial(self, timeout: float) -> Link:  # noqa: ASYNC109 - the signature of `Dial`
        if not self.left:
            return await self.then.dial(timeout)
        self.left -= 1
        link = Link(*trio.testing.memory_stream_pair())
        self.nursery.start_soon(self._serve, link)
        return link

    async def _serve(self, link: Link) -> None:
        peer = RawPeer(link.far)
        await peer.receive_auth()
        await peer.send(frames.encode_server_nego(b"v=1\next=goaway\n"))
        with contextlib.suppress(trio.BrokenResourceError):
            while (frame := await peer.receive()) is not None:
                kind, stream_id, payload = frame
                if kind == frames.FrameType.STREAM_DATA:
                    self.received.append(payload)
                    if self.accepts:
                        await peer.send(frames.encode_ack(stream_id))
                        await trio.testing.wait_all_tasks_blocked()
                    await peer.send(frames.encode_goaway(MAX_LAST_SERVED), PINGPONG)
                elif kind == frames.FrameType.PINGPONG:
                    await peer.send(frames.encode_goaway(0), frames.encode_close(trioanytls.CloseCode.SHUTTING_DOWN))
        await link.far.aclose()


@contextlib.asynccontextmanager
async def leaving(left: int, **options: Any) -> AsyncIterator[tuple[Upstream, LeavingServers, trio.Nursery]]:
    async with (
        trio.open_nursery() as nursery,
        memory_server(keep, config=EXTENDED_MANUAL) as server,
    ):
        servers = LeavingServers(nursery, server, left, **options)
        async with client_of(server, config=EXTENDED, dial=servers.dial) as client:
            yield Upstream(client), servers, nursery
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("left", [1, 4])
async def test_a_stream_that_was_not_served_is_opened_again(autojump_clock: Clock, left: int) -> None:
    async with leaving(left) as (upstream, servers, _), await upstream.open_stream(THERE, b"a request") as stream:
        # Each server, and the one that has accepted it, has received the same.
        whole = encode(THERE) + b"a request"
        assert servers.received == [whole] * left
        await stream.send_all(b", and more")
        received = b""
        while len(received) < len(whole) + 10:
            received += await stream.receive_some()
        assert received == whole + b", and more"
        assert upstream.client.stats.streams == 1


async def test_a_stream_is_opened_a_limited_number_of_times(autojump_clock: Clock) -> None:
    async with leaving(100) as (upstream, servers, _):
        with pytest.raises(Unreachable, match=r"^the relay is shutting down$") as caught:
            await upstream.open_stream(THERE)
        assert caught.value.reply is ReplyCode.GENERAL_FAILURE
        assert len(servers.received) == 5
        assert upstream.client.stats.streams == 0


async def test_a_stream_that_was_accepted_is_not_opened_again(autojump_clock: Clock) -> None:
    async with leaving(1, accepts=True) as (upstream, servers, nursery):
        application = await Applications(upstream, nursery).open()
        # Data of the application may have had an effect.
        assert await is_reset(application)
        assert len(servers.received) == 1


async def test_the_application_is_reset_if_its_first_data_is_cancelled(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reset: list[trio.abc.Stream] = []
    reset_stream = trioanytls.reset_stream

    async def record(stream: trio.abc.Stream) -> None:
        reset.append(stream)
        await reset_stream(stream)

    monkeypatch.setattr(trioanytls, "reset_stream", record)
    async with memory_server(keep, config=EXTENDED_MANUAL) as server, client_of(server, config=EXTENDED) as client:
        upstream = Upstream(client)
        far = await upstream.open_stream(THERE)
        _application, near = trio.testing.memory_stream_pair()
        with trio.move_on_after(5) as scope:
            # More than the windows of both ends: the server echoes, and the application does not read.
            await upstream.relay(near, far, bytes(64 * 1024 * 1024))
        assert scope.cancelled_caught
        assert reset == [near, far]

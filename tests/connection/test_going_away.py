"""A server that leaves, as its client sees it (extensions: 5)."""

from __future__ import annotations

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import CloseCode, StreamCode
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.frames import FrameType

from ..helpers.connection_ends import end_of, extended_end
from ..helpers.extensions import ALL, extending
from ..helpers.raw_peer import PINGPONG, data

Clock = trio.testing.MockClock

LAST = 2**62 - 1
OPEN_NO_MORE = frames.encode_goaway(LAST)


async def test_a_client_opens_no_stream_and_the_others_go_on() -> None:
    async with extended_end("client", streams=2) as end:
        await end.peer.send(OPEN_NO_MORE)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(2):
            with pytest.raises(trioanytls.ConnectionClosed) as caught:
                await end.connection.open_stream()
            assert caught.value.code is CloseCode.SHUTTING_DOWN
        assert not end.connection.closed
        await end.streams[1].send_all(b"on")
        assert (await end.peer.pending())[-1] == (FrameType.STREAM_DATA, 2, b"on")
        await end.peer.send(data(2, b"and on"))
        assert await end.streams[1].receive_some() == b"and on"


async def test_a_stream_that_waits_for_room_is_not_opened(autojump_clock: Clock) -> None:
    async with extended_end("client", extending(ALL, send_buffer_size=1), streams=1) as end:
        go_on = end.block()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.streams[0].send_all, bytes(10_000))
            await trio.testing.wait_all_tasks_blocked()

            async def open_stream() -> None:
                with pytest.raises(trioanytls.ConnectionClosed):
                    await end.connection.open_stream()

            await end.streams[0].send_all(b"x")
            nursery.start_soon(open_stream)
            await trio.testing.wait_all_tasks_blocked()
            await end.peer.send(OPEN_NO_MORE)
            await trio.testing.wait_all_tasks_blocked()
            go_on.set()
            kinds = [frame[0] for frame in await end.peer.pending()]
            assert FrameType.STREAM_OPEN not in kinds
        # The room goes to the next one.
        with trio.fail_after(1):
            await end.streams[0].send_all(b"on")


async def test_the_answer_goes_out_behind_the_streams_that_were_opened_before(autojump_clock: Clock) -> None:
    async with extended_end("client", streams=1) as end:
        go_on = end.block()
        await end.streams[0].send_all(b"blocked")
        await trio.testing.wait_all_tasks_blocked()
        opened = [await end.connection.open_stream() for _ in range(3)]
        await end.peer.send(OPEN_NO_MORE, PINGPONG)
        await trio.testing.wait_all_tasks_blocked()
        # Later answers go out at once again.
        await opened[0].send_all(b"more")
        await end.peer.send(PINGPONG)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        received = [frame[:2] for frame in await end.peer.pending()]
        opens = [received.index((FrameType.STREAM_OPEN, stream.stream_id)) for stream in opened]
        pings = [index for index, frame in enumerate(received) if frame == (FrameType.PINGPONG, 0)]
        assert len(pings) == 2
        assert pings[0] < min(opens) < max(opens) < pings[1] < received.index((FrameType.STREAM_DATA, 2))


async def test_a_ping_after_goaway_goes_out_behind_the_streams_that_were_opened_before(autojump_clock: Clock) -> None:
    """A server that asks twice, because pings have crossed, takes it for the second answer."""
    async with extended_end("client", streams=1) as end, trio.open_nursery() as nursery:
        nursery.start_soon(end.connection.ping)
        await trio.testing.wait_all_tasks_blocked()
        go_on = end.block()
        await end.streams[0].send_all(b"blocked")
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            await end.connection.open_stream()
        # The server's ping has crossed the client's, and is taken for the answer.
        await end.peer.send(OPEN_NO_MORE, PINGPONG)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(end.connection.ping)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        kinds = [frame[0] for frame in await end.peer.pending()]
        assert kinds.count(FrameType.PINGPONG) == 2
        assert kinds[-4:] == [*[FrameType.STREAM_OPEN] * 3, FrameType.PINGPONG]
        await end.peer.send(PINGPONG)
        # Later ones go out at once again.
        go_on = end.block()
        await end.streams[0].send_all(b"blocked")
        await trio.testing.wait_all_tasks_blocked()
        await end.streams[0].send_all(b"more")
        nursery.start_soon(end.connection.ping)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        kinds = [frame[0] for frame in await end.peer.pending()]
        assert kinds == [FrameType.STREAM_DATA, FrameType.PINGPONG, FrameType.STREAM_DATA]
        await end.peer.send(PINGPONG)


async def test_a_stream_that_was_opened_while_pings_crossed_can_be_opened_again() -> None:
    async with extended_end("client", streams=1) as end, trio.open_nursery() as nursery:
        nursery.start_soon(end.connection.ping)
        await trio.testing.wait_all_tasks_blocked()
        late = await end.connection.open_stream()
        await late.send_all(b"question")
        # The server has taken the ping for the answer. It has refused the stream before the client has read GOAWAY.
        refusal = frames.encode_reset(late.stream_id, StreamCode.SHUTTING_DOWN, b"")
        await end.peer.send(OPEN_NO_MORE, PINGPONG, frames.encode_goaway(1), refusal)
        with pytest.raises(trioanytls.StreamRefused) as caught:
            await late.receive_some()
        assert caught.value.retryable
        assert caught.value.code is StreamCode.SHUTTING_DOWN
        assert not end.streams[0].closed


async def test_streams_above_the_id_are_unserved() -> None:
    async with extended_end("client", streams=3) as end:
        await end.streams[2].send_all(b"question")
        await end.peer.pending()
        await end.peer.send(OPEN_NO_MORE, frames.encode_goaway(2))
        await trio.testing.wait_all_tasks_blocked()
        third = end.streams[2]
        assert third.closed
        for action in (third.receive_some, lambda: third.send_all(b"x")):
            with pytest.raises(trioanytls.StreamRefused) as caught:
                await action()
            assert caught.value.retryable
        # The server knows, and has forgotten it.
        await third.aclose()
        assert await end.peer.pending() == []
        # It may still refuse it, and the other ones are open.
        await end.peer.send(frames.encode_reset(3, StreamCode.SHUTTING_DOWN, b""), data(1, b"one"), data(2, b"two"))
        assert await end.streams[0].receive_some() == b"one"
        assert await end.streams[1].receive_some() == b"two"
        await end.peer.send(frames.encode_goaway(0))
        await trio.testing.wait_all_tasks_blocked()
        assert end.connection.stats.open_streams == 0
        assert not end.connection.closed


async def test_waiting_for_acceptance_ends_as_unserved() -> None:
    async with extended_end("client") as end, trio.open_nursery() as nursery:
        stream = await end.connection.open_stream()

        async def wait() -> None:
            with pytest.raises(trioanytls.StreamRefused) as caught:
                await stream.wait_acknowledged()
            assert caught.value.retryable

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await end.peer.send(frames.encode_goaway(0))


async def test_the_id_may_not_rise(autojump_clock: Clock) -> None:
    async with extended_end("client", extending(ALL, close_timeout=1), streams=1) as end:
        await end.peer.send(frames.encode_goaway(5), frames.encode_goaway(5), frames.encode_goaway(6))
        assert (await end.peer.pending())[-1][0] == FrameType.ALERT


async def test_a_client_may_not_send_it(autojump_clock: Clock) -> None:
    async with extended_end("server", extending(ALL, close_timeout=1)) as end:
        await end.peer.send(frames.encode_goaway(5))
        assert (await end.peer.pending())[-1][0] == FrameType.ALERT


async def test_without_the_extension_it_is_unknown(autojump_clock: Clock) -> None:
    async with end_of("client", extending(ALL, close_timeout=1)) as end:
        await end.peer.send(OPEN_NO_MORE)
        assert (await end.peer.pending())[-1] == (FrameType.ALERT, 0, b"unknown frame type 0x14")


async def test_many_of_them_are_limited(autojump_clock: Clock) -> None:
    config = extending(ALL, close_timeout=1, max_idle_frames=100)
    async with extended_end("client", config) as end:
        await end.peer.send(*[frames.encode_goaway(5)] * 100)
        await trio.testing.wait_all_tasks_blocked()
        assert not end.connection.closed
        await end.peer.send(frames.encode_goaway(5))
        await trio.testing.wait_all_tasks_blocked()
        assert end.connection.close_reason.code is CloseCode.LIMIT_EXCEEDED

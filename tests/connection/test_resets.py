"""Aborts and their reasons (extensions: 3 and 4)."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import StreamCode
from trioanytls._connection.connection import multiplexer_of
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.frames import FrameType
from trioanytls.testing import StreamQueue, memory_connection_pair, memory_stream_pair

from ..helpers.connection_ends import ROLES, Role, extended_end
from ..helpers.extensions import ALL, NO_EXTENSIONS, extending
from ..helpers.raw_peer import data

Clock = trio.testing.MockClock

RST = (FrameType.STREAM_RST, 1, None)

in_both_roles = pytest.mark.parametrize("role", ROLES)


def reset(code: int, text: bytes = b"") -> tuple[FrameType, int, tuple[int, bytes]]:
    return FrameType.STREAM_RESET, 1, (code, text)


@in_both_roles
@pytest.mark.parametrize("frame", [frames.encode_rst(1), frames.encode_reset(1, 10, b"no more today")])
async def test_an_abort_is_an_error_after_the_data(role: Role, frame: bytes) -> None:
    async with extended_end(role, streams=1) as end:
        (stream,) = end.streams
        await end.peer.send(data(1, b"all there is"), frame)
        await trio.testing.wait_all_tasks_blocked()
        assert stream.closed
        assert await stream.receive_some() == b"all there is"
        for action in (stream.receive_some, lambda: stream.send_all(b"x"), stream.send_eof):
            with pytest.raises(trioanytls.StreamReset) as caught:
                await action()
            if len(frame) > 2:
                assert (caught.value.code, caught.value.reason) == (StreamCode.LIMIT, "no more today")
            else:
                assert (caught.value.code, caught.value.reason) == (StreamCode.NOT_GIVEN, None)
        await stream.aclose()
        assert RST not in await end.peer.pending()
        assert not end.connection.closed


@in_both_roles
async def test_an_unknown_code_counts_as_a_general_failure(role: Role) -> None:
    async with extended_end(role, streams=1) as end:
        await end.peer.send(frames.encode_reset(1, 4711, b""))
        with pytest.raises(trioanytls.StreamReset) as caught:
            await end.streams[0].receive_some()
        assert caught.value.code is StreamCode.GENERAL_FAILURE


@in_both_roles
async def test_data_after_an_abort_is_dropped(role: Role) -> None:
    async with extended_end(role, streams=2) as end:
        await end.streams[0].reset()
        await end.peer.send(frames.encode_rst(2))
        await end.peer.send(*(data(number, bytes(100_000)) + frames.encode_fin(number) for number in (1, 2)))
        await trio.testing.wait_all_tasks_blocked()
        assert not end.connection.closed
        assert multiplexer_of(end.connection).budget.total == 0


@in_both_roles
@pytest.mark.parametrize("names", [ALL, ALL - {"reset"}, NO_EXTENSIONS], ids=["all", "no reset", "version 1"])
async def test_the_application_resets_with_a_reason(role: Role, names: frozenset[str]) -> None:
    async with extended_end(role, streams=1, names=names) as end:
        (stream,) = end.streams
        await stream.reset(StreamCode.HOST_UNREACHABLE, "no way\nthere\x00 ü")
        expected = reset(4, b"no way there  ?") if "reset" in names else RST
        assert [frame for frame in await end.peer.pending() if frame[1] == 1][-1] == expected
        for action in (stream.receive_some, lambda: stream.send_all(b"x"), stream.send_eof):
            with pytest.raises(trio.ClosedResourceError):
                await action()
        # Once only.
        await stream.reset()
        await stream.aclose()
        assert await end.peer.pending() == []


@in_both_roles
async def test_a_long_reason_is_cut(role: Role) -> None:
    async with extended_end(role, streams=1) as end:
        await end.streams[0].reset(StreamCode.LIMIT, "x" * 1000)
        assert (await end.peer.pending())[-1] == reset(10, b"x" * 512)


async def test_the_arguments_of_a_reset_are_checked() -> None:
    async with memory_stream_pair() as (near, _):
        with pytest.raises(TypeError, match="code"):
            await near.reset("refused")  # type: ignore[arg-type]  # what is tested
        with pytest.raises(ValueError, match="13"):
            await near.reset(13)  # type: ignore[arg-type]  # what is tested
        with pytest.raises(TypeError, match="reason"):
            await near.reset(StreamCode.LIMIT, b"x")  # type: ignore[arg-type]  # what is tested
        assert not near.closed


@in_both_roles
async def test_a_reset_drops_the_queued_data(role: Role, autojump_clock: Clock) -> None:
    async with extended_end(role, streams=1) as end:
        (stream,) = end.streams
        go_on = end.block()
        for _ in range(10):
            await stream.send_all(bytes(1000))
        await stream.reset()
        go_on.set()
        received = [frame for frame in await end.peer.pending() if frame[1] == 1]
        assert received[-1] == reset(1)
        # The write that was going on.
        assert sum(len(frame[2]) for frame in received if isinstance(frame[2], bytes)) <= 2000


@in_both_roles
async def test_without_fin_a_cancelled_close_sends_a_reset(role: Role) -> None:
    """RST would be an end (extensions: 3)."""
    async with extended_end(role, streams=1, names={"reset"}) as end:
        await end.streams[0].send_all(b"half")
        await trio.aclose_forcefully(end.streams[0])
        assert (await end.peer.pending())[-1] == reset(StreamCode.GENERAL_FAILURE)


@in_both_roles
async def test_a_cancelled_close_sends_rst_alone(role: Role) -> None:
    async with extended_end(role, streams=1) as end:
        await end.streams[0].send_all(b"x")
        await end.peer.pending()
        await trio.aclose_forcefully(end.streams[0])
        assert await end.peer.pending() == [RST]


@in_both_roles
@pytest.mark.parametrize("names", [ALL, NO_EXTENSIONS], ids=["all", "version 1"])
async def test_the_idle_timer_tells_its_code(role: Role, names: frozenset[str], autojump_clock: Clock) -> None:
    config = extending(ALL, stream_idle_timeout=10)
    async with extended_end(role, config, streams=1, names=names) as end:
        await trio.sleep(11)
        kinds = FrameType.STREAM_RST, FrameType.STREAM_RESET
        (frame,) = [frame for frame in await end.peer.pending() if frame[0] in kinds]
        if names:
            assert frame[:2] == (FrameType.STREAM_RESET, 1)
            assert isinstance(frame[2], tuple)
            assert frame[2][0] == 8
            assert b"idle" in frame[2][1]
        else:
            assert frame == RST
        if role == "client":
            # The server has cancelled its handler, which closes the stream.
            with pytest.raises(trioanytls.StreamTimeout):
                await end.streams[0].receive_some()


@in_both_roles
async def test_the_stall_timer_tells_its_code(role: Role, autojump_clock: Clock) -> None:
    # Without `window`, or with a peer that ignores it.
    config = extending(ALL, receive_buffer_size=1000, stall_timeout=5, stream_idle_timeout=math.inf)
    async with extended_end(role, config, streams=2, names=ALL - {"window"}) as end:
        await end.peer.send(data(1, bytes(5000)))
        await trio.sleep(6)
        frame = (await end.peer.pending())[-1]
        assert frame[:2] == (FrameType.STREAM_RESET, 1)
        assert isinstance(frame[2], tuple)
        assert frame[2][0] == 9


async def test_a_refusal_has_a_reason() -> None:
    config = extending(ALL, acknowledge="manual")
    queue = StreamQueue()
    pair = memory_connection_pair(queue, client_config=extending(ALL), server_config=config)
    async with pair as (client, _):
        refused, aborted, closed = [await client.open_stream() for _ in range(3)]
        streams = {stream.stream_id: stream for stream in [await queue.get() for _ in range(3)]}
        await streams[1].refuse(StreamCode.CONNECTION_REFUSED, "not there")
        await streams[2].reset(StreamCode.TIMED_OUT)
        await streams[3].aclose()
        for stream, code, reason in (
            (refused, StreamCode.CONNECTION_REFUSED, "not there"),
            (aborted, StreamCode.TIMED_OUT, None),
            (closed, StreamCode.NOT_GIVEN, None),
        ):
            for action in (stream.wait_acknowledged, stream.receive_some):
                with pytest.raises(trioanytls.StreamRefused) as caught:
                    await action()
                assert (caught.value.code, caught.value.reason) == (code, reason)
                assert not caught.value.retryable


async def test_only_servers_refuse_and_only_once() -> None:
    async with memory_stream_pair() as (near, far):
        with pytest.raises(RuntimeError, match="only a server"):
            await near.refuse()
        with pytest.raises(RuntimeError, match="accepted"):
            await far.refuse()
        assert not near.closed
        assert not far.closed


async def test_the_streams_beyond_a_limit_are_told_so() -> None:
    config = extending(ALL, max_streams=1)
    pair = memory_connection_pair(StreamQueue(), client_config=extending(ALL), server_config=config)
    async with pair as (client, _):
        first = await client.open_stream()
        await first.wait_acknowledged()
        second = await client.open_stream()
        with pytest.raises(trioanytls.StreamRefused) as caught:
            await second.receive_some()
        assert caught.value.code is StreamCode.LIMIT
        assert caught.value.reason == "too many streams are open"

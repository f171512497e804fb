"""copy_both_ways: all bytes, the end of each direction, and broken or disconnected sides."""

import contextlib
import functools
import os
import socket
import struct
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio
import trio.testing

from trioanytls import HalfClosedCopies, SideBroken, StreamCode, StreamReset, copy_both_ways, reset_stream
from trioanytls._protocol.anytls1 import frames
from trioanytls.testing import StreamQueue, echo, memory_connection_pair, memory_stream_pair

from ..conftest import HOST
from ..helpers.connection_ends import ROLES, Role, extended_end
from ..helpers.extensions import ALL, NO_EXTENSIONS, extending

MEBIBYTE = 1 << 20


@contextlib.asynccontextmanager
async def tcp_pair() -> AsyncIterator[tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]]:
    """Yield both ends of a TCP connection."""
    listeners = await trio.open_tcp_listeners(0, host=HOST)
    async with listeners[0]:
        one = await trio.open_tcp_stream(*listeners[0].socket.getsockname())
        other = await listeners[0].accept()
    async with one, other:
        yield one, other


@contextlib.asynccontextmanager
async def memory_pair() -> AsyncIterator[tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]]:
    """Yield two ends that support half-close, as TCP does."""
    yield trio.testing.memory_stream_pair()


@contextlib.asynccontextmanager
async def lockstep_pair() -> AsyncIterator[tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]]:
    """Yield two ends that support half-close, and have no buffer between them."""
    yield trio.testing.lockstep_stream_pair()


PAIRS: dict[str, Callable[[], AbstractAsyncContextManager[tuple[Any, Any]]]] = {
    "tcp": tcp_pair,
    "memory": memory_pair,
    "lockstep": lockstep_pair,
    "anytls": functools.partial(memory_stream_pair, client_config=extending(NO_EXTENSIONS)),
    "extended": functools.partial(memory_stream_pair, client_config=extending(ALL), server_config=extending(ALL)),
}
#: Streams without extensions, and with all of them.
STREAMS = ["anytls", "extended"]


class Outcome:
    def __init__(self) -> None:
        self.up = self.down = 0
        self.done = trio.Event()
        self.error: SideBroken | None = None
        self.scope = trio.CancelScope()

    def count(self, up: int, down: int) -> None:
        self.up += up
        self.down += down


@contextlib.asynccontextmanager
async def copying(near_kind: str, far_kind: str, **options: Any) -> AsyncIterator[Any]:
    """Yield the requesting end, the answering end, and the outcome of the copy, which ends with the block."""
    outcome = Outcome()

    async def copy(near: trio.abc.Stream, far: trio.abc.Stream) -> None:
        with outcome.scope:
            try:
                await copy_both_ways(near, far, on_bytes=outcome.count, **options)
            except SideBroken as error:
                outcome.error = error
        outcome.done.set()

    async with (
        PAIRS[near_kind]() as (client, near),
        PAIRS[far_kind]() as (far, server),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(copy, near, far)
        yield client, server, outcome
        await outcome.done.wait()
        for stream in (near, far):
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some(1)


async def receive_all(stream: trio.abc.Stream) -> bytes:
    return b"".join([bytes(piece) async for piece in stream])


async def receive_exactly(stream: trio.abc.Stream, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        piece = await stream.receive_some(size - len(received))
        assert piece
        received += piece
    return bytes(received)


@pytest.mark.parametrize(
    ("near", "far"),
    [
        ("anytls", "tcp"),
        ("tcp", "anytls"),
        ("anytls", "memory"),
        ("tcp", "tcp"),
        ("anytls", "anytls"),
        ("extended", "tcp"),
        ("tcp", "extended"),
        ("extended", "extended"),
        ("anytls", "extended"),
        ("extended", "anytls"),
    ],
)
async def test_a_mebibyte_both_ways(near: str, far: str) -> None:
    question, answer = os.urandom(MEBIBYTE), os.urandom(MEBIBYTE)
    async with copying(near, far) as (client, server, outcome):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, question)
            nursery.start_soon(server.send_all, answer)
            for stream, expected in ((client, answer), (server, question)):

                async def check(stream: trio.abc.Stream = stream, expected: bytes = expected) -> None:
                    assert await receive_exactly(stream, MEBIBYTE) == expected

                nursery.start_soon(check)
        await server.aclose()
        assert await receive_all(client) == b""
        await client.aclose()
    assert outcome.error is None
    assert (outcome.up, outcome.down) == (MEBIBYTE, MEBIBYTE)


# Ends


async def test_the_answer_is_complete_after_an_end_that_is_passed_on() -> None:
    async with copying("memory", "tcp") as (client, server, outcome):
        await client.send_all(b"question")
        await client.send_eof()
        assert await receive_all(server) == b"question"
        for number in range(10):
            await server.send_all(b"%d" % number)
            assert await client.receive_some() == b"%d" % number
        assert not outcome.done.is_set()
        await server.aclose()
        assert await receive_all(client) == b""
    assert outcome.error is None


async def test_the_answer_is_complete_after_an_end_that_is_withheld() -> None:
    async with copying("tcp", "anytls") as (client, server, outcome):
        await client.send_all(b"question")
        await client.send_eof()
        assert await receive_exactly(server, 8) == b"question"
        await trio.testing.wait_all_tasks_blocked()
        await server.send_all(b"answer")
        await server.aclose()
        assert await receive_all(client) == b"answer"
    assert outcome.error is None


@pytest.mark.parametrize("near", ["extended", "memory"])
@pytest.mark.parametrize("far", ["extended", "tcp"])
async def test_each_end_is_passed_on(near: str, far: str) -> None:
    for question_ends_first in (True, False):
        async with copying(near, far) as (client, server, outcome):
            await client.send_all(b"question")
            await server.send_all(b"answer")
            one, other = (client, server) if question_ends_first else (server, client)
            await one.send_eof()
            assert await receive_all(other) in (b"question", b"answer")
            for _ in range(10):
                await other.send_all(b" and more")
                await trio.testing.wait_all_tasks_blocked()
            assert not outcome.done.is_set()
            await other.send_eof()
            assert await receive_all(one) in (b"answer" + b" and more" * 10, b"question" + b" and more" * 10)
            await outcome.done.wait()
        assert outcome.error is None


async def test_an_answer_that_is_complete_ends_the_stream() -> None:
    async with copying("anytls", "memory") as (client, server, outcome):
        await client.send_all(b"question")
        assert await receive_exactly(server, 8) == b"question"
        await server.send_all(b"answer")
        await server.send_eof()
        # The client has not closed. The copy does not wait for it.
        assert await receive_all(client) == b"answer"
    assert outcome.error is None


async def test_an_answer_that_is_complete_does_not_end_the_question() -> None:
    async with copying("extended", "memory") as (client, server, outcome):
        await client.send_all(b"question")
        assert await receive_exactly(server, 8) == b"question"
        await server.send_all(b"answer")
        await server.send_eof()
        assert await receive_all(client) == b"answer"
        await trio.testing.wait_all_tasks_blocked()
        assert not outcome.done.is_set()
        await client.send_all(b"another question")
        assert await receive_exactly(server, 16) == b"another question"
        await client.send_eof()
        assert await receive_all(server) == b""
    assert outcome.error is None


@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
async def test_a_side_that_ends_and_then_leaves(later: bool, autojump_clock: trio.testing.MockClock) -> None:
    async with copying("extended", "memory") as (client, server, outcome):
        await client.send_all(b"question")
        await client.send_eof()
        assert await receive_all(server) == b"question"
        if later:
            await trio.sleep(100)
            await server.send_all(b"the first part")
            assert await receive_exactly(client, 14) == b"the first part"
        await client.aclose()
        start = trio.current_time()
        # Not only when the server sends. It may finish what it sends, in limited time.
        await outcome.done.wait()
        assert trio.current_time() - start == pytest.approx(5)
    assert outcome.error is None


async def test_a_complete_answer_does_not_cut_the_data_being_sent() -> None:
    async with copying("anytls", "lockstep") as (client, server, outcome):
        await client.send_all(b"question")
        await trio.testing.wait_all_tasks_blocked()
        await server.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        assert not outcome.done.is_set()
        assert await receive_all(server) == b"question"
        assert await receive_all(client) == b""
    assert outcome.error is None


@pytest.mark.parametrize("near", STREAMS)
async def test_a_side_that_is_gone_ends_the_other_one_after_its_last_byte(near: str) -> None:
    async with copying(near, "tcp") as (client, server, outcome):
        question = os.urandom(MEBIBYTE)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                await client.send_all(question)
                await client.aclose()

            nursery.start_soon(ask)
            await server.send_all(b"this is never read")
            assert await receive_all(server) == question
        assert not outcome.done.is_set()
        await server.send_all(b"nor is this")
        await server.aclose()
    assert outcome.error is None


@pytest.mark.parametrize("near", STREAMS)
async def test_a_side_that_is_gone_ends_the_copy_in_limited_time(
    near: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with copying(near, "memory") as (client, server, outcome):
        await client.aclose()
        assert await receive_all(server) == b""
        start = trio.current_time()
        await outcome.done.wait()
        assert trio.current_time() - start == pytest.approx(5)
    assert outcome.error is None


@pytest.mark.parametrize("near", STREAMS)
async def test_sending_to_a_side_that_is_gone_is_stopped(near: str) -> None:
    async with copying(near, "tcp") as (client, server, outcome):
        await client.aclose()
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await server.send_all(bytes(65536))
    assert outcome.error is None


@pytest.mark.parametrize("far", STREAMS)
async def test_silence_after_one_end(far: str, autojump_clock: trio.testing.MockClock) -> None:
    async with copying("memory", far, half_closed_timeout=30) as (client, server, outcome):
        # Before the first end, silence is not limited.
        await trio.sleep(200)
        assert not outcome.done.is_set()
        await client.send_eof()
        for _ in range(3):
            await trio.sleep(29)
            await server.send_all(b"still here")
        start = trio.current_time()
        await outcome.done.wait()
        assert trio.current_time() - start == pytest.approx(30, abs=1)
        assert await receive_all(client) == b"still here" * 3
        assert await receive_all(server) == b""
    assert outcome.error is None


@pytest.mark.parametrize("names", [{"fin"}, {"reset"}, ALL], ids=["fin", "reset", "all"])
@pytest.mark.parametrize("near", ["tcp", "memory"])
async def test_an_answer_that_stops_after_the_question_does_not_look_whole(
    near: str, names: frozenset[str], autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = functools.partial(memory_stream_pair, client_config=extending(names), server_config=extending(names))
    monkeypatch.setitem(PAIRS, "extended", pair)
    async with copying(near, "extended", half_closed_timeout=30) as (client, server, outcome):
        await client.send_all(b"question")
        await client.send_eof()
        assert await receive_exactly(server, 8) == b"question"
        await server.send_all(b"half an answ")
        assert await receive_exactly(client, 12) == b"half an answ"
        await outcome.done.wait()
        if near == "tcp":
            with pytest.raises(trio.BrokenResourceError):
                await client.receive_some()
        await server.wait_closed()
        with pytest.raises(trio.BrokenResourceError) as raised:
            await server.send_all(b"er")
        if "reset" in names:
            assert isinstance(raised.value, StreamReset)
            assert raised.value.code is StreamCode.TIMED_OUT
            assert raised.value.reason == "one direction was silent for too long after the other one ended"
    assert outcome.error is None


@pytest.mark.parametrize("answer_ends_first", [False, True])
async def test_a_half_closed_stream_that_is_silent_too_long_is_reset(
    answer_ends_first: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with copying("extended", "tcp", half_closed_timeout=30) as (client, server, outcome):
        first, second = (server, client) if answer_ends_first else (client, server)
        await first.send_eof()
        assert await receive_all(second) == b""
        await second.send_all(b"half")
        assert await receive_exactly(first, 4) == b"half"
        await outcome.done.wait()
        await client.wait_closed()
        # The other end was complete, and has been read.
        with pytest.raises(trio.BrokenResourceError):
            await first.receive_some()
        with pytest.raises(StreamReset) as raised:
            await client.send_all(b"x")
        assert raised.value.code is StreamCode.TIMED_OUT
    assert outcome.error is None


# Broken sides


@pytest.mark.parametrize("near", STREAMS)
async def test_the_far_side_breaks(near: str) -> None:
    async with copying(near, "tcp") as (client, server, outcome):
        await server.send_all(b"half an answ")
        assert await receive_exactly(client, 12) == b"half an answ"
        await reset_stream(server)
        await outcome.done.wait()
        if near == "extended":
            with pytest.raises(StreamReset):
                await client.receive_some()
        else:
            assert await receive_all(client) == b""
    assert outcome.error.side == "far"
    assert isinstance(outcome.error.__cause__, trio.BrokenResourceError)


@pytest.mark.parametrize("far", ["tcp", *STREAMS])
async def test_the_near_side_breaks(far: str) -> None:
    async with copying("tcp", far) as (client, server, outcome):
        await client.send_all(b"half a quest")
        assert await receive_exactly(server, 12) == b"half a quest"
        await reset_stream(client)
        if far != "anytls":
            # Not an orderly end: the question is incomplete.
            with pytest.raises(trio.BrokenResourceError):
                await server.receive_some()
        else:
            assert await server.receive_some() == b""
    assert outcome.error.side == "near"


@pytest.mark.parametrize("near", STREAMS)
async def test_the_connection_of_a_stream_breaks(near: str) -> None:
    async with copying(near, "tcp") as (client, server, outcome):
        await client.send_all(b"half a quest")
        assert await receive_exactly(server, 12) == b"half a quest"
        await client.connection.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await server.receive_some()
    assert outcome.error.side == "near"


@pytest.mark.parametrize("near", [*STREAMS, "memory"])
async def test_an_early_answer_is_not_lost_if_the_rest_of_the_question_is_refused(near: str) -> None:
    sent = trio.Event()
    async with copying(near, "memory") as (client, server, outcome):

        async def ask() -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                await client.send_all(b"the first part")
                await sent.wait()
                await client.send_all(b"the second part")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            assert await server.receive_some() == b"the first part"
            # It accepts no more data.
            await server.receive_stream.aclose()
            sent.set()
            await trio.testing.wait_all_tasks_blocked()
            assert not outcome.done.is_set()
            await server.send_all(b"that is enough")
            await server.send_stream.aclose()
        assert await receive_all(client) == b"that is enough"
        await client.aclose()
    assert outcome.error is None


async def test_an_answer_is_not_lost_if_the_end_of_the_question_cannot_be_passed_on() -> None:
    client, near = trio.testing.memory_stream_pair()
    far, server = trio.testing.memory_stream_pair()

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError("not connected")

    far.send_eof = fail  # type: ignore[method-assign] # of this stream alone
    async with trio.open_nursery() as nursery:
        nursery.start_soon(copy_both_ways, near, far)
        await client.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        await server.send_all(b"answer")
        await server.send_stream.aclose()
        assert await receive_all(client) == b"answer"


async def test_many_half_closed_copies_make_room(autojump_clock: trio.testing.MockClock) -> None:
    half_closed = HalfClosedCopies()
    async with (
        copying("tcp", "anytls", half_closed=half_closed) as (one, _, first),
        copying("tcp", "anytls", half_closed=half_closed) as (other, server, second),
    ):
        assert len(half_closed) == 0
        await one.send_eof()
        await other.send_eof()
        with trio.fail_after(5):
            while len(half_closed) < 2:  # noqa: ASYNC110 - it has no event
                await trio.sleep(0.01)
        await trio.sleep(10)
        await server.send_all(b"answer")
        assert await receive_exactly(other, 6) == b"answer"
        assert not half_closed.end_longest_silent(20)
        assert half_closed.end_longest_silent(5)
        await first.done.wait()
        assert first.error is not None
        assert first.error.side == "near"
        assert len(half_closed) == 1
        await server.aclose()
    assert second.error is None
    assert len(half_closed) == 0


@pytest.mark.parametrize("near", STREAMS)
async def test_a_side_that_accepts_and_sends_nothing(near: str, autojump_clock: trio.testing.MockClock) -> None:
    async with copying(near, "memory") as (client, server, outcome):
        await server.receive_stream.aclose()
        await client.send_all(b"question")
        start = trio.current_time()
        await outcome.done.wait()
        assert trio.current_time() - start == pytest.approx(5, abs=1)
        if near == "extended":
            with pytest.raises(StreamReset):
                await client.receive_some()
        else:
            assert await receive_all(client) == b""
    assert outcome.error.side == "far"


async def test_a_reset_is_seen_on_the_other_side() -> None:
    async with copying("tcp", "tcp") as (client, server, outcome):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await server.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()
    assert outcome.error.side == "far"


@pytest.mark.parametrize("near", STREAMS)
async def test_cancelled(near: str) -> None:
    async with copying(near, "tcp") as (client, server, outcome):
        await client.send_all(b"question")
        assert await receive_exactly(server, 8) == b"question"
        outcome.scope.cancel()
        with pytest.raises(trio.BrokenResourceError):
            await server.receive_some()
        if near == "extended":
            with pytest.raises(StreamReset):
                await client.receive_some()
        else:
            assert await receive_all(client) == b""
    assert outcome.error is None
    assert outcome.scope.cancelled_caught


async def test_an_end_that_is_passed_on_needs_no_room() -> None:
    half_closed = HalfClosedCopies()
    async with copying("tcp", "extended", half_closed=half_closed) as (client, server, outcome):
        await client.send_eof()
        assert await receive_all(server) == b""
        assert len(half_closed) == 0
        await server.send_all(b"answer")
        await server.aclose()
        assert await receive_all(client) == b"answer"
    assert outcome.error is None


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("is_answered", [True, False], ids=["answered", "silent"])
async def test_an_end_that_has_no_room_does_not_hold_the_copy_up(
    role: Role, is_answered: bool, autojump_clock: trio.testing.MockClock
) -> None:
    config = extending(ALL, send_buffer_size=1000, stream_window=16384, write_timeout=500)
    done = trio.Event()

    async def copy(near: trio.abc.Stream, far: trio.abc.Stream) -> None:
        await copy_both_ways(near, far, half_closed_timeout=30)
        done.set()

    async with (
        extended_end(role, config, 2) as end,
        tcp_pair() as (client, near),
        trio.open_nursery() as nursery,
    ):
        # The peer does not read.
        unblocked = end.block()
        await end.streams[1].send_all(b"with the writer")
        await trio.testing.wait_all_tasks_blocked()
        await end.streams[1].send_all(bytes(2000))
        nursery.start_soon(copy, near, end.streams[0])
        await client.send_eof()
        # Not by the clock alone: the sockets are real.
        await trio.testing.wait_all_tasks_blocked(0.01)
        start = trio.current_time()
        if is_answered:
            await end.peer.send(frames.encode_fin(1))
        await done.wait()
        assert trio.current_time() - start == pytest.approx(0 if is_answered else 30, abs=0.1)
        unblocked.set()


@pytest.mark.parametrize("far_kind", ["tcp", "memory"])
async def test_an_error_of_a_callback_ends_its_copy_alone(far_kind: str) -> None:
    queue, config = StreamQueue(), extending(ALL)
    seen = trio.Event()

    def fail(_up: int, _down: int) -> None:
        seen.set()
        raise KeyError("of the application")

    async with (
        memory_connection_pair(queue, client_config=config, server_config=config) as (client, _),
        await client.open_stream() as stream,
        await client.open_stream() as other_stream,
        await queue.get() as near,
        await queue.get() as other_near,
        PAIRS[far_kind]() as (far, _),
        trio.open_nursery() as nursery,
    ):
        if near.stream_id != stream.stream_id:
            near, other_near = other_near, near

        async def copy() -> None:
            with pytest.raises(ExceptionGroup) as caught:
                await copy_both_ways(near, far, on_bytes=fail)
            assert caught.group_contains(KeyError)

        nursery.start_soon(echo, other_near)
        nursery.start_soon(copy)
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(b"data")
        await seen.wait()
        with pytest.raises(StreamReset):
            await stream.receive_some()
        await other_stream.send_all(b"more")
        assert await other_stream.receive_some() == b"more"
        await other_stream.aclose()


# Memory


async def test_no_more_is_held_than_a_piece() -> None:
    taken = 0
    client, near = trio.testing.lockstep_stream_pair()
    far, server = trio.testing.lockstep_stream_pair()
    receive_some = near.receive_stream.receive_some

    async def counting(max_bytes: int | None = None) -> bytes | bytearray:
        nonlocal taken
        data = await receive_some(max_bytes)
        taken += len(data)
        return data

    near.receive_stream.receive_some = counting  # type: ignore[method-assign] # of this stream alone
    async with trio.open_nursery() as nursery:
        nursery.start_soon(copy_both_ways, near, far)
        nursery.start_soon(client.send_all, bytes(MEBIBYTE))
        await trio.testing.wait_all_tasks_blocked()
        assert taken == 64 * 1024
        assert await server.receive_some(1000) == bytes(1000)
        await trio.testing.wait_all_tasks_blocked()
        assert taken == 64 * 1024
        assert await receive_exactly(server, MEBIBYTE - 1000) == bytes(MEBIBYTE - 1000)
        nursery.cancel_scope.cancel()


async def test_nothing_is_held_while_a_copy_waits() -> None:
    class Piece(bytearray):
        """Unlike `bytearray`, it supports weak references."""

    pieces: list[weakref.ref[Piece]] = []
    client, near = trio.testing.memory_stream_pair()
    far, server = trio.testing.memory_stream_pair()
    receive_some = near.receive_stream.receive_some

    async def receive_piece(max_bytes: int | None = None) -> bytearray:
        piece = Piece(await receive_some(max_bytes))
        pieces.append(weakref.ref(piece))
        return piece

    near.receive_stream.receive_some = receive_piece  # type: ignore[method-assign] # of this stream alone
    async with trio.open_nursery() as nursery:
        nursery.start_soon(copy_both_ways, near, far)
        await client.send_all(b"a piece")
        assert await server.receive_some() == b"a piece"
        await trio.testing.wait_all_tasks_blocked()
        assert [piece() for piece in pieces] == [None]
        nursery.cancel_scope.cancel()


async def test_reset_of_a_closed_stream() -> None:
    async with tcp_pair() as (one, _):
        await one.aclose()
        await reset_stream(one)

"""A task that waits for room to send on a stream wakes as soon as the stream ends, for any reason. Nothing else would
wake it before the peer reads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import ConnectionClosed, StreamRefused, StreamTimeout
from trioanytls._client.pool import Client, run_client
from trioanytls._connection.stream_core import StreamEnd
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.frames import FrameType

from ..helpers.connection_ends import PASSWORD, ROLES, End, Role, client_that_heard, end_of
from ..helpers.raw_peer import SERVER_NEGO, RawPeer, data

Clock = trio.testing.MockClock
EACH_ROLE = pytest.mark.parametrize("role", ROLES)

#: Room for one frame, so that the second one waits.
CONFIG = trioanytls.Config(send_buffer_size=1000, stream_idle_timeout=20, stall_timeout=15, receive_buffer_size=1000)


async def send_all(stream: trioanytls.Stream) -> None:
    await stream.send_all(b"blocked")


async def send_much(stream: trioanytls.Stream) -> None:
    await stream.send_all(bytes(1_000_000))


async def wait_send_all_might_not_block(stream: trioanytls.Stream) -> None:
    await stream.wait_send_all_might_not_block()


OPERATIONS = pytest.mark.parametrize("operation", [send_all, send_much, wait_send_all_might_not_block])
Operation = Callable[[trioanytls.Stream], Awaitable[None]]


async def fill(end: End, stream: trioanytls.Stream) -> trio.Event:
    """Block the transport, and fill the send queue with frames of this stream. Setting the event unblocks it."""
    await trio.testing.wait_all_tasks_blocked()
    unblocked = end.block()
    # The writer takes the first one.
    await stream.send_all(b"with the writer")
    await trio.testing.wait_all_tasks_blocked()
    await stream.send_all(bytes(2000))
    assert not end.connection._multiplexer.send_queue.has_room
    return unblocked


class Outcome:
    """The outcome of an operation on a stream, and when it came."""

    error: BaseException | None = None
    at: float | None = None

    def __init__(self, operation: Operation, stream: trioanytls.Stream) -> None:
        self._operation = operation
        self._stream = stream

    async def run(self) -> None:
        try:
            await self._operation(self._stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.error = error
        self.at = trio.current_time()


async def meets(
    end: End, operation: Operation, own: bool, happen: Callable[[], Awaitable[object]], after: float = 0
) -> BaseException | None:
    """Return the error of the blocked operation on stream 1, once `happen` has run, or `after` seconds later."""
    await fill(end, end.streams[0 if own else 1])
    outcome = Outcome(operation, end.streams[0])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outcome.run)
        await trio.testing.wait_all_tasks_blocked()
        assert outcome.at is None
        start = trio.current_time()
        await happen()
        await trio.sleep(after)
        await trio.testing.wait_all_tasks_blocked()
        assert outcome.at is not None, "it still waits"
        assert outcome.at == start + after
        # Closing the connection does not need it any more.
        await end.peer.transport.aclose()
        nursery.cancel_scope.cancel()
    return outcome.error


OWN = pytest.mark.parametrize("own", [True, False], ids=["full of its own frames", "full of another's"])


@EACH_ROLE
@OPERATIONS
@OWN
async def test_the_peer_closes_the_stream(autojump_clock: Clock, role: Role, operation: Operation, own: bool) -> None:
    async with end_of(role, CONFIG, 2) as end:
        error = await meets(end, operation, own, lambda: end.peer.send(frames.encode_rst(1)))
        assert type(error) is trio.BrokenResourceError
        assert "the peer has closed" in str(error)


@OPERATIONS
@OWN
async def test_the_server_refuses_the_stream(autojump_clock: Clock, operation: Operation, own: bool) -> None:
    async with client_that_heard(b"", CONFIG, 2) as end:
        error = await meets(end, operation, own, lambda: end.peer.send(SERVER_NEGO, frames.encode_rst(1)))
        assert type(error) is StreamRefused


@EACH_ROLE
@OPERATIONS
@OWN
async def test_the_stream_is_closed_here(autojump_clock: Clock, role: Role, operation: Operation, own: bool) -> None:
    async with end_of(role, CONFIG, 2) as end:
        error = await meets(end, operation, own, lambda: end.streams[0].aclose())
        assert type(error) is trio.ClosedResourceError


@EACH_ROLE
@OPERATIONS
@OWN
async def test_the_stream_is_idle(autojump_clock: Clock, role: Role, operation: Operation, own: bool) -> None:
    async with end_of(role, CONFIG, 2) as end:

        async def last_frame() -> None:
            await end.peer.send(data(1, b"x"))

        error = await meets(end, operation, own, last_frame, after=20)
        assert type(error) is StreamTimeout
        assert "stream_idle_timeout" in str(error)


@EACH_ROLE
@OPERATIONS
@OWN
async def test_the_stream_holds_up_others(autojump_clock: Clock, role: Role, operation: Operation, own: bool) -> None:
    async with end_of(role, CONFIG, 2) as end:
        error = await meets(end, operation, own, lambda: end.peer.send(data(1, bytes(2000))), after=15)
        assert type(error) is StreamTimeout
        assert "stall_timeout" in str(error)


@OPERATIONS
async def test_the_server_does_not_accept_the_stream(autojump_clock: Clock, operation: Operation) -> None:
    async with client_that_heard(b"", CONFIG, 2) as end:

        async def expire() -> None:
            end.connection._multiplexer.expire_stream(end.streams[0]._core, StreamEnd.UNACKNOWLEDGED)

        error = await meets(end, operation, False, expire)
        assert type(error) is StreamTimeout
        assert "acknowledge_timeout" in str(error)


@EACH_ROLE
@OPERATIONS
@pytest.mark.parametrize("last", [frames.encode_close(0), frames.encode_alert(b"bad"), b"\x11", b""])
async def test_the_connection_ends(autojump_clock: Clock, role: Role, operation: Operation, last: bytes) -> None:
    async with end_of(role, CONFIG, 2) as end:
        happen = (lambda: end.peer.send(last)) if last else end.peer.transport.aclose
        assert type(await meets(end, operation, False, happen)) is ConnectionClosed


@EACH_ROLE
@OPERATIONS
async def test_the_connection_is_closed_here(autojump_clock: Clock, role: Role, operation: Operation) -> None:
    async with end_of(role, CONFIG, 2) as end, trio.open_nursery() as nursery:

        async def close() -> None:
            nursery.start_soon(end.connection.aclose)
            await trio.lowlevel.checkpoint()

        assert type(await meets(end, operation, False, close)) is trio.ClosedResourceError
        nursery.cancel_scope.cancel()


@EACH_ROLE
@OPERATIONS
async def test_the_connection_cannot_write(autojump_clock: Clock, role: Role, operation: Operation) -> None:
    """The reader goes on, and has not reached the end."""
    async with end_of(role, CONFIG, 2) as end:

        async def break_down() -> None:
            end.connection._multiplexer.write_error = trio.BrokenResourceError("broken")
            end.connection._multiplexer.send_queue.break_down()

        assert type(await meets(end, operation, False, break_down)) is ConnectionClosed


@EACH_ROLE
@pytest.mark.parametrize("reason", ["RST", "closed here"])
async def test_others_that_wait_are_not_let_in_instead_and_send_when_there_is_room(
    autojump_clock: Clock, role: Role, reason: str
) -> None:
    async with end_of(role, CONFIG, 4) as end, trio.open_nursery() as nursery:
        unblocked = await fill(end, end.streams[3])
        outcomes = [Outcome(send_all, stream) for stream in end.streams[:3]]
        for outcome in outcomes:
            nursery.start_soon(outcome.run)
            await trio.testing.wait_all_tasks_blocked()
        if reason == "RST":
            await end.peer.send(frames.encode_rst(1))
        else:
            await end.streams[0].aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert [outcome.at is not None for outcome in outcomes] == [True, False, False]
        unblocked.set()
        received = await end.peer.pending()
        assert [outcome.error for outcome in outcomes[1:]] == [None, None]
        sent = [(stream_id, payload) for kind, stream_id, payload in received if kind == FrameType.STREAM_DATA]
        assert sent[-2:] == [(2, b"blocked"), (3, b"blocked")]
        assert end.connection._multiplexer.send_queue.has_room


@EACH_ROLE
async def test_a_sender_that_is_let_in_as_its_stream_ends_leaves_the_room_to_the_next(
    autojump_clock: Clock, role: Role
) -> None:
    """The sender is admitted, and the stream ends before the sender runs."""
    async with end_of(role, CONFIG, 3) as end, trio.open_nursery() as nursery:
        unblocked = await fill(end, end.streams[2])
        outcomes = [Outcome(send_all, stream) for stream in end.streams[:2]]
        for outcome in outcomes:
            nursery.start_soon(outcome.run)
            await trio.testing.wait_all_tasks_blocked()
        send_queue = end.connection._multiplexer.send_queue
        while not send_queue._let_in:
            assert send_queue.take(trio.current_time()) is not None
        end.connection._multiplexer.reset_stream(end.streams[0]._core)
        await trio.testing.wait_all_tasks_blocked()
        assert type(outcomes[0].error) is trio.ClosedResourceError
        assert outcomes[1].at is not None
        assert outcomes[1].error is None
        assert send_queue._let_in == 0
        unblocked.set()


@EACH_ROLE
async def test_a_task_that_only_waits_for_room_leaves_it_to_the_next(autojump_clock: Clock, role: Role) -> None:
    """Nothing else would admit that sender: the writer has nothing more to do."""
    async with end_of(role, CONFIG, 3) as end, trio.open_nursery() as nursery:
        unblocked = await fill(end, end.streams[2])
        outcomes = [
            Outcome(wait_send_all_might_not_block, end.streams[0]),
            Outcome(wait_send_all_might_not_block, end.streams[1]),
            Outcome(send_all, end.streams[2]),
        ]
        for outcome in outcomes:
            nursery.start_soon(outcome.run)
            await trio.testing.wait_all_tasks_blocked()
        assert [outcome.at for outcome in outcomes] == [None] * 3
        unblocked.set()
        await trio.testing.wait_all_tasks_blocked()
        assert [outcome.at is not None for outcome in outcomes] == [True] * 3
        assert [outcome.error for outcome in outcomes] == [None] * 3


@OPERATIONS
async def test_a_stream_of_a_pool_that_is_not_accepted(autojump_clock: Clock, operation: Operation) -> None:
    """Expire by the client's own timer, over a transport that is blocked."""
    near, far = trio.testing.memory_stream_pair()
    peer = RawPeer(far)

    async def dial(_timeout: float) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        return near

    client = Client(
        dial,
        key="server:443",
        password=PASSWORD,
        padding_scheme=None,
        config=trioanytls.Config(send_buffer_size=1000, close_timeout=1),
        pool=trioanytls.PoolConfig(acknowledge_timeout=5),
    )
    async with run_client(client), trio.open_nursery() as nursery:
        stream = await client.open_stream()
        await peer.receive_auth()
        # The server is alive. Otherwise its connection would be abandoned with the stream.
        await trio.sleep(1)
        await peer.send(SERVER_NEGO)
        end = End(stream.connection, [stream], peer, near)
        with contextlib.suppress(trio.BrokenResourceError):
            await fill(end, stream)
        outcome = Outcome(operation, stream)
        nursery.start_soon(outcome.run)
        await trio.sleep(6)
        assert type(outcome.error) is StreamTimeout
        await far.aclose()
        nursery.cancel_scope.cancel()

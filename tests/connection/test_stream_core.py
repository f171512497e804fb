"""The connection's half of a stream: its state, and the tasks that it wakes."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

import trioanytls
from trioanytls._connection.receive_buffer import ReceiveBudget
from trioanytls._connection.send_queue import SendQueue
from trioanytls._connection.stream_core import StreamCore, StreamEnd

CONFIG = trioanytls.Config(receive_buffer_size=1000, stream_idle_timeout=60)
#: The cost of a piece of received data in addition to its bytes.
OVERHEAD = 64
#: Frames of stream 1.
OPEN, DATA, FIN, RST = b"\x0c\x01", b"\x0a\x01\x00", b"\x14\x01", b"\x0d\x01"

TRANSITIONS: dict[str, Callable[[StreamCore], object]] = {
    "close": StreamCore.close_locally,
    "discard": StreamCore.discard_received,
    **{end.name: lambda core, end=end: core.terminate(end) for end in StreamEnd},  # type: ignore[misc]
}


def new_core(*, by_peer: bool = True, send_queue: SendQueue | None = None) -> StreamCore:
    budget = ReceiveBudget(CONFIG.connection_receive_buffer_size)
    return StreamCore(1, send_queue or SendQueue(10_000), budget, CONFIG, trio.current_time(), by_peer=by_peer)


@pytest.mark.parametrize("names", list(itertools.permutations(TRANSITIONS, 2)), ids="-".join)
async def test_closed_is_set_by_every_end(names: tuple[str, str]) -> None:
    core = new_core()
    for name in names:
        # Only a stream that has ended is discarded.
        if name != "discard" or core.closed:
            TRANSITIONS[name](core)
        assert core.closed is (core.closed_locally or core.ended is not None)


async def test_the_first_end_counts() -> None:
    core = new_core()
    core.terminate(StreamEnd.PEER)
    core.terminate(StreamEnd.CONNECTION)
    assert core.ended is StreamEnd.PEER
    closed = new_core()
    closed.close_locally()
    closed.terminate(StreamEnd.IDLE)
    assert (closed.closed_locally, closed.ended) == (True, None)


async def test_discarding_does_not_look_like_the_end_of_the_stream() -> None:
    core = new_core()
    core.receive_data(b"unread", 1.0)
    core.terminate(StreamEnd.PEER)
    core.discard_received()
    assert core.ended is StreamEnd.STALLED
    assert (core.received.size, core.received.cost) == (0, 0)


async def test_the_cost_of_received_data_is_returned() -> None:
    core = new_core()
    assert core.receive_data(b"abc", 5.0) == 3 + OVERHEAD
    assert core.receive_data(b"", 6.0) == 3 + OVERHEAD
    assert core.last_frame == 6.0
    assert not core.is_full
    core.receive_data(bytes(1000), 7.0)
    assert core.is_full
    core.close_locally()
    assert not core.is_full


async def test_the_reader_is_woken_when_the_buffer_is_within_its_limit() -> None:
    core = new_core()
    core.receive_data(bytes(600), 1.0)
    core.receive_data(bytes(600), 1.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(core.wait_read)
        await wait_all_tasks_blocked()
        core.received.take(100)
        core.data_read()
        # Another 228 bytes are too many.
        assert core.read_waiter is not None
        core.received.take(300)
        core.data_read()
        assert core.read_waiter is None


async def test_rst_follows_the_last_queued_frame() -> None:
    send_queue = SendQueue(10_000)
    core = new_core(by_peer=False, send_queue=send_queue)
    core.queue_open(OPEN)
    send_queue.queue(core, DATA, b"")
    assert core.queued == 2
    core.last_frames = (FIN, RST)
    assert not core.on_wire
    assert send_queue.take(3.0) == OPEN
    assert (core.on_wire, core.last_frame) == (True, 3.0)
    assert send_queue.take_batch(4.0, 100) == [DATA, b"", FIN, RST]
    assert core.queued == 0
    assert not core.last_frames


async def test_a_task_that_waits_until_the_stream_is_on_the_wire_is_woken() -> None:
    send_queue = SendQueue(10_000)
    core = new_core(by_peer=False, send_queue=send_queue)
    core.queue_open(OPEN)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(core.wait_on_wire)
        await wait_all_tasks_blocked()
        assert nursery.child_tasks
        send_queue.take(3.0)


@pytest.mark.parametrize("end", StreamEnd)
async def test_queued_frames_are_dropped_unless_the_connection_ends(end: StreamEnd) -> None:
    core = new_core()
    core.queued = 1
    core.terminate(end)
    # The peer of a stream that both sides have ended reads on.
    assert core.dropped is (end not in (StreamEnd.CONNECTION, StreamEnd.FINISHED))
    assert core.queued == (0 if core.dropped else 1)


async def test_the_handler_of_an_ended_stream_has_stream_idle_timeout(autojump_clock: trio.testing.MockClock) -> None:
    core = new_core()
    start = trio.current_time()
    with trio.CancelScope() as core.handler_scope:
        core.terminate(StreamEnd.PEER)
        await trio.sleep_forever()
    assert trio.current_time() == start + 60

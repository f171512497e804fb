"""The send queue: admission, order, and the end."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Coroutine

import outcome
import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from trioanytls._connection import send_queue as send_queue_module
from trioanytls._connection.send_queue import MAX_DATA, SendQueue

from ..helpers.wire_bytes import PINGPONG, frame

NOW = 17.0
# A bound that one frame of any length reaches: there is room exactly when the queue is empty.
ONE = 1


class Stream:
    """A stream as the send queue uses it.

    Attributes:
      taken: the times at which its frames were taken.
    """

    def __init__(self, stream_id: int = 1, following: tuple[bytes, ...] = ()) -> None:
        self.dropped = False
        self.queued = 0
        self.on_wire = False
        self.last_frames = following
        self.taken: list[float] = []
        self.header = bytes([0x0A, stream_id])

    @property
    def last_frame(self) -> float:
        return self.taken[-1]

    @last_frame.setter
    def last_frame(self, now: float) -> None:
        self.taken.append(now)

    def first_frame_taken(self) -> None:
        self.on_wire = True

    def put(self, send_queue: SendQueue, payload: bytes) -> None:
        send_queue.put(self, self.header + bytes([len(payload)]), payload)


def data(stream_id: int, payload: bytes) -> bytes:
    return frame(0x0A, stream_id, payload)


def fill(send_queue: SendQueue) -> int:
    """Queue small frames until there is no room. Return their number."""
    stream, count = Stream(63), 0
    while send_queue.has_room:
        stream.put(send_queue, b"")
        count += 1
    return count


def take_all(send_queue: SendQueue) -> list[bytes]:
    """Take all queued frames."""
    frames = []
    while (taken := send_queue.take(NOW)) is not None:
        frames.append(taken)
    return frames


# Order


def test_nothing_waits_at_first() -> None:
    send_queue = SendQueue(1000)
    assert send_queue.has_room
    assert send_queue.take(NOW) is None
    assert send_queue.take_of_stream(NOW) is None
    assert send_queue.take_batch(NOW, 1000) == []
    assert send_queue.pending_control == 0
    assert not send_queue.finishing
    assert not send_queue.broken


def test_streams_frames_are_taken_in_their_order() -> None:
    send_queue, one, two = SendQueue(1000), Stream(1), Stream(2)
    one.put(send_queue, b"a")
    two.put(send_queue, b"b")
    one.put(send_queue, b"c")
    assert take_all(send_queue) == [data(1, b"a"), data(2, b"b"), data(1, b"c")]
    assert one.taken == [NOW, NOW]
    assert two.taken == [NOW]


def test_control_frames_go_first_in_their_order() -> None:
    send_queue, stream = SendQueue(1000), Stream()
    stream.put(send_queue, b"a")
    send_queue.put_control(PINGPONG)
    stream.put(send_queue, b"b")
    send_queue.put_control(b"\x09\x05")
    assert send_queue.pending_control == 2
    assert send_queue.take(NOW) == PINGPONG
    assert send_queue.pending_control == 1
    assert take_all(send_queue) == [b"\x09\x05", data(1, b"a"), data(1, b"b")]


def test_control_frames_need_no_room() -> None:
    send_queue = SendQueue(ONE)
    fill(send_queue)
    for _ in range(10_000):
        send_queue.put_control(PINGPONG)
    assert send_queue.pending_control == 10_000


def test_the_first_frame_of_a_stream_can_be_taken_ahead_of_control_frames() -> None:
    send_queue, stream = SendQueue(1000), Stream()
    send_queue.put_control(PINGPONG)
    assert send_queue.take_of_stream(NOW) is None
    stream.put(send_queue, b"a")
    stream.put(send_queue, b"b")
    assert send_queue.take_of_stream(NOW) == data(1, b"a")
    assert take_all(send_queue) == [PINGPONG, data(1, b"b")]


def test_what_a_stream_wants_behind_its_last_frame_is_directly_behind_it() -> None:
    # The RST must not overtake the stream's data, and does not wait for that of other streams.
    send_queue, one, two = SendQueue(1000), Stream(1, following=(b"\x09\x01",)), Stream(2)
    one.put(send_queue, b"a")
    two.put(send_queue, b"b")
    one.put(send_queue, b"c")
    two.put(send_queue, b"d")
    assert take_all(send_queue) == [data(1, b"a"), data(2, b"b"), data(1, b"c"), b"\x09\x01", data(2, b"d")]


def test_a_batch_has_the_same_order() -> None:
    send_queue, one, two = SendQueue(1000), Stream(1, following=(b"\x09\x01",)), Stream(2)
    one.put(send_queue, b"a")
    two.put(send_queue, b"b")
    send_queue.put_control(PINGPONG)
    assert b"".join(send_queue.take_batch(NOW, 1000)) == PINGPONG + data(1, b"a") + b"\x09\x01" + data(2, b"b")
    assert send_queue.take_batch(NOW, 1000) == []


def test_a_batch_ends_at_its_size_or_a_frame_later() -> None:
    send_queue, stream = SendQueue(100_000), Stream()
    for _ in range(10):
        stream.put(send_queue, bytes(20))
    batches = []
    while batch := b"".join(send_queue.take_batch(NOW, 50)):
        batches.append(len(batch))
    assert batches == [69, 69, 69, 23]


def test_frames_and_bytes_are_counted_when_they_are_taken() -> None:
    send_queue, stream, gone = SendQueue(1000), Stream(following=(b"\x09\x01",)), Stream(2)
    stream.put(send_queue, b"abc")
    stream.put(send_queue, b"defgh")
    gone.put(send_queue, b"never")
    gone.dropped = True
    send_queue.put_control(PINGPONG)
    assert sum(send_queue.frames) == 0
    take_all(send_queue)
    assert (send_queue.frames[0x0A], send_queue.frames[0x09], send_queue.frames[0x07]) == (2, 1, 1)
    assert sum(send_queue.frames) == 4
    assert send_queue.data_bytes == 8


# Room


@pytest.mark.parametrize("size", [1, 64, 65, 1000, 4096, 256 * 1024])
def test_small_frames_are_bounded_as_well(size: int) -> None:
    send_queue = SendQueue(size)
    count = fill(send_queue)
    assert 1 <= count <= size // 64 + 1
    assert len(take_all(send_queue)) == count
    assert send_queue.has_room


def test_a_frame_goes_beyond_the_bound_and_no_other_with_it() -> None:
    send_queue, stream = SendQueue(1000), Stream()
    send_queue.put(stream, stream.header + b"\x80\x01\x00\x00", bytes(MAX_DATA))
    assert not send_queue.has_room
    assert send_queue.take(NOW) == stream.header + b"\x80\x01\x00\x00" + bytes(MAX_DATA)
    assert send_queue.has_room


async def test_a_full_outbox_lets_the_next_in_when_a_frame_is_taken() -> None:
    send_queue, stream = SendQueue(ONE), Stream()
    fill(send_queue)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            await send_queue.wait_room()
            stream.put(send_queue, b"later")

        await wait_all_tasks_blocked()
        assert send_queue.take(NOW) == data(63, b"")
        await wait_all_tasks_blocked()
        assert send_queue.take(NOW) == data(1, b"later")


async def start_in_order(nursery: trio.Nursery, *tasks: Callable[..., object]) -> None:
    for task in tasks:
        nursery.start_soon(task)  # type: ignore[arg-type]
        await wait_all_tasks_blocked()


async def test_room_is_given_in_the_order_in_which_it_was_asked_for() -> None:
    send_queue = SendQueue(ONE)
    fill(send_queue)
    streams = [Stream(stream_id) for stream_id in range(1, 11)]

    def sender(stream: Stream) -> Callable[[], object]:
        async def send() -> None:
            await send_queue.wait_room()
            stream.put(send_queue, b"x")

        return send

    taken = []
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, *map(sender, streams))
        for _ in range(11):
            taken += take_all(send_queue)
            await wait_all_tasks_blocked()
    assert taken == [data(63, b""), *(data(stream_id, b"x") for stream_id in range(1, 11))]


async def test_streams_with_much_to_send_take_turns() -> None:
    send_queue = SendQueue(ONE)
    fill(send_queue)

    def sender(stream: Stream) -> Callable[[], object]:
        async def send() -> None:
            for count in range(3):
                # As in `Stream.send_all`.
                if not send_queue.has_room:
                    await send_queue.wait_room()
                stream.put(send_queue, bytes([count]))

        return send

    taken = []
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, *(sender(Stream(stream_id)) for stream_id in (1, 2, 3)))
        for _ in range(10):
            taken += take_all(send_queue)
            await wait_all_tasks_blocked()
    assert taken[1:] == [data(stream_id, bytes([count])) for count in range(3) for stream_id in (1, 2, 3)]


async def test_nobody_overtakes_those_who_wait() -> None:
    send_queue, first = SendQueue(ONE), Stream(1)
    fill(send_queue)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            await send_queue.wait_room()
            first.put(send_queue, b"first")

        await wait_all_tasks_blocked()
        take_all(send_queue)
        # There is room, but it is reserved: the admitted task has not run yet.
        assert not send_queue.has_room
        assert not send_queue.offer(Stream(2), b"\x0a\x02\x01", b"x")
    assert take_all(send_queue) == [data(1, b"first")]
    assert send_queue.has_room


@pytest.mark.parametrize("size", [128, 129])
def test_what_is_offered_is_taken_if_there_is_room(size: int) -> None:
    """`has_room` and `offer` agree: a frame is admitted up to the bound, and may exceed it."""
    send_queue, offered = SendQueue(size), 0
    while send_queue.has_room:
        assert send_queue.offer(Stream(), b"\x0a\x01\x00", b"")
        offered += 1
    assert offered == -(-size // 64)
    assert not send_queue.offer(Stream(), b"\x0a\x01\x00", b"")
    assert take_all(send_queue) == [data(1, b"")] * offered


async def test_as_many_are_let_in_as_there_is_room_for_large_frames() -> None:
    send_queue = SendQueue(3 * (MAX_DATA + 64))
    payload = bytes(MAX_DATA)
    header = b"\x0a\x01\x80\x01\x00\x00"
    for _ in range(3):
        assert send_queue.has_room
        send_queue.put(Stream(), header, payload)
    assert not send_queue.has_room
    running = 0

    async def send() -> None:
        nonlocal running
        await send_queue.wait_room()
        running += 1
        send_queue.put(Stream(), header, payload)

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, *[send] * 5)
        assert send_queue.take(NOW)
        assert send_queue.take(NOW)
        await wait_all_tasks_blocked()
        # Room for as many frames as were taken, and no more.
        assert running == 2
        while running < 5 or not send_queue.has_room:
            assert send_queue.take(NOW)
            await wait_all_tasks_blocked()


async def test_room_that_is_not_made_use_of_goes_to_the_next_in_line() -> None:
    # "queue it without another checkpoint, or give it back": `wait_send_all_might_not_block` does, or a sender that
    # finds its stream closed meanwhile. The queue may be empty then: no frame will be taken that would admit the next
    # sender.
    send_queue = SendQueue(ONE)
    fill(send_queue)
    log: list[str] = []

    async def look() -> None:
        await send_queue.wait_room()
        send_queue.give_back()
        log.append("looked")

    async def send() -> None:
        await send_queue.wait_room()
        Stream().put(send_queue, b"x")
        log.append("sent")

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, look, look, send)
        take_all(send_queue)
        await wait_all_tasks_blocked()
        waits = list(log)
        nursery.cancel_scope.cancel()
    assert waits == ["looked", "looked", "sent"]


async def test_room_that_somebody_cancelled_waits_for_goes_to_the_next_in_line() -> None:
    send_queue = SendQueue(ONE)
    fill(send_queue)
    log: list[str] = []
    scope = trio.CancelScope()

    async def give_up() -> None:
        with scope:
            await send_queue.wait_room()
            log.append("let in")
        log.append("gave up")

    async def send() -> None:
        await send_queue.wait_room()
        log.append("sent")
        Stream().put(send_queue, b"x")

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, give_up, send)
        scope.cancel()
        await wait_all_tasks_blocked()
        assert log == ["gave up"]
        take_all(send_queue)
        await wait_all_tasks_blocked()
        assert log == ["gave up", "sent"]


async def test_a_cancellation_that_comes_after_the_room_changes_nothing() -> None:
    send_queue = SendQueue(ONE)
    fill(send_queue)
    scope = trio.CancelScope()

    async def send() -> None:
        with scope:
            await send_queue.wait_room()
            Stream().put(send_queue, b"x")

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, send)
        take_all(send_queue)
        scope.cancel()
        await wait_all_tasks_blocked()
        assert take_all(send_queue) == [data(1, b"x")]
    assert send_queue.has_room


async def test_a_cancellation_that_comes_before_the_room_leaves_the_room() -> None:
    send_queue = SendQueue(ONE)
    fill(send_queue)
    scope = trio.CancelScope()

    async def send() -> None:
        with scope:
            await send_queue.wait_room()
        assert scope.cancelled_caught

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, send)
        scope.cancel()
        take_all(send_queue)
    assert send_queue.has_room


async def test_somebody_can_be_woken_without_room() -> None:
    send_queue = SendQueue(ONE)
    fill(send_queue)
    tasks: list[trio.lowlevel.Task] = []
    log: list[int] = []

    def waiter(index: int) -> Callable[[], object]:
        async def wait() -> None:
            tasks.append(trio.lowlevel.current_task())
            await send_queue.wait_room()
            log.append(index)

        return wait

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, *map(waiter, range(3)))
        send_queue.wake(tasks[1])
        send_queue.wake(tasks[1])
        await wait_all_tasks_blocked()
        assert log == [1]
        send_queue.wake(tasks[0])
        send_queue.wake(tasks[2])
    send_queue.wake(tasks[0])
    assert sorted(log) == [0, 1, 2]
    take_all(send_queue)
    assert send_queue.has_room


def test_room_given_back_where_nobody_waits_is_just_room() -> None:
    send_queue = SendQueue(ONE)
    send_queue.give_back()
    assert send_queue.has_room
    fill(send_queue)
    send_queue.give_back()
    assert not send_queue.has_room


# Dropped frames


def test_dropped_frames_are_not_sent_and_their_stream_is_not_told() -> None:
    send_queue, gone, alive = SendQueue(1000), Stream(1, following=(b"\x09\x01",)), Stream(2)
    gone.put(send_queue, b"a")
    alive.put(send_queue, b"b")
    gone.put(send_queue, b"c")
    gone.dropped = True
    assert take_all(send_queue) == [data(2, b"b")]
    assert gone.taken == []


@pytest.mark.parametrize("how", ["take", "take_of_stream", "take_batch"])
def test_dropped_frames_give_their_room_back(how: str) -> None:
    send_queue, gone = SendQueue(200), Stream()
    while send_queue.has_room:
        gone.put(send_queue, b"x")
    gone.dropped = True
    assert not (send_queue.take_batch(NOW, 1000) if how == "take_batch" else getattr(send_queue, how)(NOW))
    assert send_queue.has_room


# The writer's wait


@pytest.mark.parametrize("what", ["frame", "control", "finish"])
async def test_the_writer_does_not_wait_where_something_is_there(
    what: str, autojump_clock: trio.testing.MockClock
) -> None:
    send_queue = SendQueue(1000)
    act(send_queue, what)
    with trio.fail_after(1):
        await send_queue.wait()
        await send_queue.wait()


def act(send_queue: SendQueue, what: str) -> None:
    if what == "frame":
        Stream().put(send_queue, b"x")
    elif what == "control":
        send_queue.put_control(PINGPONG)
    else:
        send_queue.finish(None, drain=True)


@pytest.mark.parametrize("what", ["frame", "control", "finish"])
async def test_the_writer_waits_until_there_is_something(what: str) -> None:
    send_queue = SendQueue(1000)
    woken = False

    async def write() -> None:
        nonlocal woken
        await send_queue.wait()
        woken = True

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, write)
        assert not woken
        act(send_queue, what)
        # A frame queued in the same pass is taken, too.
        send_queue.put_control(PINGPONG)
        Stream(2).put(send_queue, b"y")
    assert woken
    assert (
        take_all(send_queue)
        == {
            "frame": [PINGPONG, data(1, b"x"), data(2, b"y")],
            "control": [PINGPONG, PINGPONG, data(2, b"y")],
            "finish": [],
        }[what]
    )


@pytest.mark.parametrize("how", ["put", "cancelled", "nothing to wait for"])
async def test_the_writer_is_idle_while_it_waits_and_no_longer(how: str) -> None:
    """While the writer is not idle, no inline write may happen."""
    send_queue, scope = SendQueue(1000), trio.CancelScope()
    idle: list[bool] = []

    async def write() -> None:
        with scope:
            await send_queue.wait()
        idle.append(send_queue.writer_idle)

    if how == "nothing to wait for":
        send_queue.put_control(PINGPONG)
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, write)
        assert send_queue.writer_idle == (how != "nothing to wait for")
        if how == "put":
            send_queue.put_control(PINGPONG)
        scope.cancel()
    assert idle == [False]


async def test_the_writer_is_idle_while_it_looks_on_and_no_longer() -> None:
    send_queue, idle = SendQueue(1000), False
    send_queue.put_control(PINGPONG)

    async def watch() -> None:
        nonlocal idle
        while not idle:
            idle = send_queue.writer_idle
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        for _ in range(20):
            await send_queue.wait_for_piggyback()
            assert not send_queue.writer_idle
    assert idle


@pytest.mark.parametrize("order", ["put first", "cancelled first"])
@pytest.mark.parametrize("what", ["frame", "control", "finish"])
async def test_a_cancelled_wait_of_the_writer_loses_nothing(what: str, order: str) -> None:
    send_queue = SendQueue(1000)
    scope = trio.CancelScope()

    async def write() -> None:
        with scope:
            await send_queue.wait()
        # Either the wake-up or the cancellation came first. Both are fine.
        await send_queue.wait()

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, write)
        if order == "put first":
            act(send_queue, what)
        scope.cancel()
        if order != "put first":
            act(send_queue, what)
    assert take_all(send_queue) == {"frame": [data(1, b"x")], "control": [PINGPONG], "finish": []}[what]
    assert send_queue.take(NOW) is None


async def test_a_wait_that_is_cancelled_as_it_begins_loses_nothing() -> None:
    send_queue = SendQueue(ONE)
    for count in range(5):
        stream = Stream()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def put(stream: Stream = stream) -> None:
                send_queue.put_control(PINGPONG)
                stream.put(send_queue, b"x")

            with trio.move_on_after(0):
                await send_queue.wait()
        await send_queue.wait()
        assert take_all(send_queue) == [PINGPONG, data(1, b"x")], count


async def test_a_frame_that_ended_the_writers_wait_can_be_discarded() -> None:
    send_queue, stream = SendQueue(1000), Stream()
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, send_queue.wait)
        stream.put(send_queue, b"x")
    send_queue.finish(b"\x02\x00\x00", drain=False)
    assert send_queue.take(NOW) is None
    assert stream.taken == []


# The end


@pytest.mark.parametrize("what", ["control", "size", "finish", "broken", "nothing"])
async def test_lingering_ends_at_once_as_there_is_more_to_do(autojump_clock: trio.testing.MockClock, what: str) -> None:
    """The writer coalesces for a millisecond at most while senders go on queueing small frames."""
    send_queue, stream = SendQueue(100_000), Stream()
    ended: list[float] = []

    async def coalesce() -> None:
        await send_queue.coalesce(10_000)
        ended.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(coalesce)
        while send_queue._wake_at == math.inf:
            # It goes on as long as frames come. Then it waits without checking.
            stream.put(send_queue, b"x")
            await trio.lowlevel.checkpoint()
        assert ended == []
        if what == "control":
            send_queue.put_control(PINGPONG)
        elif what == "size":
            send_queue.put(stream, stream.header, bytes(10_000))
        elif what == "finish":
            send_queue.finish(None, drain=True)
        elif what == "broken":
            send_queue.break_down()
        await wait_all_tasks_blocked()
    assert ended == ([0.001] if what == "nothing" else [0])
    # A frame queued later wakes no task.
    send_queue.put_control(PINGPONG)
    send_queue.put(stream, stream.header, bytes(10_000))


def test_finishing_sends_what_is_queued_and_takes_no_more() -> None:
    send_queue, stream = SendQueue(1000), Stream(following=(b"\x09\x01",))
    stream.put(send_queue, b"a")
    send_queue.put_control(PINGPONG)
    send_queue.finish(b"\x02\x00\x00", drain=True)
    assert send_queue.finishing
    assert send_queue.last_frame == b"\x02\x00\x00"
    Stream(2).put(send_queue, b"late")
    send_queue.put_control(PINGPONG)
    # The frame that follows a stream's last frame still does.
    assert take_all(send_queue) == [PINGPONG, data(1, b"a"), b"\x09\x01"]


def test_finishing_without_draining_drops_what_is_queued() -> None:
    send_queue, stream = SendQueue(1000), Stream()
    stream.put(send_queue, b"a")
    send_queue.put_control(PINGPONG)
    send_queue.finish(b"\x02\x00\x03", drain=False)
    assert take_all(send_queue) == []
    assert send_queue.pending_control == 0
    assert stream.taken == []
    assert send_queue.last_frame == b"\x02\x00\x03"


@pytest.mark.parametrize("end", ["drain", "drop", "break"])
async def test_at_the_end_everybody_who_waits_for_room_goes_on(end: str) -> None:
    send_queue = SendQueue(ONE)
    count = fill(send_queue)
    woken = 0

    async def send() -> None:
        nonlocal woken
        await send_queue.wait_room()
        woken += 1
        # A sender that does not check finds that its frame is discarded.
        Stream().put(send_queue, b"late")

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, *[send] * 10)
        if end == "break":
            send_queue.break_down()
        else:
            send_queue.finish(None, drain=end == "drain")
    assert woken == 10
    assert len(take_all(send_queue)) == (count if end == "drain" else 0)


async def test_a_transport_that_has_broken_takes_nothing() -> None:
    send_queue, stream = SendQueue(1000), Stream()
    stream.put(send_queue, b"a")
    send_queue.put_control(PINGPONG)
    send_queue.break_down()
    assert send_queue.broken
    stream.put(send_queue, b"b")
    send_queue.put_control(PINGPONG)
    assert take_all(send_queue) == []
    assert stream.taken == []
    send_queue.finish(None, drain=True)
    assert send_queue.finishing
    await send_queue.wait()


# All together


@pytest.mark.parametrize("lookers", [0, 5])
@pytest.mark.parametrize("seed", range(5))
async def test_whatever_is_put_is_taken_once_and_in_order_whoever_gives_up(
    seed: int, lookers: int, autojump_clock: trio.testing.MockClock
) -> None:
    rng = random.Random(seed)
    send_queue = SendQueue(rng.choice([ONE, 200, 5000]))
    put: dict[int, list[bytes]] = {stream_id: [] for stream_id in range(1, 21)}
    taken: dict[int, list[bytes]] = {stream_id: [] for stream_id in put}
    all_put = False

    async def send(stream_id: int) -> None:
        stream = Stream(stream_id)
        for count in range(20):
            with trio.move_on_after(rng.choice([0, 0.5, 10])):
                await trio.lowlevel.checkpoint()
                if not send_queue.has_room:
                    await send_queue.wait_room()
                payload = bytes([count]) * rng.randrange(1, 60)
                stream.put(send_queue, payload)
                put[stream_id].append(payload)

    async def look() -> None:
        for _ in range(20):
            if not send_queue.has_room:
                await send_queue.wait_room()
                send_queue.give_back()
            await trio.lowlevel.checkpoint()

    async def write() -> None:
        while not all_put or taken != put:
            with trio.move_on_after(rng.choice([0, 0.1, 10])):
                await send_queue.wait()
            for _ in range(rng.randrange(3)):
                frame_taken = send_queue.take(NOW)
                if frame_taken is not None:
                    taken[frame_taken[1]].append(frame_taken[3:])
            await trio.sleep(0.01)

    # On the autojump clock: if all tasks wait forever, the timeout expires at once.
    with trio.fail_after(1000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            async with trio.open_nursery() as senders:
                for stream_id in put:
                    senders.start_soon(send, stream_id)
                for _ in range(lookers):
                    senders.start_soon(look)
            all_put = True
    assert taken == put
    assert sum(map(len, put.values())) > 0
    assert send_queue.has_room


# At each limit, and one byte before it or after it

SENDER = Stream(62)


def charge(send_queue: SendQueue, size: int) -> None:
    """Queue a frame with this charge in bytes."""
    send_queue.put(SENDER, b"\x0a\x3e", bytes(size - send_queue_module._OVERHEAD))


def test_there_is_room_up_to_one_byte_before_the_bound() -> None:
    for missing, room in ((1, True), (0, False)):
        for offering in (False, True):
            send_queue = SendQueue(1000)
            charge(send_queue, 1000 - missing)
            assert (send_queue.offer(SENDER, b"\x0a\x3e", b"x") if offering else send_queue.has_room) is room


@pytest.mark.parametrize("more", [0, 1])
def test_a_frame_passes_by_at_most_a_record_that_is_queued(more: int) -> None:
    send_queue = SendQueue(100_000)
    charge(send_queue, send_queue_module.MAX_INLINE + more)
    send_queue.queue_control(PINGPONG)
    data = send_queue.pass_by(SENDER, b"\x0a\x3e\x04", memoryview(b"data"), NOW)
    if more:
        assert data is None
        assert not send_queue.is_empty
        assert send_queue.data_bytes == 0
    else:
        assert data is not None
        assert data.startswith(PINGPONG + b"\x0a\x3e")
        assert data.endswith(b"\x0a\x3e\x04data")
        assert send_queue.is_empty
        assert send_queue.data_bytes == send_queue_module.MAX_INLINE - send_queue_module._OVERHEAD + 4


def step(coalesce: Coroutine[object, object, None]) -> bool:
    """Run the writer for one step. Return whether it still coalesces."""
    try:
        coalesce.send(outcome.Value(None) if inspect.getcoroutinestate(coalesce) != inspect.CORO_CREATED else None)
    except StopIteration:
        return False
    return True


def test_the_writer_does_not_linger_where_enough_waits() -> None:
    for missing in (0, 1):
        send_queue = SendQueue(100_000)
        charge(send_queue, 5000 - missing)
        coalesce = send_queue.coalesce(5000)
        assert step(coalesce) is bool(missing)
        coalesce.close()


def test_the_writer_lingers_until_there_is_enough() -> None:
    # The last pass that it waits for brings the missing frame.
    passes = send_queue_module._COALESCE_PASSES
    send_queue = SendQueue(100_000)
    coalesce = send_queue.coalesce(1000 * passes)
    for _ in range(passes):
        assert step(coalesce)
        charge(send_queue, 1000)
    assert not step(coalesce)


@pytest.mark.parametrize("missing", [0, 1])
async def test_a_writer_that_looks_away_is_told_when_there_is_enough(
    mock_clock: trio.testing.MockClock, missing: int
) -> None:
    send_queue, done = SendQueue(200_000), trio.Event()

    async def coalesce() -> None:
        await send_queue.coalesce(50_000)
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(coalesce)
        while send_queue._wake_at == math.inf:
            charge(send_queue, 100)
            await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()
        charge(send_queue, 50_000 - send_queue.charged - missing)
        await wait_all_tasks_blocked()
        assert done.is_set() is not bool(missing)
        mock_clock.jump(1)


# Waking the writer


@pytest.mark.parametrize("room", [-1, 0, 1])
async def test_a_frame_is_offered_room_that_is_promised_to_nobody(room: int) -> None:
    """`offer` agrees with `has_room`, to the byte, while an admitted sender has not run yet."""
    small = Stream(2)
    # A small frame, and the room reserved for the admitted sender.
    send_queue = SendQueue((64 + 1) + (64 + MAX_DATA) + room)
    held = Stream(1)
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            await send_queue.wait_room()
            send_queue.give_back()

        for _ in range(2):
            send_queue.queue(held, b"\x0a\x01", bytes(MAX_DATA))
        await start_in_order(nursery, wait)
        while send_queue.take(NOW) is not None:
            pass
        small.put(send_queue, b"x")
        # Admitted, and not run yet.
        assert send_queue._let_in == 1
        assert send_queue.has_room == (room > 0)
        assert send_queue.offer(small, small.header + b"\x01", b"y") == (room > 0)
    assert send_queue.offer(small, small.header + b"\x01", b"z")


async def test_whether_the_writer_is_idle_and_has_waited() -> None:
    send_queue = SendQueue(1000)
    assert not send_queue.writer_idle
    Stream().put(send_queue, b"x")
    assert await send_queue.wait() is False
    assert not send_queue.writer_idle
    take_all(send_queue)
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            assert await send_queue.wait() is True
            assert not send_queue.writer_idle

        await start_in_order(nursery, write)
        assert send_queue.writer_idle
        send_queue.put_control(PINGPONG)
        # The writer was woken, and has not run since.
        assert send_queue.writer_idle
    with trio.move_on_after(0):
        take_all(send_queue)
        await send_queue.wait()
    assert not send_queue.writer_idle


@pytest.mark.parametrize("what", ["nothing", "frame", "frame and control", "finish"])
async def test_the_writer_looks_on_only_for_data_that_may_come(what: str) -> None:
    send_queue = SendQueue(1000)
    if "frame" in what:
        act(send_queue, "frame")
    if what != "frame" and what != "nothing":
        send_queue.put_control(PINGPONG)
    if what == "finish":
        act(send_queue, "finish")
    with trio.testing.assert_no_checkpoints():
        await send_queue.wait_for_piggyback()
    assert not send_queue.writer_idle


async def test_control_frames_wait_a_pass_for_data() -> None:
    send_queue = SendQueue(1000)
    send_queue.put_control(PINGPONG)
    with pytest.raises(AssertionError, match="yielded"), trio.testing.assert_no_checkpoints():
        await send_queue.wait_for_piggyback()
    assert not send_queue.writer_idle
    assert take_all(send_queue) == [PINGPONG]


@pytest.mark.parametrize("what", ["control", "finish", "enough"])
async def test_the_writer_does_not_linger(what: str) -> None:
    send_queue = SendQueue(1000)
    if what == "enough":
        # Exact to the byte.
        Stream().put(send_queue, bytes(100 - 64))
    else:
        act(send_queue, what)
    with trio.testing.assert_no_checkpoints():
        await send_queue.coalesce(100)


async def test_the_writer_lingers_while_every_pass_brings_a_frame(autojump_clock: trio.testing.MockClock) -> None:
    send_queue, stream = SendQueue(10**6), Stream()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            for _ in range(6):
                stream.put(send_queue, b"x")
                await trio.lowlevel.checkpoint()

        start = trio.current_time()
        await send_queue.coalesce(10**6)
        # All of them, without a wait after the passes.
        assert len(take_all(send_queue)) == 6
        assert trio.current_time() == start


@pytest.mark.parametrize("what", ["enough", "more", "control", "controls", "finish", "break", "nothing"])
async def test_what_ends_the_millisecond(what: str, autojump_clock: trio.testing.MockClock) -> None:
    """After some passes with a frame in each, the writer waits without checking."""
    send_queue, stream = SendQueue(10**6), Stream()
    passes = 100
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            for _ in range(passes):
                stream.put(send_queue, b"")
                await trio.lowlevel.checkpoint()
            await trio.sleep(0.0005)
            if what == "enough":
                stream.put(send_queue, b"")
            elif what == "more":
                # The second one comes before the writer runs.
                stream.put(send_queue, b"")
                stream.put(send_queue, b"")
            elif what.startswith("control"):
                send_queue.put_control(PINGPONG)
                if what == "controls":
                    send_queue.put_control(PINGPONG)
                    stream.put(send_queue, b"")
            elif what == "finish":
                send_queue.finish(None, drain=True)
            elif what == "break":
                send_queue.break_down()

        start = trio.current_time()
        await send_queue.coalesce(64 * (passes + 1))
        assert trio.current_time() - start == pytest.approx(0.001 if what == "nothing" else 0.0005, abs=1e-6)
        # It has ended, and later frames do not matter.
        stream.put(send_queue, bytes(100))
        send_queue.put_control(PINGPONG)


@pytest.mark.parametrize("what", ["enough", "control", "finish", "nothing"])
async def test_what_comes_in_the_last_pass_ends_the_lingering(
    what: str, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_queue_module, "_COALESCE_PASSES", 1)
    send_queue, stream = SendQueue(10**6), Stream()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            send_queue.put(stream, b"\x0a\x01", bytes(1000 - 64 if what == "enough" else 1))
            if what in ("control", "finish"):
                act(send_queue, what)

        start = trio.current_time()
        await send_queue.coalesce(1000)
        assert trio.current_time() - start == pytest.approx(0.001 if what == "nothing" else 0, abs=1e-6)


@pytest.mark.parametrize("kind", ["frames", "control", "after dropped ones"])
def test_a_batch_is_full_at_its_size_to_the_byte(kind: str) -> None:
    size = len(data(1, b"xyz")) if kind != "control" else len(PINGPONG)
    for limit, number in ((2 * size - 1, 2), (2 * size, 2), (2 * size + 1, 3)):
        send_queue, stream, dropped = SendQueue(10_000), Stream(), Stream(2)
        if kind == "after dropped ones":
            for _ in range(5):
                dropped.put(send_queue, b"dropped")
            dropped.dropped = True
        for _ in range(4):
            if kind == "control":
                send_queue.put_control(PINGPONG)
            else:
                stream.put(send_queue, b"xyz")
        assert len(b"".join(send_queue.take_batch(NOW, limit))) == number * size


@pytest.mark.parametrize("following", [False, True])
def test_a_batch_that_has_its_size_takes_no_further_frame(following: bool) -> None:
    send_queue = SendQueue(100_000)
    size = len(b"\x0a\x3e") + 1000
    for _ in range(2):
        send_queue.put(SENDER, b"\x0a\x3e", bytes(1000))
    if following:
        send_queue.put_control(PINGPONG)
        size += len(PINGPONG)
    assert len(b"".join(send_queue.take_batch(NOW, size))) == size
    assert len(b"".join(send_queue.take_batch(NOW, size))) == 1002
    for _ in range(2):
        send_queue.put(SENDER, b"\x0a\x3e", bytes(1000))
    # One byte is missing, so the next frame is taken as well.
    assert len(b"".join(send_queue.take_batch(NOW, 1003))) == 2004


# Data whose frames are queued while its sender waits


class Data:
    """The data of one send, one frame of one letter each. `credit` bounds the number of frames that can be queued.

    `size` is what it says of itself.
    """

    def __init__(self, stream: Stream, letters: bytes, credit: int = 1000, *, size: int = 2 * MAX_DATA) -> None:
        self.size = size
        self.left = [letters[i : i + 1] for i in range(len(letters))]
        self.credit = credit
        self._stream = stream

    @property
    def is_empty(self) -> bool:
        return not self.left

    def next_frame(self) -> tuple[Stream, bytes, bytes] | None:
        if not self.credit:
            return None
        self.credit -= 1
        letter = self.left.pop(0)
        return self._stream, self._stream.header + bytes([len(letter)]), letter


def taken_one_by_one(send_queue: SendQueue) -> list[bytes]:
    letters = []
    while (taken := send_queue.take(NOW)) is not None:
        letters.append(taken[-1:])
    return letters


async def test_each_turn_queues_one_frame_and_the_task_is_woken_after_the_last() -> None:
    send_queue = SendQueue(ONE)
    fill(send_queue)
    steps: list[str] = []

    async def send(stream_id: int, letters: bytes) -> None:
        await send_queue.wait_queued(Data(Stream(stream_id), letters))
        steps.append(letters.decode())

    async def send_one() -> None:
        await send_queue.wait_room()
        Stream(3).put(send_queue, b"x")
        steps.append("x")

    async with trio.open_nursery() as nursery:
        for one in (lambda: send(1, b"abc"), lambda: send(2, b"de"), send_one):
            nursery.start_soon(one)
            await wait_all_tasks_blocked()
        assert send_queue.take(NOW) is not None
        # `x` is admitted when its turn comes, and its task has to run.
        assert taken_one_by_one(send_queue) == [b"a", b"d"]
        assert steps == []
        await wait_all_tasks_blocked()
        assert taken_one_by_one(send_queue) == [b"x", b"b", b"e", b"c"]
        assert steps == ["x"]
    assert sorted(steps) == ["abc", "de", "x"]
    assert send_queue.has_room


async def test_a_sender_without_credit_leaves_the_line() -> None:
    send_queue = SendQueue(ONE)
    fill(send_queue)
    data_without_credit = Data(Stream(1), b"abc", credit=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_queue.wait_queued, data_without_credit)
        await wait_all_tasks_blocked()
        assert send_queue.take(NOW) is not None
        assert taken_one_by_one(send_queue) == [b"a", b"b"]
    assert data_without_credit.left == [b"c"]
    assert send_queue.has_room


@pytest.mark.parametrize("drain", [False, True])
async def test_nothing_is_queued_after_the_end(drain: bool) -> None:
    send_queue = SendQueue(ONE)
    fill(send_queue)
    pending = Data(Stream(1), b"abc")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_queue.wait_queued, pending)
        await wait_all_tasks_blocked()
        send_queue.finish(b"\x02\x00\x00", drain=drain)
    take_all(send_queue)
    assert pending.left == [b"a", b"b", b"c"]


async def test_nothing_is_queued_on_a_broken_transport() -> None:
    send_queue = SendQueue(ONE)
    fill(send_queue)
    pending = Data(Stream(1), b"abc")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_queue.wait_queued, pending)
        await wait_all_tasks_blocked()
        send_queue.break_down()
    assert pending.left == [b"a", b"b", b"c"]


async def test_a_cancelled_sender_leaves_the_line_and_its_frames_are_sent() -> None:
    send_queue = SendQueue(ONE)
    fill(send_queue)
    pending = Data(Stream(1), b"abc")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_queue.wait_queued, pending)
            await wait_all_tasks_blocked()
            assert send_queue.take(NOW) is not None
            scope.cancel()
    assert taken_one_by_one(send_queue) == [b"a"]
    assert pending.left == [b"b", b"c"]
    assert send_queue.has_room


# Opening the line


async def test_the_line_may_open_after_a_turn_of_each_in_it_unless_one_waits_for_room() -> None:
    send_queue = SendQueue(ONE)
    fill(send_queue)
    assert not send_queue.may_open_line(1000 * MAX_DATA)
    async with trio.open_nursery() as nursery:
        for stream_id in (1, 2):
            nursery.start_soon(send_queue.wait_queued, Data(Stream(stream_id), b"ab"))
        await wait_all_tasks_blocked()
        assert not send_queue.may_open_line(2 * MAX_DATA - 1)
        assert send_queue.may_open_line(2 * MAX_DATA)
        nursery.start_soon(send_queue.wait_room)
        await wait_all_tasks_blocked()
        assert not send_queue.may_open_line(1000 * MAX_DATA)
        nursery.cancel_scope.cancel()


async def test_the_line_does_not_open_for_a_sender_of_single_frames() -> None:
    """It gains nothing, and small messages would wait for all that the socket holds."""
    send_queue = SendQueue(ONE)
    fill(send_queue)
    async with trio.open_nursery() as nursery:
        for stream_id, size in ((1, MAX_DATA + 1), (2, MAX_DATA)):
            nursery.start_soon(send_queue.wait_queued, Data(Stream(stream_id), b"a", size=size))
        await wait_all_tasks_blocked()
        assert not send_queue.may_open_line(1000 * MAX_DATA)
        nursery.cancel_scope.cancel()


async def test_the_line_of_a_large_queue_does_not_open() -> None:
    """Its frames would be sent without giving way to other connections."""
    send_queue, sender = SendQueue(1024 * 1024), Stream()
    while send_queue.has_room:
        send_queue.queue(sender, sender.header, bytes(MAX_DATA))
    async with trio.open_nursery() as nursery:
        for stream_id in (2, 3):
            nursery.start_soon(send_queue.wait_queued, Data(Stream(stream_id), b"a"))
        await wait_all_tasks_blocked()
        assert not send_queue.may_open_line(1000 * MAX_DATA)
        send_queue.take_batch(NOW, 600 * 1024, admit=False)
        assert send_queue.may_open_line(1000 * MAX_DATA)
        nursery.cancel_scope.cancel()


async def test_those_in_an_open_line_keep_the_frames_that_are_not_queued() -> None:
    send_queue = SendQueue(ONE)
    fill(send_queue)
    data = [Data(Stream(stream_id), b"ab") for stream_id in (1, 2)]
    async with trio.open_nursery() as nursery:
        for one in data:
            nursery.start_soon(send_queue.wait_queued, one)
        await wait_all_tasks_blocked()
        assert send_queue.take_batch(NOW, math.inf, admit=False)
        assert send_queue.is_empty
        send_queue.open_line()
    assert [one.left for one in data] == [[b"a", b"b"]] * 2
    assert send_queue.has_room

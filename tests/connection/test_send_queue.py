"""What waits to be sent: who is let in, what goes first, and how it ends."""

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

from trioanytls._connection import send_queue
from trioanytls._connection.send_queue import MAX_DATA, SendQueue

from ..helpers.wire_bytes import PINGPONG, frame

NOW = 17.0
# A bound that one frame reaches, of whatever length: there is room exactly when nothing is queued.
ONE = 1


class Stream:
    """What the outbox asks of a stream."""

    def __init__(self, stream_id: int = 1, behind: bytes | None = None) -> None:
        self._dropped = False
        self.taken: list[float] = []
        self.header = bytes([0x0A, stream_id])
        self._behind = behind
        self._put = 0

    def put(self, outbox: SendQueue, payload: bytes) -> None:
        self._put += 1
        outbox.put(self, self.header + bytes([len(payload)]), payload)

    def _frame_taken(self, now: float) -> bytes | None:
        self.taken.append(now)
        return self._behind if len(self.taken) == self._put else None


def data(stream_id: int, payload: bytes) -> bytes:
    return frame(0x0A, stream_id, payload)


def fill(outbox: SendQueue) -> int:
    """Put small frames until there is no room; how many."""
    stream, count = Stream(63), 0
    while outbox.has_room:
        stream.put(outbox, b"")
        count += 1
    return count


def take_all(outbox: SendQueue) -> list[bytes]:
    """Whatever waits now."""
    frames = []
    while (taken := outbox.take(NOW)) is not None:
        frames.append(taken)
    return frames


# Order


def test_nothing_waits_at_first() -> None:
    outbox = SendQueue(1000)
    assert outbox.has_room
    assert outbox.take(NOW) is None
    assert outbox.take_of_stream(NOW) is None
    assert outbox.take_batch(NOW, 1000) == []
    assert outbox.pending_control == 0
    assert not outbox.finishing
    assert not outbox.broken


def test_streams_frames_are_taken_in_their_order() -> None:
    outbox, one, two = SendQueue(1000), Stream(1), Stream(2)
    one.put(outbox, b"a")
    two.put(outbox, b"b")
    one.put(outbox, b"c")
    assert take_all(outbox) == [data(1, b"a"), data(2, b"b"), data(1, b"c")]
    assert one.taken == [NOW, NOW]
    assert two.taken == [NOW]


def test_control_frames_go_first_in_their_order() -> None:
    outbox, stream = SendQueue(1000), Stream()
    stream.put(outbox, b"a")
    outbox.put_control(PINGPONG)
    stream.put(outbox, b"b")
    outbox.put_control(b"\x09\x05")
    assert outbox.pending_control == 2
    assert outbox.take(NOW) == PINGPONG
    assert outbox.pending_control == 1
    assert take_all(outbox) == [b"\x09\x05", data(1, b"a"), data(1, b"b")]


def test_control_frames_need_no_room() -> None:
    outbox = SendQueue(ONE)
    fill(outbox)
    for _ in range(10_000):
        outbox.put_control(PINGPONG)
    assert outbox.pending_control == 10_000


def test_the_first_frame_of_a_stream_can_be_taken_ahead_of_control_frames() -> None:
    outbox, stream = SendQueue(1000), Stream()
    outbox.put_control(PINGPONG)
    assert outbox.take_of_stream(NOW) is None
    stream.put(outbox, b"a")
    stream.put(outbox, b"b")
    assert outbox.take_of_stream(NOW) == data(1, b"a")
    assert take_all(outbox) == [PINGPONG, data(1, b"b")]


def test_what_a_stream_wants_behind_its_last_frame_is_directly_behind_it() -> None:
    # The RST must not overtake the data, and waits for nobody else's.
    outbox, one, two = SendQueue(1000), Stream(1, behind=b"\x09\x01"), Stream(2)
    one.put(outbox, b"a")
    two.put(outbox, b"b")
    one.put(outbox, b"c")
    two.put(outbox, b"d")
    assert take_all(outbox) == [data(1, b"a"), data(2, b"b"), data(1, b"c"), b"\x09\x01", data(2, b"d")]


def test_a_batch_has_the_same_order() -> None:
    outbox, one, two = SendQueue(1000), Stream(1, behind=b"\x09\x01"), Stream(2)
    one.put(outbox, b"a")
    two.put(outbox, b"b")
    outbox.put_control(PINGPONG)
    assert b"".join(outbox.take_batch(NOW, 1000)) == PINGPONG + data(1, b"a") + b"\x09\x01" + data(2, b"b")
    assert outbox.take_batch(NOW, 1000) == []


def test_a_batch_ends_at_its_size_or_a_frame_later() -> None:
    outbox, stream = SendQueue(100_000), Stream()
    for _ in range(10):
        stream.put(outbox, bytes(20))
    batches = []
    while batch := b"".join(outbox.take_batch(NOW, 50)):
        batches.append(len(batch))
    assert batches == [69, 69, 69, 23]


def test_frames_and_bytes_are_counted_when_they_are_taken() -> None:
    outbox, stream, gone = SendQueue(1000), Stream(behind=b"\x09\x01"), Stream(2)
    stream.put(outbox, b"abc")
    stream.put(outbox, b"defgh")
    gone.put(outbox, b"never")
    gone._dropped = True
    outbox.put_control(PINGPONG)
    assert sum(outbox.frames) == 0
    take_all(outbox)
    assert (outbox.frames[0x0A], outbox.frames[0x09], outbox.frames[0x07]) == (2, 1, 1)
    assert sum(outbox.frames) == 4
    assert outbox.payload_bytes[0x0A] == sum(outbox.payload_bytes) == 8


# Room


@pytest.mark.parametrize("size", [1, 64, 65, 1000, 4096, 256 * 1024])
def test_small_frames_are_bounded_as_well(size: int) -> None:
    outbox = SendQueue(size)
    count = fill(outbox)
    assert 1 <= count <= size // 64 + 1
    assert len(take_all(outbox)) == count
    assert outbox.has_room


def test_a_frame_goes_beyond_the_bound_and_no_other_with_it() -> None:
    outbox, stream = SendQueue(1000), Stream()
    outbox.put(stream, stream.header + b"\x80\x01\x00\x00", bytes(MAX_DATA))
    assert not outbox.has_room
    assert outbox.take(NOW) == stream.header + b"\x80\x01\x00\x00" + bytes(MAX_DATA)
    assert outbox.has_room


async def test_a_full_outbox_lets_the_next_in_when_a_frame_is_taken() -> None:
    outbox, stream = SendQueue(ONE), Stream()
    fill(outbox)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            await outbox.wait_room()
            stream.put(outbox, b"later")

        await wait_all_tasks_blocked()
        assert outbox.take(NOW) == data(63, b"")
        await wait_all_tasks_blocked()
        assert outbox.take(NOW) == data(1, b"later")


async def start_in_order(nursery: trio.Nursery, *tasks: Callable[..., object]) -> None:
    for task in tasks:
        nursery.start_soon(task)  # type: ignore[arg-type]
        await wait_all_tasks_blocked()


async def test_room_is_given_in_the_order_in_which_it_was_asked_for() -> None:
    outbox = SendQueue(ONE)
    fill(outbox)
    streams = [Stream(stream_id) for stream_id in range(1, 11)]

    def sender(stream: Stream) -> Callable[[], object]:
        async def send() -> None:
            await outbox.wait_room()
            stream.put(outbox, b"x")

        return send

    taken = []
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, *map(sender, streams))
        for _ in range(11):
            taken += take_all(outbox)
            await wait_all_tasks_blocked()
    assert taken == [data(63, b""), *(data(stream_id, b"x") for stream_id in range(1, 11))]


async def test_streams_with_much_to_send_take_turns() -> None:
    outbox = SendQueue(ONE)
    fill(outbox)

    def sender(stream: Stream) -> Callable[[], object]:
        async def send() -> None:
            for count in range(3):
                # As `Stream.send_all` does.
                if not outbox.has_room:
                    await outbox.wait_room()
                stream.put(outbox, bytes([count]))

        return send

    taken = []
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, *(sender(Stream(stream_id)) for stream_id in (1, 2, 3)))
        for _ in range(10):
            taken += take_all(outbox)
            await wait_all_tasks_blocked()
    assert taken[1:] == [data(stream_id, bytes([count])) for count in range(3) for stream_id in (1, 2, 3)]


async def test_nobody_overtakes_those_who_wait() -> None:
    outbox, first = SendQueue(ONE), Stream(1)
    fill(outbox)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            await outbox.wait_room()
            first.put(outbox, b"first")

        await wait_all_tasks_blocked()
        take_all(outbox)
        # There is a place, but it is promised: the task that was let in has not run yet.
        assert not outbox.has_room
        assert not outbox.offer(Stream(2), b"\x0a\x02\x01", b"x")
    assert take_all(outbox) == [data(1, b"first")]
    assert outbox.has_room


@pytest.mark.parametrize("size", [128, 129])
def test_what_is_offered_is_taken_if_there_is_room(size: int) -> None:
    """Whether a frame may be put, or is offered, is the same: up to the bound, which it may go beyond."""
    outbox, offered = SendQueue(size), 0
    while outbox.has_room:
        assert outbox.offer(Stream(), b"\x0a\x01\x00", b"")
        offered += 1
    assert offered == -(-size // 64)
    assert not outbox.offer(Stream(), b"\x0a\x01\x00", b"")
    assert take_all(outbox) == [data(1, b"")] * offered


async def test_as_many_are_let_in_as_there_is_room_for_large_frames() -> None:
    outbox = SendQueue(3 * (MAX_DATA + 64))
    payload = bytes(MAX_DATA)
    header = b"\x0a\x01\x80\x01\x00\x00"
    for _ in range(3):
        assert outbox.has_room
        outbox.put(Stream(), header, payload)
    assert not outbox.has_room
    running = 0

    async def send() -> None:
        nonlocal running
        await outbox.wait_room()
        running += 1
        outbox.put(Stream(), header, payload)

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, *[send] * 5)
        assert outbox.take(NOW)
        assert outbox.take(NOW)
        await wait_all_tasks_blocked()
        # One place for each frame that was taken, not one more.
        assert running == 2
        while running < 5 or not outbox.has_room:
            assert outbox.take(NOW)
            await wait_all_tasks_blocked()


async def test_room_that_is_not_made_use_of_goes_to_the_next_in_line() -> None:
    # "put it without another checkpoint, or give it back": `wait_send_all_might_not_block` does, or whoever finds its
    # stream closed meanwhile. The queue may be empty then: nothing will be taken that could let the next one in.
    outbox = SendQueue(ONE)
    fill(outbox)
    log: list[str] = []

    async def look() -> None:
        await outbox.wait_room()
        outbox.give_back()
        log.append("looked")

    async def send() -> None:
        await outbox.wait_room()
        Stream().put(outbox, b"x")
        log.append("sent")

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, look, look, send)
        take_all(outbox)
        await wait_all_tasks_blocked()
        waits = list(log)
        nursery.cancel_scope.cancel()
    assert waits == ["looked", "looked", "sent"]


async def test_room_that_somebody_cancelled_waits_for_goes_to_the_next_in_line() -> None:
    outbox = SendQueue(ONE)
    fill(outbox)
    log: list[str] = []
    scope = trio.CancelScope()

    async def give_up() -> None:
        with scope:
            await outbox.wait_room()
            log.append("let in")
        log.append("gave up")

    async def send() -> None:
        await outbox.wait_room()
        log.append("sent")
        Stream().put(outbox, b"x")

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, give_up, send)
        scope.cancel()
        await wait_all_tasks_blocked()
        assert log == ["gave up"]
        take_all(outbox)
        await wait_all_tasks_blocked()
        assert log == ["gave up", "sent"]


async def test_a_cancellation_that_comes_after_the_room_changes_nothing() -> None:
    outbox = SendQueue(ONE)
    fill(outbox)
    scope = trio.CancelScope()

    async def send() -> None:
        with scope:
            await outbox.wait_room()
            Stream().put(outbox, b"x")

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, send)
        take_all(outbox)
        scope.cancel()
        await wait_all_tasks_blocked()
        assert take_all(outbox) == [data(1, b"x")]
    assert outbox.has_room


async def test_a_cancellation_that_comes_before_the_room_leaves_the_room() -> None:
    outbox = SendQueue(ONE)
    fill(outbox)
    scope = trio.CancelScope()

    async def send() -> None:
        with scope:
            await outbox.wait_room()
        assert scope.cancelled_caught

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, send)
        scope.cancel()
        take_all(outbox)
    assert outbox.has_room


async def test_somebody_can_be_woken_without_room() -> None:
    outbox = SendQueue(ONE)
    fill(outbox)
    tasks: list[trio.lowlevel.Task] = []
    log: list[int] = []

    def waiter(index: int) -> Callable[[], object]:
        async def wait() -> None:
            tasks.append(trio.lowlevel.current_task())
            await outbox.wait_room()
            log.append(index)

        return wait

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, *map(waiter, range(3)))
        outbox.wake(tasks[1])
        outbox.wake(tasks[1])
        await wait_all_tasks_blocked()
        assert log == [1]
        outbox.wake(tasks[0])
        outbox.wake(tasks[2])
    outbox.wake(tasks[0])
    assert sorted(log) == [0, 1, 2]
    take_all(outbox)
    assert outbox.has_room


def test_room_given_back_where_nobody_waits_is_just_room() -> None:
    outbox = SendQueue(ONE)
    outbox.give_back()
    assert outbox.has_room
    fill(outbox)
    outbox.give_back()
    assert not outbox.has_room


# Dropped frames


def test_dropped_frames_are_not_sent_and_their_stream_is_not_told() -> None:
    outbox, gone, alive = SendQueue(1000), Stream(1, behind=b"\x09\x01"), Stream(2)
    gone.put(outbox, b"a")
    alive.put(outbox, b"b")
    gone.put(outbox, b"c")
    gone._dropped = True
    assert take_all(outbox) == [data(2, b"b")]
    assert gone.taken == []


@pytest.mark.parametrize("how", ["take", "take_of_stream", "take_batch"])
def test_dropped_frames_give_their_room_back(how: str) -> None:
    outbox, gone = SendQueue(200), Stream()
    while outbox.has_room:
        gone.put(outbox, b"x")
    gone._dropped = True
    assert not (outbox.take_batch(NOW, 1000) if how == "take_batch" else getattr(outbox, how)(NOW))
    assert outbox.has_room


# The writer's wait


@pytest.mark.parametrize("what", ["frame", "control", "finish"])
async def test_the_writer_does_not_wait_where_something_is_there(
    what: str, autojump_clock: trio.testing.MockClock
) -> None:
    outbox = SendQueue(1000)
    act(outbox, what)
    with trio.fail_after(1):
        await outbox.wait()
        await outbox.wait()


def act(outbox: SendQueue, what: str) -> None:
    if what == "frame":
        Stream().put(outbox, b"x")
    elif what == "control":
        outbox.put_control(PINGPONG)
    else:
        outbox.finish(None, drain=True)


@pytest.mark.parametrize("what", ["frame", "control", "finish"])
async def test_the_writer_waits_until_there_is_something(what: str) -> None:
    outbox = SendQueue(1000)
    woken = False

    async def write() -> None:
        nonlocal woken
        await outbox.wait()
        woken = True

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, write)
        assert not woken
        act(outbox, what)
        # What follows at once is there, too.
        outbox.put_control(PINGPONG)
        Stream(2).put(outbox, b"y")
    assert woken
    assert (
        take_all(outbox)
        == {
            "frame": [PINGPONG, data(1, b"x"), data(2, b"y")],
            "control": [PINGPONG, PINGPONG, data(2, b"y")],
            "finish": [],
        }[what]
    )


@pytest.mark.parametrize("how", ["put", "cancelled", "nothing to wait for"])
async def test_the_writer_is_idle_while_it_waits_and_no_longer(how: str) -> None:
    """While it is not, nobody else may write."""
    outbox, scope = SendQueue(1000), trio.CancelScope()
    idle: list[bool] = []

    async def write() -> None:
        with scope:
            await outbox.wait()
        idle.append(outbox.writer_idle)

    if how == "nothing to wait for":
        outbox.put_control(PINGPONG)
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, write)
        assert outbox.writer_idle == (how != "nothing to wait for")
        if how == "put":
            outbox.put_control(PINGPONG)
        scope.cancel()
    assert idle == [False]


async def test_the_writer_is_idle_while_it_looks_on_and_no_longer() -> None:
    outbox, idle = SendQueue(1000), False
    outbox.put_control(PINGPONG)

    async def watch() -> None:
        nonlocal idle
        while not idle:
            idle = outbox.writer_idle
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        for _ in range(20):
            await outbox.look_on()
            assert not outbox.writer_idle
    assert idle


@pytest.mark.parametrize("order", ["put first", "cancelled first"])
@pytest.mark.parametrize("what", ["frame", "control", "finish"])
async def test_a_cancelled_wait_of_the_writer_loses_nothing(what: str, order: str) -> None:
    outbox = SendQueue(1000)
    scope = trio.CancelScope()

    async def write() -> None:
        with scope:
            await outbox.wait()
        # It was the wake-up, or the cancellation: nobody can say which, and it does not matter.
        await outbox.wait()

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, write)
        if order == "put first":
            act(outbox, what)
        scope.cancel()
        if order != "put first":
            act(outbox, what)
    assert take_all(outbox) == {"frame": [data(1, b"x")], "control": [PINGPONG], "finish": []}[what]
    assert outbox.take(NOW) is None


async def test_a_wait_that_is_cancelled_as_it_begins_loses_nothing() -> None:
    outbox = SendQueue(ONE)
    for count in range(5):
        stream = Stream()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def put(stream: Stream = stream) -> None:
                outbox.put_control(PINGPONG)
                stream.put(outbox, b"x")

            with trio.move_on_after(0):
                await outbox.wait()
        await outbox.wait()
        assert take_all(outbox) == [PINGPONG, data(1, b"x")], count


async def test_a_frame_that_ended_the_writers_wait_can_be_discarded() -> None:
    outbox, stream = SendQueue(1000), Stream()
    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, outbox.wait)
        stream.put(outbox, b"x")
    outbox.finish(b"\x02\x00\x00", drain=False)
    assert outbox.take(NOW) is None
    assert stream.taken == []


# The end


@pytest.mark.parametrize("what", ["control", "size", "finish", "broken", "nothing"])
async def test_lingering_ends_at_once_as_there_is_more_to_do(autojump_clock: trio.testing.MockClock, what: str) -> None:
    """The writer looks on for a millisecond at most while senders go on putting small frames."""
    outbox, stream = SendQueue(100_000), Stream()
    ended: list[float] = []

    async def linger() -> None:
        await outbox.linger(10_000)
        ended.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(linger)
        while outbox._wake_at == math.inf:
            # As long as frames come, it is not over; then it waits without looking.
            stream.put(outbox, b"x")
            await trio.lowlevel.checkpoint()
        assert ended == []
        if what == "control":
            outbox.put_control(PINGPONG)
        elif what == "size":
            outbox.put(stream, stream.header, bytes(10_000))
        elif what == "finish":
            outbox.finish(None, drain=True)
        elif what == "broken":
            outbox.break_down()
        await wait_all_tasks_blocked()
    assert ended == ([0.001] if what == "nothing" else [0])
    # What comes later has nobody to tell.
    outbox.put_control(PINGPONG)
    outbox.put(stream, stream.header, bytes(10_000))


def test_finishing_sends_what_is_queued_and_takes_no_more() -> None:
    outbox, stream = SendQueue(1000), Stream(behind=b"\x09\x01")
    stream.put(outbox, b"a")
    outbox.put_control(PINGPONG)
    outbox.finish(b"\x02\x00\x00", drain=True)
    assert outbox.finishing
    assert outbox.last_frame == b"\x02\x00\x00"
    Stream(2).put(outbox, b"late")
    outbox.put_control(PINGPONG)
    # What goes behind a stream's last frame still does.
    assert take_all(outbox) == [PINGPONG, data(1, b"a"), b"\x09\x01"]


def test_finishing_without_draining_drops_what_is_queued() -> None:
    outbox, stream = SendQueue(1000), Stream()
    stream.put(outbox, b"a")
    outbox.put_control(PINGPONG)
    outbox.finish(b"\x02\x00\x03", drain=False)
    assert take_all(outbox) == []
    assert outbox.pending_control == 0
    assert stream.taken == []
    assert outbox.last_frame == b"\x02\x00\x03"


@pytest.mark.parametrize("end", ["drain", "drop", "break"])
async def test_at_the_end_everybody_who_waits_for_room_goes_on(end: str) -> None:
    outbox = SendQueue(ONE)
    count = fill(outbox)
    woken = 0

    async def send() -> None:
        nonlocal woken
        await outbox.wait_room()
        woken += 1
        # Whoever does not look finds that it goes nowhere.
        Stream().put(outbox, b"late")

    async with trio.open_nursery() as nursery:
        await start_in_order(nursery, *[send] * 10)
        if end == "break":
            outbox.break_down()
        else:
            outbox.finish(None, drain=end == "drain")
    assert woken == 10
    assert len(take_all(outbox)) == (count if end == "drain" else 0)


async def test_a_transport_that_has_broken_takes_nothing() -> None:
    outbox, stream = SendQueue(1000), Stream()
    stream.put(outbox, b"a")
    outbox.put_control(PINGPONG)
    outbox.break_down()
    assert outbox.broken
    stream.put(outbox, b"b")
    outbox.put_control(PINGPONG)
    assert take_all(outbox) == []
    assert stream.taken == []
    outbox.finish(None, drain=True)
    assert outbox.finishing
    await outbox.wait()


# All together


@pytest.mark.parametrize("lookers", [0, 5])
@pytest.mark.parametrize("seed", range(5))
async def test_whatever_is_put_is_taken_once_and_in_order_whoever_gives_up(
    seed: int, lookers: int, autojump_clock: trio.testing.MockClock
) -> None:
    rng = random.Random(seed)
    outbox = SendQueue(rng.choice([ONE, 200, 5000]))
    put: dict[int, list[bytes]] = {stream_id: [] for stream_id in range(1, 21)}
    taken: dict[int, list[bytes]] = {stream_id: [] for stream_id in put}
    all_put = False

    async def send(stream_id: int) -> None:
        stream = Stream(stream_id)
        for count in range(20):
            with trio.move_on_after(rng.choice([0, 0.5, 10])):
                await trio.lowlevel.checkpoint()
                if not outbox.has_room:
                    await outbox.wait_room()
                payload = bytes([count]) * rng.randrange(1, 60)
                stream.put(outbox, payload)
                put[stream_id].append(payload)

    async def look() -> None:
        for _ in range(20):
            if not outbox.has_room:
                await outbox.wait_room()
                outbox.give_back()
            await trio.lowlevel.checkpoint()

    async def write() -> None:
        while not all_put or taken != put:
            with trio.move_on_after(rng.choice([0, 0.1, 10])):
                await outbox.wait()
            for _ in range(rng.randrange(3)):
                frame_taken = outbox.take(NOW)
                if frame_taken is not None:
                    taken[frame_taken[1]].append(frame_taken[3:])
            await trio.sleep(0.01)

    # On the clock that runs ahead when all wait: where they wait for ever, it is over at once.
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
    assert outbox.has_room


# At each limit, and one byte before it or after it

SENDER = Stream(62)


def charge(outbox: SendQueue, size: int) -> None:
    """Put a frame that costs so many bytes."""
    outbox.put(SENDER, b"\x0a\x3e", bytes(size - send_queue._OVERHEAD))


def test_there_is_room_up_to_one_byte_before_the_bound() -> None:
    for missing, room in ((1, True), (0, False)):
        for offering in (False, True):
            outbox = SendQueue(1000)
            charge(outbox, 1000 - missing)
            assert (outbox.offer(SENDER, b"\x0a\x3e", b"x") if offering else outbox.has_room) is room


def test_what_is_small_is_no_larger_than_a_record() -> None:
    outbox = SendQueue(100_000)
    charge(outbox, send_queue._SMALL)
    assert outbox.is_small
    outbox = SendQueue(100_000)
    charge(outbox, send_queue._SMALL + 1)
    assert not outbox.is_small


def step(linger: Coroutine[object, object, None]) -> bool:
    """Let the writer have a turn; whether it still lingers."""
    try:
        linger.send(outcome.Value(None) if inspect.getcoroutinestate(linger) != inspect.CORO_CREATED else None)
    except StopIteration:
        return False
    return True


def test_the_writer_does_not_linger_where_enough_waits() -> None:
    for missing in (0, 1):
        outbox = SendQueue(100_000)
        charge(outbox, 5000 - missing)
        linger = outbox.linger(5000)
        assert step(linger) is bool(missing)
        linger.close()


def test_the_writer_lingers_until_there_is_enough() -> None:
    # The last pass in which it looks brings it.
    passes = send_queue._LINGER_PASSES
    outbox = SendQueue(100_000)
    linger = outbox.linger(1000 * passes)
    for _ in range(passes):
        assert step(linger)
        charge(outbox, 1000)
    assert not step(linger)


@pytest.mark.parametrize("missing", [0, 1])
async def test_a_writer_that_looks_away_is_told_when_there_is_enough(
    mock_clock: trio.testing.MockClock, missing: int
) -> None:
    outbox, done = SendQueue(200_000), trio.Event()

    async def linger() -> None:
        await outbox.linger(50_000)
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(linger)
        while outbox._wake_at == math.inf:
            charge(outbox, 100)
            await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()
        charge(outbox, 50_000 - outbox._charged - missing)
        await wait_all_tasks_blocked()
        assert done.is_set() is not bool(missing)
        mock_clock.jump(1)


# What the writer is told, and when it goes on


@pytest.mark.parametrize("room", [-1, 0, 1])
async def test_a_frame_is_offered_room_that_is_promised_to_nobody(room: int) -> None:
    """`offer` says what `has_room` says, to the byte, while somebody was let in who has not run yet."""
    small = Stream(2)
    # A small frame, and the largest one of whoever is let in.
    outbox = SendQueue((64 + 1) + (64 + MAX_DATA) + room)
    held = Stream(1)
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            await outbox.wait_room()
            outbox.give_back()

        for _ in range(2):
            outbox.queue(held, b"\x0a\x01", bytes(MAX_DATA))
        await start_in_order(nursery, wait)
        while outbox.take(NOW) is not None:
            pass
        small.put(outbox, b"x")
        # Let in, and not run yet.
        assert outbox._let_in == 1
        assert outbox.has_room == (room > 0)
        assert outbox.offer(small, small.header + b"\x01", b"y") == (room > 0)
    assert outbox.offer(small, small.header + b"\x01", b"z")


async def test_whether_the_writer_is_idle_and_has_waited() -> None:
    outbox = SendQueue(1000)
    assert not outbox.writer_idle
    Stream().put(outbox, b"x")
    assert await outbox.wait() is False
    assert not outbox.writer_idle
    take_all(outbox)
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            assert await outbox.wait() is True
            assert not outbox.writer_idle

        await start_in_order(nursery, write)
        assert outbox.writer_idle
        outbox.put_control(PINGPONG)
        # It was woken, and has not run since.
        assert outbox.writer_idle
    with trio.move_on_after(0):
        take_all(outbox)
        await outbox.wait()
    assert not outbox.writer_idle


@pytest.mark.parametrize("what", ["nothing", "frame", "frame and control", "finish"])
async def test_the_writer_looks_on_only_for_data_that_may_come(what: str) -> None:
    outbox = SendQueue(1000)
    if "frame" in what:
        act(outbox, "frame")
    if what != "frame" and what != "nothing":
        outbox.put_control(PINGPONG)
    if what == "finish":
        act(outbox, "finish")
    with trio.testing.assert_no_checkpoints():
        await outbox.look_on()
    assert not outbox.writer_idle


async def test_control_frames_wait_a_pass_for_data() -> None:
    outbox = SendQueue(1000)
    outbox.put_control(PINGPONG)
    with pytest.raises(AssertionError, match="yielded"), trio.testing.assert_no_checkpoints():
        await outbox.look_on()
    assert not outbox.writer_idle
    assert take_all(outbox) == [PINGPONG]


@pytest.mark.parametrize("what", ["control", "finish", "enough"])
async def test_the_writer_does_not_linger(what: str) -> None:
    outbox = SendQueue(1000)
    if what == "enough":
        # To the byte.
        Stream().put(outbox, bytes(100 - 64))
    else:
        act(outbox, what)
    with trio.testing.assert_no_checkpoints():
        await outbox.linger(100)


async def test_the_writer_lingers_while_every_pass_brings_a_frame(autojump_clock: trio.testing.MockClock) -> None:
    outbox, stream = SendQueue(10**6), Stream()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            for _ in range(6):
                stream.put(outbox, b"x")
                await trio.lowlevel.checkpoint()

        start = trio.current_time()
        await outbox.linger(10**6)
        # All of them, and no wait beyond the passes.
        assert len(take_all(outbox)) == 6
        assert trio.current_time() == start


@pytest.mark.parametrize("what", ["enough", "more", "control", "controls", "finish", "break", "nothing"])
async def test_what_ends_the_millisecond(what: str, autojump_clock: trio.testing.MockClock) -> None:
    """After some passes with a frame in each, the writer waits without looking."""
    outbox, stream = SendQueue(10**6), Stream()
    passes = 100
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            for _ in range(passes):
                stream.put(outbox, b"")
                await trio.lowlevel.checkpoint()
            await trio.sleep(0.0005)
            if what == "enough":
                stream.put(outbox, b"")
            elif what == "more":
                # The second one comes before the writer runs.
                stream.put(outbox, b"")
                stream.put(outbox, b"")
            elif what.startswith("control"):
                outbox.put_control(PINGPONG)
                if what == "controls":
                    outbox.put_control(PINGPONG)
                    stream.put(outbox, b"")
            elif what == "finish":
                outbox.finish(None, drain=True)
            elif what == "break":
                outbox.break_down()

        start = trio.current_time()
        await outbox.linger(64 * (passes + 1))
        assert trio.current_time() - start == pytest.approx(0.001 if what == "nothing" else 0.0005, abs=1e-6)
        # It is over, whatever comes later.
        stream.put(outbox, bytes(100))
        outbox.put_control(PINGPONG)


@pytest.mark.parametrize("what", ["enough", "control", "finish", "nothing"])
async def test_what_comes_in_the_last_pass_ends_the_lingering(
    what: str, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send_queue, "_LINGER_PASSES", 1)
    outbox, stream = SendQueue(10**6), Stream()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            outbox.put(stream, b"\x0a\x01", bytes(1000 - 64 if what == "enough" else 1))
            if what in ("control", "finish"):
                act(outbox, what)

        start = trio.current_time()
        await outbox.linger(1000)
        assert trio.current_time() - start == pytest.approx(0.001 if what == "nothing" else 0, abs=1e-6)


@pytest.mark.parametrize("kind", ["frames", "control", "after dropped ones"])
def test_a_batch_is_full_at_its_size_to_the_byte(kind: str) -> None:
    size = len(data(1, b"xyz")) if kind != "control" else len(PINGPONG)
    for limit, number in ((2 * size - 1, 2), (2 * size, 2), (2 * size + 1, 3)):
        outbox, stream, dropped = SendQueue(10_000), Stream(), Stream(2)
        if kind == "after dropped ones":
            for _ in range(5):
                dropped.put(outbox, b"dropped")
            dropped._dropped = True
        for _ in range(4):
            if kind == "control":
                outbox.put_control(PINGPONG)
            else:
                stream.put(outbox, b"xyz")
        assert len(b"".join(outbox.take_batch(NOW, limit))) == number * size


@pytest.mark.parametrize("behind", [False, True])
def test_a_batch_that_has_its_size_takes_no_further_frame(behind: bool) -> None:
    outbox = SendQueue(100_000)
    size = len(b"\x0a\x3e") + 1000
    for _ in range(2):
        outbox.put(SENDER, b"\x0a\x3e", bytes(1000))
    if behind:
        outbox.put_control(PINGPONG)
        size += len(PINGPONG)
    assert len(b"".join(outbox.take_batch(NOW, size))) == size
    assert len(b"".join(outbox.take_batch(NOW, size))) == 1002
    for _ in range(2):
        outbox.put(SENDER, b"\x0a\x3e", bytes(1000))
    # One byte is missing: the next frame comes along.
    assert len(b"".join(outbox.take_batch(NOW, 1003))) == 2004

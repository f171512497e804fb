"""The writer: the writes of its task, and inline writes."""

from __future__ import annotations

import ssl
import tracemalloc
from collections import Counter
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

import trioanytls
from trioanytls import PaddingScheme
from trioanytls._connection.send_queue import MAX_DATA, SendQueue
from trioanytls._connection.writer import Writer
from trioanytls._protocol.anytls1.padding import PADDING_FRAMES
from trioanytls._protocol.traffic_shaper import Shaper
from trioanytls._transport.handshake import handshake
from trioanytls._transport.tls_stream import TLSStream

from ..conftest import HOST, Connecting, Serving
from ..helpers.extensions import EITHER_WAY, extending
from ..helpers.wire_bytes import PINGPONG, frame
from .test_send_queue import Stream

ACK = frame(0x10, 1)
HELLO = frame(0x0A, 1, b"hello")


class Transport(trio.abc.Stream):
    """A transport that accepts data at once, or as much of it as a test allows."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.sent_nowait: list[bytes] = []
        self.full = False
        self.error: Exception | None = None
        self.gate = trio.Event()
        self.gate.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        raise NotImplementedError

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))
        await self.gate.wait()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    def send_nowait(self, data: bytes) -> bool:
        if self.error is not None:
            raise self.error
        self.sent_nowait.append(data)
        return not self.full


class Setting:
    """A writer whose task is idle, and a stream that has received data."""

    def __init__(self, shaper: Shaper | None = None) -> None:
        self.transport = Transport()
        self.send_queue = SendQueue(256 * 1024)
        self.writer = Writer(self.transport, self.send_queue, shaper, self.transport.send_nowait)
        self.writer.inline_writes_left = 1
        self.stream = Stream()

    def queue(self, payload: bytes = b"hello") -> None:
        self.send_queue.queue(self.stream, self.stream.header + _length(payload), payload)

    async def start(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self.writer.run)
        await wait_all_tasks_blocked()

    async def finish(self) -> None:
        self.send_queue.finish(None, drain=True)
        await wait_all_tasks_blocked()


def length(size: int) -> bytes:
    return (size | 0x80000000).to_bytes(4)


def _length(payload: bytes) -> bytes:
    return bytes([len(payload)]) if len(payload) < 64 else (len(payload) | 0x80000000).to_bytes(4)


async def test_an_answer_is_written_by_whoever_gives_it() -> None:
    it = Setting()
    async with trio.open_nursery() as nursery:
        await it.start(nursery)
        it.queue()
        assert it.writer.write_now()
        assert it.transport.sent_nowait == [HELLO]
        await it.finish()
    assert not it.transport.sent
    assert (it.writer.writes, it.writer.bytes_written) == (1, len(HELLO))
    assert it.send_queue.frames[0x0A] == 1
    assert it.writer.inline_writes_left == 0


async def test_what_the_socket_does_not_take_is_for_the_task() -> None:
    it = Setting()
    it.transport.full = True
    async with trio.open_nursery() as nursery:
        await it.start(nursery)
        it.queue()
        assert it.writer.write_now()
        await wait_all_tasks_blocked()
        # The rest is in the transport already, and only has to be sent.
        assert it.transport.sent == [b""]
        await it.finish()
    assert it.transport.sent == [b""]
    assert (it.writer.writes, it.writer.bytes_written) == (1, len(HELLO))


@pytest.mark.parametrize("error", [trio.BrokenResourceError("gone"), trio.ClosedResourceError("closed")])
async def test_an_error_is_the_connections_not_the_senders(error: Exception) -> None:
    it = Setting()
    it.transport.error = error
    with pytest.RaisesGroup(type(error)):
        async with trio.open_nursery() as nursery:
            await it.start(nursery)
            it.queue()
            assert it.writer.write_now()
            assert it.writer.failed


def answers(it: Setting) -> bool:
    """Let the stream answer with a frame. Return whether the writer takes it."""
    return it.writer.write_now(it.stream, HELLO[:-5], HELLO[-5:])


async def test_a_single_answer_is_not_queued() -> None:
    it = Setting()
    async with trio.open_nursery() as nursery:
        # Nothing may precede AUTH and NEGO, so the task has to run first.
        assert not answers(it)
        await it.start(nursery)
        assert answers(it)
        assert it.transport.sent_nowait == [HELLO]
        assert it.writer.inline_writes_left == 0
        await it.finish()
        assert not answers(it)
    assert not it.transport.sent
    assert (it.writer.writes, it.writer.bytes_written) == (1, len(HELLO))
    assert (it.send_queue.frames[0x0A], it.send_queue.data_bytes) == (1, 5)
    assert it.stream.taken == [it.writer.last_write]


@pytest.mark.parametrize("name", ["data", "control"])
async def test_an_answer_is_written_after_the_frames_that_are_queued(name: str) -> None:
    it = Setting()
    async with trio.open_nursery() as nursery:
        await it.start(nursery)
        if name == "data":
            it.queue(b"first")
        else:
            it.send_queue.queue_control(ACK)
        assert answers(it)
        assert it.transport.sent_nowait == [(frame(0x0A, 1, b"first") if name == "data" else ACK) + HELLO]
        assert it.writer.inline_writes_left == 0
        await it.finish()
    assert not it.transport.sent


async def test_all_control_frames_precede_an_answer() -> None:
    it = Setting()
    async with trio.open_nursery() as nursery:
        await it.start(nursery)
        for _ in range(20_000):
            it.send_queue.queue_control(ACK)
        assert answers(it)
        assert it.transport.sent_nowait == [20_000 * ACK + HELLO]
        await it.finish()


@pytest.mark.parametrize("name", ["much", "waiting", "shaped", "unsent"])
async def test_an_answer_that_must_not_overtake_anything_is_queued(name: str) -> None:
    it = Setting(Shaper(PaddingScheme.parse(b"stop=3"), PADDING_FRAMES) if name == "shaped" else None)
    async with trio.open_nursery() as nursery:
        await it.start(nursery)
        if name == "much":
            it.queue(bytes(20_000))
        elif name == "waiting":
            nursery.start_soon(it.send_queue.wait_room)
            await wait_all_tasks_blocked()
        elif name == "unsent":
            it.transport.full = True
            it.queue()
            assert it.writer.write_now()
            it.writer.inline_writes_left = 1
            it.transport.sent_nowait.clear()
        assert not answers(it)
        assert it.writer.inline_writes_left == 1
        assert not it.transport.sent_nowait
        await it.finish()


async def test_what_the_socket_does_not_take_of_an_answer_is_for_the_task() -> None:
    it = Setting()
    it.transport.full = True
    async with trio.open_nursery() as nursery:
        await it.start(nursery)
        assert answers(it)
        await it.finish()
    assert it.transport.sent == [b""]
    assert (it.writer.writes, it.writer.bytes_written) == (1, len(HELLO))


async def test_an_error_of_an_answer_is_the_connections() -> None:
    it = Setting()
    it.transport.error = trio.BrokenResourceError("gone")
    with pytest.RaisesGroup(trio.BrokenResourceError):
        async with trio.open_nursery() as nursery:
            await it.start(nursery)
            assert answers(it)
            assert it.writer.failed


async def test_nothing_overtakes_what_the_task_has_in_hand() -> None:
    it = Setting()
    it.transport.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        await it.start(nursery)
        it.stream.put(it.send_queue, b"first")
        await wait_all_tasks_blocked()
        it.queue()
        assert not it.writer.write_now()
        assert it.writer.inline_writes_left == 1
        it.transport.gate.set()
        await it.finish()
    assert it.transport.sent == [frame(0x0A, 1, b"first"), HELLO]


async def test_a_woken_task_that_has_not_run_leaves_its_frames_to_an_answer() -> None:
    it = Setting()
    async with trio.open_nursery() as nursery:
        await it.start(nursery)
        it.stream.put(it.send_queue, b"first")
        it.queue()
        assert it.writer.write_now()
        await it.finish()
    assert it.transport.sent_nowait == [frame(0x0A, 1, b"first") + HELLO]
    assert not it.transport.sent


async def test_stream_ack_waits_a_moment_for_the_first_data() -> None:
    it = Setting()
    async with trio.open_nursery() as nursery:
        await it.start(nursery)
        it.send_queue.put_control(ACK)
        await trio.lowlevel.checkpoint()
        it.queue()
        assert it.writer.write_now()
        await it.finish()
    assert it.transport.sent_nowait == [ACK + HELLO]


async def test_stream_ack_does_not_wait_for_long() -> None:
    it = Setting()
    async with trio.open_nursery() as nursery:
        await it.start(nursery)
        it.send_queue.put_control(ACK)
        await wait_all_tasks_blocked()
        assert it.transport.sent == [ACK]
        await it.finish()


async def test_a_large_frame_that_is_queued_is_for_the_task() -> None:
    it = Setting()
    async with trio.open_nursery() as nursery:
        await it.start(nursery)
        it.queue(bytes(20_000))
        assert not it.writer.write_now()
        it.send_queue.wake_writer()
        await it.finish()
    assert not it.transport.sent_nowait
    assert [len(write) for write in it.transport.sent] == [20_006]


SHAPING = b"stop=4\n0=30-30\n1=3-3,100-100\n2=4-4,5-5,70-70\n3=100-100,20-20"


async def test_nothing_is_written_past_the_shaper() -> None:
    sizes: list[list[int]] = []
    for inline in (True, False):
        it = Setting(Shaper(PaddingScheme.parse(SHAPING), PADDING_FRAMES))
        async with trio.open_nursery() as nursery:
            await it.start(nursery)
            for _ in range(6):
                it.queue()
                it.writer.inline_writes_left = 1
                if inline:
                    assert it.writer.write_now()
                else:
                    it.send_queue.wake_writer()
                    await wait_all_tasks_blocked()
            await it.finish()
        # What is not shaped comes last.
        sizes.append([len(write) for write in it.transport.sent_nowait + it.transport.sent])
        assert (it.writer.writes, it.writer.bytes_written) == (len(sizes[-1]), sum(sizes[-1]))
        assert it.writer.shaper is not None
        written = [size for delivery in it.writer.shaper.deliveries for size in delivery.written]
        assert written == sizes[-1][: len(written)]
    # The first delivery is not cut. The fourth fills each Write up. Then shaping is over.
    assert sizes[0] == [8, 3, 100, 4, 4, 74, 100, 23, 8, 8]
    assert sizes[1] == sizes[0]


async def test_a_full_socket_leaves_the_rest_of_a_deliver_to_the_task() -> None:
    it = Setting(Shaper(PaddingScheme.parse(b"stop=3\n1=3-3,100-100,50-50"), PADDING_FRAMES))
    async with trio.open_nursery() as nursery:
        await it.start(nursery)
        it.queue()
        assert it.writer.write_now()
        it.transport.full = True
        it.queue()
        it.writer.inline_writes_left = 2
        assert not it.writer.write_now()
        assert [len(write) for write in it.transport.sent_nowait] == [8, 3]
        # Nothing overtakes the rest, even if there is room again.
        it.transport.full = False
        it.queue(b"behind")
        assert not it.writer.write_now()
        assert [len(write) for write in it.transport.sent_nowait] == [8, 3]
        it.send_queue.wake_writer()
        await it.finish()
    # First the bytes that were not accepted.
    assert [len(write) for write in it.transport.sent] == [0, 100, 53]
    assert b"".join(it.transport.sent_nowait[2:]).endswith(b"behind")


async def test_a_deliver_of_many_writes_gives_way_to_other_tasks() -> None:
    scheme = PaddingScheme.parse(b"stop=2\n1=" + b",".join([b"10-10"] * 100))
    shaper = Shaper(scheme, PADDING_FRAMES)
    list(shaper.shape(b""))
    it = Setting(shaper)
    async with trio.open_nursery() as nursery:
        await it.start(nursery)
        it.queue()
        assert not it.writer.write_now()
        assert len(it.transport.sent_nowait) == 16
        it.send_queue.wake_writer()
        await it.finish()
    assert len(it.transport.sent) == 1 + 84
    assert it.writer.writes == 100


async def test_an_inline_write_that_fails_in_the_middle_of_a_deliver_is_in_no_counter() -> None:
    shaper = Shaper(PaddingScheme.parse(b"stop=2\n1=3-3,3-3,100-100,100-100"), PADDING_FRAMES)
    list(shaper.shape(b""))
    it = Setting(shaper)

    def send_nowait(data: bytes) -> bool:
        it.transport.sent_nowait.append(data)
        if len(it.transport.sent_nowait) == 4:
            raise trio.BrokenResourceError("gone")
        return True

    writer = Writer(it.transport, it.send_queue, shaper, send_nowait)
    writer.inline_writes_left = 1

    async def run() -> None:
        with pytest.raises(trio.BrokenResourceError, match="gone"):
            await writer.run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        it.queue()
        writer.notify()
        assert writer.failed
    [_, delivery] = shaper.deliveries
    assert (delivery.asked, delivery.written) == ((3, 3, 100, 100), (3, 3, 100))
    assert (writer.writes, writer.bytes_written) == (3, 106)
    assert (shaper.padding_frames, shaper.padding_bytes) == (1, 106 - len(HELLO))


async def test_a_write_that_fails_in_the_middle_of_a_deliver_is_in_no_counter() -> None:
    scheme = PaddingScheme.parse(b"stop=2\n1=3-3,3-3,100-100,100-100")
    shaper = Shaper(scheme, PADDING_FRAMES)
    list(shaper.shape(b""))
    it = Setting(shaper)

    class Broken(Transport):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await super().send_all(data)
            if len(self.sent) == 4:
                raise trio.BrokenResourceError("gone")

    writer = Writer(Broken(), it.send_queue, shaper)
    it.queue()
    with pytest.raises(trio.BrokenResourceError):
        await writer.run()
    [_, delivery] = shaper.deliveries
    # 3 bytes, 3 bytes, 100 with padding; then a PADDING frame that was not sent.
    assert (delivery.asked, delivery.written) == ((3, 3, 100, 100), (3, 3, 100))
    assert (writer.writes, writer.bytes_written) == (3, 106)
    assert (shaper.padding_frames, shaper.padding_bytes) == (1, 106 - len(HELLO))


async def test_a_deliver_takes_the_memory_of_one_write() -> None:
    """A scheme of 64 KiB can ask for 341 MiB."""
    shaper = Shaper(PaddingScheme.parse(b"stop=2\n1=" + b",".join([b"65535-65535"] * 5458)), PADDING_FRAMES)
    list(shaper.shape(b""))
    it = Setting(shaper)

    class Forgetful(Transport):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await trio.lowlevel.checkpoint()

    writer = Writer(Forgetful(), it.send_queue, shaper)
    it.queue()
    it.send_queue.finish(None, drain=True)
    tracemalloc.start()
    try:
        await writer.run()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The first one has the frame, padded to the size. The others have their header on top.
    assert (writer.writes, writer.bytes_written) == (5458, 65535 + 5457 * (65535 + 6))
    assert most < 1_000_000


async def test_with_nothing_queued_nothing_is_written() -> None:
    it = Setting()
    async with trio.open_nursery() as nursery:
        await it.start(nursery)
        assert not it.writer.write_now()
        await it.finish()
    assert not it.transport.sent_nowait
    assert it.writer.writes == 0


async def test_a_transport_that_must_wait_is_not_asked() -> None:
    it = Setting()
    writer = Writer(it.transport, it.send_queue, None)
    writer.inline_writes_left = 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.run)
        await wait_all_tasks_blocked()
        it.queue()
        assert not writer.write_now()
        it.send_queue.wake_writer()
        await it.finish()
    assert it.transport.sent == [HELLO]


# Several batches


LARGE = bytes(MAX_DATA)


class Passes(trio.abc.Instrument):
    """Counts the passes of the event loop."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_large_batches_are_written_in_one_pass_up_to_a_limit() -> None:
    it, passes = Setting(), Passes()
    written = Counter[int]()

    def send_nowait(data: bytes) -> bool:
        # Each is a write of its own.
        assert len(data) == 6 + MAX_DATA
        written[passes.count] += 1
        return True

    writer = Writer(it.transport, it.send_queue, None, send_nowait)
    for _ in range(6):
        it.queue(LARGE)
    async with trio.open_nursery() as nursery:
        trio.lowlevel.add_instrument(passes)
        nursery.start_soon(writer.run)
        await it.finish()
    assert list(written.values()) == [2, 2, 2]
    assert writer.writes == 6
    assert writer.bytes_written == 6 * (6 + MAX_DATA)
    assert not it.transport.sent


async def test_a_batch_that_the_socket_does_not_take_is_the_last_one() -> None:
    it = Setting()
    it.transport.full = True
    it.transport.gate = trio.Event()
    for _ in range(3):
        it.queue(LARGE)
    async with trio.open_nursery() as nursery:
        await it.start(nursery)
        assert len(it.transport.sent_nowait) == 1
        assert it.writer.writing_since is not None
        # It overtakes the others.
        it.send_queue.put_control(PINGPONG)
        it.transport.full = False
        it.transport.gate.set()
        await it.finish()
    assert it.transport.sent_nowait[1].startswith(PINGPONG)
    assert it.writer.bytes_written == 3 * (6 + MAX_DATA) + len(PINGPONG)


async def test_a_small_batch_waits_for_more_frames_after_large_ones() -> None:
    it = Setting()
    it.queue(LARGE)
    it.queue()
    async with trio.open_nursery() as nursery:
        await it.start(nursery)
        await it.finish()
    assert [len(data) for data in it.transport.sent_nowait] == [6 + MAX_DATA]
    assert it.transport.sent == [HELLO]


@pytest.mark.parametrize("error", [trio.BrokenResourceError("gone"), trio.ClosedResourceError("closed")])
async def test_an_error_of_a_large_batch_ends_the_task(error: Exception) -> None:
    it = Setting()
    it.queue(LARGE)
    it.transport.error = error
    with pytest.raises(type(error)):
        await it.writer.run()
    assert it.writer.bytes_written == 0


# The line of senders


class Line:
    """Eight senders of six full frames each on a queue, beside a writer, as `Stream.send_all` does it.

    Attributes:
      inline: the number of frames that were written by their senders.
      sent: the sender's number of each frame that was written, and the frame's own.
    """

    def __init__(self, it: Setting) -> None:
        self.inline = 0
        self.sent: list[tuple[int, int]] = []
        self._it = it

    def accept(self, data: bytes) -> None:
        """Note the frames of a write."""
        assert len(data) % (6 + MAX_DATA) == 0
        for at in range(0, len(data), 6 + MAX_DATA):
            self.sent.append((data[at + 6], data[at + 7]))

    async def send(self, number: int) -> None:
        it, stream = self._it, Stream()
        for count in range(6):
            payload = bytes([number, count]) + bytes(MAX_DATA - 2)
            frame = (stream, stream.header + length(MAX_DATA), payload)
            data = OneFrame(frame)
            while not data.is_empty:
                if it.writer.write_now(*frame):
                    self.inline += 1
                    break
                if it.send_queue.feed(data):
                    it.send_queue.wake_writer()
                else:
                    await it.send_queue.wait_queued(data)
            await trio.lowlevel.checkpoint()


class OneFrame:
    """The data of a large send, of which one frame is left."""

    size = 2 * MAX_DATA

    def __init__(self, frame: tuple[Stream, bytes, bytes]) -> None:
        self.is_empty = False
        self._frame = frame

    def next_frame(self) -> tuple[Stream, bytes, bytes]:
        self.is_empty = True
        return self._frame


@pytest.mark.parametrize("accepted", [None, 1, 3, 10])
async def test_senders_in_the_line_write_by_themselves_once_the_socket_accepts_all(accepted: int | None) -> None:
    it = Setting()
    line, writes = Line(it), 0

    def send_nowait(data: bytes) -> bool:
        nonlocal writes
        writes += 1
        line.accept(data)
        # At first, the socket is full. Then it is full after each so many writes.
        return writes > 1 and (accepted is None or writes % accepted > 0)

    it.writer = Writer(it.transport, it.send_queue, None, send_nowait)
    it.transport.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        await it.start(nursery)
        async with trio.open_nursery() as senders:
            for number in range(8):
                senders.start_soon(line.send, number)
            await wait_all_tasks_blocked()
            assert writes == 1
            it.transport.gate.set()
        await wait_all_tasks_blocked()
        await it.finish()
    # The order of each stream is kept, and nothing is lost or sent twice.
    assert sorted(line.sent) == [(number, count) for number in range(8) for count in range(6)]
    for number in range(8):
        assert [count for one, count in line.sent if one == number] == list(range(6))
    if accepted is None:
        assert line.inline > 8


# Large frames, inline


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_a_large_frame_is_written_inline_with_its_header_at_any_time(kind: type) -> None:
    it = Setting()
    it.writer.inline_writes_left = 0
    async with trio.open_nursery() as nursery:
        await it.start(nursery)
        for count in range(1, 4):
            it.send_queue.queue_control(ACK)
            assert it.writer.write_now(it.stream, it.stream.header + length(MAX_DATA), kind(LARGE))
            assert it.transport.sent_nowait == count * [ACK + frame(0x0A, 1, LARGE)]
        assert it.writer.inline_writes_left == 0
        await it.finish()
    assert not it.transport.sent
    assert it.send_queue.data_bytes == 3 * MAX_DATA


async def test_nothing_is_written_inline_until_the_rest_of_a_large_frame_is_sent() -> None:
    it = Setting()
    it.transport.gate = trio.Event()
    it.transport.full = True
    header = it.stream.header + length(MAX_DATA)
    async with trio.open_nursery() as nursery:
        await it.start(nursery)
        assert it.writer.write_now(it.stream, header, LARGE)
        assert not it.writer.write_now(it.stream, header, LARGE)
        it.transport.full = False
        assert not it.writer.write_now(it.stream, header, LARGE)
        await wait_all_tasks_blocked()
        # The time for `write_timeout` runs.
        assert it.writer.writing_since is not None
        assert not it.writer.write_now(it.stream, header, LARGE)
        it.transport.gate.set()
        await wait_all_tasks_blocked()
        assert it.writer.writing_since is None
        assert it.writer.write_now(it.stream, header, LARGE)
        await it.finish()
    assert it.transport.sent == [b""]
    assert len(it.transport.sent_nowait) == 2


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_data_of_4_kib_is_written_by_the_task_that_sends(
    serving: Serving, connecting: Connecting, kind: type
) -> None:
    writing = []
    async with serving() as port, connecting(port) as connection, await connection.open_stream() as stream:
        for _ in range(20):
            await stream.send_all(b"ping")
            await stream.receive_some()
        await wait_all_tasks_blocked()
        writer = connection._multiplexer.writer
        writer.inline_writes_left = 0
        send_nowait = writer._send_nowait
        assert send_nowait is not None

        def note(data: bytes) -> bool:
            writing.append((len(data), trio.lowlevel.current_task()))
            return send_nowait(data)

        writer._send_nowait = note
        await stream.send_all(kind(bytes(4095)))
        await wait_all_tasks_blocked()
        writer.inline_writes_left = 0
        await stream.send_all(kind(bytes(4096)))
    this_task = trio.lowlevel.current_task()
    # The task sends with the transport's `send_all`.
    assert [(size, task is this_task) for size, task in writing if size > 4000] == [(4096 + 4, True)]


async def test_a_large_send_over_tls_gives_way_to_other_tasks(serving: Serving, connecting: Connecting) -> None:
    # The window is larger than what is sent.
    config = trioanytls.Config(extensions=())
    passes, sent = Passes(), Counter[int]()
    async with (
        serving(config=config) as port,
        connecting(port, config=config) as connection,
        await connection.open_stream() as stream,
    ):
        for _ in range(20):
            await stream.send_all(b"ping")
            await stream.receive_some()
        await wait_all_tasks_blocked()
        writer = connection._multiplexer.writer
        send_nowait = writer._send_nowait
        assert send_nowait is not None

        def count(data: bytes) -> bool:
            sent[passes.count] += len(data)
            return send_nowait(data)

        writer._send_nowait = count
        trio.lowlevel.add_instrument(passes)
        await stream.send_all(bytes(1024 * 1024))
        trio.lowlevel.remove_instrument(passes)
    assert len(sent) >= 4
    assert max(sent.values()) < 256 * 1024 + 100


@EITHER_WAY
async def test_an_answer_over_tls_is_one_write_and_needs_no_task(
    serving: Serving, connecting: Connecting, extensions: frozenset[str]
) -> None:
    config = extending(extensions)
    async with (
        serving(config=config) as port,
        connecting(port, config=config) as connection,
        await connection.open_stream() as stream,
    ):
        for _ in range(20):
            await stream.send_all(b"ping")
            await stream.receive_some()
        before = connection.stats.writes
        others = _pings_and_grants(connection)
        for number in range(1000):
            message = number.to_bytes(8)
            await stream.send_all(message)
            received = b""
            while len(received) < len(message):
                received += await stream.receive_some()
            assert received == message
        # The round trip is measured once, and each quarter of the window granted again: 4 KiB.
        others = _pings_and_grants(connection) - others
        assert others <= (1 + 2 if extensions else 0)
        assert 1000 <= connection.stats.writes - before <= 1000 + others


def _pings_and_grants(connection: trioanytls.Connection) -> int:
    sent = connection.stats.frames_sent
    return sent.get("PINGPONG", 0) + sent.get("STREAM_WINDOW", 0)


async def test_what_send_nowait_leaves_comes_before_what_is_sent_next(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    near, far = await _tls_pair(server_context, client_context)
    # Until the socket's buffers are full, and more.
    pieces = [bytes([number % 251]) * 10_000 for number in range(2000)]
    sent = 0
    while near.send_nowait(pieces[sent]):
        sent += 1
    assert sent + 3 < len(pieces)
    assert not near.send_nowait(pieces[sent + 1])
    expected = b"".join(pieces[: sent + 3])
    received = bytearray()

    async def receive() -> None:
        while len(received) < len(expected):
            received.extend(await far.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, pieces[sent + 2])
        nursery.start_soon(receive)
    assert received == expected
    await near.aclose()
    with pytest.raises(trio.ClosedResourceError):
        near.send_nowait(b"late")
    await far.aclose()


async def test_send_all_of_nothing_sends_what_was_left(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    near, far = await _tls_pair(server_context, client_context)
    count = 0
    while near.send_nowait(bytes(100_000)):
        count += 1
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            left = (count + 1) * 100_000
            while left:
                left -= len(await far.receive_some())

        nursery.start_soon(receive)
        await near.send_all(b"")
    await trio.aclose_forcefully(near)
    await trio.aclose_forcefully(far)


async def test_send_nowait_while_somebody_sends_is_refused(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    near, far = await _tls_pair(server_context, client_context)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, bytes(50_000_000))
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            near.send_nowait(b"beside")
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(near)
    await trio.aclose_forcefully(far)


async def test_send_nowait_on_a_broken_connection_tells_at_the_next_send(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    near, far = await _tls_pair(server_context, client_context)
    await trio.aclose_forcefully(far)
    with pytest.raises(trio.BrokenResourceError):
        while True:
            near.send_nowait(bytes(10_000))
            await near.send_all(b"")
    await trio.aclose_forcefully(near)


async def _tls_pair(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[TLSStream, TLSStream]:
    ends: dict[str, TLSStream] = {}
    async with (await trio.open_tcp_listeners(0, host=HOST))[0] as listener:
        near = await trio.open_tcp_stream(HOST, listener.socket.getsockname()[1])
        far = await listener.accept()

    async def shake(name: str, transport: trio.abc.Stream, context: ssl.SSLContext, **options: Any) -> None:
        ends[name] = await handshake(transport, context, timeout=10, **options)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: shake("near", near, client, server_hostname=HOST))
        nursery.start_soon(lambda: shake("far", far, server, server_side=True))
    return ends["near"], ends["far"]


async def test_what_was_left_is_sent_once() -> None:
    setting = Setting()
    async with trio.open_nursery() as nursery:
        await setting.start(nursery)
        setting.transport.full = True
        setting.queue()
        setting.writer.notify()
        await wait_all_tasks_blocked()
        assert setting.transport.sent == [b""]
        # From here on, the task has nothing to send but new frames.
        setting.writer.inline_writes_left = 0
        for number in range(3):
            setting.queue(b"more")
            setting.writer.notify()
            await wait_all_tasks_blocked()
            assert len(setting.transport.sent) == 2 + number
            assert setting.transport.sent[-1].endswith(b"more")
        await setting.finish()
    assert setting.transport.sent.count(b"") == 1

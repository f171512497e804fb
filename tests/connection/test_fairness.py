"""A bulk stream does not starve a small one: the data sent before a message is bounded, and bulk streams share."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls.testing import StreamQueue, memory_connection_pair

from ..helpers.extensions import ALL, NO_EXTENSIONS, extending
from ..helpers.wire_bytes import PINGPONG

# The types of the frames that can pass while a test counts, from the specification.
DATA = 0x0A
WITHOUT_PAYLOAD = {0x07: "PINGPONG", 0x0C: "OPEN", 0x10: "ACK"}

# Only the first write is shaped, so that each byte on the wire belongs to a frame that the test sends.
UNSHAPED = trioanytls.PaddingScheme.parse(b"stop=1\n0=30-30")

BULK_STREAMS = 8
SMALL_STREAMS = 100
PAYLOAD = 64 * 1024
MESSAGE = 64

# The header of a frame: the type, a stream id of up to two bytes, and the payload's length.
FRAME = 1 + 2 + 4 + PAYLOAD
SMALL_FRAME = 1 + 2 + 2 + MESSAGE

# The write that the transport has accepted but not sent. Frames are collected up to 64 KiB, so the last of them may
# begin one byte before that.
BEING_WRITTEN = 64 * 1024 + FRAME
# A frame is admitted to the send queue as soon as there is any room, and may exceed the bound with its whole length.
BEYOND_THE_OUTBOX = FRAME

SIDES = pytest.mark.parametrize("side", ["client", "server"])
SEND_BUFFERS = pytest.mark.parametrize("send_buffer_size", [1, 256 * 1024])
# One frame per call, a call of many frames, and many calls per batch.
WRITE_SIZES = pytest.mark.parametrize("write_size", [PAYLOAD, 16 * PAYLOAD, 1000])


def most_ahead(send_buffer_size: int, in_line: int) -> int:
    """Return the most bytes that may precede a message. `in_line` is the part of the streams that wait before it."""
    return BEING_WRITTEN + send_buffer_size + BEYOND_THE_OUTBOX + in_line


class Frame(NamedTuple):
    """A frame on the wire: its offset in bytes, its type, its stream, and the size and the beginning of its payload."""

    offset: int
    kind: int
    stream_id: int
    size: int
    start: bytes


def number(data: bytes, at: int) -> tuple[int, int]:
    """Decode an integer of RFC 9000 section 16. Return it and the position after it."""
    end = at + (1 << (data[at] >> 6))
    return int.from_bytes(data[at:end]) & ((1 << 8 * (end - at) - 2) - 1), end


class Gate(trio.abc.Stream):
    """A transport that, once it is held, sends each write only when the test allows it.

    Attributes:
      sent: the number of bytes sent since then.
      frames: the frames in them.
      writes: the number of writes.
    """

    def __init__(self, transport: trio.abc.Stream) -> None:
        self.sent = 0
        self.frames: list[Frame] = []
        self.writes = 0
        self._transport = transport
        self._held = False
        self._arrived = trio.Event()
        self._place = trio.lowlevel.ParkingLot()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self._held:
            self._arrived.set()
            await self._place.park()
            self._note(bytes(data))
        await self._transport.send_all(data)

    def _note(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            begin = at
            kind, at = number(data, at)
            stream_id, at = number(data, at)
            size = 0
            if kind == DATA:
                size, at = number(data, at)
            else:
                assert kind in WITHOUT_PAYLOAD
            self.frames.append(Frame(self.sent + begin, kind, stream_id, size, data[at : at + min(size, MESSAGE)]))
            at += size
        assert at == len(data)
        self.sent += len(data)
        self.writes += 1

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._transport.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._transport.aclose()

    def hold(self) -> None:
        self._held = True

    def open(self) -> None:
        self._held = False
        self._place.unpark_all()

    async def let_one(self) -> None:
        """Send one write. Its effects may happen at the same time as the next action of the caller."""
        # On the test's clock: a connection that deadlocks fails the test instead of blocking it.
        with trio.fail_after(1):
            await self._arrived.wait()
        self._arrived = trio.Event()
        self._place.unpark()

    async def let(self, size: int) -> int:
        """Send writes until they have more than `size` bytes. Return the last offset of a frame that came in time."""
        last = self.sent + size
        while self.sent <= last:
            await self.let_one()
            await trio.testing.wait_all_tasks_blocked()
        return last


class Scene(NamedTuple):
    """A connection of which one side is held: that side sends, the other one reads and discards."""

    gate: Gate
    nursery: trio.Nursery
    streams: list[trioanytls.Stream]
    here: trioanytls.Connection
    peer: trioanytls.Connection

    async def saturate(self, streams: Iterable[trioanytls.Stream], write_size: int = PAYLOAD) -> None:
        """Let the streams send without end, until all of them wait."""
        sending = set()

        async def send(stream: trioanytls.Stream) -> None:
            while True:
                sending.add(stream)
                await stream.send_all(bytes(write_size))
                sending.remove(stream)

        streams = set(streams)
        for stream in streams:
            self.nursery.start_soon(send, stream)
        await trio.testing.wait_all_tasks_blocked()
        assert sending == streams


@contextlib.asynccontextmanager
async def held(
    side: str, streams: int, send_buffer_size: int = 256 * 1024, extensions: frozenset[str] = ALL
) -> AsyncIterator[Scene]:
    """Open a connection with streams. The data that `side` sends is held at a gate."""
    near, far = trio.testing.memory_stream_pair()
    gate = Gate(near if side == "client" else far)
    queue = StreamQueue()
    config = extending(extensions, send_buffer_size=send_buffer_size)
    async with (
        memory_connection_pair(
            queue,
            client_config=config,
            server_config=config,
            padding_scheme=UNSHAPED,
            server_padding_scheme=UNSHAPED,
            transports=(gate, far) if side == "client" else (near, gate),
        ) as (client, server),
        trio.open_nursery() as nursery,
    ):
        ends = [await client.open_stream() for _ in range(streams)], [await queue.get() for _ in range(streams)]
        senders, receivers = ends if side == "client" else ends[::-1]
        for stream in receivers:
            nursery.start_soon(swallow, stream)
        await trio.testing.wait_all_tasks_blocked()
        gate.hold()
        here, peer = (client, server) if side == "client" else (server, client)
        yield Scene(gate, nursery, senders, here, peer)
        nursery.cancel_scope.cancel()
        gate.open()


async def swallow(stream: trioanytls.Stream) -> None:
    async for _ in stream:
        pass


def message(count: int) -> bytes:
    """Messages are all different, and differ from the data of bulk streams."""
    return (count + 1).to_bytes(MESSAGE)


# One small stream


@SIDES
@SEND_BUFFERS
@WRITE_SIZES
async def test_a_message_waits_for_what_was_there_and_for_one_frame_of_each_bulk_stream(
    side: str, send_buffer_size: int, write_size: int, autojump_clock: trio.testing.MockClock
) -> None:
    bound = most_ahead(send_buffer_size, in_line=BULK_STREAMS * FRAME)
    async with held(side, BULK_STREAMS + 1, send_buffer_size) as scene:
        *bulk, small = scene.streams
        gate = scene.gate
        await scene.saturate(bulk, write_size)
        for count in range(12):
            async with trio.open_nursery() as sending:
                sending.start_soon(small.send_all, message(count))
                last = await gate.let(bound)
            found = [frame for frame in gate.frames if frame.start == message(count)]
            assert [(frame.kind, frame.stream_id) for frame in found] == [(DATA, small.stream_id)]
            assert found[0].offset <= last
            # The next one is sent while a write takes effect: the writer's task and the admitted senders have run in
            # part.
            await gate.let_one()
            for _ in range(count):
                await trio.lowlevel.checkpoint()


@SEND_BUFFERS
async def test_opening_a_stream_waits_no_longer_than_a_message(
    send_buffer_size: int, autojump_clock: trio.testing.MockClock
) -> None:
    bound = most_ahead(send_buffer_size, in_line=BULK_STREAMS * FRAME)
    async with held("client", BULK_STREAMS, send_buffer_size) as scene:
        await scene.saturate(scene.streams)
        async with trio.open_nursery() as opening:
            opening.start_soon(scene.here.open_stream)
            last = await scene.gate.let(bound)
        (frame,) = (frame for frame in scene.gate.frames if WITHOUT_PAYLOAD.get(frame.kind) == "OPEN")
        assert frame.offset <= last


@SIDES
@SEND_BUFFERS
async def test_each_of_a_hundred_small_streams_gets_its_messages_out_beside_a_bulk_one(
    side: str, send_buffer_size: int, autojump_clock: trio.testing.MockClock
) -> None:
    # The bulk stream and all other small ones may wait before a message.
    bound = most_ahead(send_buffer_size, in_line=FRAME + (SMALL_STREAMS - 1) * SMALL_FRAME)
    rounds = 5
    late = []
    out = 0
    async with held(side, 1 + SMALL_STREAMS, send_buffer_size) as scene:
        bulk, *small = scene.streams
        gate = scene.gate
        await scene.saturate([bulk])
        called: dict[tuple[int, bytes], int] = {}

        async def send(stream: trioanytls.Stream) -> None:
            for count in range(rounds):
                called[stream.stream_id, message(count)] = gate.sent
                await stream.send_all(message(count))

        async with trio.open_nursery() as sending:
            for stream in small:
                sending.start_soon(send, stream)
            for _ in range(rounds):
                await gate.let(bound)
        for frame in gate.frames:
            at = called.get((frame.stream_id, frame.start))
            if at is not None:
                out += 1
                if frame.offset - at > bound:
                    late.append(frame)
    assert late == []
    assert out == SMALL_STREAMS * rounds


# Control frames


@SIDES
@pytest.mark.parametrize("asked_by", ["here", "peer"])
async def test_a_ping_and_its_answer_wait_for_nothing_but_the_write_under_way(
    side: str, asked_by: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with held(side, BULK_STREAMS) as scene:
        await scene.saturate(scene.streams)
        for count in range(1, 4):
            async with trio.open_nursery() as pinging:
                pinging.start_soon((scene.here if asked_by == "here" else scene.peer).ping)
                # The bulk streams wait for the gate, so this returns when the PINGPONG waits there, too.
                await trio.testing.wait_all_tasks_blocked()
                last = await scene.gate.let(BEING_WRITTEN)
            pings = [frame for frame in scene.gate.frames if frame.kind == PINGPONG[0]]
            assert len(pings) == count
            assert pings[-1].offset <= last


# Bulk streams among themselves


@SIDES
@SEND_BUFFERS
@WRITE_SIZES
async def test_bulk_streams_get_equal_shares(
    side: str, send_buffer_size: int, write_size: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with held(side, BULK_STREAMS, send_buffer_size, NO_EXTENSIONS) as scene:
        await scene.saturate(scene.streams, write_size)
        # Frames queued before any sender had to wait do not count: one call may have filled the send queue.
        await scene.gate.let(send_buffer_size + BEYOND_THE_OUTBOX + BEING_WRITTEN)
        before = len(scene.gate.frames)
        while len(scene.gate.frames) - before < 20 * BULK_STREAMS:
            await scene.gate.let(0)
        frames = Counter({stream.stream_id: 0 for stream in scene.streams})
        for frame in scene.gate.frames[before:]:
            frames[frame.stream_id] += 1
            assert max(frames.values()) - min(frames.values()) <= 2
        assert len(frames) == BULK_STREAMS
        assert min(frames.values()) >= 19


@SIDES
@SEND_BUFFERS
@WRITE_SIZES
async def test_bulk_streams_with_windows_get_equal_shares(
    side: str, send_buffer_size: int, write_size: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with held(side, BULK_STREAMS, send_buffer_size) as scene:
        await scene.saturate(scene.streams, write_size)
        # Until the windows have grown. If writes are small, frames are not cut by credit, and 500 of each stream do.
        size = min(16 * 1024 * 1024, BULK_STREAMS * 500 * write_size)
        await scene.gate.let(size)
        before = len(scene.gate.frames)
        await scene.gate.let(size)
        sizes = Counter({stream.stream_id: 0 for stream in scene.streams})
        for frame in scene.gate.frames[before:]:
            sizes[frame.stream_id] += frame.size
        assert len(sizes) == BULK_STREAMS
        # A frame has as much data as there is credit, so frames are not counted.
        assert min(sizes.values()) >= 0.8 * max(sizes.values())


async def test_small_writes_go_out_by_the_hundred_again_after_the_senders_had_to_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    # Room is reserved for a frame of maximum size for each admitted sender. A small message leaves most of it unused.
    # If that room were not given to the next sender, each write would admit only as many senders as maximum-size frames
    # fit into the send queue. With all senders queued by then, that state is permanent: the connection would be slowest
    # when it has the most to do.
    async with held("client", BULK_STREAMS) as scene:
        await scene.saturate(scene.streams, MESSAGE)
        await scene.gate.let(2 * 256 * 1024)
        writes, frames = scene.gate.writes, len(scene.gate.frames)
        await scene.gate.let(256 * 1024)
        assert (len(scene.gate.frames) - frames) / (scene.gate.writes - writes) > 50

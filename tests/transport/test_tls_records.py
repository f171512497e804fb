"""The sizes of the TLS records as an observer between the two sockets sees them, from their headers alone."""

from __future__ import annotations

import contextlib

import pytest
import trio

import trioanytls
from trioanytls import Mark
from trioanytls.testing import StreamQueue

from ..conftest import HOST, Connecting, Serving

# RFC 8446: 5.2: a record of application data has a header of 5 bytes, 1 byte of content type, and a tag of 16 bytes.
HEADER = 5
OVERHEAD = 17
APPLICATION_DATA = 23

# The first record of application data from a client is the TLS Finished, which has 36 or 52 bytes of plaintext.
FINISHED = (36, 52)


class Watcher:
    """Relays between a client and a server, and splits each read of the client's bytes into records."""

    def __init__(self, server_port: int) -> None:
        self.records: list[int] = []
        self._server_port = server_port

    async def run(self, *, task_status: trio.TaskStatus[int]) -> None:
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        task_status.started(listeners[0].socket.getsockname()[1])
        async with listeners[0]:
            client = await listeners[0].accept()
            server = await trio.open_tcp_stream(HOST, self._server_port)
            async with client, server, trio.open_nursery() as nursery:
                nursery.start_soon(self._relay, client, server, True)
                nursery.start_soon(self._relay, server, client, False)

    async def _relay(self, source: trio.SocketStream, sink: trio.SocketStream, watched: bool) -> None:
        seen = bytearray()
        while data := await source.receive_some():
            if watched:
                seen += data
                while len(seen) >= HEADER and len(seen) >= (end := HEADER + int.from_bytes(seen[3:5])):
                    if seen[0] == APPLICATION_DATA:
                        self.records.append(end - HEADER - OVERHEAD)
                    del seen[:end]
            await sink.send_all(data)
        with contextlib.suppress(trio.BrokenResourceError):
            await sink.send_eof()


async def test_the_first_eight_deliveries_have_the_sizes_that_the_scheme_asks_for(
    serving: Serving, connecting: Connecting
) -> None:
    scheme = trioanytls.PaddingScheme.DEFAULT
    queue = StreamQueue()
    async with serving(queue) as port, trio.open_nursery() as nursery:
        watcher = Watcher(port)
        watched_port = await nursery.start(watcher.run)
        async with connecting(watched_port) as connection:
            stream = await connection.open_stream()
            far = await queue.get()
            # Short and long data, so that frames are padded and cut, and some data is left.
            for size in (10, 3000, 4, 700, 2500, 1, 900):
                await stream.send_all(bytes(size))
                received = 0
                while received < size:
                    received += len(await far.receive_some())
            deliveries = connection.stats.deliveries
            await far.aclose()

    assert watcher.records.pop(0) in FINISHED
    assert [delivery.index for delivery in deliveries] == list(range(8))
    # Each Write is a separate record, in this order.
    written = [size for delivery in deliveries for size in delivery.written]
    assert watcher.records[: len(written)] == written
    # AUTH with its 30 bytes of padding, NEGO and OPEN are one record.
    assert len(deliveries[0].written) == 1
    assert deliveries[0].asked == (30,)
    # Each delivery asked for sizes that its line of the scheme allows, and was written with these.
    for delivery in deliveries[1:]:
        line = scheme.lines[delivery.index]
        assert len(delivery.asked) == len(line)
        for asked, part in zip(delivery.asked, line, strict=True):
            if part is Mark.CHECK:
                assert asked is Mark.CHECK
            else:
                assert isinstance(asked, int)
                assert part.low <= asked <= part.largest
    payload_sizes = dict(zip(range(1, 8), (10, 3000, 4, 700, 2500, 1, 900), strict=True))
    for delivery in deliveries[1:]:
        assert list(delivery.written) == expected(payload_sizes[delivery.index], delivery.asked)
    # After the eighth, frames are not shaped: the RST that closes the stream, or CLOSE.
    assert all(size < 100 for size in watcher.records[len(written) : len(written) + 1])


def expected(payload: int, asked: tuple[int | Mark, ...]) -> list[int]:
    """Compute the Writes of one DATA frame on stream 1, only from `docs/protocol.md`."""
    left = 2 + (1 if payload < 64 else 2) + payload
    writes: list[int] = []
    for size in asked:
        if size is Mark.CHECK:
            if not left:
                return writes
        elif not left:
            writes.append(2 + (1 if size < 64 else 2) + size)
        elif left > size:
            writes.append(size)
            left -= size
        else:
            writes.append(size if size - left >= 3 else left)
            left = 0
    return writes + ([left] if left else [])


@pytest.mark.parametrize("stop", [0, 1])
async def test_a_scheme_that_shapes_nothing_still_sends_the_first_frames_together(
    stop: int, serving: Serving, connecting: Connecting
) -> None:
    scheme = trioanytls.PaddingScheme.parse(b"stop=%d\n0=100-100\n" % stop)
    async with serving() as port, trio.open_nursery() as nursery:
        watcher = Watcher(port)
        watched_port = await nursery.start(watcher.run)
        async with connecting(watched_port, padding_scheme=scheme) as connection:
            stream = await connection.open_stream()
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
    assert watcher.records[1] > 34 + 100

"""HTTP/2 by `h2` over a `trio.SSLStream`: the common part of the two drivers.

A stream is a request with a body and a response with a body. Windows are large, so that a sender does not wait for
credit while the receiver keeps up. Credit is returned in large steps, after the application has taken the data. Frames
have up to 64 KiB. Header validation is off, as both ends are this module.

The drivers differ in the task that writes the output of `h2`, and in the time: `Connection.flush` and
`Connection.flush_soon`. The reading task never waits for a write: two ends whose readers do can deadlock.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import ClassVar

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import trio

from benchmarks.peer import Handler, Session, closing, serve_transport
from benchmarks.peer import Peer as AbstractPeer

STREAM_WINDOW = 16 * 1024 * 1024
CONNECTION_WINDOW = 128 * 1024 * 1024
CREDIT_STEP = 1024 * 1024
FRAME_SIZE = 65536
MOST_STREAMS = 1_000_000

_REQUEST = [(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", "/")]
_RESPONSE = [(":status", "200")]
_SETTINGS: dict[h2.settings.SettingCodes | int, int] = {
    h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
    h2.settings.SettingCodes.MAX_FRAME_SIZE: FRAME_SIZE,
    h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: MOST_STREAMS,
}


class Stream(trio.abc.Stream):
    """One HTTP/2 stream."""

    __slots__ = ("_chunks", "_connection", "_ended", "_id", "_owed", "_respond", "_sent_end", "_waiter")

    def __init__(self, connection: Connection, stream_id: int, *, respond: bool) -> None:
        self._connection = connection
        self._id = stream_id
        self._chunks: list[bytes] = []
        self._owed = 0
        self._ended = False
        self._sent_end = False
        self._respond = respond
        self._waiter: trio.Event | None = None

    def feed(self, data: bytes) -> None:
        """Add received data."""
        self._chunks.append(data)
        self._wake()

    def end(self) -> None:
        """Mark the end of the received data."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None:
            self._waiter.set()
            self._waiter = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        connection = self._connection
        engine = connection.engine
        if self._respond:
            self._respond = False
            engine.send_headers(self._id, _RESPONSE)
        if isinstance(data, bytearray):
            data = bytes(data)
        if len(data) <= connection.room(self._id):
            engine.send_data(self._id, data)
            await connection.flush(len(data))
            return
        view = memoryview(data)
        while view:
            room = connection.room(self._id)
            if room <= 0:
                await connection.wait_for_credit()
                continue
            frame, view = view[:room], view[room:]
            engine.send_data(self._id, frame)
            await connection.flush(len(frame))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        chunks = self._chunks
        if not chunks:
            if self._ended:
                await trio.lowlevel.checkpoint()
                return b""
            self._waiter = trio.Event()
            await self._waiter.wait()
            if not chunks:
                return b""
        else:
            await trio.lowlevel.checkpoint()
        data = chunks.pop(0)
        if max_bytes is None:
            if chunks:
                data = b"".join((data, *chunks))
                chunks.clear()
        elif len(data) > max_bytes:
            chunks.insert(0, data[max_bytes:])
            data = data[:max_bytes]
        self._owed += len(data)
        if self._owed >= CREDIT_STEP and not self._ended:
            self._connection.engine.acknowledge_received_data(self._owed, self._id)
            self._owed = 0
            self._connection.flush_soon()
        return data

    async def aclose(self) -> None:
        if self._sent_end:
            return
        self._sent_end = True
        connection = self._connection
        connection.forget(self._id)
        self.end()
        owed = self._owed + sum(map(len, self._chunks))
        if owed:
            connection.engine.acknowledge_received_data(owed, self._id)
        try:
            if self._respond:
                connection.engine.send_headers(self._id, _RESPONSE, end_stream=True)
            else:
                connection.engine.end_stream(self._id)
        except h2.exceptions.ProtocolError:
            return  # the peer has reset the stream, or the connection is closed
        await connection.flush()


class Connection(Session):
    """One HTTP/2 connection: the engine, the streams, and the reading task."""

    def __init__(self, transport: trio.abc.Stream, *, client: bool) -> None:
        config = h2.config.H2Configuration(
            client_side=client,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
        )
        self.engine = h2.connection.H2Connection(config)
        self.transport = transport
        self._streams: dict[int, Stream] = {}
        self._credit = trio.Event()

    @abstractmethod
    async def flush(self, size: int = 0) -> None:
        """Write the output of the engine, which has `size` more bytes of data. Return when the caller may continue."""

    @abstractmethod
    def flush_soon(self) -> None:
        """Have the output of the engine written, without waiting for it."""

    @abstractmethod
    async def run_writer(self) -> None:
        """Run the writing task."""

    async def start(self) -> None:
        """Send the connection preface and the settings."""
        engine = self.engine
        engine.initiate_connection()
        engine.update_settings(_SETTINGS)
        engine.increment_flow_control_window(CONNECTION_WINDOW)
        await self.flush()

    def room(self, stream_id: int) -> int:
        """Return the number of bytes that a DATA frame may carry now."""
        most: int = min(self.engine.local_flow_control_window(stream_id), self.engine.max_outbound_frame_size)
        return most

    async def wait_for_credit(self) -> None:
        """Wait until the peer gives credit or changes its settings."""
        await self._credit.wait()

    def forget(self, stream_id: int) -> None:
        """Remove a stream that the application has closed."""
        self._streams.pop(stream_id, None)

    async def open_stream(self) -> Stream:
        stream_id = self.engine.get_next_available_stream_id()
        self.engine.send_headers(stream_id, _REQUEST)
        stream = self._streams[stream_id] = Stream(self, stream_id, respond=False)
        await trio.lowlevel.checkpoint()
        return stream  # its headers are sent with the first data

    async def run_reader(self, accept: Callable[[Stream], object]) -> None:
        """Read until the end, and dispatch the events. Call `accept` with each stream that the peer opens."""
        engine = self.engine
        streams = self._streams
        while data := await self.transport.receive_some():
            for event in engine.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    stream = streams.get(event.stream_id)
                    if stream is None:
                        engine.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif event.data:
                        stream.feed(event.data)
                elif isinstance(event, h2.events.RequestReceived):
                    stream = streams[event.stream_id] = Stream(self, event.stream_id, respond=True)
                    accept(stream)
                elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset)):
                    stream = streams.get(event.stream_id)
                    if stream is not None:
                        stream.end()
                elif isinstance(event, (h2.events.WindowUpdated, h2.events.RemoteSettingsChanged)):
                    self._credit.set()
                    self._credit = trio.Event()
            self.flush_soon()
        for stream in list(streams.values()):
            stream.end()


class Peer(AbstractPeer):
    """HTTP/2 over `trio.SSLStream`. A driver sets the class of the connection."""

    protocols = ("h2",)
    connection: ClassVar[type[Connection]]

    async def serve(self, handler: Handler, *, task_status: trio.TaskStatus[int]) -> None:
        async def serve_one(transport: trio.SocketStream) -> None:
            async with closing(self.tls.wrap_server(transport)) as stream, trio.open_nursery() as nursery:
                connection = self.connection(stream, client=False)
                nursery.start_soon(connection.run_writer)
                await connection.start()
                await connection.run_reader(lambda stream: nursery.start_soon(_run, handler, stream))
                nursery.cancel_scope.cancel()

        await serve_transport(serve_one, task_status=task_status)

    @asynccontextmanager
    async def connect(self, port: int) -> AsyncIterator[Session]:
        async with closing(await self.tls.connect(port)) as stream, trio.open_nursery() as nursery:
            connection = self.connection(stream, client=True)
            nursery.start_soon(connection.run_writer)
            await connection.start()
            nursery.start_soon(connection.run_reader, lambda stream: None)
            yield connection
            nursery.cancel_scope.cancel()


async def _run(handler: Callable[[trio.abc.Stream], Awaitable[None]], stream: Stream) -> None:
    async with stream:
        await handler(stream)

"""A connection: one nursery that owns the reader, the shaped writer, the timekeeper, and a task for each stream.

    send_all -> Outbox -> Writer -> transport            transport -> reader -> Protocol -> Stream -> receive_some

Reader, writer and timekeeper are shielded: only the connection itself ends them, in `_say_goodbye`. So a cancellation
from outside becomes an orderly end, in bounded time. They raise nothing: whatever ends the connection becomes its
`_Ending`, which meets the application where it next awaits on a stream or the connection.

The reader waits for the transport, and for an application to read when a stream's buffer is full (there is no
flow-control window in the protocol: TCP has to push back). It never waits for the writer: see `_outbox`.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Awaitable, Callable

import trio
from attrs import frozen

from . import _datablock, _frames, _timers
from ._broken import ConnectionClosed
from ._config import Config
from ._errors import AuthenticationFailed, LimitExceeded, ProtocolViolation
from ._frames import CloseCode
from ._outbox import Outbox
from ._padding import PaddingScheme
from ._protocol import ClientProtocol, Event, ServerProtocol
from ._shaper import Shaper
from ._state import ConnectionState
from ._stats import ConnectionStats
from ._stream import Stream, _End
from ._writer import Writer

#: What serves a stream.
Handler = Callable[[Stream], Awaitable[object]]

# How much the reader asks the transport for, in bytes.
_READ_SIZE = 64 * 1024

_DATA = int(Event.DATA)
# Where an ALERT text is cut, in characters.
_MAX_ALERT = 512

_server_log = logging.getLogger("trioanytls.server")
_log = logging.getLogger("trioanytls.connection")


@frozen
class _Ending:
    """Why and how a connection ends.

    Attributes:
      code, reason: see `ConnectionClosed`.
      cause: the first cause.
      last_frame: what the peer is told, if anything.
      drain: whether what was accepted for sending goes out first.
      abort: whether the transport is of no use any more.
      local: whether the application closed the connection.
    """

    code: CloseCode | None
    reason: str
    cause: BaseException | None = None
    last_frame: bytes | None = None
    drain: bool = False
    abort: bool = False
    local: bool = False


class _Ping:
    """A PINGPONG whose answer is outstanding."""

    __slots__ = ("done", "round_trip", "sent")

    def __init__(self, now: float) -> None:
        self.sent = now
        self.done = trio.Event()
        self.round_trip: float | None = None


class Connection:
    """An ANYTLS connection, as one of its two ends sees it. Made by `open_connection` and `serve`, not by hand.

    Attributes:
      config: its settings.
      padding_scheme: the scheme with which this end began; it does not change while the connection lasts.
      server_padding_scheme: (client) the scheme that the server wants used for later connections, None where it wants
        the one in use (spec: Padding Scheme Update).
    """

    def __init__(
        self,
        transport: trio.abc.Stream,
        protocol: ClientProtocol | ServerProtocol,
        scheme: PaddingScheme,
        config: Config,
        handler: Handler | None = None,
    ) -> None:
        self.config = config
        self.padding_scheme = scheme
        self.server_padding_scheme: PaddingScheme | None = None
        self.is_server = isinstance(protocol, ServerProtocol)
        self.outbox = Outbox(config.send_buffer_size)
        self._transport = transport
        self._protocol = protocol
        self._handler = handler
        shaped = config.shape_server or not self.is_server
        self._writer = Writer(transport, self.outbox, Shaper(scheme) if shaped else None)
        self._streams: dict[int, Stream] = {}
        self._streams_opened = 0
        self._handlers = 0
        self._ping: _Ping | None = None
        self._ping_deadline = math.inf
        # Tasks
        self._nursery: trio.Nursery | None = None
        self._io_scopes: list[trio.CancelScope] = []
        self._goodbye_scope = trio.CancelScope()
        self._writer_done = trio.Event()
        self._peer_gone = trio.Event()
        # Set when what arrives cannot be decoded any more: it is read, and dropped.
        self._deaf = False
        # The end
        self._ending: _Ending | None = None
        self._ending_event = trio.Event()
        self._closed = trio.Event()
        # Times, on Trio's clock; see `_timers`
        self._started = self._last_read = math.inf
        self._reader_stalled = False
        self._write_error: BaseException | None = None
        self._bytes_received = 0
        self._next_sweep = -math.inf
        self.move_deadlines_before = -math.inf

    def __repr__(self) -> str:
        role = "server" if self.is_server else "client"
        return f"<trioanytls.Connection ({role}) {self._protocol.state.name} streams={len(self._streams)}>"

    # What an application sees

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, or is about to: no stream can be opened or used any more."""
        return self._ending is not None

    @property
    def close_reason(self) -> ConnectionClosed | None:
        """Why it has ended, None as long as it has not."""
        return None if self._ending is None else self.closed_error()

    @property
    def user(self) -> str | None:
        """(server) The name of the user who authenticated."""
        return self._protocol.user if isinstance(self._protocol, ServerProtocol) else None

    @property
    def peer_identifier(self) -> str | None:
        """(server) What the client calls its implementation: the `client` key of its NEGO, None before that."""
        return self._protocol.peer_identifier if isinstance(self._protocol, ServerProtocol) else None

    @property
    def version(self) -> int | None:
        """The protocol version agreed upon; None on a client that has seen no NEGO from the server yet."""
        return self._protocol.version

    @property
    def stats(self) -> ConnectionStats:
        """The counters as they stand."""
        decoder, outbox, writer = self._protocol.decoder, self.outbox, self._writer
        shaper = writer.shaper
        sent = _by_type(outbox.frames)
        if not self.is_server and writer.writes:
            # The first frames do not pass through the outbox.
            sent |= {"AUTH": 1, "CLIENT_NEGO": 1}
        if shaper is not None and shaper.padding_frames:
            sent["PADDING"] = shaper.padding_frames
        return ConnectionStats(
            frames_sent=sent,
            frames_received=_by_type(decoder.frames),
            data_bytes_sent=sum(outbox.payload_bytes),
            data_bytes_received=sum(decoder.payload_bytes[_frames.FrameType.STREAM :]),
            padding_bytes_sent=shaper.padding_bytes if shaper else 0,
            padding_bytes_received=decoder.payload_bytes[_frames.FrameType.PADDING],
            bytes_sent=writer.bytes_written,
            bytes_received=self._bytes_received,
            open_streams=len(self._streams),
            streams_opened=self._streams_opened,
            writes=writer.writes,
            deliveries=tuple(shaper.deliveries) if shaper else (),
        )

    async def open_stream(self) -> Stream:
        """(client) Open a stream. It can be used at once: neither this nor sending waits for an answer.

        Waits only while the connection has more to send than `Config.send_buffer_size`.

        Raises:
          RuntimeError: this is the server's end, which opens no streams (protocol: 5).
          trio.ClosedResourceError: the connection was closed on this side.
          ConnectionClosed: it has ended, or its 2**62 - 1 stream ids are used up.

        Cancellation: no stream was opened.
        """
        protocol = self._protocol
        if not isinstance(protocol, ClientProtocol):
            raise RuntimeError("only a client opens streams")
        self._check_open()
        await trio.lowlevel.checkpoint_if_cancelled()
        blocked = not self.outbox.has_room
        if blocked:
            await self.outbox.wait_room()
            self._check_open()
        if protocol.exhausted:
            self.outbox.give_back()
            raise ConnectionClosed(None, "all stream ids of the connection are used up")
        assert self._nursery is not None  # noqa: S101 - it is there before the application has the connection
        stream_id, frame = protocol.open_stream()
        stream = self._add_stream(stream_id, trio.current_time())
        stream.opened(frame)
        self._nursery.start_soon(self._watch, stream)
        if not blocked:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return stream

    async def ping(self) -> float:
        """Send a PINGPONG and wait for the answer: the round-trip time in seconds.

        Calls while one is outstanding share its answer. An answer that does not come within `Config.keepalive_timeout`
        ends the connection.

        Raises:
          trio.ClosedResourceError, ConnectionClosed: see `open_stream`.

        Cancellation: the answer is awaited in the background.
        """
        self._check_open()
        await trio.lowlevel.checkpoint_if_cancelled()
        ping = self._ping or self._send_ping(trio.current_time())
        await ping.done.wait()
        if ping.round_trip is None:
            self._check_open()
            raise self.closed_error()
        return ping.round_trip

    async def aclose(self) -> None:
        """Leave: send what was accepted, then CLOSE 0, then end TLS, all within `Config.close_timeout` (protocol: 4).

        Cancellation: the transport is closed at once, without a word.
        """
        self._end(
            _Ending(
                CloseCode.NO_ERROR,
                "the connection was closed on this side",
                last_frame=_frames.encode_close(CloseCode.NO_ERROR),
                drain=True,
                local=True,
            )
        )
        try:
            await self._closed.wait()
        except trio.Cancelled:
            self._goodbye_scope.cancel()
            raise

    async def wait_closed(self) -> None:
        """Wait until the connection has ended and its transport is closed, whoever did it."""
        await self._closed.wait()

    # For streams

    @property
    def closed_locally(self) -> bool:
        """Whether the application closed the connection."""
        return self._ending is not None and self._ending.local

    def closed_error(self) -> ConnectionClosed:
        """A new error that says why the connection has ended, with its first cause."""
        ending = self._ending or _Ending(None, "the connection broke while sending", self._write_error)
        error = ConnectionClosed(ending.code, ending.reason)
        error.__cause__ = ending.cause
        return error

    def close_stream(self, stream: Stream) -> bytes | None:
        """Forget a stream; the RST frame that tells the peer, None where it knows."""
        stream_id = stream.stream_id
        if self._streams.get(stream_id) is stream:
            del self._streams[stream_id]
        if not self.is_server:
            # Its task on the client has nothing to watch any more.
            stream.scope.cancel()
        return self._protocol.close_stream(stream_id)

    def acknowledge_stream(self, stream: Stream) -> None:
        """Accept a stream: see `Stream.acknowledge`."""
        if not isinstance(self._protocol, ServerProtocol):
            raise RuntimeError("only a server acknowledges streams")
        frame = self._protocol.acknowledge(stream.stream_id)
        if frame is not None:
            stream.touch(trio.current_time())
            self.outbox.put_control(frame)
        stream.confirm()

    def expire_if_idle(self, stream: Stream) -> bool:
        """Whether the stream's idle timer has run out; if so, it is closed now."""
        idle = (
            self._ending is None
            and not stream.has_ended
            and trio.current_time() >= stream.last_frame + self.config.stream_idle_timeout
        )
        if idle:
            stream.expire(_End.IDLE)
        return idle

    # The nursery

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be the connection, from the end of the TLS handshake until the transport is closed and all handlers are done.

        Cancellation: CLOSE 6 to the peer, within `Config.close_timeout`.
        """
        self._started = self._last_read = trio.current_time()
        self._protocol.handshake_done()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for task in (self._read, self._write, self._keep_time):
                    nursery.start_soon(self._shielded, task)
                task_status.started()
                try:
                    await self._ending_event.wait()
                except trio.Cancelled:
                    self._leave(CloseCode.SHUTTING_DOWN, "this side is shutting down")
                    raise
                finally:
                    with trio.CancelScope(shield=True):
                        await self._say_goodbye()
        finally:
            self._nursery = None

    async def _shielded(self, task: Callable[[], Awaitable[None]]) -> None:
        with trio.CancelScope(shield=True) as scope:
            self._io_scopes.append(scope)
            await task()

    def _end(self, ending: _Ending) -> None:
        """The connection ends; the first reason is the one that counts."""
        if self._ending is not None:
            return
        self._ending = ending
        self._protocol.leave()
        if ending.abort:
            self.outbox.break_down()
        self.outbox.finish(ending.last_frame, drain=ending.drain)
        for stream in self._streams.values():
            stream.end(_End.CONNECTION)
            if not self.is_server:
                stream.scope.cancel()
            else:
                # Nobody sweeps any more: from here on, the deadline bounds how long a handler goes on alone.
                stream.move_deadline()
        self._streams.clear()
        if self._ping is not None:
            self._ping.done.set()
        self._ending_event.set()

    def _leave(self, code: CloseCode, reason: str, cause: BaseException | None = None) -> None:
        """End the connection with a CLOSE frame."""
        self._end(_Ending(code, reason, cause, last_frame=_frames.encode_close(code)))

    def _lost(self, reason: str, cause: BaseException | None = None) -> None:
        """The transport has ended without CLOSE, which no stream may take for an ordinary end (protocol: 4)."""
        self._peer_gone.set()
        self._end(_Ending(None, reason, cause, abort=True))

    def _violated(self, error: ProtocolViolation) -> None:
        """The peer broke the protocol: ALERT as the last frame, or the CLOSE code that says it (protocol: 4)."""
        text = str(error)
        _log.warning("%s: %s", self._peer_name(), text)
        if error.code is CloseCode.PROTOCOL_ERROR:
            last_frame = _frames.encode_alert(_datablock.format_text(text[:_MAX_ALERT]))
        else:
            last_frame = _frames.encode_close(error.code)
        # A peer that goes beyond a limit has not read what waits for it.
        self._end(_Ending(error.code, text, error, last_frame, drain=not isinstance(error, LimitExceeded)))

    def _peer_name(self) -> str:
        return f"client {self.user!r}" if self.is_server else "server"

    async def _say_goodbye(self) -> None:
        """See the last frames out, and close the transport, in bounded time whatever the peer does."""
        assert self._ending is not None  # noqa: S101 - it is what brought us here
        if not self._ending.abort:
            self._goodbye_scope.deadline = trio.current_time() + self.config.close_timeout
            with self._goodbye_scope, contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._writer_done.wait()
                if self._ending.last_frame is not None:
                    # Closing a socket while the peer still sends makes TCP drop what the peer has not read yet. It
                    # closes its side when it reads the last frame.
                    await self._peer_gone.wait()
                await self._transport.aclose()
        await trio.aclose_forcefully(self._transport)
        for scope in self._io_scopes:
            scope.cancel()
        self._protocol.transport_closed()
        self._closed.set()

    # The reader

    async def _read(self) -> None:
        try:
            while data := await self._transport.receive_some(_READ_SIZE):
                self._bytes_received += len(data)
                self._last_read = trio.current_time()
                if not self._deaf:
                    await self._process(bytes(data))
                if self._peer_gone.is_set():
                    return
            self._lost("the connection ended without a CLOSE frame")
        except trio.BrokenResourceError as error:
            self._lost("the connection broke", error)
        except trio.ClosedResourceError:
            # By the goodbye, which waits for nothing more from here.
            pass
        finally:
            self._peer_gone.set()

    async def _process(self, data: bytes) -> None:
        config = self.config
        if self.outbox.pending_control > config.max_pending_control + 2 * config.max_streams:
            self._violated(LimitExceeded("too many answers wait to be read"))
        streams = self._streams
        now = self._last_read
        try:
            for event, stream_id, payload in self._protocol.receive(data):
                if event == _DATA:
                    stream = streams[stream_id]
                    stream.touch(now)
                    stream.deliver(payload)  # type: ignore[arg-type]  # DATA carries bytes
                    if stream.buffered > config.receive_buffer_size:
                        self._send_replies()
                        await self._wait_until_read(stream)
                else:
                    _EVENT_HANDLERS[event](self, stream_id, payload)
            self._send_replies()
        except AuthenticationFailed as error:
            # Without a byte of ANYTLS (protocol: 4).
            self._deaf = True
            self._end(_Ending(None, str(error), error))
        except ProtocolViolation as error:
            self._deaf = True
            self._send_replies()
            self._violated(error)

    def _send_replies(self) -> None:
        replies = self._protocol.replies
        if replies:
            for frame in replies:
                self.outbox.put_control(frame)
            replies.clear()

    async def _wait_until_read(self, stream: Stream) -> None:
        """Hold the transport until the application has read some of the stream, or has held up others for too long."""
        self._reader_stalled = True
        try:
            while True:
                with trio.move_on_after(self.config.stall_timeout):
                    await stream.wait_read()
                    return
                if len(self._streams) > 1:
                    stream.expire(_End.STALLED)
                    return
        finally:
            self._reader_stalled = False
            self._last_read = trio.current_time()
            if self._ping is not None:
                # Its answer may have been waiting all the time.
                self._ping_deadline = self._last_read + self.config.keepalive_timeout

    def _on_opened(self, stream_id: int, _payload: object) -> None:
        if self._handlers >= self.config.max_streams or self._nursery is None:
            rst = self._protocol.close_stream(stream_id)
            if rst is not None:
                self.outbox.put_control(rst)
            return
        self._handlers += 1
        stream = self._add_stream(stream_id, self._last_read)
        self._nursery.start_soon(self._serve_stream, stream)

    def _on_refreshed(self, stream_id: int, _payload: object) -> None:
        self._streams[stream_id].touch(self._last_read)

    def _on_acknowledged(self, stream_id: int, _payload: object) -> None:
        stream = self._streams[stream_id]
        stream.touch(self._last_read)
        stream.confirm()

    def _on_ended(self, stream_id: int, _payload: object) -> None:
        self._end_stream(stream_id, _End.PEER)

    def _on_refused(self, stream_id: int, _payload: object) -> None:
        self._end_stream(stream_id, _End.REFUSED)

    def _end_stream(self, stream_id: int, reason: _End) -> None:
        stream = self._streams.pop(stream_id)
        stream.end(reason)
        if not self.is_server:
            stream.scope.cancel()

    def _on_pong(self, _stream_id: int, _payload: object) -> None:
        ping, self._ping = self._ping, None
        if ping is not None:
            ping.round_trip = trio.current_time() - ping.sent
            ping.done.set()

    def _on_authenticated(self, _stream_id: int, _payload: object) -> None:
        # NEGO has its own time.
        self._started = self._last_read

    def _on_negotiated(self, _stream_id: int, _payload: object) -> None:
        pass

    def _on_scheme(self, _stream_id: int, payload: object) -> None:
        if isinstance(payload, PaddingScheme):
            self.server_padding_scheme = payload

    def _on_left(self, _stream_id: int, payload: object) -> None:
        self._peer_gone.set()
        self._end(_Ending(CloseCode.from_wire(int(payload)), "the peer closed the connection"))  # type: ignore[call-overload]

    def _on_alerted(self, _stream_id: int, payload: object) -> None:
        self._peer_gone.set()
        self._end(_Ending(CloseCode.PROTOCOL_ERROR, f"the peer sent an ALERT: {payload}"))

    # The writer

    async def _write(self) -> None:
        try:
            if isinstance(self._protocol, ClientProtocol):
                await self._writer.send_first(self._first_frames, self.config.initial_flush_delay)
            await self._writer.run()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._write_error = error
            self.outbox.break_down()
        finally:
            self._writer_done.set()
        if self._write_error is not None:
            # What has arrived is still the streams': the reader goes on to its end, but not for ever.
            while not self._peer_gone.is_set():
                with trio.move_on_after(self.config.close_timeout):
                    await self._peer_gone.wait()
                if not self._reader_stalled:
                    break
            self._lost("the connection broke while sending", self._write_error)

    def _first_frames(self) -> bytes:
        protocol, shaper = self._protocol, self._writer.shaper
        assert isinstance(protocol, ClientProtocol)  # noqa: S101 - a client always shapes, a server never comes here
        assert shaper is not None  # noqa: S101
        return b"".join(protocol.first_frames(shaper.draw_auth_padding()))

    def _send_ping(self, now: float) -> _Ping:
        self._ping = _Ping(now)
        self._ping_deadline = now + self.config.keepalive_timeout
        self.outbox.put_control(self._protocol.ping())
        return self._ping

    # Streams' tasks

    def _add_stream(self, stream_id: int, now: float) -> Stream:
        stream = Stream(self, stream_id, now, on_wire=self.is_server)
        self._streams[stream_id] = stream
        self._streams_opened += 1
        return stream

    async def _watch(self, stream: Stream) -> None:
        """(client) A stream's task: its scope carries the idle deadline."""
        with stream.scope:
            await trio.sleep_forever()
        self.expire_if_idle(stream)

    async def _serve_stream(self, stream: Stream) -> None:
        """(server) A stream's task: its handler, in a scope that carries the idle deadline."""
        try:
            await self._handle(stream)
        except* Exception as group:  # noqa: BLE001 - whatever it is: logged, and harms nobody else
            error = group.exceptions[0] if len(group.exceptions) == 1 else group
            # That the peer goes away is no mistake of the handler's.
            expected = isinstance(error, trio.BrokenResourceError)
            _server_log.log(
                logging.INFO if expected else logging.ERROR,
                "the handler of stream %d of %s failed: %r",
                stream.stream_id,
                self._peer_name(),
                error,
                exc_info=None if expected else error,
            )
        finally:
            self._handlers -= 1

    async def _handle(self, stream: Stream) -> None:
        assert self._handler is not None  # noqa: S101 - only a server has streams opened by its peer
        # One that was reset before its handler could run, and has brought nothing, needs none.
        if stream.has_ended and not stream.buffered:
            return
        try:
            with stream.scope:
                if self.config.acknowledge == "auto" and not stream.has_ended:
                    self.acknowledge_stream(stream)
                await self._handler(stream)
        except BaseException:
            stream.close(drop=True)
            raise
        self.expire_if_idle(stream)
        stream.close(drop=False)

    # The timekeeper

    async def _keep_time(self) -> None:
        await _timers.keep_time(
            (self._check_auth, self._check_idle, self._check_ping, self._check_write, self.sweep_streams)
        )

    def _check_auth(self, now: float) -> float:
        """How long the client may take for AUTH, and for NEGO (protocol: 4)."""
        state = self._protocol.state
        if state not in (ConnectionState.WAIT_AUTH, ConnectionState.WAIT_NEGO):
            return math.inf
        deadline = self._started + self.config.auth_timeout
        if now < deadline:
            return deadline
        if state is ConnectionState.WAIT_AUTH:
            error = AuthenticationFailed("no complete AUTH within auth_timeout")
            self._end(_Ending(None, str(error), error))
        else:
            self._violated(ProtocolViolation("no NEGO within auth_timeout"))
        return math.inf

    def _check_idle(self, now: float) -> float:
        """Close when neither direction has carried anything for idle_timeout (spec: Connections / Timeout)."""
        timeout = self.config.idle_timeout
        if self._reader_stalled:
            return now + timeout
        deadline = max(self._last_read, self._writer.last_write) + timeout
        if now >= deadline:
            self._leave(CloseCode.IDLE_TIMEOUT, "the connection was idle for longer than idle_timeout")
        return max(deadline, now + timeout) if self.closed else deadline

    def _check_ping(self, now: float) -> float:
        """Ping when nothing has come for keepalive_interval; close when a ping is not answered (protocol: 4)."""
        config = self.config
        if self._reader_stalled or self._protocol.state not in (ConnectionState.OPEN, ConnectionState.CONFIRMED):
            return now + min(config.keepalive_timeout, config.keepalive_interval)
        if self._ping is None:
            if now < self._last_read + config.keepalive_interval:
                return min(self._last_read + config.keepalive_interval, now + config.keepalive_timeout)
            self._send_ping(now)
        if now >= self._ping_deadline:
            self._leave(CloseCode.IDLE_TIMEOUT, "a PINGPONG was not answered within keepalive_timeout")
            return math.inf
        return self._ping_deadline

    def _check_write(self, now: float) -> float:
        """Give a peer up that has taken nothing for write_timeout."""
        since = self._writer.writing_since
        deadline = (now if since is None else since) + self.config.write_timeout
        if now >= deadline:
            self._lost("the peer has taken nothing for longer than write_timeout")
            return math.inf
        return deadline

    def sweep_streams(self, now: float) -> float:
        """Move the deadlines of the streams whose idle timer has started anew since the last sweep.

        A deadline that comes before the next sweep, or soon after it, is moved at once, in `Stream.touch`: so each
        fires when it has to, and most frames cost nothing. "Soon" is what the event loop may be late by.
        """
        if now >= self._next_sweep:
            interval = self.config.stream_idle_timeout / 4
            self._next_sweep = now + interval
            self.move_deadlines_before = self._next_sweep + interval
            for stream in list(self._streams.values()):
                if not self.expire_if_idle(stream):
                    stream.move_deadline()
        return self._next_sweep

    def _check_open(self) -> None:
        if self._ending is not None:
            if self._ending.local:
                raise trio.ClosedResourceError("this connection is closed")
            raise self.closed_error()
        if self.outbox.broken:
            raise self.closed_error()


_EVENT_HANDLERS: dict[int, Callable[[Connection, int, object], None]] = {
    Event.REFRESHED: Connection._on_refreshed,
    Event.OPENED: Connection._on_opened,
    Event.ACKNOWLEDGED: Connection._on_acknowledged,
    Event.ENDED: Connection._on_ended,
    Event.REFUSED: Connection._on_refused,
    Event.PONG: Connection._on_pong,
    Event.AUTHENTICATED: Connection._on_authenticated,
    Event.NEGOTIATED: Connection._on_negotiated,
    Event.SCHEME: Connection._on_scheme,
    Event.LEFT: Connection._on_left,
    Event.ALERTED: Connection._on_alerted,
}


def _by_type(counts: list[int]) -> dict[str, int]:
    return {_frames.describe(kind): count for kind, count in enumerate(counts) if count}

"""A connection: one nursery that owns the reader, the shaped writer, the timer task, and a task for each stream.

    send_all -> SendQueue -> Writer -> transport         transport -> Reader -> Protocol -> Stream -> receive_some

Reader, writer and timer task are shielded: only the connection itself ends them, in `_close_handshake`. So a
cancellation from outside becomes an orderly end, in bounded time. They raise nothing: whatever ends the connection
becomes its `CloseReason`, which meets the application where it next awaits on a stream or the connection.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator

import trio
from attrs import evolve

from trioanytls._config import Config
from trioanytls._exceptions import ConnectionClosed, has_cancelled, to_log
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.client import ClientProtocol
from trioanytls._protocol.anytls1.server import ServerProtocol
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.exceptions import AuthenticationFailed, ProtocolViolation
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._protocol.state_machine import ConnectionState
from trioanytls._protocol.traffic_shaper import Shaper
from trioanytls._server.admission import AdmissionSlot
from trioanytls._server.context import ServerContext
from trioanytls._server.fallback import FallbackStream
from trioanytls._server.rate_limit import TokenBucket
from trioanytls._transport.tls_stream import TLSStream, is_truncation

from . import close_reason
from .base_stream import StreamEnd
from .close_reason import CloseReason
from .logging import ConnectionLoggerAdapter, number_connection
from .multiplexer import Hooks, Multiplexer
from .reader import Reader
from .send_queue import SendQueue
from .stats import ConnectionStats
from .stream import Stream
from .timers import TimerTask
from .writer import Writer


class Connection:
    """An ANYTLS connection, as one of its two ends sees it. Made by `open_connection` and `serve`, not by hand.

    Attributes:
      config: its settings.
      connection_id: its number in this process, as the log has it.
      peer_address: the peer's address and port, None where they are not known: over a transport of one's own. Behind a
        proxy that speaks the PROXY protocol, the client's.
      local_address: (server) the address and port that the client connected to, None if they are unknown. Behind a
        proxy that speaks the PROXY protocol, those that its header names.
      padding_scheme: the scheme with which this end began; it does not change while the connection lasts.
    """

    def __init__(
        self,
        transport: trio.abc.Stream,
        protocol: ClientProtocol | ServerProtocol,
        scheme: PaddingScheme,
        config: Config,
        service: ServerContext | None = None,
        ticket: AdmissionSlot | None = None,
        peer_address: tuple[str, int] | None = None,
        connection_id: int | None = None,
        local_address: tuple[str, int] | None = None,
    ) -> None:
        self.config = config
        self.connection_id = number_connection() if connection_id is None else connection_id
        self.peer_address = peer_address
        self.local_address = local_address
        self.padding_scheme = scheme
        self.is_server = isinstance(protocol, ServerProtocol)
        self._transport = transport
        # On a server: what it has in common with all others, and its own place among them.
        self._service = service
        self._ticket = ticket
        self._log = ConnectionLoggerAdapter("trioanytls.connection", self)
        shaped = config.shape_server or not self.is_server
        send_nowait = transport.send_nowait if isinstance(transport, TLSStream) else None
        send_queue = SendQueue(config.send_buffer_size)
        writer = Writer(transport, send_queue, Shaper(scheme) if shaped else None, send_nowait)
        hooks = Hooks(
            stream_opened=self._accept,
            stream_expired=self._stream_expired,
            authenticated=self._authenticated,
            not_authenticated=self._not_authenticated,
            violated=self._violated,
            transport_lost=self._transport_lost,
            before_close=self._before_close,
        )
        self._multiplexer = Multiplexer(protocol, config, send_queue, writer, hooks)
        self._reader = Reader(self._multiplexer, transport)
        self._timers = TimerTask(self)
        # (server) Since when the client owes AUTH, or NEGO.
        self._waiting_since = trio.current_time()
        # Handlers that run, also those of streams that have ended.
        self._handlers = 0
        self._opening = TokenBucket(config.max_stream_rate)
        self._draining = False
        # Tasks
        self._nursery: trio.Nursery | None = None
        self._reader_scope = trio.CancelScope(shield=True)
        self._io_scopes = [self._reader_scope, trio.CancelScope(shield=True), trio.CancelScope(shield=True)]
        self._close_scope = trio.CancelScope()
        self._fallback_scope = trio.CancelScope()
        self._writer_done = trio.Event()
        self._written_whole = False
        self._closed = trio.Event()

    def __repr__(self) -> str:
        role = "server" if self.is_server else "client"
        state, streams = self._multiplexer.protocol.state.name, len(self._multiplexer.streams)
        return f"<trioanytls.Connection ({role}) {state} streams={streams}>"

    # What an application sees

    @property
    def server_padding_scheme(self) -> PaddingScheme | None:
        """(client) The scheme that the server wants used for later connections, None if it wants the one in use (spec:
        Padding Scheme Update).
        """
        return self._multiplexer.server_padding_scheme

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, or is about to: no stream can be opened or used any more."""
        return self._multiplexer.reason is not None

    @property
    def close_reason(self) -> ConnectionClosed | None:
        """Why it has ended, None as long as it has not."""
        return None if self._multiplexer.reason is None else self._multiplexer.reason.error()

    @property
    def user(self) -> str | None:
        """(server) The name of the user who authenticated."""
        return self._multiplexer.protocol.user if isinstance(self._multiplexer.protocol, ServerProtocol) else None

    @property
    def peer_identifier(self) -> str | None:
        """(server) What the client calls its implementation: the `client` key of its NEGO, None before that."""
        return (
            self._multiplexer.protocol.peer_identifier
            if isinstance(self._multiplexer.protocol, ServerProtocol)
            else None
        )

    @property
    def version(self) -> int | None:
        """The protocol version agreed upon; None on a client that has seen no NEGO from the server yet."""
        return self._multiplexer.protocol.version

    @property
    def stats(self) -> ConnectionStats:
        """The counters as they stand."""
        decoder, send_queue, writer = (
            self._multiplexer.protocol.decoder,
            self._multiplexer.send_queue,
            self._multiplexer.writer,
        )
        shaper = writer.shaper
        sent = _by_type(send_queue.frames)
        if not self.is_server and writer.writes:
            # The first frames do not pass through the send queue.
            sent |= {"AUTH": 1, "CLIENT_NEGO": 1}
        if shaper is not None and shaper.padding_frames:
            sent["PADDING"] = shaper.padding_frames
        return ConnectionStats(
            frames_sent=sent,
            frames_received=_by_type(decoder.frames),
            data_bytes_sent=sum(send_queue.payload_bytes),
            data_bytes_received=sum(decoder.payload_bytes[frames.FrameType.STREAM :]),
            padding_bytes_sent=shaper.padding_bytes if shaper else 0,
            padding_bytes_received=decoder.payload_bytes[frames.FrameType.PADDING],
            bytes_sent=writer.bytes_written,
            bytes_received=self._multiplexer.progress.bytes_received,
            open_streams=len(self._multiplexer.streams),
            streams_opened=self._multiplexer.streams_opened,
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
        protocol = self._multiplexer.protocol
        if not isinstance(protocol, ClientProtocol):
            raise RuntimeError("only a client may open streams")
        self._multiplexer.check_open()
        # All waiting comes first: what the application sends on the stream at once goes out in one write with OPEN.
        await trio.lowlevel.checkpoint()
        self._multiplexer.check_open()
        if not self._multiplexer.send_queue.has_room:
            await self._multiplexer.send_queue.wait_room()
            self._multiplexer.check_open()
        if protocol.exhausted:
            self._multiplexer.send_queue.give_back()
            raise ConnectionClosed(None, "all stream ids of the connection are used up")
        assert self._nursery is not None  # noqa: S101 - it is there before the application has the connection
        stream_id, frame = protocol.open_stream()
        stream = self._add_stream(stream_id, trio.current_time())
        stream.queue_open(frame)
        self._nursery.start_soon(stream.announce)
        return stream

    async def ping(self) -> float:
        """Send a PINGPONG and wait for the answer: the round-trip time in seconds.

        Calls while one is outstanding share its answer. An answer that does not come within `Config.keepalive_timeout`
        ends the connection.

        Raises:
          trio.ClosedResourceError, ConnectionClosed: see `open_stream`.

        Cancellation: the answer is awaited in the background.
        """
        self._multiplexer.check_open()
        await trio.lowlevel.checkpoint_if_cancelled()
        ping = self._multiplexer.ping or self._multiplexer.send_ping(trio.current_time())
        await ping.done.wait()
        if ping.round_trip is None:
            self._multiplexer.check_open()
            raise self._multiplexer.closed_error()
        return ping.round_trip

    async def aclose(self) -> None:
        """Leave: send what was accepted, then CLOSE 0, then end TLS, all within `Config.close_timeout` (protocol: 4).

        Cancellation: the transport is closed at once, without a word.
        """
        self._multiplexer.close(close_reason.closed_locally())
        try:
            await self._closed.wait()
        except trio.Cancelled:
            self._close_scope.cancel()
            raise

    async def wait_closed(self) -> None:
        """Wait until the connection has ended and its transport is closed, whoever did it."""
        await self._closed.wait()

    # The nursery

    async def _run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be the connection, from the end of the TLS handshake until the transport is closed and all handlers are done.

        Cancellation: CLOSE 6 to the peer, within `Config.close_timeout`.
        """
        self._multiplexer.protocol.handshake_done()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for scope, task in zip(self._io_scopes, (self._reader.run, self._write, self._timers.run), strict=True):
                    nursery.start_soon(self._shielded, scope, task)
                task_status.started()
                try:
                    await self._multiplexer.closing.wait()
                except trio.Cancelled:
                    self._multiplexer.close(
                        close_reason.close_with(CloseCode.SHUTTING_DOWN, "this side is shutting down")
                    )
                    raise
                finally:
                    with trio.CancelScope(shield=True):
                        await self._close_handshake()
                if self._multiplexer.is_handed_over:
                    await self._fall_back()
                    # At once: handlers may take longer than the fallback.
                    await self._close_handed_over()
        finally:
            self._nursery = None
            if self._multiplexer.is_handed_over:
                await self._close_handed_over()

    async def _shielded(self, scope: trio.CancelScope, task: Callable[[], Awaitable[None]]) -> None:
        with scope:
            try:
                await task()
            except Exception as error:  # noqa: BLE001 - logged, and told to whoever uses the connection
                # A mistake of ours, or of whoever made the transport. It ends this connection, and no other.
                self._log.exception("internal error")
                self._multiplexer.close(close_reason.close_with(CloseCode.INTERNAL_ERROR, "internal error", error))

    async def _write(self) -> None:
        """Be the writer, from the first frame to the last."""
        try:
            if isinstance(self._multiplexer.protocol, ClientProtocol):
                await self._multiplexer.writer.send_first(self._multiplexer.protocol, self.config.initial_flush_delay)
            await self._multiplexer.writer.run()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._multiplexer.write_error = error
            self._multiplexer.send_queue.break_down()
        finally:
            self._writer_done.set()
        if self._multiplexer.write_error is not None:
            await self._wait_for_reader()
            self._multiplexer.close_after_write_error()

    async def _wait_for_reader(self) -> None:
        """What has arrived is still the streams', so the reader goes on to its end, though not for ever."""
        while not self._multiplexer.peer_gone.is_set():
            with trio.move_on_after(self.config.close_timeout):
                await self._multiplexer.peer_gone.wait()
            if not self._multiplexer.progress.is_stalled:
                break

    # The end

    def _before_close(self, reason: CloseReason) -> CloseReason:
        if self.is_server and self._multiplexer.protocol.state < ConnectionState.WAIT_NEGO:
            # Before authentication, close without sending any frame, so that a prober cannot tell this is an ANYTLS
            # server (protocol: 4).
            return evolve(reason, last_frame=None)
        return reason

    async def _close_handshake(self) -> None:
        """Send the last frames and close the transport, in bounded time whatever the peer does."""
        assert self._multiplexer.reason is not None  # noqa: S101 - it is what brought us here
        if self._multiplexer.is_handed_over:
            # The last Write goes out whole.
            with trio.move_on_after(self.config.close_timeout):
                await self._writer_done.wait()
            # To be asked before the writer is cancelled.
            self._written_whole = self._writer_done.is_set() and self._multiplexer.write_error is None
        elif not self._multiplexer.reason.abort:
            self._close_scope.deadline = trio.current_time() + self.config.close_timeout
            with self._close_scope, self._closing_transport():
                await self._writer_done.wait()
                await self._end_transport()
        if not self._multiplexer.is_handed_over:
            with self._closing_transport():
                await trio.aclose_forcefully(self._transport)
        for scope in self._io_scopes:
            scope.cancel()
        if self._multiplexer.is_handed_over:
            # The reader lets go: nothing of the transport is in our hands then.
            await self._multiplexer.peer_gone.wait()
        self._multiplexer.protocol.transport_closed()
        self._closed.set()

    @contextlib.contextmanager
    def _closing_transport(self) -> Iterator[None]:
        """Log an error that a transport raises while it is closed: whatever it is, the connection ends."""
        try:
            yield
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The peer has gone first.
            pass
        except Exception:  # noqa: BLE001 - a mistake of ours, or in the transport that a program has given us
            self._log.exception("internal error")

    async def _end_transport(self) -> None:
        """End TLS and TCP at once; read on until the peer has ended too; close the transport (protocol: 4)."""
        assert self._multiplexer.reason is not None  # noqa: S101 - as in `_close_handshake`
        transport, reader, said = self._transport, self._reader, self._multiplexer.reason.last_frame is not None
        # Closing a socket that has unread bytes, or gets any later, makes TCP reset the connection, and the last frame
        # may be lost. A client that has not authenticated is told nothing, and keeps no slot.
        if isinstance(transport, (TLSStream, trio.abc.HalfCloseableStream)) and (said or self._multiplexer.peer_left):
            await transport.send_eof()
            # The reader acts on what comes, and may have stopped already: at the peer's CLOSE, or by a mistake of ours.
            self._reader_scope.cancel()
            await self._multiplexer.peer_gone.wait()
            with contextlib.suppress(Exception):
                # Nothing that comes matters any more, whatever it is.
                await reader.linger()
        elif said:
            # The peer closes its side when it reads the last frame.
            await self._multiplexer.peer_gone.wait()
        await transport.aclose()

    async def _close_handed_over(self) -> None:
        with trio.CancelScope(shield=True), trio.move_on_after(self.config.close_timeout):
            await self._transport.aclose()

    async def _fall_back(self) -> None:
        """Let the fallback have the transport, until it is done with it."""
        service, ending = self._service, self._multiplexer.reason
        assert service is not None  # noqa: S101 - only a server hands over, and only where there is a fallback
        assert service.fallback is not None  # noqa: S101 - as above
        assert ending is not None  # noqa: S101 - it is what brought us here
        assert ending.unconsumed is not None  # noqa: S101 - as `is_handed_over` has said
        if not self._written_whole:
            # A Write of ours is stuck in its middle.
            return
        service.counts.fallbacks += 1
        received = ending.unconsumed + self._reader.late
        stream = FallbackStream(self._transport, received, self.peer_address, slot=self._ticket)
        try:
            with self._fallback_scope as scope:
                await service.fallback(stream)
            if scope.cancelled_caught:
                service.counts.fallbacks_displaced += 1
                self._log.info("closed to make room at the fallback")
        except* Exception as group:  # noqa: BLE001 - logged; a fallback's mistake ends its own connection
            error, mistake = to_log(group)
            self._log.log(
                logging.ERROR if mistake else logging.INFO,
                "the fallback failed: %r",
                error,
                exc_info=error if mistake else None,
            )

    def _drain(self) -> None:
        """(server) Take no more streams, and leave when the last one has ended."""
        self._draining = True
        self._leave_if_drained()

    def _leave_if_drained(self) -> None:
        if self._draining and not self._handlers:
            self._multiplexer.close(close_reason.drained())

    # For the reader and the timer task

    def _authenticated(self, now: float) -> None:
        self._waiting_since = now
        self._log.info("authenticated")
        if self._service is not None:
            self._service.counts.authentications += 1
        if self._ticket is not None:
            self._ticket.authenticated()

    def _not_authenticated(self, error: AuthenticationFailed, unconsumed: bytes | None = None) -> None:
        """(server) The client is not one of ours: TLS is closed without a byte of ANYTLS, or the fallback has it, with
        `unconsumed`, unless that is None.
        """
        if self._multiplexer.reason is not None:
            return
        if self._service is not None:
            self._service.counts.authentications_failed += 1
        if unconsumed is not None and self._may_fall_back():
            self._log.info("authentication failed: %s%s", error, "; to the fallback")
            self._multiplexer.close(close_reason.handed_over(error, unconsumed))
        else:
            self._log.info("authentication failed: %s%s", error, "")
            self._multiplexer.close(close_reason.not_authenticated(error))

    def _violated(self, error: ProtocolViolation, unconsumed: bytes) -> None:
        """The peer broke the protocol: it is told so, or the fallback has it from the offending frame on."""
        if self._multiplexer.reason is not None:
            return
        if self._service is not None:
            self._service.counts.violations += 1
        # A limit, and a version that nobody speaks, have a code of their own to say so.
        falls_back = error.code is CloseCode.PROTOCOL_ERROR and self.config.on_violation == "fallback"
        if falls_back and self._may_fall_back():
            self._log.warning("%s%s", error, "; to the fallback")
            self._multiplexer.close(close_reason.handed_over(error, unconsumed))
        else:
            self._log.warning("%s%s", error, "")
            self._multiplexer.send_replies()
            self._multiplexer.close(close_reason.violated(error))

    def _may_fall_back(self) -> bool:
        """Whether there is a fallback, and a place with it; that is taken then."""
        if self._service is None or self._service.fallback is None:
            return False
        if self._ticket is None:
            return True
        limit = self._ticket.fall_back(trio.current_time(), self._fallback_scope.cancel)
        if limit is not None:
            self._service.counts.fallbacks_refused[limit] += 1
            self._log.info("%s connections are with the fallback", limit)
        return limit is None

    def _stream_expired(self, reason: StreamEnd) -> None:
        if self._service is not None:
            self._service.counts.streams_timed_out[reason.name] += 1

    def _transport_lost(self, error: trio.BrokenResourceError | None) -> None:
        """The transport has ended without CLOSE."""
        if self._multiplexer.protocol.state is not ConnectionState.WAIT_AUTH:
            reason = "the connection ended without a CLOSE frame" if error is None else "the connection broke"
            self._multiplexer.close(close_reason.transport_lost(reason, error))
        elif error is None or is_truncation(error):
            missing = AuthenticationFailed("the connection ended before AUTH was complete")
            self._not_authenticated(missing, self._multiplexer.protocol.incomplete)
        else:
            # There is nothing to hand over.
            self._not_authenticated(AuthenticationFailed("the connection broke before AUTH was complete"))

    def _accept(self, stream_id: int, now: float) -> None:
        """(server) A client has opened a stream: start its handler, or refuse it where there are too many."""
        if self._service is not None:
            self._service.counts.streams_opened += 1
        refusal = self._refusal(now)
        if refusal is None and self._nursery is not None:
            self._handlers += 1
            self._nursery.start_soon(self._serve, self._add_stream(stream_id, now))
            return
        if self._service is not None and refusal is not None:
            self._service.counts.streams_refused[refusal] += 1
        self._multiplexer.reject_stream(stream_id)

    def _refusal(self, now: float) -> str | None:
        """What stands against one more stream: the name of a limit, or of `ServerControl.drain`."""
        if self._draining:
            return "drain"
        if self._handlers >= self.config.max_streams:
            return "max_streams"
        return None if self._opening.take(now) else "max_stream_rate"

    def _add_stream(self, stream_id: int, now: float) -> Stream:
        stream = Stream(self, self._multiplexer, stream_id, now, on_wire=self.is_server)
        self._multiplexer.add_stream(stream)
        return stream

    # Streams' tasks

    async def _serve(self, stream: Stream) -> None:
        """(server) Run the handler of a stream."""
        try:
            await self._handle(stream)
        except* Exception as group:  # noqa: BLE001 - whatever it is: logged, and harms nobody else
            error, mistake = to_log(group)
            if self._service is not None and mistake:
                self._service.counts.handlers_failed += 1
            ConnectionLoggerAdapter("trioanytls.server", self).log(
                logging.ERROR if mistake else logging.INFO,
                "the handler of stream %d failed: %r",
                stream.stream_id,
                error,
                exc_info=error if mistake else None,
            )
        finally:
            self._handlers -= 1
            self._leave_if_drained()

    async def _handle(self, stream: Stream) -> None:
        assert self._service is not None  # noqa: S101 - only a server has streams opened by its peer
        # One that was reset before its handler could run, and has brought nothing, needs none.
        if stream.closed and not stream.received.size:
            return
        try:
            with trio.CancelScope() as stream.handler_scope:
                if stream.closed:
                    stream.limit_handler()
                if self.config.acknowledge == "auto" and not stream.closed:
                    self._multiplexer.acknowledge(stream)
                await self._service.handler(stream)
        except BaseException as error:
            if has_cancelled(error):
                # The connection's own end: its streams must not see an RST before its CLOSE.
                self._multiplexer.close(close_reason.close_with(CloseCode.SHUTTING_DOWN, "this side is shutting down"))
            self._multiplexer.close_stream(stream, drop=True)
            raise
        self._multiplexer.close_stream(stream, drop=False)


def _by_type(counts: list[int]) -> dict[str, int]:
    return {frames.describe(kind): count for kind, count in enumerate(counts) if count}


def multiplexer_of(connection: Connection) -> Multiplexer:
    """Return the inside of a connection, for other parts of the package: the attributes of `Connection` are public."""
    return connection._multiplexer

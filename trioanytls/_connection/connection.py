"""A connection: one nursery that owns the reader, the shaped writer, and a task for each handler.

    send_all -> SendQueue -> Writer -> transport      transport -> Reader -> protocol -> Multiplexer -> receive_some

Reader and writer are shielded, by each end in its way: only the connection itself ends them, after the close handshake,
or when the time for that is over. A client's writer has no task of its own. It runs in the one that opens the nursery.
So a cancellation from outside becomes an orderly close in bounded time. Timers that expire act in a task of their own.
The tasks raise nothing. The fault that closes the connection becomes its `CloseReason`, which is raised where the
application next awaits on a stream or the connection.

`Connection` is the part that both ends share, and the public API. `_client.connection` and `_server.connection` add the
rest of each end.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import trio

from trioanytls._config import Config
from trioanytls._exceptions import ConnectionClosed
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.exceptions import AuthenticationFailed, ProtocolViolation
from trioanytls._protocol.extensions import Extension
from trioanytls._protocol.interface import WireFormat, WireProtocol
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._protocol.state_machine import ConnectionState
from trioanytls._protocol.stream_codes import StreamReason
from trioanytls._protocol.traffic_shaper import Shaper
from trioanytls._transport.half_close import send_eof
from trioanytls._transport.tls_stream import TLSStream

from . import close_reason
from .close_reason import CloseReason
from .idle_timer import StreamIdleCheck
from .keepalive import PingCheck
from .latch import Latch
from .logging import ConnectionLoggerAdapter, number_connection
from .multiplexer import Hooks, Multiplexer
from .reader import Reader
from .send_queue import SendQueue
from .stats import ConnectionStats
from .stream import Stream
from .stream_core import StreamEnd
from .timers import Check, Timers
from .writer import WriteCheck, Writer


class Connection:
    """One end of an ANYTLS connection. Created by `open_connection` and `serve`.

    Attributes:
      config: its settings.
      connection_id: its number in this process, as in the log.
      is_server: whether this is the server's end.
      peer_address: the peer's address and port, None if they are unknown, as over a custom transport. If a proxy speaks
        the PROXY protocol, the client's.
      local_address: (server) the address and port that the client connected to, None if they are unknown. If a proxy
        speaks the PROXY protocol, those in its header.
      padding_scheme: the scheme with which this end began. It does not change during the connection.
    """

    is_server = False
    _hooks: ClassVar[Hooks]
    # The cancel scopes of the reader and the writer, where they have any.
    _read_scope: AbstractContextManager[object] = contextlib.nullcontext()
    _write_scope: AbstractContextManager[object] = contextlib.nullcontext()

    def __init_subclass__(cls) -> None:
        """Collect the hooks of one end."""
        cls._hooks = Hooks(
            stream_opened=cls._stream_opened,
            acknowledge=cls._acknowledge,
            refuse=cls._refuse,
            stream_expired=cls._stream_expired,
            authenticated=cls._authenticated,
            not_authenticated=cls._not_authenticated,
            violated=cls._violated,
            transport_lost=cls._transport_lost,
            before_close=cls._before_close,
            selected=cls._selected,
        )

    def __init__(
        self,
        transport: trio.abc.Stream,
        protocol: WireProtocol,
        scheme: PaddingScheme,
        config: Config,
        *,
        shaper: Shaper | None,
        peer_address: tuple[str, int] | None = None,
        connection_id: int | None = None,
        local_address: tuple[str, int] | None = None,
    ) -> None:
        self.config = config
        self.connection_id: int = number_connection() if connection_id is None else connection_id
        self.peer_address = peer_address
        self.local_address = local_address
        self.padding_scheme = scheme
        self._transport = transport
        # A custom transport has neither.
        send_nowait, estimate_round_trip = None, _unknown_round_trip
        if isinstance(transport, TLSStream):
            send_nowait, estimate_round_trip = transport.send_nowait, transport.estimate_round_trip
        send_queue = SendQueue(config.send_buffer_size)
        writer = Writer(transport, send_queue, shaper, send_nowait)
        self._multiplexer = multiplexer = Multiplexer(
            protocol, config, send_queue, writer, self, self._hooks, estimate_round_trip
        )
        self._reader = Reader(multiplexer, transport)
        self._checks: list[Check] = [
            _IdleCheck(multiplexer),
            PingCheck(multiplexer),
            WriteCheck(writer, config.write_timeout, multiplexer.close),
            StreamIdleCheck(multiplexer),
        ]
        # Tasks
        self._nursery: trio.Nursery | None = None
        # When the connection has to be closed. Known once it begins to close.
        self._close_deadline = math.inf
        self._close_scope: trio.CancelScope | None = None
        self._writer_done = Latch()
        self._closed = Latch()

    def __repr__(self) -> str:
        role = "server" if self.is_server else "client"
        state, streams = self._multiplexer.protocol.state.name, len(self._multiplexer.streams)
        return f"<trioanytls.Connection ({role}) {state} streams={streams}>"

    # The public API

    @property
    def closed(self) -> bool:
        """Whether the connection has closed, or is about to. No stream can be opened or used any more."""
        return self._multiplexer.is_closing

    @property
    def close_reason(self) -> ConnectionClosed | None:
        """Why the connection has closed, None as long as it has not."""
        reason = self._multiplexer.close_reason
        return None if reason is None else reason.error()

    @property
    def user(self) -> str | None:
        """(server) The name of the user who authenticated, None before that."""
        return None

    @property
    def peer_identifier(self) -> str | None:
        """(server) The client's name for its implementation: the `client` key of its NEGO, None before that."""
        return None

    @property
    def server_padding_scheme(self) -> PaddingScheme | None:
        """(client) The scheme that the server wants used for later connections, None if it wants the one in use (spec:
        Padding Scheme Update).
        """
        return self._multiplexer.server_padding_scheme

    @property
    def version(self) -> int | None:
        """The negotiated protocol version, None on a client that has not received the server's NEGO."""
        return self._multiplexer.protocol.version

    @property
    def extensions(self) -> frozenset[Extension] | None:
        """The extensions in force: those that both ends have. None before the negotiation (extensions: 1)."""
        return self._multiplexer.protocol.extensions

    @property
    def protocol(self) -> WireFormat | None:
        """The wire format: "anytls1" or "legacy". None on a server that accepts both, before authentication."""
        return self._multiplexer.protocol.name

    @property
    def stats(self) -> ConnectionStats:
        """The current counters."""
        multiplexer = self._multiplexer
        decoder, send_queue, writer = multiplexer.protocol.decoder, multiplexer.send_queue, multiplexer.writer
        shaper = writer.shaper
        protocol = multiplexer.protocol
        sent = _by_type(protocol, send_queue.frames) | self._frames_sent_first
        if shaper is not None and shaper.padding_frames:
            sent[protocol.describe(protocol.PADDING)] = shaper.padding_frames
        return ConnectionStats(
            frames_sent=sent,
            frames_received=_by_type(protocol, decoder.frames),
            data_bytes_sent=send_queue.data_bytes,
            data_bytes_received=protocol.data_bytes_received,
            padding_bytes_sent=shaper.padding_bytes if shaper else 0,
            padding_bytes_received=decoder.payload_bytes[protocol.PADDING],
            bytes_sent=writer.bytes_written,
            bytes_received=multiplexer.progress.bytes_received,
            open_streams=len(multiplexer.streams),
            streams_opened=multiplexer.streams_opened,
            writes=writer.writes,
            deliveries=tuple(shaper.deliveries) if shaper else (),
        )

    async def open_stream(self) -> Stream:
        """(client) Open a stream. It can be used at once: neither this nor sending waits for an answer.

        Waits only while the connection has more to send than `Config.send_buffer_size`; with the wire format "legacy",
        on a connection that was used before, also until the first frame of the stream was passed to the transport.

        Raises:
          RuntimeError: this is the server's end, which opens no streams (protocol: 5).
          trio.ClosedResourceError: the connection was closed on this side.
          ConnectionClosed: the connection has closed otherwise; or its server is shutting down (code 6), while the
            streams that are open go on (extensions: 5); or its 2**62 - 1 stream ids are used up.

        Cancellation: no stream was opened.
        """
        raise RuntimeError("only a client may open streams")

    async def ping(self) -> float:
        """Send a PINGPONG, wait for the answer, and return the round-trip time in seconds.

        Calls while one is outstanding share its answer. If no answer arrives within `Config.keepalive_timeout`, the
        connection is closed.

        Raises:
          NotSupported: the peer is not known to answer: with the wire format "legacy", a server that has not said
            that it speaks version 2.
          trio.ClosedResourceError, ConnectionClosed: see `open_stream`.

        Cancellation: the answer is awaited in the background.
        """
        multiplexer = self._multiplexer
        multiplexer.check_open()
        await trio.lowlevel.checkpoint_if_cancelled()
        ping = multiplexer.ping or multiplexer.send_ping(trio.current_time())
        await ping.done.wait()
        if ping.round_trip is None:
            multiplexer.check_open()
            raise multiplexer.closed_error()
        return ping.round_trip

    async def aclose(self) -> None:
        """Close the connection: send data that was accepted, then CLOSE 0, then close TLS, all within
        `Config.close_timeout` (protocol: 4).

        On a client that has closed a stream, and has not received the server's NEGO, half of that time is for waiting
        for it. Otherwise the data of that stream might look cut off.

        Cancellation: the transport is closed at once, without CLOSE.
        """
        multiplexer, timeout = self._multiplexer, self.config.close_timeout
        self._close_until(trio.current_time() + timeout)
        try:
            try:
                if multiplexer.has_early_closes:
                    with trio.move_on_after(timeout / 2):
                        await multiplexer.negotiated.wait()
            finally:
                multiplexer.close(close_reason.closed_locally())
            await self._closed.wait()
        except trio.Cancelled:
            self._close_until(-math.inf)
            raise

    async def wait_closed(self) -> None:
        """Wait until the connection has closed, on either side, and its transport is closed."""
        await self._closed.wait()

    @property
    def _log(self) -> ConnectionLoggerAdapter:
        return ConnectionLoggerAdapter("trioanytls.connection", self)

    # The nursery

    async def _run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the connection, from the end of the TLS handshake until the transport is closed and all handlers are
        done.

        Cancellation: CLOSE 6 to the peer, within `Config.close_timeout`.
        """
        multiplexer = self._multiplexer
        multiplexer.protocol.handshake_done()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._start_io(nursery)
                timers = Timers(
                    self._checks, multiplexer.closing.is_set, multiplexer.progress.catch_up, self._start_timer_task
                )
                timers.start()
                task_status.started()
                try:
                    await self._until_closing()
                except trio.Cancelled:
                    multiplexer.close(close_reason.close_with(CloseCode.SHUTTING_DOWN, "this side is shutting down"))
                    raise
                finally:
                    timers.stop()
                    await self._close_handshake()
                await self._after_close()
        finally:
            self._nursery = None
            if multiplexer.is_handed_over:
                await self._close_handed_over()

    async def _guarded(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        try:
            await task(*args)
        except Exception as error:  # noqa: BLE001 - logged, and raised in the application
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        """Close the connection after an error of one of its tasks, which is being handled.

        It is a bug here, or in the program's transport, and concerns this connection alone.
        """
        self._log.exception("internal error")
        self._multiplexer.close(close_reason.close_with(CloseCode.INTERNAL_ERROR, "internal error", error))

    def _start_timer_task(self, act: Callable[[float], Awaitable[None]], now: float) -> None:
        """Start a task for timers that have expired."""
        assert self._nursery is not None  # noqa: S101 - the timers are stopped before it closes
        # In the context of the connection, and not of the task that waits for the timers of all.
        self._nursery.parent_task.context.run(self._nursery.start_soon, self._guarded, act, now)

    async def _write(self) -> None:
        """Run the writer, from the first frame to the last."""
        multiplexer = self._multiplexer
        with self._write_scope:
            try:
                try:
                    await self._send_first()
                    await multiplexer.writer.run()
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    multiplexer.write_error = error
                    multiplexer.send_queue.break_down()
                finally:
                    self._writer_done.set()
                if multiplexer.write_error is not None:
                    await self._wait_for_reader()
                    multiplexer.close_after_write_error()
            except Exception as error:  # noqa: BLE001 - logged, and raised in the application
                self._failed(error)

    async def _wait_for_reader(self) -> None:
        """Let the reader finish in bounded time: data that has arrived still belongs to the streams."""
        multiplexer = self._multiplexer
        while not multiplexer.peer_gone.is_set():
            with trio.move_on_after(self.config.close_timeout):
                await multiplexer.peer_gone.wait()
            if not multiplexer.progress.is_stalled:
                break

    # Closing

    def _close_until(self, deadline: float) -> None:
        """Close the transport at this time, or earlier, regardless of the peer."""
        self._close_deadline = min(self._close_deadline, deadline)
        if self._close_scope is not None:
            self._close_scope.deadline = self._close_deadline

    async def _close_handshake(self) -> None:
        """Send the last frames and close the transport, until `_close_scope` is cancelled."""
        reason = self._multiplexer.close_reason
        assert reason is not None  # noqa: S101 - the connection is closing
        is_closed = False
        try:
            if not reason.abort:
                if not self._writer_done.is_set():
                    await self._writer_done.wait()
                await self._close_transport(reason)
                is_closed = True
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The peer has closed first.
            pass
        except Exception:  # noqa: BLE001 - a bug here, or in the program's transport: logged
            self._log.exception("internal error")
        finally:
            if not is_closed:
                await self._close_forcefully()
            self._cancel_io()
            self._finish()

    async def _close_forcefully(self) -> None:
        """Close the transport at once."""
        try:
            with trio.CancelScope(shield=True) as scope:
                scope.cancel()
                await self._transport.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except Exception:  # noqa: BLE001 - as above
            self._log.exception("internal error")

    async def _close_handed_over(self) -> None:
        """Close the transport that the fallback had."""
        with trio.CancelScope(shield=True), trio.move_on_after(self.config.close_timeout):
            await self._transport.aclose()

    def _finish(self) -> None:
        self._multiplexer.protocol.transport_closed()
        self._closed.set()

    async def _close_transport(self, reason: CloseReason) -> None:
        """Close TLS and TCP for sending at once, read until the peer has closed too, close the transport (protocol: 4).

        A wire format without last frames announces its end by this alone.
        """
        announced = reason.announcement is not None
        transport, multiplexer = self._transport, self._multiplexer
        # Closing a socket with unread bytes, or one that receives any later, makes TCP reset the connection, and the
        # last frame may be lost. A client that has not authenticated is sent nothing, and keeps no slot.
        if (announced or multiplexer.peer_left) and await send_eof(transport):
            # Nothing that arrives matters any more.
            await self._reader.linger()
        elif reason.last_frame(multiplexer.protocol) is not None:
            # The peer closes its side when it reads the last frame.
            await multiplexer.peer_gone.wait()
        await transport.aclose()

    # Hooks, see `Hooks`: the ends override them.

    @property
    def _frames_sent_first(self) -> dict[str, int]:
        """The frames that did not go through the send queue, by type."""
        return {}

    def _start_io(self, nursery: trio.Nursery) -> None:
        """Start the reader, and the writer unless `_until_closing` runs it."""
        raise NotImplementedError

    @property
    def _until_closing(self) -> Callable[[], Awaitable[None]]:
        """The function that runs until the connection begins to close, or until the writer has ended after that.

        A method around it would be one more frame.
        """
        raise NotImplementedError

    def _cancel_io(self) -> None:
        """End the reader and the writer."""
        raise NotImplementedError

    async def _send_first(self) -> None:
        """Send the frames that precede all queued ones. The server's end sends none."""

    async def _after_close(self) -> None:
        """Act after the close handshake, in the connection's nursery."""

    def _stream_opened(self, stream_id: int, now: float) -> None:
        raise NotImplementedError

    def _acknowledge(self, stream_id: int) -> bytes | None:
        raise RuntimeError("only a server acknowledges streams")

    def _refuse(self, stream_id: int, reason: StreamReason) -> tuple[bytes, ...]:
        raise RuntimeError("only a server refuses streams")

    def _stream_expired(self, stream_id: int, reason: StreamEnd) -> None:
        pass

    def _authenticated(self, now: float) -> None:
        raise NotImplementedError

    def _not_authenticated(self, error: AuthenticationFailed, unconsumed: bytes | None) -> None:
        raise NotImplementedError

    def _violated(self, error: ProtocolViolation, unconsumed: bytes) -> None:
        """Log the violation, and send ALERT or CLOSE."""
        if not self._multiplexer.is_closing:
            self._log.warning("%s%s", error, "")
            self._multiplexer.send_replies()
            self._multiplexer.close(close_reason.violated(error))

    def _transport_lost(self, error: trio.BrokenResourceError | None) -> None:
        if error is None and self._multiplexer.protocol.ends_with_transport:
            self._multiplexer.close(close_reason.peer_ended())
            return
        text = "the connection ended without a CLOSE frame" if error is None else "the connection broke"
        self._multiplexer.close(close_reason.transport_lost(text, error))

    def _before_close(self, reason: CloseReason) -> CloseReason:
        # After an error of a write, nothing can be sent: there is nothing to wait for.
        is_lost = reason.abort or self._multiplexer.write_error is not None
        self._close_until(-math.inf if is_lost else trio.current_time() + self.config.close_timeout)
        return reason

    def _selected(self, protocol: object) -> WireProtocol:
        raise NotImplementedError


class _IdleCheck(Check):
    """Closes the connection if neither direction has carried a frame for `Config.idle_timeout`."""

    __slots__ = ("_multiplexer",)

    def __init__(self, multiplexer: Multiplexer) -> None:
        self._multiplexer = multiplexer

    def deadline(self, now: float) -> float:
        multiplexer = self._multiplexer
        progress, timeout = multiplexer.progress, multiplexer.config.idle_timeout
        if progress.is_stalled:
            return now + timeout
        return max(progress.last_received, multiplexer.writer.last_write) + timeout

    def expired(self, _now: float) -> None:
        multiplexer = self._multiplexer
        protocol, text = multiplexer.protocol, "the connection was idle for longer than idle_timeout"
        if protocol.state is ConnectionState.WAIT_AUTH:
            multiplexer.hooks.not_authenticated(
                multiplexer.connection(), AuthenticationFailed(text), protocol.incomplete
            )
        else:
            multiplexer.close(close_reason.close_with(CloseCode.IDLE_TIMEOUT, text))


def _unknown_round_trip() -> float | None:
    return None


def _by_type(protocol: WireProtocol, counts: list[int]) -> dict[str, int]:
    return {protocol.describe(kind): count for kind, count in enumerate(counts) if count}


# The access of other packages to a connection: the names of `Connection` itself without an underscore are public API.


def multiplexer_of(connection: Connection) -> Multiplexer:
    """Return the multiplexer of a connection."""
    return connection._multiplexer  # noqa: SLF001 - Connection is public, its multiplexer is not


def is_running(connection: Connection) -> bool:
    """Return whether the tasks of a connection run, so that streams can be opened."""
    return connection._nursery is not None  # noqa: SLF001 - as above


def run_connection(
    connection: Connection, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> Coroutine[Any, Any, None]:
    """Run a connection until its transport is closed and all handlers are done.

    Cancellation: CLOSE 6 to the peer, within `Config.close_timeout`.
    """
    return connection._run(task_status=task_status)  # noqa: SLF001 - a public class whose run is not

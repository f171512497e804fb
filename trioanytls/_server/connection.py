"""The server's end of a connection: authentication, handlers, the hand-over to the fallback, and draining."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final

import trio
from attrs import evolve

from trioanytls._config import protocol_settings
from trioanytls._connection import close_reason
from trioanytls._connection.close_reason import CloseReason
from trioanytls._connection.connection import Connection
from trioanytls._connection.logging import ConnectionLoggerAdapter
from trioanytls._connection.multiplexer import Multiplexer
from trioanytls._connection.stream import Stream
from trioanytls._connection.stream_core import StreamCore, StreamEnd
from trioanytls._connection.timers import Check
from trioanytls._exceptions import has_cancelled, to_log, without_broken
from trioanytls._protocol.anytls1.server import ServerProtocol
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.exceptions import AuthenticationFailed, ProtocolViolation
from trioanytls._protocol.extensions import MAX_LAST_SERVED
from trioanytls._protocol.formats import make_server
from trioanytls._protocol.interface import WireProtocol
from trioanytls._protocol.legacy.server import LegacyServerProtocol
from trioanytls._protocol.state_machine import ConnectionState
from trioanytls._protocol.stream_codes import StreamCode, StreamReason
from trioanytls._protocol.traffic_shaper import Shaper
from trioanytls._transport.tls_stream import is_truncation

from .admission import AdmissionSlot
from .context import ServerContext
from .fallback import FallbackStream
from .rate_limit import TokenBucket

# How long a client may take to answer that it has read GOAWAY, in seconds (extensions: 5), and how long one that has
# just connected may take to authenticate and to say whether it knows that frame.
_MAX_ANNOUNCEMENT: Final = 2.0
# What a client is told about its stream, if the wire format can tell it, by the result of `_refusal`.
_REFUSALS: Final = {
    None: StreamReason(StreamCode.SHUTTING_DOWN, "the connection is closing"),
    "drain": StreamReason(StreamCode.SHUTTING_DOWN, "the server is shutting down"),
    "max_streams": StreamReason(StreamCode.LIMIT, "too many streams are open"),
    "max_stream_rate": StreamReason(StreamCode.LIMIT, "too many streams were opened"),
}


class ServerConnection(Connection):
    """The server's end. See `Connection` for its public names; the other ones are for the package.

    Attributes:
      handlers: the number of handlers that run, including those of streams that have ended.
    """

    is_server = True

    def __init__(
        self,
        transport: trio.abc.Stream,
        context: ServerContext,
        slot: AdmissionSlot | None = None,
        *,
        peer_address: tuple[str, int] | None = None,
        connection_id: int | None = None,
        local_address: tuple[str, int] | None = None,
    ) -> None:
        config, scheme = context.config, context.scheme
        limits, offer = protocol_settings(config)
        protocol = make_server(context.protocols, context.users, scheme, limits, offer)
        super().__init__(
            transport,
            protocol,
            scheme,
            config,
            shaper=Shaper(scheme, protocol.padding_frames) if config.shape_server else None,
            peer_address=peer_address,
            connection_id=connection_id,
            local_address=local_address,
        )
        self.handlers = 0
        self._protocol = protocol
        self._context = context
        self._slot = slot
        self._auth_check = _AuthenticationCheck(self._multiplexer)
        self._checks.insert(0, self._auth_check)
        self._new_streams = TokenBucket(config.max_stream_rate)
        self._is_leaving = False
        self._draining = False
        # The handlers are cancelled from outside, the reader and the writer are not.
        self._read_scope: trio.CancelScope = trio.CancelScope(shield=True)
        self._write_scope: trio.CancelScope = trio.CancelScope(shield=True)
        # While the fallback may run.
        self._fallback_scope: trio.CancelScope | None = None
        # Whether the transport was left at the end of a write.
        self._write_complete = False

    @property
    def user(self) -> str | None:
        """See `Connection.user`."""
        return self._protocol.user

    @property
    def peer_identifier(self) -> str | None:
        """See `Connection.peer_identifier`."""
        return self._protocol.peer_identifier

    def _start_io(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._reader.run, self._read_scope, self._failed)
        nursery.start_soon(self._write)

    @property
    def _until_closing(self) -> Callable[[], Awaitable[None]]:
        return self._multiplexer.closing.wait

    def _cancel_io(self) -> None:
        self._read_scope.cancel()
        self._write_scope.cancel()

    # Authentication

    def _selected(self, protocol: object) -> WireProtocol:
        assert isinstance(protocol, ServerProtocol | LegacyServerProtocol)  # noqa: S101 - the selector makes no other
        self._protocol = protocol
        if isinstance(protocol, LegacyServerProtocol):
            # Only clients shape (legacy: 4).
            self._multiplexer.writer.shaper = None
        elif self._multiplexer.writer.shaper is not None:
            self._multiplexer.writer.shaper.padding = protocol.padding_frames
        return protocol

    def _authenticated(self, now: float) -> None:
        self._auth_check.waiting_since = now
        # The selector has been replaced by then, so the format is known.
        protocol = self._protocol.name
        assert protocol is not None  # noqa: S101 - as above
        self._log.info("authenticated (protocol %s)", protocol)
        self._context.counts.authentications += 1
        self._context.counts.authentications_by_protocol[protocol] += 1
        if self._slot is not None:
            self._slot.authenticated()

    def _not_authenticated(self, error: AuthenticationFailed, unconsumed: bytes | None) -> None:
        """Close TLS without any ANYTLS frame, or hand the connection over, with `unconsumed`, unless that is None."""
        if self._multiplexer.is_closing:
            return
        self._context.counts.authentications_failed += 1
        if unconsumed is not None and self._enter_fallback():
            self._log.info("authentication failed: %s%s", error, "; to the fallback")
            self._multiplexer.close(close_reason.handed_over(error, unconsumed))
        else:
            self._log.info("authentication failed: %s%s", error, "")
            self._multiplexer.close(close_reason.not_authenticated(error))

    def _transport_lost(self, error: trio.BrokenResourceError | None) -> None:
        if self._protocol.state is not ConnectionState.WAIT_AUTH:
            super()._transport_lost(error)
        elif error is None or is_truncation(error):
            missing = AuthenticationFailed("the connection ended before AUTH was complete")
            self._not_authenticated(missing, self._protocol.incomplete)
        else:
            # There is nothing to hand over.
            self._not_authenticated(AuthenticationFailed("the connection broke before AUTH was complete"), None)

    def _before_close(self, reason: CloseReason) -> CloseReason:
        reason = super()._before_close(reason)
        if self._protocol.state < ConnectionState.WAIT_NEGO:
            # Before authentication, close without sending any frame, so that a prober cannot tell this is an ANYTLS
            # server (protocol: 4).
            return evolve(reason, announcement=None)
        return reason

    # The fallback

    def _violated(self, error: ProtocolViolation, unconsumed: bytes) -> None:
        """Send ALERT or CLOSE, or hand the connection over from the offending frame on."""
        if self._multiplexer.is_closing:
            return
        self._context.counts.violations += 1
        # Limits and versions that are not supported have CLOSE codes of their own.
        falls_back = error.code is CloseCode.PROTOCOL_ERROR and self.config.on_violation == "fallback"
        if falls_back and self._enter_fallback():
            self._log.warning("%s%s", error, "; to the fallback")
            self._multiplexer.close(close_reason.handed_over(error, unconsumed))
        else:
            super()._violated(error, unconsumed)

    def _enter_fallback(self) -> bool:
        """Take a slot at the fallback. Return False if there is no fallback, or no slot."""
        if self._context.fallback is None:
            return False
        self._fallback_scope = scope = trio.CancelScope()
        if self._slot is None:
            return True
        limit = self._slot.fall_back(trio.current_time(), scope.cancel)
        if limit is not None:
            self._context.counts.fallbacks_refused[limit] += 1
            self._log.info("fallback limit (%s) reached", limit)
        return limit is None

    async def _close_handshake(self) -> None:
        if not self._multiplexer.is_handed_over:
            with trio.CancelScope(deadline=self._close_deadline, shield=True) as self._close_scope:
                await super()._close_handshake()
            return
        with trio.CancelScope(shield=True):
            # The last write is completed.
            with trio.move_on_after(self.config.close_timeout):
                await self._writer_done.wait()
            # To be read before the writer is cancelled.
            self._write_complete = self._writer_done.is_set() and self._multiplexer.write_error is None
            self._cancel_io()
            # The reader stops using the transport.
            await self._multiplexer.peer_gone.wait()
            self._finish()

    async def _after_close(self) -> None:
        if self._multiplexer.is_handed_over:
            await self._fall_back()
            # Now, and not at the end: handlers may take longer than the fallback.
            await self._close_handed_over()

    async def _fall_back(self) -> None:
        """Run the fallback on the transport."""
        context, reason = self._context, self._multiplexer.close_reason
        assert context.fallback is not None  # noqa: S101 - the connection is handed over only if there is one
        assert self._fallback_scope is not None  # noqa: S101 - made by `_enter_fallback`
        assert reason is not None  # noqa: S101 - the connection is closing
        assert reason.unconsumed is not None  # noqa: S101 - as `is_handed_over` says
        if not self._write_complete:
            # The transport was left inside a write.
            return
        context.counts.fallbacks += 1
        received = reason.unconsumed + self._reader.late
        stream = FallbackStream(self._transport, received, self.peer_address, slot=self._slot)
        try:
            with self._fallback_scope as scope:
                await context.fallback(stream)
            if scope.cancelled_caught:
                context.counts.fallbacks_displaced += 1
                self._log.info("closed to make room at the fallback")
        except* Exception as group:  # noqa: BLE001 - logged; an error of a fallback ends its own connection only
            error, mistake = to_log(group)
            self._log.log(
                logging.ERROR if mistake else logging.INFO,
                "the fallback failed: %r",
                error,
                exc_info=error if mistake else None,
            )

    # Draining

    def drain(self) -> None:
        """Accept no more streams, and close when the last handler has returned. It must run.

        With the extension `goaway`, the client learns of it first: no stream that it has opened before is refused.
        """
        if not self._is_leaving:
            self._is_leaving = True
            if self._nursery is not None and self._can_announce_drain:
                self._nursery.start_soon(self._announce_and_finish)
            else:
                self._refuse_and_finish()

    @property
    def _has_goaway(self) -> bool:
        return "goaway" in (self._protocol.extensions or ())

    @property
    def _can_announce_drain(self) -> bool:
        """Whether the extension `goaway` is in force, or may be when the client has authenticated."""
        if self._multiplexer.is_closing:
            return False
        return self._has_goaway if self._multiplexer.negotiated.is_set() else self._context.announces_drain

    async def _announce_and_finish(self) -> None:
        # A client that has just connected may have sent its first stream already.
        with trio.move_on_after(_MAX_ANNOUNCEMENT):
            await self._multiplexer.negotiated.wait()
        if self._multiplexer.is_closing or not self._has_goaway:
            self._refuse_and_finish()
        else:
            await self._announce_drain()

    async def _announce_drain(self) -> None:
        """Tell the client to open no more streams, wait until it has read that, and finish (extensions: 5)."""
        multiplexer = self._multiplexer
        multiplexer.send_goaway(MAX_LAST_SERVED)
        answered = False
        # The client need not answer.
        with trio.move_on_after(min(_MAX_ANNOUNCEMENT, self.config.keepalive_timeout)):
            # A client that pings, too, may have sent a ping before it read GOAWAY: not the answer, but taken for it.
            for _ in range(2 if self._protocol.peer_pings else 1):
                while (ping := multiplexer.ping) is not None and not multiplexer.is_closing:
                    await ping.done.wait()
                if not multiplexer.is_closing:
                    await multiplexer.send_ping(trio.current_time()).done.wait()
            answered = True
        if not multiplexer.is_closing:
            multiplexer.send_goaway(self._protocol.highest_id)
        self._context.counts.connections_drained["answered" if answered else "unanswered"] += 1
        self._refuse_and_finish()

    def _refuse_and_finish(self) -> None:
        """Refuse further streams, and close when the last handler has returned."""
        if self._protocol.extensions is not None and not self._has_goaway and not self._multiplexer.is_closing:
            self._context.counts.connections_drained["untold"] += 1
        self._draining = True
        self._close_if_drained()

    def _close_if_drained(self) -> None:
        if self._draining and not self.handlers:
            self._multiplexer.close(close_reason.drained())

    # The end

    def count_end(self) -> None:
        """Log and count the connection, which has ended."""
        counts, multiplexer = self._context.counts, self._multiplexer
        received, sent = multiplexer.progress.bytes_received, multiplexer.writer.bytes_written
        counts.bytes_received += received
        counts.bytes_sent += sent
        reason = multiplexer.close_reason
        if reason is not None:
            counts.connections_closed[reason.label] += 1
            self._log.info(
                "closed: %s; %d streams, %d bytes received, %d bytes sent",
                reason.reason,
                multiplexer.streams_opened,
                received,
                sent,
            )

    # Streams

    def _stream_opened(self, stream_id: int, now: float) -> None:
        """Start the handler of a stream that the client has opened, or refuse the stream."""
        self._context.counts.streams_opened += 1
        refusal = self._refusal(now)
        if refusal is None and self._nursery is not None:
            self.handlers += 1
            self._nursery.start_soon(self._serve, self._multiplexer.add_stream(stream_id, now, by_peer=True))
            return
        if refusal is not None:
            self._context.counts.streams_refused[refusal] += 1
        self._multiplexer.reject_stream(stream_id, _REFUSALS[refusal])

    def _refusal(self, now: float) -> str | None:
        """Return the name of the limit that a new stream would exceed, or "drain", or None."""
        if self._draining:
            return "drain"
        if self.handlers >= self.config.max_streams:
            return "max_streams"
        return None if self._new_streams.take(now) else "max_stream_rate"

    def _acknowledge(self, stream_id: int) -> bytes | None:
        return self._protocol.acknowledge(stream_id)

    def _refuse(self, stream_id: int, reason: StreamReason) -> tuple[bytes, ...]:
        return self._protocol.refuse(stream_id, reason)

    def _stream_expired(self, stream_id: int, reason: StreamEnd) -> None:
        self._context.counts.streams_timed_out[reason.name] += 1
        # Its handler may be cancelled, and cannot log it.
        self._log.debug("stream %d reset: %s", stream_id, reason.value)

    async def _serve(self, core: StreamCore) -> None:
        """Run the handler of a stream, and log its errors."""
        try:
            # A stream that was reset before its handler could run, and has brought no data, needs no handler.
            if not core.closed or core.received.size:
                try:
                    with trio.CancelScope() as core.handler_scope:
                        if core.closed:
                            core.limit_handler()
                        elif self.config.acknowledge == "auto":
                            self._multiplexer.acknowledge(core)
                        await self._context.handler(Stream(self, self._multiplexer, core))
                except BaseException as raised:
                    self._reset_after(raised, core)
                    raise
                # It has returned: there is nothing to limit.
                core.handler_scope = None
                self._multiplexer.close_stream(core)
        except* Exception as group:  # noqa: BLE001 - logged; an error of a handler ends its own stream only
            error, mistake = to_log(group)
            if mistake:
                self._context.counts.handlers_failed += 1
            ConnectionLoggerAdapter("trioanytls.server", self).log(
                logging.ERROR if mistake else logging.INFO,
                "the handler of stream %d failed: %r",
                core.stream_id,
                error,
                exc_info=error if mistake else None,
            )
        finally:
            self.handlers -= 1
            self._close_if_drained()

    def _reset_after(self, error: BaseException, core: StreamCore) -> None:
        """Reset a stream whose handler has raised this error."""
        if has_cancelled(error):
            # The connection is closing. The peer must not get an RST for its streams before CLOSE.
            self._multiplexer.close(close_reason.close_with(CloseCode.SHUTTING_DOWN, "this side is shutting down"))
        # A handler may let pass the error of another connection of its own.
        is_mistake = without_broken(error) is not None
        code = StreamCode.INTERNAL_ERROR if is_mistake else StreamCode.GENERAL_FAILURE
        self._multiplexer.reset_stream(core, StreamReason(code))


class _AuthenticationCheck(Check):
    """Closes the connection of a client that does not send AUTH, and then NEGO, within `Config.auth_timeout` (protocol:
    4).

    Attributes:
      waiting_since: since when the client owes AUTH, or NEGO.
    """

    __slots__ = ("_multiplexer", "waiting_since")

    def __init__(self, multiplexer: Multiplexer) -> None:
        self._multiplexer = multiplexer
        self.waiting_since = trio.current_time()

    def deadline(self, _now: float) -> float:
        multiplexer = self._multiplexer
        if multiplexer.protocol.state not in (ConnectionState.WAIT_AUTH, ConnectionState.WAIT_NEGO):
            return math.inf
        return self.waiting_since + multiplexer.config.auth_timeout

    def expired(self, _now: float) -> None:
        multiplexer = self._multiplexer
        protocol, hooks, connection = multiplexer.protocol, multiplexer.hooks, multiplexer.connection()
        if protocol.state is ConnectionState.WAIT_AUTH:
            failure = AuthenticationFailed("no complete AUTH within auth_timeout")
            hooks.not_authenticated(connection, failure, protocol.incomplete)
        else:
            error = ProtocolViolation(f"{protocol.greeting}: not received within auth_timeout")
            hooks.violated(connection, error, protocol.incomplete)

"""One task that keeps the time of a connection (spec: Connections / Timeout; Streams / Stream Timeout).

Setting a deadline costs as much as a frame may cost in all, so none is set when a frame passes: the time is noted, and
the timer task, which wakes at the old deadline, looks whether it still holds. Each timer is a pair of functions. The
first one is called with the time and returns the deadline; while the timer is not running, that is the earliest moment
at which one started from now on could run out. The second one does what is due.

A deadline in the past is no proof that the peer was silent: the event loop may have stood still (a blocking call,
SIGSTOP, a suspended machine), and the answer may be in the socket. So before anything is done, the reader catches up
(`Reader.catch_up`), and the deadline is looked at again, for the moment at which it seemed to be over. For the same
reason no timer of a connection is a deadline of Trio's: those cancel before any task has had its turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from trioanytls._protocol.anytls1.frames import CONTROL_STREAM, FrameType
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.exceptions import AuthenticationFailed, ProtocolViolation
from trioanytls._protocol.state_machine import ConnectionState

from . import close_reason

if TYPE_CHECKING:
    from .connection import Connection


class TimerTask:
    """The timers of one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._config = connection.config
        self._timers: tuple[tuple[Callable[[float], float], Callable[[float], None]], ...] = (
            (self._auth_deadline, self._auth_expired),
            (self._idle_deadline, self._idle_expired),
            (self._ping_deadline, self._ping_expired),
            (self._write_deadline, self._write_expired),
            (self._streams_deadline, self._streams_expired),
        )
        # The deadlines that come before the next sweep, and the ids of their streams, the earliest one last.
        self._soon: list[tuple[float, int]] = []
        self._next_sweep = -math.inf

    async def run(self) -> None:
        """Do what is due at each deadline, until the connection ends."""
        connection = self._connection
        while not connection.closed:
            now = trio.current_time()
            due = min(deadline(now) for deadline, _ in self._timers)
            if now < due:
                await trio.sleep_until(due)
                continue
            await connection._multiplexer.progress.catch_up()
            for deadline, expired in self._timers:
                # For that moment: what came before it was processed, and what came since has moved the deadline.
                if not connection.closed and deadline(now) <= now:
                    expired(now)
            if connection._multiplexer.ping is not None and connection._multiplexer.ping.sent >= now:
                # Its time begins when it is on its way: the event loop may stand still before the writer's turn.
                await connection._multiplexer.progress.catch_up()
                if connection._multiplexer.ping is not None:
                    connection._multiplexer.ping.sent = trio.current_time()

    def _auth_deadline(self, _now: float) -> float:
        """Return when AUTH, and then NEGO, has to be there (protocol: 4)."""
        connection = self._connection
        if connection._multiplexer.protocol.state not in (ConnectionState.WAIT_AUTH, ConnectionState.WAIT_NEGO):
            return math.inf
        return connection._waiting_since + self._config.auth_timeout

    def _auth_expired(self, _now: float) -> None:
        connection = self._connection
        incomplete = connection._multiplexer.protocol.incomplete
        if connection._multiplexer.protocol.state is ConnectionState.WAIT_AUTH:
            connection._not_authenticated(AuthenticationFailed("no complete AUTH within auth_timeout"), incomplete)
        else:
            rule = "not received within auth_timeout"
            connection._violated(ProtocolViolation.of(FrameType.CLIENT_NEGO, CONTROL_STREAM, rule), incomplete)

    def _idle_deadline(self, now: float) -> float:
        """Return when neither direction will have carried anything for idle_timeout."""
        connection = self._connection
        if connection._multiplexer.progress.is_stalled:
            return now + self._config.idle_timeout
        return (
            max(connection._multiplexer.progress.last_received, connection._multiplexer.writer.last_write)
            + self._config.idle_timeout
        )

    def _idle_expired(self, _now: float) -> None:
        connection = self._connection
        reason = "the connection was idle for longer than idle_timeout"
        if connection._multiplexer.protocol.state is ConnectionState.WAIT_AUTH:
            connection._not_authenticated(AuthenticationFailed(reason), connection._multiplexer.protocol.incomplete)
        else:
            connection._multiplexer.close(close_reason.close_with(CloseCode.IDLE_TIMEOUT, reason))

    def _ping_deadline(self, now: float) -> float:
        """Return when to ping, as nothing has come for keepalive_interval, or when the answer has to be there."""
        connection, config = self._connection, self._config
        open_ = connection._multiplexer.protocol.state in (ConnectionState.OPEN, ConnectionState.CONFIRMED)
        if connection._multiplexer.progress.is_stalled or not open_:
            return now + min(config.keepalive_timeout, config.keepalive_interval)
        if connection._multiplexer.ping is None:
            # The application may ping at any time.
            return min(
                connection._multiplexer.progress.last_received + config.keepalive_interval,
                now + config.keepalive_timeout,
            )
        # An answer may have waited while nothing was read.
        return (
            max(connection._multiplexer.ping.sent, connection._multiplexer.progress.stalled_until)
            + config.keepalive_timeout
        )

    def _ping_expired(self, _now: float) -> None:
        """Ping, or close if a ping was not answered (protocol: 4)."""
        if self._connection._multiplexer.ping is None:
            self._connection._multiplexer.send_ping(trio.current_time())
        else:
            reason = "a PINGPONG was not answered within keepalive_timeout"
            self._connection._multiplexer.close(close_reason.close_with(CloseCode.IDLE_TIMEOUT, reason))

    def _write_deadline(self, now: float) -> float:
        """Return when the peer will have taken nothing for write_timeout."""
        since = self._connection._multiplexer.writer.writing_since
        return (now if since is None else since) + self._config.write_timeout

    def _write_expired(self, _now: float) -> None:
        self._connection._multiplexer.close(
            close_reason.transport_lost("the peer has taken nothing for longer than write_timeout")
        )

    def _streams_deadline(self, now: float) -> float:
        """Return when a stream may have been idle for stream_idle_timeout (protocol: 5).

        Four times within that time, a sweep over all streams finds those whose timers may run out before the next
        sweep. All others cannot, nor can those that are opened, or carry a frame, after it: so each stream is looked at
        a few times, however many there are.
        """
        streams, timeout, soon = self._connection._multiplexer.streams, self._config.stream_idle_timeout, self._soon
        if now >= self._next_sweep:
            self._next_sweep = now + timeout / 4
            deadlines = ((stream.last_frame + timeout, stream_id) for stream_id, stream in streams.items())
            soon[:] = sorted((entry for entry in deadlines if entry[0] <= self._next_sweep), reverse=True)
        while soon:
            deadline, stream_id = soon[-1]
            if now < deadline or self._is_idle(stream_id, now):
                return deadline
            soon.pop()
        return self._next_sweep

    def _streams_expired(self, now: float) -> None:
        soon = self._soon
        while soon and soon[-1][0] <= now:
            _, stream_id = soon.pop()
            if self._is_idle(stream_id, now):
                self._connection._multiplexer.expire_idle_stream(self._connection._multiplexer.streams[stream_id])

    def _is_idle(self, stream_id: int, now: float) -> bool:
        """Tell whether a stream is still there and has been idle for stream_idle_timeout."""
        stream = self._connection._multiplexer.streams.get(stream_id)
        return stream is not None and stream.last_frame + self._config.stream_idle_timeout <= now

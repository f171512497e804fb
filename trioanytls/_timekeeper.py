"""One task that keeps the time of a connection (spec: Connections / Timeout; Streams / Stream Timeout).

Setting a deadline costs as much as a frame may cost in all, so none is set when a frame passes: the time is noted, and
whoever wakes at the old deadline looks whether it still holds. A check is called with the time, does what is due, and
returns when it wants to be called next; where its timer is not running, that is the earliest moment at which one
started from now on could run out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from . import _ending
from ._errors import AuthenticationFailed, ProtocolViolation
from ._frames import CONTROL_STREAM, CloseCode, FrameType
from ._state import ConnectionState

if TYPE_CHECKING:
    from ._connection import Connection


class Timekeeper:
    """The timers of one connection.

    Attributes:
      move_deadlines_before: a stream whose deadline is earlier than this moves it whenever a frame passes; the sweep
        is in time for all others.
    """

    def __init__(self, connection: Connection) -> None:
        self.move_deadlines_before = -math.inf
        self._connection = connection
        self._config = connection.config
        self._next_sweep = -math.inf

    async def run(self) -> None:
        """Call each check whenever it wants to be, until cancelled."""
        checks = (self._check_auth, self._check_idle, self._check_ping, self._check_write, self._sweep_streams)
        while not self._connection.closed:
            now = trio.current_time()
            await trio.sleep_until(min(check(now) for check in checks))

    def _check_auth(self, now: float) -> float:
        """How long the client may take for AUTH, and then for NEGO (protocol: 4)."""
        connection = self._connection
        state = connection._protocol.state
        if state not in (ConnectionState.WAIT_AUTH, ConnectionState.WAIT_NEGO):
            return math.inf
        deadline = connection._reader.waiting_since + self._config.auth_timeout
        if now < deadline:
            return deadline
        incomplete = connection._protocol.incomplete
        if state is ConnectionState.WAIT_AUTH:
            connection._not_authenticated(AuthenticationFailed("no complete AUTH within auth_timeout"), incomplete)
        else:
            rule = "it did not come within auth_timeout"
            connection._violated(ProtocolViolation.of(FrameType.CLIENT_NEGO, CONTROL_STREAM, rule), incomplete)
        return math.inf

    def _check_idle(self, now: float) -> float:
        """Close when neither direction has carried anything for idle_timeout."""
        connection = self._connection
        if connection._reader.stalled:
            return now + self._config.idle_timeout
        deadline = max(connection._reader.last_read, connection._writer.last_write) + self._config.idle_timeout
        if now >= deadline:
            reason = "the connection was idle for longer than idle_timeout"
            if connection._protocol.state is ConnectionState.WAIT_AUTH:
                connection._not_authenticated(AuthenticationFailed(reason), connection._protocol.incomplete)
            else:
                connection._end(_ending.left(CloseCode.IDLE_TIMEOUT, reason))
        return deadline

    def _check_ping(self, now: float) -> float:
        """Ping when nothing has come for keepalive_interval; close when a ping is not answered (protocol: 4)."""
        connection, config = self._connection, self._config
        open_ = connection._protocol.state in (ConnectionState.OPEN, ConnectionState.CONFIRMED)
        if connection._reader.stalled or not open_:
            return now + min(config.keepalive_timeout, config.keepalive_interval)
        ping = connection._ping
        if ping is None:
            due = connection._reader.last_read + config.keepalive_interval
            if now < due:
                return min(due, now + config.keepalive_timeout)
            ping = connection._send_ping(now)
        # An answer may have waited while nothing was read.
        deadline = max(ping.sent, connection._reader.resumed) + config.keepalive_timeout
        if now >= deadline:
            reason = "a PINGPONG was not answered within keepalive_timeout"
            connection._end(_ending.left(CloseCode.IDLE_TIMEOUT, reason))
        return deadline

    def _check_write(self, now: float) -> float:
        """Give a peer up that has taken nothing for write_timeout."""
        since = self._connection._writer.writing_since
        deadline = (now if since is None else since) + self._config.write_timeout
        if now >= deadline:
            self._connection._end(_ending.lost("the peer has taken nothing for longer than write_timeout"))
        return deadline

    def _sweep_streams(self, now: float) -> float:
        """Move the deadlines of the streams whose idle timer has started anew since the last sweep.

        A deadline that comes before the next sweep, or soon after it, is moved at once, in `Stream._touch`: so each
        fires when it has to, and most frames cost nothing. "Soon" is what the event loop may be late by.
        """
        if now >= self._next_sweep:
            interval = self._config.stream_idle_timeout / 4
            self._next_sweep = now + interval
            self.move_deadlines_before = self._next_sweep + interval
            for stream in list(self._connection._streams.values()):
                if not stream._expire_if_idle():
                    stream._move_deadline()
        return self._next_sweep

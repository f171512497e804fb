"""The keepalive of a connection: the timer of its PINGPONG frames (protocol: 4)."""

from __future__ import annotations

import trio

from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.state_machine import ConnectionState

from . import close_reason
from .multiplexer import Multiplexer
from .timers import Check


class PingCheck(Check):
    """Sends a PINGPONG if nothing was received for `keepalive_interval`, and closes the connection if one is not
    answered within `keepalive_timeout` (protocol: 4).
    """

    __slots__ = ("_multiplexer",)

    def __init__(self, multiplexer: Multiplexer) -> None:
        self._multiplexer = multiplexer

    def deadline(self, now: float) -> float:
        """Return when to ping, or when the answer must be there."""
        multiplexer = self._multiplexer
        progress, config, ping = multiplexer.progress, multiplexer.config, multiplexer.ping
        is_open = multiplexer.protocol.state in (ConnectionState.OPEN, ConnectionState.CONFIRMED)
        if progress.is_stalled or not is_open or not multiplexer.protocol.can_ping:
            return now + min(config.keepalive_timeout, config.keepalive_interval)
        if ping is None:
            # The application may ping at any time.
            return min(progress.last_received + config.keepalive_interval, now + config.keepalive_timeout)
        # The answer may have waited while the reader was stalled.
        return max(ping.sent, progress.stalled_until) + config.keepalive_timeout

    def expired(self, _now: float) -> None:
        """Ping, or close the connection."""
        if self._multiplexer.ping is None:
            self._multiplexer.send_ping(trio.current_time())
        else:
            text = "a PINGPONG was not answered within keepalive_timeout"
            self._multiplexer.close(close_reason.close_with(CloseCode.IDLE_TIMEOUT, text))

    def has_started_since(self, now: float) -> bool:
        """Return whether a PINGPONG was queued since then, which the writer may not have sent yet."""
        return self._multiplexer.ping is not None and self._multiplexer.ping.sent >= now

    def restart(self) -> None:
        """Measure the time of the PINGPONG from now."""
        if self._multiplexer.ping is not None:
            self._multiplexer.ping.sent = trio.current_time()

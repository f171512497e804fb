"""The progress of the reader of a connection, for the timers and for the pool."""

from __future__ import annotations

import math

import trio

# `catch_up` returns after this many consecutive passes of the event loop without new data. Two are needed: in the first
# one the reader runs on the state of the socket in the previous pass.
_QUIET_PASSES = 3
# It returns after this many passes in any case.
_MAX_PASSES = 200


class ReceiveProgress:
    """The reader's progress. Times are in seconds, on Trio's clock.

    Attributes:
      bytes_received: the number of bytes received.
      last_received: when the last frame came, or the last piece of a payload that is passed on as it comes; before
        that, when the connection began. Bytes of a frame that is never complete do not count.
      is_stalled: whether the reader waits for an application to read.
      stalled_until: when the reader last stopped waiting.
    """

    __slots__ = ("bytes_received", "is_stalled", "last_received", "stalled_until")

    def __init__(self) -> None:
        self.bytes_received: int = 0
        self.last_received: float = trio.current_time()
        self.is_stalled: bool = False
        self.stalled_until: float = -math.inf

    def stall(self) -> None:
        """Note that the reader waits for an application."""
        self.is_stalled = True

    def resume(self) -> None:
        """Note that the reader goes on."""
        self.is_stalled = False
        self.last_received = self.stalled_until = trio.current_time()

    async def catch_up(self) -> None:
        """Wait until the reader has processed the data that has arrived.

        Await this before acting on a timer that seems to have expired, and then look at the timer again. The data may
        still be in the socket, because the event loop was blocked or because the timer's task runs before the reader.
        Data that arrives without a pause does not delay the timer forever.
        """
        quiet = passes = 0
        while quiet < _QUIET_PASSES and passes < _MAX_PASSES:
            before = self.bytes_received
            await trio.lowlevel.checkpoint()
            passes += 1
            quiet = quiet + 1 if self.bytes_received == before else 0

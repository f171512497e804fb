"""Flow control of a connection: the credit that it grants to the peer, and when it sends that (extensions: 2).

`windows` decides how much credit a stream gets. It has no clock and no queue, which are here.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Final, Protocol

import trio

from trioanytls._config import Config
from trioanytls._protocol.interface import WireProtocol

from .send_queue import SendQueue
from .stream_core import NO_FLOW_CONTROL, StreamCore
from .windows import MIN_ROUND_TRIP, ReceiveWindows

# The grants of a stream wait for another write until they are this part of its window. The peer has the rest of it.
_DEFERRED_SHARE: Final = 4


class MeasuresRoundTrip(Protocol):
    """A connection that can measure its round trip."""

    def measure_round_trip(self, now: float) -> None:
        """Begin to measure it at this time."""


class FlowControl:
    """Grants credit on the streams of a connection, once the extension `window` is in force.

    Args:
      send_queue: the way out.
      estimate_round_trip: returns the kernel's estimate of the round trip in seconds, None if it has none.
      connection: measures the round trip if it is needed and was never measured.

    Attributes:
      windows: the credit of the peer on all streams, None without flow control.
      round_trip: the last round trip that was measured, in seconds, None before that.
    """

    __slots__ = (
        "_connection",
        "_credit",
        "_encode_window",
        "_estimate",
        "_estimate_round_trip",
        "_estimated",
        "_send_queue",
        "round_trip",
        "windows",
    )

    def __init__(
        self,
        send_queue: SendQueue,
        estimate_round_trip: Callable[[], float | None],
        connection: MeasuresRoundTrip,
    ) -> None:
        self.windows: ReceiveWindows | None = None
        self.round_trip: float | None = None
        self._send_queue = send_queue
        self._estimate_round_trip = estimate_round_trip
        # A weak reference: a cycle would be freed late.
        self._connection = weakref.ref(connection)
        # The last estimate, and when it was made. A system call for each grant would cost more than the grant.
        self._estimate: float | None = None
        self._estimated = -math.inf
        # The credit that each stream begins with in the direction to the peer.
        self._credit = NO_FLOW_CONTROL

    def begin(self, protocol: WireProtocol, config: Config) -> None:
        """Begin with the windows that were negotiated."""
        initial, credit = protocol.receive_window, protocol.send_window
        assert initial is not None  # noqa: S101 - the caller has looked
        assert credit is not None  # noqa: S101 - known whenever the other one is
        # The other half is for the windows that streams begin with. An application may stop to read a stream whose
        # window has grown, and the others need room then.
        budget = config.connection_receive_buffer_size // 2
        self.windows = ReceiveWindows(initial, config.max_stream_window, budget)
        self._credit, self._encode_window = credit, protocol.encode_window

    def add_stream(self, stream: StreamCore, now: float) -> None:
        """Begin flow control on a stream that is new, or was opened before the negotiation. There must be windows."""
        assert self.windows is not None  # noqa: S101 - the caller has looked
        stream.begin_flow_control(self._credit, self.windows, now)

    def grant_initially(self, stream: StreamCore, now: float) -> None:
        """Grant credit on a stream that was just opened, if earlier ones have shown that it needs more."""
        if (window := stream.take_window()) is None:
            return
        increment = window.initial_grant(now)
        stream.window_checked(window)
        if increment:
            # Not before OPEN.
            self._send_queue.queue(stream, self._encode_window(stream.stream_id, increment), b"")

    def check_window(self, stream: StreamCore) -> None:
        """Grant credit on a stream of which the application has read enough."""
        if (window := stream.window or stream.take_window()) is None:
            stream.until_check = NO_FLOW_CONTROL
            return
        window.until_check = stream.until_check
        now = trio.current_time()
        if now - self._estimated > MIN_ROUND_TRIP:
            self._estimate, self._estimated = self._estimate_round_trip(), now
        round_trip, estimate = self.round_trip, self._estimate
        if round_trip is None:
            # The kernel knows only the way to the next proxy, if that.
            connection = self._connection()
            if connection is not None:
                connection.measure_round_trip(now)
        if estimate is not None:
            round_trip = max(estimate, round_trip or 0)
        increment = window.check(now, round_trip)
        stream.window_checked(window)
        if increment:
            stream.last_frame = now
            # A write for each grant costs both ends a pass of their event loops.
            unsent = self._send_queue.queue_grant(self._encode_window, stream.stream_id, increment)
        else:
            # The window shrinks. A grant that was a small part of it may be all the credit that the peer will have.
            unsent = self._send_queue.queued_grant(stream.stream_id)
        if unsent >= window.size // _DEFERRED_SHARE:
            # The task sends it: grants to several streams, and data, go out in one write.
            self._send_queue.wake_writer()

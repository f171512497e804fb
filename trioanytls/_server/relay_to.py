"""A fallback that relays connections to a TCP service. A client that probes the port then sees that service."""

from __future__ import annotations

import math

import trio
from attrs import frozen

from trioanytls._checks import check_type
from trioanytls._connection.copy import TwoWayCopy
from trioanytls._connection.reset import reset_stream
from trioanytls._transport.hosts import encode_host
from trioanytls._transport.tls_stream import TLSStream, is_truncation

from .fallback import Fallback, FallbackStream
from .fallback_service import FallbackService

# How long the service may take to accept a connection, in seconds.
_CONNECT_TIMEOUT = 10.0
# How long one direction may be silent after the other one has ended, in seconds.
_LINGER = 30.0
# The number of bytes from the client that restarts the service's time to answer.
_PROGRESS = 64 * 1024


@frozen
class _Limits:
    """The limits of one relayed connection; see `relay_to`."""

    idle_timeout: float
    answer_timeout: float
    max_unanswered: float


def relay_to(
    host: str,
    port: int,
    *,
    idle_timeout: float = 300.0,
    answer_timeout: float = 120.0,
    max_unanswered: float = 1024**3,
) -> Fallback:
    """Make a fallback that relays to a TCP service: all bytes in both directions, and the end of each direction.

    If the service is unreachable, the connection is closed, and the failure is logged (`trioanytls.fallback`; as an
    error at most once a minute). Once one direction has ended, the other one may be silent for 30 seconds. An answer
    that is cut off, by a limit or the end of the server, ends without close_notify, and so does not look complete.

    The name of the service is resolved in a separate thread at the first connection, and again after a minute. The
    known addresses are used meanwhile. They remain in use if the name can no longer be resolved.

    The timeouts end connections that the service itself would keep open. The defaults are therefore longer than those
    of common web servers, so that a prober sees the timeouts of the service.

    Args:
      host: the name or address of the service.
      port: its TCP port.
      idle_timeout: how long no byte may pass in either direction, in seconds.
      answer_timeout: how long the service may take for the first byte of its first answer, in seconds. Each 64 KiB from
        the client restart the time, so that long uploads work.
      max_unanswered: how many bytes the client may send before that byte.

    Each of the three can be `math.inf`.

    Raises:
      TypeError: an argument has the wrong type.
      ValueError: `host` is not a host, or one of the three is not positive.
    """
    check_type("host", host, str)
    check_type("port", port, int)
    encoded_host = encode_host(host)
    limits = {"idle_timeout": idle_timeout, "answer_timeout": answer_timeout, "max_unanswered": max_unanswered}
    for name, value in limits.items():
        check_type(name, value, int, float)
        if math.isnan(value) or value <= 0:
            raise ValueError(f"{name} must be a positive number, or math.inf, not {value!r}")
    # A service's times and locks belong to one event loop. A fallback may serve several loops, in turn or in threads.
    services = trio.lowlevel.RunVar[FallbackService]("trioanytls.relay_to")

    async def relay(stream: FallbackStream) -> None:
        try:
            service = services.get()
        except LookupError:
            service = FallbackService(host, encoded_host, port)
            services.set(service)
        try:
            with trio.fail_after(_CONNECT_TIMEOUT):
                far = await service.connect()
        except OSError as error:
            service.log_failure(error)
            return
        except trio.TooSlowError:
            service.log_failure("it does not answer")
            return
        async with far:
            await _relay(stream, far, _Limits(**limits), service)

    return relay


async def _relay(
    near: FallbackStream, far: trio.abc.HalfCloseableStream, limits: _Limits, service: FallbackService | None = None
) -> None:
    """Copy in both directions until both have ended, a source has broken, or a limit is reached."""
    watch = _LimitWatch(limits)
    copying = TwoWayCopy(
        near,
        far,
        on_received=watch.handle_received,
        on_sent=watch.handle_sent,
        # Many clients end TCP without ending TLS.
        is_end=is_truncation,
        half_closed_timeout=_LINGER,
        linger_timeout=_LINGER,
    )
    watch.start(copying.scope)
    try:
        async with trio.open_nursery() as background:
            if service is not None and service.needs_refresh:
                # In the background: the known addresses are still usable.
                background.start_soon(service.refresh)
            await copying.run()
            background.cancel_scope.cancel()
    finally:
        # Data that was cut off must not look complete. Without any, the end is that of a web server's timeout.
        if watch.is_answered and not copying.down.complete and isinstance(near.transport, TLSStream):
            # No close_notify is sent.
            near.transport.abandon()
        if copying.up.broken:
            # As if the client had connected to the service itself.
            await reset_stream(far)


class _LimitWatch:
    """Cancels the copy of a connection that is idle, or that the service does not answer.

    Attributes:
      is_answered: whether the service has sent anything.
    """

    def __init__(self, limits: _Limits) -> None:
        self._limits = limits
        self._scope = trio.CancelScope()
        self._unanswered = 0
        self._next_progress = _PROGRESS
        self._answer_deadline = math.inf
        self.is_answered = False

    def start(self, scope: trio.CancelScope) -> None:
        """Start the timeouts; `scope` is cancelled at the first limit reached."""
        self._scope = scope
        self._answer_deadline = trio.current_time() + self._limits.answer_timeout
        self._touch()

    def handle_received(self, up: int, down: int) -> None:
        """Count a piece received from the client (`up`) or the service (`down`)."""
        if down:
            self.is_answered = True
            self._answer_deadline = math.inf
        elif not self.is_answered:
            self._unanswered += up
            if self._unanswered >= self._next_progress:
                self._next_progress = self._unanswered + _PROGRESS
                self._answer_deadline = trio.current_time() + self._limits.answer_timeout
            if self._unanswered > self._limits.max_unanswered:
                self._scope.cancel()
        self._touch()

    def handle_sent(self, _up: int, _down: int) -> None:
        """Restart the idle timeout: the other side has accepted a piece."""
        self._touch()

    def _touch(self) -> None:
        self._scope.deadline = min(trio.current_time() + self._limits.idle_timeout, self._answer_deadline)

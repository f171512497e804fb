"""What a server does with a connection that is not ANYTLS: it becomes somebody else's, from its first byte on
(spec: Connections / Authentication; protocol: 4).

To whoever probes the port, it is then the service behind it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import operator
import socket
from collections.abc import Awaitable, Callable

import trio
from attrs import define, field, frozen

from trioanytls._connection.logging import LogThrottle
from trioanytls._transport.hosts import encode_host
from trioanytls._transport.tls_stream import TLSStream, is_truncation

from .admission import AdmissionSlot

_log = logging.getLogger("trioanytls.fallback")

#: How much is copied at once, in bytes.
_PIECE = 64 * 1024
# How long a service may take to accept, and one direction may be silent when the other one has ended, in seconds.
_CONNECT_TIMEOUT = 10.0
_LINGER = 30.0
# How long an address may take before the next one is tried beside it, in seconds (RFC 8305, section 5).
_ATTEMPT_DELAY = 0.25
# How long the service's addresses are used before its name is resolved again, in seconds.
_ADDRESS_LIFETIME = 60.0
# How many threads may resolve that name: one does, and others may have been abandoned.
_MOST_THREADS = 4
# By how many bytes what the client sends has to grow for the service's time to answer to start again.
_PROGRESS = 64 * 1024


class FallbackStream(trio.abc.HalfCloseableStream):
    """What a fallback is handed: a connection with every byte that ANYTLS did not consume, and what comes after them.

    Attributes:
      transport: the connection itself.
      peer_address: the peer's address and port, None where they are not known.
    """

    def __init__(
        self, transport: trio.abc.Stream, received: bytes, peer_address: tuple[str, int] | None = None
    ) -> None:
        self.transport = transport
        self.peer_address = peer_address
        self._received = bytearray(received)
        # The connection's place with the fallback: the one that is idle for longest makes room for others.
        self._ticket: AdmissionSlot | None = None

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive what the peer has sent, from the first byte on that was not consumed."""
        if max_bytes is not None:
            max_bytes = operator.index(max_bytes)
            if max_bytes < 1:
                raise ValueError("max_bytes must be at least 1")
        if self._received:
            await trio.lowlevel.checkpoint()
        if not self._received:
            received = await self.transport.receive_some(max_bytes)
            self._touch()
            return received
        data = bytes(self._received[:max_bytes])
        del self._received[:max_bytes]
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream`."""
        await self.transport.send_all(data)
        self._touch()

    def _touch(self) -> None:
        if self._ticket is not None:
            self._ticket.touch(trio.current_time())

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        await self.transport.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Say that nothing follows; receiving goes on. Where the transport knows no half-close, it is closed."""
        if isinstance(self.transport, (TLSStream, trio.abc.HalfCloseableStream)):
            await self.transport.send_eof()
        else:
            await self.transport.aclose()

    async def aclose(self) -> None:
        """See `trio.abc.AsyncResource`."""
        self._received.clear()
        await self.transport.aclose()


#: What takes over a connection that is not ANYTLS.
Fallback = Callable[[FallbackStream], Awaitable[object]]


@frozen
class _Limits:
    """When a relay ends a connection; see `relay_to`."""

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
    """Make a fallback that relays to a TCP service: all bytes both ways, the end of each direction included.

    A service that cannot be reached is logged (`trioanytls.fallback`; as an error once a minute at most), and the
    connection closed. When one direction has ended, the other one may be silent for 30 seconds.

    The name of the service is resolved in a thread of its own, at the first connection, and again after a minute. The
    addresses that are known are used meanwhile, and remain in use if the name cannot be resolved any more.

    The timeouts end a connection that the service itself would keep, so the defaults are longer than those of ordinary
    web servers. A prober then meets the service's timeouts, not these.

    Args:
      host: the name or address of the service.
      port: its TCP port.
      idle_timeout: how long no byte may pass in either direction, in seconds.
      answer_timeout: how long the service may take for the first byte of its first answer, in seconds. The time starts
        again with each 64 KiB that the client sends, so that long uploads work.
      max_unanswered: how many bytes the client may send before that byte.

    Each of the three can be `math.inf`.

    Raises:
      ValueError: `host` is not a host, or one of the three is not positive.
    """
    encoded_host = encode_host(host)
    limits = {"idle_timeout": idle_timeout, "answer_timeout": answer_timeout, "max_unanswered": max_unanswered}
    for name, value in limits.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or math.isnan(value) or value <= 0:
            raise ValueError(f"{name} must be a positive number, or math.inf, not {value!r}")
    # Its times and locks are those of an event loop; a fallback may serve several, one after the other or in threads.
    services = trio.lowlevel.RunVar[_Service]("trioanytls.relay_to")

    async def relay(stream: FallbackStream) -> None:
        try:
            service = services.get()
        except LookupError:
            service = _Service(host, encoded_host, port)
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


@define(eq=False)
class _Service:
    """The service behind a fallback, and its addresses."""

    name: str
    host: str
    port: int
    _failures: LogThrottle = field(init=False, factory=LogThrottle)
    _limiter: trio.CapacityLimiter = field(init=False, factory=lambda: trio.CapacityLimiter(_MOST_THREADS))
    _resolving: trio.Lock = field(init=False, factory=trio.Lock)
    _addresses: list[str] = field(init=False, factory=list)
    _fresh_until: float = field(init=False, default=-math.inf)
    # The result of a thread, also of one for which nobody waits any more.
    _found: list[str] | None = field(init=False, default=None)

    def log_failure(self, reason: object) -> None:
        level = self._failures.level(logging.ERROR, trio.current_time())
        _log.log(level, "the fallback %s:%d cannot be reached: %s", self.name, self.port, reason)

    async def connect(self) -> trio.SocketStream:
        """Connect to the service.

        Raises:
          OSError: that is impossible.
        """
        if self._is_address():
            return await trio.open_tcp_stream(self.host, self.port)
        self._take_found()
        known = list(self._addresses)
        if known:
            try:
                return await self._connect(known)
            except OSError:
                # The service may have moved.
                addresses = await self._resolve()
                if addresses == known:
                    raise
        else:
            addresses = await self._resolve()
        return await self._connect(addresses)

    @property
    def is_to_be_resolved(self) -> bool:
        """Whether the addresses are old, and nobody asks for new ones."""
        self._take_found()
        return bool(self._addresses) and trio.current_time() >= self._fresh_until and not self._resolving.locked()

    async def refresh(self) -> None:
        """Resolve the name again. If that fails, the known addresses remain."""
        with contextlib.suppress(OSError):
            await self._resolve()

    def _is_address(self) -> bool:
        try:
            socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=_NUMERIC)
        except OSError:
            return False
        return True

    async def _resolve(self) -> list[str]:
        before = self._fresh_until
        async with self._resolving:
            # Another connection may have done so while this one waited.
            if self._fresh_until == before:
                await trio.to_thread.run_sync(self._ask, limiter=self._limiter, abandon_on_cancel=True)
                self._take_found()
        return list(self._addresses)

    def _ask(self) -> None:
        """Resolve the name, in a thread."""
        # As bytes: of a text, Python would check it as IDNA once more.
        found = socket.getaddrinfo(self.host.encode("ascii"), self.port, type=socket.SOCK_STREAM)
        self._found = list(dict.fromkeys(_format_address(sockaddr) for *_, sockaddr in found))

    def _take_found(self) -> None:
        found, self._found = self._found, None
        if found:
            self._addresses = found
            self._fresh_until = trio.current_time() + _ADDRESS_LIFETIME

    async def _connect(self, addresses: list[str]) -> trio.SocketStream:
        """Connect to the address that answers first; each gets a head start before the next one."""
        winners: list[trio.SocketStream] = []
        errors: list[OSError] = []

        async def attempt(address: str, failed: trio.Event) -> None:
            try:
                stream = await trio.open_tcp_stream(address, self.port)
            except OSError as error:
                errors.append(error)
                failed.set()
                return
            winners.append(stream)
            nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                for address in addresses:
                    failed = trio.Event()
                    nursery.start_soon(attempt, address, failed)
                    with trio.move_on_after(_ATTEMPT_DELAY):
                        await failed.wait()
        except BaseException:
            for stream in winners:
                stream.socket.close()
            raise
        for stream in winners[1:]:
            stream.socket.close()
        if not winners:
            raise errors[0] if errors else OSError("its name has no address")
        return winners[0]


_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


def _format_address(sockaddr: tuple[object, ...]) -> str:
    """Return the address with its zone, if it has one."""
    host = str(sockaddr[0])
    zone = sockaddr[3] if len(sockaddr) == 4 else 0
    return f"{host}%{zone}" if zone and "%" not in host else host


async def _relay(
    near: FallbackStream, far: trio.abc.HalfCloseableStream, limits: _Limits, service: _Service | None = None
) -> None:
    """Copy both ways until both have ended, either has broken, or a limit is reached.

    A reset is passed on by closing.
    """
    upstream, downstream = _Direction(near, far), _Direction(far, near)
    async with trio.open_nursery() as background:
        if service is not None and service.is_to_be_resolved:
            # Nobody has to wait for it.
            background.start_soon(service.refresh)
        async with trio.open_nursery() as nursery:
            watch = _Watch(limits, nursery.cancel_scope)
            nursery.start_soon(upstream.copy, downstream, nursery.cancel_scope, watch.sent)
            nursery.start_soon(downstream.copy, upstream, nursery.cancel_scope, watch.answered)
        background.cancel_scope.cancel()
    if downstream.broken and isinstance(near.transport, TLSStream):
        # An answer without its end must not look like a whole one.
        near.transport.give_up()


class _Watch:
    """Ends a relayed connection that is idle, or that the service does not answer."""

    def __init__(self, limits: _Limits, scope: trio.CancelScope) -> None:
        self._limits = limits
        self._scope = scope
        self._unanswered = 0
        self._next_progress = _PROGRESS
        self._answer_by = trio.current_time() + limits.answer_timeout
        self._is_answered = False
        self._touch()

    def sent(self, size: int) -> None:
        """Note that the client has sent something, or that the service has taken it."""
        if not self._is_answered:
            self._unanswered += size
            if self._unanswered >= self._next_progress:
                self._next_progress = self._unanswered + _PROGRESS
                self._answer_by = trio.current_time() + self._limits.answer_timeout
            if self._unanswered > self._limits.max_unanswered:
                self._scope.cancel()
        self._touch()

    def answered(self, size: int) -> None:
        """Note that the service has answered, or that the client has taken it."""
        if size:
            self._is_answered = True
            self._answer_by = math.inf
        self._touch()

    def _touch(self) -> None:
        self._scope.deadline = min(trio.current_time() + self._limits.idle_timeout, self._answer_by)


class _Direction:
    """What is copied one way.

    Attributes:
      broken: whether the source broke before it had ended.
    """

    def __init__(self, source: trio.abc.HalfCloseableStream, sink: trio.abc.HalfCloseableStream) -> None:
        self.broken = False
        self._source = source
        self._sink = sink
        # Set once the other direction has ended: how long this one may be silent is bounded from then on.
        self._patience = trio.CancelScope()
        self._lingering = False

    async def copy(self, other: _Direction, both: trio.CancelScope, note: Callable[[int], object]) -> None:
        """Copy until the end of the source. Call `note` with the number of bytes that came, and with 0 as they went."""
        with self._patience:
            # Who takes nothing more may have said something before, as a service does that refuses a long request
            # in its middle: the other direction goes on.
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while data := await self._receive():
                    if self._lingering:
                        self._linger()
                    note(len(data))
                    await self._sink.send_all(data)
                    note(0)
            if self.broken:
                both.cancel()
                return
            other._linger()
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._sink.send_eof()

    async def _receive(self) -> bytes | bytearray:
        """The next piece; none at the end, and where the source has broken."""
        try:
            return await self._source.receive_some(_PIECE)
        except trio.BrokenResourceError as error:
            # Many a client ends TCP without having ended TLS.
            self.broken = not is_truncation(error)
        except trio.ClosedResourceError:
            self.broken = True
        return b""

    def _linger(self) -> None:
        self._lingering = True
        self._patience.deadline = trio.current_time() + _LINGER

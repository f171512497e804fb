"""What a server does with a connection that is not ANYTLS: it becomes somebody else's, from its first byte on
(spec: Connections / Authentication; protocol: 4).

To whoever probes the port, it is then the service behind it.
"""

from __future__ import annotations

import contextlib
import logging
import operator
from collections.abc import Awaitable, Callable

import trio

from ._hosts import encode_host
from ._logs import Seldom
from ._tls import TLSTransport, is_truncation

_log = logging.getLogger("trioanytls.fallback")

#: How much is copied at once, in bytes.
_PIECE = 64 * 1024
# How long a service may take to accept, and one direction may be silent when the other one has ended, in seconds.
_CONNECT_TIMEOUT = 10.0
_LINGER = 30.0


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

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive what the peer has sent, from the first byte on that was not consumed."""
        if max_bytes is not None:
            max_bytes = operator.index(max_bytes)
            if max_bytes < 1:
                raise ValueError("max_bytes must be at least 1")
        if self._received:
            await trio.lowlevel.checkpoint()
        if not self._received:
            return await self.transport.receive_some(max_bytes)
        data = bytes(self._received[:max_bytes])
        del self._received[:max_bytes]
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream`."""
        await self.transport.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        await self.transport.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Say that nothing follows; receiving goes on. Where the transport knows no half-close, it is closed."""
        if isinstance(self.transport, (TLSTransport, trio.abc.HalfCloseableStream)):
            await self.transport.send_eof()
        else:
            await self.transport.aclose()

    async def aclose(self) -> None:
        """See `trio.abc.AsyncResource`."""
        self._received.clear()
        await self.transport.aclose()


#: What takes over a connection that is not ANYTLS.
Fallback = Callable[[FallbackStream], Awaitable[object]]


def relay_to(host: str, port: int) -> Fallback:
    """A fallback that relays to a TCP service: all bytes both ways, the end of each direction included.

    A service that cannot be reached is logged (`trioanytls.fallback`; as an error once a minute at most), and the
    connection closed. When one direction has ended, the other one may be silent for 30 seconds.

    Raises:
      ValueError: `host` is not a host.
    """
    encoded_host = encode_host(host)
    failures = Seldom()

    def failed(reason: object) -> None:
        level = failures.level(logging.ERROR, trio.current_time())
        _log.log(level, "the fallback %s:%d cannot be reached: %s", host, port, reason)

    async def relay(stream: FallbackStream) -> None:
        try:
            with trio.fail_after(_CONNECT_TIMEOUT):
                service = await trio.open_tcp_stream(encoded_host, port, happy_eyeballs_delay=0.25)
        except OSError as error:
            failed(error)
            return
        except trio.TooSlowError:
            failed("it does not answer")
            return
        async with service:
            await _relay(stream, service)

    return relay


async def _relay(near: FallbackStream, far: trio.abc.HalfCloseableStream) -> None:
    """Copy both ways until both have ended, or either has broken: a reset is passed on by closing."""
    upstream, downstream = _Direction(near, far), _Direction(far, near)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(upstream.copy, downstream, nursery.cancel_scope)
        nursery.start_soon(downstream.copy, upstream, nursery.cancel_scope)
    if downstream.broken and isinstance(near.transport, TLSTransport):
        # An answer without its end must not look like a whole one.
        near.transport.give_up()


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

    async def copy(self, other: _Direction, both: trio.CancelScope) -> None:
        with self._patience:
            # Who takes nothing more may have said something before, as a service does that refuses a long request
            # in its middle: the other direction goes on.
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while data := await self._receive():
                    if self._lingering:
                        self._linger()
                    await self._sink.send_all(data)
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

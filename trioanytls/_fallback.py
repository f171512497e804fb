"""What a server does with a connection that is not ANYTLS: it becomes somebody else's, from its first byte on
(spec: Connections / Authentication; protocol: 4).

To whoever probes the port, it is then the service behind it.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable

import trio

from ._tls import TLSTransport

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
        self._received = received

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive what the peer has sent, from the first byte on that was not consumed."""
        if not self._received:
            return await self.transport.receive_some(max_bytes)
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        await trio.lowlevel.checkpoint()
        size = len(self._received) if max_bytes is None else max_bytes
        data, self._received = self._received[:size], self._received[size:]
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
        await self.transport.aclose()


#: What takes over a connection that is not ANYTLS.
Fallback = Callable[[FallbackStream], Awaitable[object]]


def relay_to(host: str, port: int) -> Fallback:
    """A fallback that relays to a TCP service: all bytes both ways, the end of each direction included.

    A service that cannot be reached is logged (`trioanytls.fallback`), and the connection closed. When one direction
    has ended, the other one may be silent for 30 seconds.
    """

    async def relay(stream: FallbackStream) -> None:
        try:
            with trio.fail_after(_CONNECT_TIMEOUT):
                service = await trio.open_tcp_stream(host, port, happy_eyeballs_delay=0.25)
        except OSError as error:
            _log.error("the fallback %s:%d cannot be reached: %s", host, port, error)
            return
        except trio.TooSlowError:
            _log.error("the fallback %s:%d cannot be reached: it does not answer", host, port)
            return
        async with service:
            await _relay(stream, service)

    return relay


async def _relay(near: FallbackStream, far: trio.SocketStream) -> None:
    """Copy both ways until both have ended, or either has broken: a reset is passed on by closing."""
    async with trio.open_nursery() as nursery:
        directions = [_Direction(near, far), _Direction(far, near)]
        for one, other in (directions, directions[::-1]):
            nursery.start_soon(one.copy, other, nursery.cancel_scope)


class _Direction:
    def __init__(self, source: trio.abc.HalfCloseableStream, sink: trio.abc.HalfCloseableStream) -> None:
        self._source = source
        self._sink = sink
        # Set once the other direction has ended: how long this one may be silent is bounded from then on.
        self._patience = trio.CancelScope()
        self._lingering = False

    async def copy(self, other: _Direction, both: trio.CancelScope) -> None:
        with self._patience:
            try:
                while data := await self._receive():
                    if self._lingering:
                        self._linger()
                    await self._sink.send_all(data)
                other._linger()
                await self._sink.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                both.cancel()

    async def _receive(self) -> bytes | bytearray:
        try:
            return await self._source.receive_some(_PIECE)
        except trio.BrokenResourceError as error:
            if isinstance(error.__cause__, ssl.SSLEOFError):
                # Many a client ends TCP without having ended TLS.
                return b""
            raise

    def _linger(self) -> None:
        self._lingering = True
        self._patience.deadline = trio.current_time() + _LINGER

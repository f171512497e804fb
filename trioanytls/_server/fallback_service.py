"""The TCP service that a fallback relays to: resolving its name, and connecting to it."""

from __future__ import annotations

import contextlib
import logging
import math
import socket

import trio
from attrs import define, field

from trioanytls._connection.logging import LogThrottle

_log = logging.getLogger("trioanytls.fallback")

# The head start of an address before the next one is tried concurrently, in seconds (RFC 8305, section 5).
_ATTEMPT_DELAY = 0.25
# How long the addresses are used before the name is resolved again, in seconds.
_ADDRESS_LIFETIME = 60.0
# The most threads that resolve the name. One is active, further ones may have been abandoned.
_MOST_THREADS = 4

_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


@define(eq=False)
class FallbackService:
    """A service, and its addresses, in one event loop.

    Attributes:
      name: the host as it was given, for the log.
      host: the host as the resolver takes it.
      port: its TCP port.
    """

    name: str
    host: str
    port: int
    _failures: LogThrottle = field(init=False, factory=LogThrottle)
    _limiter: trio.CapacityLimiter = field(init=False, factory=lambda: trio.CapacityLimiter(_MOST_THREADS))
    _resolving: trio.Lock = field(init=False, factory=trio.Lock)
    _addresses: list[str] = field(init=False, factory=list)
    _fresh_until: float = field(init=False, default=-math.inf)
    # The result of a resolver thread, including one whose caller was cancelled.
    _found: list[str] | None = field(init=False, default=None)

    def log_failure(self, reason: object) -> None:
        """Log that the service is unreachable, as an error at most once a minute."""
        level = self._failures.level(logging.ERROR, trio.current_time())
        _log.log(level, "fallback service %s:%d is unreachable: %s", self.name, self.port, reason)

    async def connect(self) -> trio.SocketStream:
        """Connect to the service.

        Raises:
          OSError: the name has no address, or none of its addresses accepts.
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
    def needs_refresh(self) -> bool:
        """Whether the addresses are outdated, and the name is not being resolved."""
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
            # Another connection may have resolved the name while this one waited.
            if self._fresh_until == before:
                await trio.to_thread.run_sync(self._resolve_in_thread, limiter=self._limiter, abandon_on_cancel=True)
                self._take_found()
        return list(self._addresses)

    def _resolve_in_thread(self) -> None:
        # Bytes, since Python would apply IDNA to a string once more.
        found = socket.getaddrinfo(self.host.encode("ascii"), self.port, type=socket.SOCK_STREAM)
        self._found = list(dict.fromkeys(_format_address(sockaddr) for *_, sockaddr in found))

    def _take_found(self) -> None:
        found, self._found = self._found, None
        if found:
            self._addresses = found
            self._fresh_until = trio.current_time() + _ADDRESS_LIFETIME

    async def _connect(self, addresses: list[str]) -> trio.SocketStream:
        """Connect to the first address that accepts. Each address gets a head start before the next one is tried."""
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


def _format_address(sockaddr: tuple[object, ...]) -> str:
    """Return the address, with its IPv6 zone if there is one."""
    host = str(sockaddr[0])
    zone = sockaddr[3] if len(sockaddr) == 4 else 0
    return f"{host}%{zone}" if zone and "%" not in host else host

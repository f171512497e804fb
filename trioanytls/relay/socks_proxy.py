"""What the client offers to local applications: SOCKS, an HTTP proxy, both on one port, and fixed forwards."""

from __future__ import annotations

import logging
import socket
from typing import Final

import trio
from attrs import frozen

from trioanytls.destination import Destination

from .front_end import Serve
from .http_proxy import HTTPProxy
from .proxy_users import ProxyUsers
from .reply_codes import ReplyCode
from .socks4 import VERSION as SOCKS4
from .socks4 import SOCKS4Negotiation
from .socks5 import VERSION as SOCKS5
from .socks5 import SOCKS5Negotiation, SOCKSError
from .socks_udp import associate
from .upstream import Unreachable, Upstream

_log = logging.getLogger("trioanytls.relay")

# How long an application may take to say where it wants to go, in seconds.
_REQUEST_TIMEOUT: Final = 30.0
_READ: Final = 64 * 1024
# The first byte of a TLS connection.
_TLS: Final = b"\x16"


@frozen
class SOCKSProxy:
    """Serves SOCKS5, SOCKS4 and SOCKS4a connections; the first byte tells which it is.

    Attributes:
      gateway: the way out.
      users: who applications have to be, if anybody. SOCKS4 has no password, and is then refused.
    """

    gateway: Upstream
    users: ProxyUsers | None = None

    async def __call__(self, near: trio.SocketStream) -> None:
        """Serve one; see `front_end`."""
        async with near:
            try:
                server = await self._negotiate(near)
            except trio.BrokenResourceError as error:
                _log.debug("SOCKS: the application broke off: %s", error)
                return
            if server is None:
                return
            if isinstance(server, SOCKS5Negotiation) and server.associates:
                try:
                    await associate(near, server, self.gateway)
                except Unreachable as error:
                    _log.info("SOCKS: UDP: %s", error)
                    await _send_last(near, server.reply(error.reply))
                return
            await self._connect(near, server)

    async def _negotiate(self, near: trio.SocketStream) -> SOCKS5Negotiation | SOCKS4Negotiation | None:
        """Read the request; None if there is none that can be served."""
        server: SOCKS5Negotiation | SOCKS4Negotiation | None = None
        try:
            with trio.move_on_after(_REQUEST_TIMEOUT):
                while server is None or server.destination is None:
                    data = await near.receive_some(_READ)
                    if not data:
                        return None
                    server = server or self._begin(data)
                    if answer := server.feed(data):
                        await near.send_all(answer)
                return server
        except SOCKSError as error:
            _log.info("SOCKS: %s", error)
            await _send_last(near, error.answer)
            return None
        _log.info("SOCKS: the application did not complete its request within %g s", _REQUEST_TIMEOUT)
        return None

    def _begin(self, data: bytes | bytearray) -> SOCKS5Negotiation | SOCKS4Negotiation:
        if data[0] == SOCKS4:
            return SOCKS4Negotiation(needs_password=self.users is not None)
        return SOCKS5Negotiation(self.users)

    async def _connect(self, near: trio.SocketStream, server: SOCKS5Negotiation | SOCKS4Negotiation) -> None:
        assert server.destination is not None  # noqa: S101 - the request is complete
        try:
            far = await self.gateway.open(server.destination)
        except Unreachable as error:
            _log.info("SOCKS: %s: %s", server.destination, error)
            await _send_last(near, server.reply(error.reply))
            return
        async with far:
            try:
                await near.send_all(server.reply(ReplyCode.SUCCEEDED))
            except trio.BrokenResourceError:
                return
            await self.gateway.relay(near, far, server.rest)


@frozen
class MixedProxy:
    """Serves SOCKS and HTTP on one port; the first byte tells which it is.

    Attributes:
      socks: serves what begins with a version of SOCKS.
      http: serves everything else.
    """

    socks: Serve
    http: Serve

    async def __call__(self, near: trio.SocketStream) -> None:
        """Serve one; see `front_end`."""
        async with near:
            first = b""
            with trio.move_on_after(_REQUEST_TIMEOUT) as scope:
                first = await _peek(near)
            if scope.cancelled_caught:
                _log.info("mixed proxy: the application sent nothing within %g s", _REQUEST_TIMEOUT)
            elif first == _TLS:
                _log.info("mixed proxy: the application speaks TLS with the proxy; set it to HTTP or SOCKS")
            elif first:
                await (self.socks if first[0] in (SOCKS4, SOCKS5) else self.http)(near)


async def _peek(near: trio.SocketStream) -> bytes:
    """Look at the first byte, and leave it where it is; nothing if the connection ends before it."""
    try:
        return await near.socket.recv(1, socket.MSG_PEEK)
    except OSError as error:
        raise trio.BrokenResourceError(f"the application broke off: {error.strerror}") from error


@frozen
class PortForward:
    """Serves connections of a port, all to one destination.

    Attributes:
      gateway: the way out.
      destination: where they go.
    """

    gateway: Upstream
    destination: Destination

    async def __call__(self, near: trio.SocketStream) -> None:
        """Serve one; see `front_end`."""
        async with near:
            try:
                far = await self.gateway.open(self.destination)
            except Unreachable as error:
                _log.info("forward: %s: %s", self.destination, error)
                return
            async with far:
                await self.gateway.relay(near, far)


async def _send_last(near: trio.SocketStream, answer: bytes) -> None:
    """Send an answer that must not be lost because something unread came behind the question."""
    try:
        with trio.move_on_after(2.0):
            await near.send_all(answer)
            await near.send_eof()
            while await near.receive_some(_READ):
                pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


__all__ = ["HTTPProxy", "MixedProxy", "PortForward", "SOCKSProxy"]

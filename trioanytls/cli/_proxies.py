"""What the client offers to local applications: SOCKS5, an HTTP proxy, and fixed forwards."""

from __future__ import annotations

import logging
from typing import Final

import trio
from attrs import frozen

from trioanytls.destination import Destination

from ._gateway import Gateway, Unreachable
from ._http_proxy import HTTPProxy
from ._reply import Reply
from ._socks import SocksError, SocksServer
from ._udp_associate import associate

_log = logging.getLogger("trioanytls.relay")

# How long an application may take to say where it wants to go, in seconds.
_REQUEST_TIMEOUT: Final = 30.0
_READ: Final = 64 * 1024


@frozen
class SocksProxy:
    """Serves SOCKS5 connections.

    Attributes:
      gateway: the way out.
      credentials: user and password that applications have to know, if any.
    """

    gateway: Gateway
    credentials: tuple[str, str] | None = None

    async def __call__(self, near: trio.SocketStream) -> None:
        """Serve one; see `_fronts`."""
        async with near:
            server = SocksServer(self.credentials)
            try:
                with trio.move_on_after(_REQUEST_TIMEOUT):
                    while server.destination is None:
                        data = await near.receive_some(_READ)
                        if not data:
                            return
                        await near.send_all(server.feed(data))
                if server.destination is None:
                    return
            except SocksError as error:
                _log.info("SOCKS: %s", error)
                await _send_last(near, error.answer)
                return
            except trio.BrokenResourceError:
                return
            if server.associates:
                try:
                    await associate(near, server, self.gateway)
                except Unreachable as error:
                    _log.info("SOCKS: UDP: %s", error)
                    await _send_last(near, server.reply(error.reply))
                return
            try:
                far = await self.gateway.open(server.destination)
            except Unreachable as error:
                _log.info("SOCKS: %s: %s", server.destination, error)
                await _send_last(near, server.reply(error.reply))
                return
            async with far:
                try:
                    await near.send_all(server.reply(Reply.SUCCEEDED))
                except trio.BrokenResourceError:
                    return
                await self.gateway.relay(near, far, server.rest)


@frozen
class Forward:
    """Serves connections of a port, all to one destination.

    Attributes:
      gateway: the way out.
      destination: where they go.
    """

    gateway: Gateway
    destination: Destination

    async def __call__(self, near: trio.SocketStream) -> None:
        """Serve one; see `_fronts`."""
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


__all__ = ["Forward", "HTTPProxy", "SocksProxy"]

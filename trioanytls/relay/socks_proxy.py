"""SOCKS for local applications, and a port that serves both SOCKS and HTTP."""

from __future__ import annotations

import logging
import socket
from typing import Final

import trio
from attrs import frozen

from trioanytls import reset_stream

from .front_end import Serve
from .proxy_users import ProxyUsers
from .reply_codes import ReplyCode
from .socks4 import VERSION as SOCKS4
from .socks4 import SOCKS4Negotiation
from .socks5 import VERSION as SOCKS5
from .socks5 import SOCKS5Negotiation, SOCKSError
from .socks_udp import associate
from .upstream import Unreachable, Upstream

_log = logging.getLogger("trioanytls.relay")

# How long an application may take to send its request, in seconds.
_REQUEST_TIMEOUT: Final = 30.0
# The time for the last answer, in seconds.
_LAST_ANSWER_TIMEOUT: Final = 2.0
_READ: Final = 64 * 1024
# The first byte of a TLS connection.
_TLS: Final = b"\x16"


@frozen
class SOCKSProxy:
    """Serves SOCKS5, SOCKS4 and SOCKS4a connections. The first byte tells the version.

    Attributes:
      upstream: opens the streams.
      users: the users that applications must authenticate as, None to accept all applications. SOCKS4 has no password,
        and is refused if there are users.
    """

    upstream: Upstream
    users: ProxyUsers | None = None

    async def __call__(self, near: trio.SocketStream) -> None:
        """Serve one connection; see `front_end`."""
        async with near:
            try:
                negotiation = await self._negotiate(near)
            except trio.BrokenResourceError as error:
                _log.debug("SOCKS: application disconnected: %s", error)
                return
            if negotiation is None:
                return
            if isinstance(negotiation, SOCKS5Negotiation) and negotiation.associates:
                try:
                    await associate(near, negotiation, self.upstream)
                except Unreachable as error:
                    _log.info("SOCKS: UDP: %s", error)
                    await _send_last(near, negotiation.reply(error.reply))
                return
            await self._connect(near, negotiation)

    async def _negotiate(self, near: trio.SocketStream) -> SOCKS5Negotiation | SOCKS4Negotiation | None:
        """Read the request. Return None if it is invalid, not allowed, or incomplete."""
        negotiation: SOCKS5Negotiation | SOCKS4Negotiation | None = None
        try:
            with trio.move_on_after(_REQUEST_TIMEOUT):
                while negotiation is None or negotiation.destination is None:
                    data = await near.receive_some(_READ)
                    if not data:
                        return None
                    negotiation = negotiation or self._begin(data)
                    if answer := negotiation.feed(data):
                        await near.send_all(answer)
                return negotiation
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

    async def _connect(self, near: trio.SocketStream, negotiation: SOCKS5Negotiation | SOCKS4Negotiation) -> None:
        assert negotiation.destination is not None  # noqa: S101 - the request is complete
        try:
            far = await self.upstream.open(negotiation.destination)
        except Unreachable as error:
            _log.info("SOCKS: %s: %s", negotiation.destination, error)
            await _send_last(near, negotiation.reply(error.reply))
            return
        async with far:
            try:
                await near.send_all(negotiation.reply(ReplyCode.SUCCEEDED))
            except trio.BrokenResourceError:
                await reset_stream(far)
                return
            await self.upstream.relay(near, far, negotiation.rest)


@frozen
class MixedProxy:
    """Serves SOCKS and HTTP on one port. The first byte tells the protocol.

    Attributes:
      socks: serves connections that begin with a version of SOCKS.
      http: serves all other connections.
    """

    socks: Serve
    http: Serve

    async def __call__(self, near: trio.SocketStream) -> None:
        """Serve one connection; see `front_end`."""
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
    """Return the first byte without consuming it. Return nothing if the connection ends before it."""
    try:
        return await near.socket.recv(1, socket.MSG_PEEK)
    except OSError as error:
        raise trio.BrokenResourceError(f"application disconnected: {error.strerror}") from error


async def _send_last(near: trio.SocketStream, answer: bytes) -> None:
    """Send the last answer. Unread data must not reset the connection before the answer arrives."""
    try:
        with trio.move_on_after(_LAST_ANSWER_TIMEOUT):
            await near.send_all(answer)
            await near.send_eof()
            while await near.receive_some(_READ):
                pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass

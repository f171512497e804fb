"""The front ends of the client: the sockets that applications connect or send to, and the proxies that serve them."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from collections.abc import Iterable, Mapping
from typing import Any

import trio
from attrs import define, field, frozen

import trioanytls
from trioanytls.cli.common import os_errors
from trioanytls.cli.common.errors import ClientError
from trioanytls.cli.common.option_types import ListenAddress
from trioanytls.destination import Destination
from trioanytls.relay import Upstream
from trioanytls.relay.front_end import Serve, serve_front
from trioanytls.relay.http_proxy import HTTPProxy
from trioanytls.relay.port_forward import PortForward
from trioanytls.relay.proxy_users import ProxyUsers
from trioanytls.relay.socks_proxy import MixedProxy, SOCKSProxy
from trioanytls.relay.udp_forward import UDPForward

from .settings import ClientSettings

_log = logging.getLogger("trioanytls.cli")

#: The identity of a front end across reloads: its kind, its address, and its index among front ends with the same two.
Key = tuple[str, ListenAddress, int]


@frozen
class FrontEnd:
    """A front end in the settings.

    Attributes:
      what: its kind, for people.
      option: the option that gives the address.
      address: the address to listen on.
      serve: serves a connection, or the socket of a UDP forward.
      is_proxy: whether its users choose the destination.
    """

    what: str
    option: str
    address: ListenAddress
    serve: Serve | UDPForward
    is_proxy: bool = False


@define(eq=False)
class LocalListener:
    """The sockets of a front end.

    Attributes:
      front_end: the front end that serves new connections. A reload replaces it.
      sockets: the listening sockets.
    """

    front_end: FrontEnd
    sockets: list[trio.socket.SocketType]
    _accepting: trio.CancelScope = field(init=False, factory=trio.CancelScope)

    @property
    def address(self) -> Destination:
        """The address of the first socket, with the port that the system chose if the settings have port 0."""
        host, port, *_ = self.sockets[0].getsockname()
        return Destination(host, port)

    @property
    def is_local(self) -> bool:
        """True if only programs on this machine can reach it."""
        return all(ipaddress.ip_address(one.getsockname()[0].partition("%")[0]).is_loopback for one in self.sockets)

    async def run(self) -> None:
        """Serve until cancelled, or until the last connection has ended after `stop`."""
        if isinstance(self.front_end.serve, UDPForward):
            # Datagrams have no end to wait for.
            with self._accepting:
                async with trio.open_nursery() as nursery:
                    for one in self.sockets:
                        nursery.start_soon(self.front_end.serve, one)
        else:
            listeners = [trio.SocketListener(one) for one in self.sockets]
            await serve_front(self.front_end.what, self._serve, listeners, accepting=self._accepting)

    async def _serve(self, stream: trio.SocketStream) -> None:
        assert not isinstance(self.front_end.serve, UDPForward)  # noqa: S101 - a reload replaces it by the same kind
        await self.front_end.serve(stream)

    def stop(self) -> None:
        """Close the sockets. Open connections continue."""
        self._accepting.cancel()
        self.close()

    def close(self) -> None:
        """Close the sockets of a listener that is not running."""
        for one in self.sockets:
            one.close()


def make_front_ends(settings: ClientSettings, upstream: Upstream) -> dict[Key, FrontEnd]:
    """Return the front ends in the settings."""
    users = None if settings.proxy_users is None else ProxyUsers(settings.proxy_users)
    socks, http = SOCKSProxy(upstream, users), HTTPProxy(upstream, users, settings.http_via)
    mixed = MixedProxy(socks, http)
    wanted: list[FrontEnd] = [
        *(FrontEnd("SOCKS5", "--socks", address, socks, is_proxy=True) for address in settings.socks),
        *(FrontEnd("HTTP proxy", "--http", address, http, is_proxy=True) for address in settings.http),
        *(FrontEnd("mixed proxy", "--mixed", address, mixed, is_proxy=True) for address in settings.mixed),
        *(
            FrontEnd(f"forward to {one.destination}", "--forward", one.local, PortForward(upstream, one.destination))
            for one in settings.forwards
        ),
        *(
            FrontEnd(
                f"UDP forward to {one.destination}", "--forward-udp", one.local, UDPForward(upstream, one.destination)
            )
            for one in settings.udp_forwards
        ),
    ]
    found: dict[Key, FrontEnd] = {}
    for front_end in wanted:
        index = sum(key[:2] == (front_end.what, front_end.address) for key in found)
        found[front_end.what, front_end.address, index] = front_end
    return found


async def open_local_listeners(front_ends: Mapping[Key, FrontEnd], *, have_password: bool) -> dict[Key, LocalListener]:
    """Listen on the addresses of these front ends.

    Raises:
      ClientError: the client cannot listen on an address. All sockets are closed then.
    """
    opened: dict[Key, LocalListener] = {}
    try:
        for key, front_end in front_ends.items():
            opened[key] = await (_open_udp if isinstance(front_end.serve, UDPForward) else _open_tcp)(front_end)
    except BaseException:
        for listener in opened.values():
            listener.close()
        raise
    if not have_password:
        _warn_if_open(opened.values())
    return opened


def _warn_if_open(listeners: Iterable[LocalListener]) -> None:
    for listener in listeners:
        if listener.front_end.is_proxy and not listener.is_local:
            _log.warning(
                "%s on %s requires no password and is reachable from other machines: listen on 127.0.0.1, or pass"
                " --proxy-auth-file",
                listener.front_end.what,
                listener.address,
            )


async def _open_tcp(front_end: FrontEnd) -> LocalListener:
    try:
        listeners = await trioanytls.open_listeners(front_end.address.port, front_end.address.host)
    except OSError as error:
        raise _listen_error(front_end, error) from error
    return LocalListener(front_end, [listener.socket for listener in listeners])


async def _open_udp(front_end: FrontEnd) -> LocalListener:
    try:
        return LocalListener(front_end, await _bind_udp(front_end.address))
    except OSError as error:
        raise _listen_error(front_end, error) from error


async def _bind_udp(address: ListenAddress) -> list[trio.socket.SocketType]:
    found = await trio.socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    sockets: list[trio.socket.SocketType] = []
    skipped: OSError | None = None
    try:
        for family, kind, protocol, _, sockaddr in found:
            # All sockets use the port that the system chose for the first one.
            port = sockaddr[1] or (sockets[0].getsockname()[1] if sockets else 0)
            try:
                sockets.append(await _bind_one(family, kind, protocol, (sockaddr[0], port, *sockaddr[2:])))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                # For example `::1` of `localhost` if IPv6 is disabled.
                skipped = error
        if skipped is not None and not sockets:
            raise skipped
    except BaseException:
        for one in sockets:
            one.close()
        raise
    return sockets


async def _bind_one(family: int, kind: int, protocol: int, sockaddr: tuple[Any, ...]) -> trio.socket.SocketType:
    one = trio.socket.socket(family, kind, protocol)
    try:
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await one.bind(sockaddr)
    except BaseException:
        one.close()
        raise
    return one


def _listen_error(front_end: FrontEnd, error: OSError) -> ClientError:
    return ClientError(os_errors.describe_listen_error(front_end.address, front_end.option, error))

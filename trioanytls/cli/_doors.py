"""The front ends of the client: what it listens on, and what serves the connections and datagrams that come there."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final

import trio
from attrs import frozen

import trioanytls
from trioanytls.destination import Destination

from ._client_command import ClientSettings
from ._errors import Failed
from ._fronts import Serve, serve_front
from ._gateway import Gateway
from ._proxies import Forward, HTTPProxy, MixedProxy, SocksProxy
from ._proxy_users import ProxyUsers
from ._types import ListenAddress
from ._udp_forward import UdpForward

_log = logging.getLogger("trioanytls.cli")


@frozen
class Door:
    """What applications can connect, or send, to.

    Attributes:
      what: for people.
      sockets: what it listens on.
      run: serves it until cancelled.
      is_proxy: whether it leads to any destination.
    """

    what: str
    sockets: list[trio.socket.SocketType]
    run: Callable[[], Awaitable[object]]
    is_proxy: bool = False

    @property
    def address(self) -> Destination:
        """Where it is; the port that the system chose where none was asked for."""
        host, port, *_ = self.sockets[0].getsockname()
        return Destination(host, port)

    @property
    def is_local(self) -> bool:
        """Whether programs of this machine alone can reach it."""
        return all(ipaddress.ip_address(one.getsockname()[0].partition("%")[0]).is_loopback for one in self.sockets)

    def close(self) -> None:
        """Close its sockets, if it was not run."""
        for one in self.sockets:
            one.close()


async def open_doors(settings: ClientSettings, gateway: Gateway) -> list[Door]:
    """Listen on all addresses that the settings name.

    Raises:
      Failed: an address cannot be listened on.
    """
    opened: list[Door] = []
    try:
        for what, address, serve in _proxies(settings, gateway):
            opened.append(await _open_tcp(what, address, serve, is_proxy=True))
        for forward in settings.forwards:
            what = f"forward to {forward.destination}"
            opened.append(await _open_tcp(what, forward.local, Forward(gateway, forward.destination)))
        for forward in settings.udp_forwards:
            what = f"UDP forward to {forward.destination}"
            opened.append(await _open_udp(what, forward.local, UdpForward(gateway, forward.destination)))
    except BaseException:
        for door in opened:
            door.close()
        raise
    if settings.proxy_users is None:
        _warn_if_open(opened)
    return opened


def _proxies(settings: ClientSettings, gateway: Gateway) -> Iterator[tuple[str, ListenAddress, Serve]]:
    users = None if settings.proxy_users is None else ProxyUsers(settings.proxy_users)
    socks, http = SocksProxy(gateway, users), HTTPProxy(gateway, users)
    for address in settings.socks:
        yield "SOCKS5", address, socks
    for address in settings.http:
        yield "HTTP proxy", address, http
    for address in settings.mixed:
        yield "mixed proxy", address, MixedProxy(socks, http)


def _warn_if_open(doors: Iterable[Door]) -> None:
    for door in doors:
        if door.is_proxy and not door.is_local:
            _log.warning(
                "%s on %s has no password: everybody who can reach this address can use it; listen on 127.0.0.1, or set"
                " --proxy-auth-file",
                door.what,
                door.address,
            )


async def _open_tcp(what: str, address: ListenAddress, serve: Serve, *, is_proxy: bool = False) -> Door:
    try:
        listeners = await trioanytls.open_listeners(address.port, address.host)
    except OSError as error:
        raise _cannot_listen(address, error) from error
    sockets = [listener.socket for listener in listeners]
    return Door(what, sockets, partial(serve_front, what, serve, listeners), is_proxy)


async def _open_udp(what: str, address: ListenAddress, forward: UdpForward) -> Door:
    try:
        sockets = await _bind_udp(address)
    except OSError as error:
        raise _cannot_listen(address, error) from error

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            for one in sockets:
                nursery.start_soon(forward, one)

    return Door(what, sockets, run)


async def _bind_udp(address: ListenAddress) -> list[trio.socket.SocketType]:
    found = await trio.socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    sockets: list[trio.socket.SocketType] = []
    skipped: OSError | None = None
    try:
        for family, kind, protocol, _, sockaddr in found:
            # What the system has chosen for the first address is the port of all.
            port = sockaddr[1] or (sockets[0].getsockname()[1] if sockets else 0)
            try:
                sockets.append(await _bind_one(family, kind, protocol, (sockaddr[0], port, *sockaddr[2:])))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                # As `::1` of `localhost`, where IPv6 is switched off.
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


def _cannot_listen(address: ListenAddress, error: OSError) -> Failed:
    hint = _HINTS.get(error.errno or 0, "")
    return Failed(f"{address} cannot be listened on: {error.strerror or error}{hint}")


_HINTS: Final = {
    errno.EADDRINUSE: "; another program has that port: stop it, or choose another port",
    errno.EACCES: "; ports below 1024 need privileges: choose a higher one",
    errno.EADDRNOTAVAIL: "; this machine does not have that address",
}

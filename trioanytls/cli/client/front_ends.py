"""The front ends of the client: what it listens on, and what serves the connections and datagrams that come there."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from collections.abc import Iterable, Mapping
from typing import Any, Final

import trio
from attrs import define, field, frozen

import trioanytls
from trioanytls.cli.common.errors import ClientError
from trioanytls.cli.common.option_types import ListenAddress
from trioanytls.destination import Destination
from trioanytls.relay.front_end import Serve, serve_front
from trioanytls.relay.http_proxy import HTTPProxy
from trioanytls.relay.port_forward import PortForward
from trioanytls.relay.proxy_users import ProxyUsers
from trioanytls.relay.socks_proxy import MixedProxy, SOCKSProxy
from trioanytls.relay.udp_forward import UDPForward
from trioanytls.relay.upstream import Upstream

from .settings import ClientSettings

_log = logging.getLogger("trioanytls.cli")


#: What a front end is, where it listens, and which of several such ones it is.
Key = tuple[str, ListenAddress, int]


@frozen
class Front:
    """A front end that the settings ask for.

    Attributes:
      what: its name, for people.
      address: where it is to listen.
      serve: serves a connection; for a UDP forward, a socket.
      is_proxy: whether it leads to any destination.
    """

    what: str
    address: ListenAddress
    serve: Serve | UDPForward
    is_proxy: bool = False


@define(eq=False)
class LocalListener:
    """What applications can connect, or send, to.

    Attributes:
      front: what it is; another one may take its place while it runs, which serves the connections from then on.
      sockets: what it listens on.
    """

    front: Front
    sockets: list[trio.socket.SocketType]
    _accepting: trio.CancelScope = field(init=False, factory=trio.CancelScope)

    @property
    def address(self) -> Destination:
        """Where it is; the port that the system chose where none was asked for."""
        host, port, *_ = self.sockets[0].getsockname()
        return Destination(host, port)

    @property
    def is_local(self) -> bool:
        """Whether programs of this machine alone can reach it."""
        return all(ipaddress.ip_address(one.getsockname()[0].partition("%")[0]).is_loopback for one in self.sockets)

    async def run(self) -> None:
        """Serve until cancelled; after `stop`, until the last connection has ended."""
        if isinstance(self.front.serve, UDPForward):
            # Datagrams belong to nobody who could be waited for.
            with self._accepting:
                async with trio.open_nursery() as nursery:
                    for one in self.sockets:
                        nursery.start_soon(self.front.serve, one)
        else:
            listeners = [trio.SocketListener(one) for one in self.sockets]
            await serve_front(self.front.what, self._serve, listeners, accepting=self._accepting)

    async def _serve(self, near: trio.SocketStream) -> None:
        assert not isinstance(self.front.serve, UDPForward)  # noqa: S101 - a front of the same kind takes its place
        await self.front.serve(near)

    def stop(self) -> None:
        """Close the sockets; connections go on."""
        self._accepting.cancel()
        self.close()

    def close(self) -> None:
        """Close the sockets, if it was not run."""
        for one in self.sockets:
            one.close()


def fronts(settings: ClientSettings, gateway: Upstream) -> dict[Key, Front]:
    """Return the front ends that the settings ask for."""
    users = None if settings.proxy_users is None else ProxyUsers(settings.proxy_users)
    socks, http = SOCKSProxy(gateway, users), HTTPProxy(gateway, users, settings.http_via)
    asked: list[Front] = [
        *(Front("SOCKS5", address, socks, is_proxy=True) for address in settings.socks),
        *(Front("HTTP proxy", address, http, is_proxy=True) for address in settings.http),
        *(Front("mixed proxy", address, MixedProxy(socks, http), is_proxy=True) for address in settings.mixed),
        *(
            Front(f"forward to {forward.destination}", forward.local, PortForward(gateway, forward.destination))
            for forward in settings.forwards
        ),
        *(
            Front(f"UDP forward to {forward.destination}", forward.local, UDPForward(gateway, forward.destination))
            for forward in settings.udp_forwards
        ),
    ]
    found: dict[Key, Front] = {}
    for front in asked:
        same = sum(key[:2] == (front.what, front.address) for key in found)
        found[front.what, front.address, same] = front
    return found


async def open_doors(asked: Mapping[Key, Front], *, have_password: bool) -> dict[Key, LocalListener]:
    """Listen for these front ends.

    Raises:
      Failed: an address cannot be listened on; then none is.
    """
    opened: dict[Key, LocalListener] = {}
    try:
        for key, front in asked.items():
            opened[key] = await (_open_udp if isinstance(front.serve, UDPForward) else _open_tcp)(front)
    except BaseException:
        for door in opened.values():
            door.close()
        raise
    if not have_password:
        _warn_if_open(opened.values())
    return opened


def _warn_if_open(doors: Iterable[LocalListener]) -> None:
    for door in doors:
        if door.front.is_proxy and not door.is_local:
            _log.warning(
                "%s on %s has no password: everybody who can reach this address can use it; listen on 127.0.0.1, or set"
                " --proxy-auth-file",
                door.front.what,
                door.address,
            )


async def _open_tcp(front: Front) -> LocalListener:
    address = front.address
    try:
        listeners = await trioanytls.open_listeners(address.port, address.host)
    except OSError as error:
        raise _cannot_listen(address, error) from error
    return LocalListener(front, [listener.socket for listener in listeners])


async def _open_udp(front: Front) -> LocalListener:
    try:
        return LocalListener(front, await _bind_udp(front.address))
    except OSError as error:
        raise _cannot_listen(front.address, error) from error


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


def _cannot_listen(address: ListenAddress, error: OSError) -> ClientError:
    hint = _HINTS.get(error.errno or 0, "")
    return ClientError(f"{address} cannot be listened on: {error.strerror or error}{hint}")


_HINTS: Final = {
    errno.EADDRINUSE: "; another program has that port: stop it, or choose another port",
    errno.EACCES: "; ports below 1024 need privileges: choose a higher one",
    errno.EADDRNOTAVAIL: "; this machine does not have that address",
}

"""Listening on a port together with other processes."""

from __future__ import annotations

import errno
import socket
from typing import Any

import trio


async def open_listeners(port: int, host: str | bytes | None, *, reuse_port: bool = False) -> list[trio.SocketListener]:
    """Like `trio.open_tcp_listeners`; with `reuse_port`, other processes of the same user may listen on the port, too.

    The system then spreads the connections over them (`SO_REUSEPORT`), and a port that it chooses is the same one on
    all addresses.

    Raises:
      OSError: the port cannot be listened on, or the system has no `SO_REUSEPORT`.
    """
    if not reuse_port:
        return await trio.open_tcp_listeners(port, host=host)
    bound = await _bind(port, host, reuse_address=True)
    try:
        for one in bound:
            one.listen(_BACKLOG)
    except BaseException:
        _close(bound)
        raise
    return [trio.SocketListener(one) for one in bound]


async def hold_port(port: int, host: str | bytes | None) -> list[trio.socket.SocketType]:
    """Keep a port for `open_listeners` of the processes of this user: sockets for all addresses that do not listen.

    Raises:
      OSError: see `open_listeners`.
    """
    try:
        # Where two may reuse an address, the port is not kept from somebody else before one of them listens.
        return await _bind(port, host, reuse_address=False)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    # Connections of a server that is gone may still have it.
    return await _bind(port, host, reuse_address=True)


async def _bind(port: int, host: str | bytes | None, *, reuse_address: bool) -> list[trio.socket.SocketType]:
    if not hasattr(socket, "SO_REUSEPORT"):
        raise OSError("this system does not let several processes listen on one port: it has no SO_REUSEPORT")
    addresses = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # What the system chooses for the first address may be taken on another one.
    for _ in range(_CHOICES - 1 if port == 0 else 0):
        try:
            return await _bind_all(addresses, reuse_address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return await _bind_all(addresses, reuse_address)


async def _bind_all(addresses: list[tuple[Any, ...]], reuse_address: bool) -> list[trio.socket.SocketType]:
    """Bind to all of these addresses; where the port is the system's choice, it is the same one on all."""
    bound: list[trio.socket.SocketType] = []
    unsupported: OSError | None = None
    try:
        for family, kind, protocol, _, address in addresses:
            try:
                one = trio.socket.socket(family, kind, protocol)
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:
                    raise
                # Names have IPv6 addresses on systems without IPv6, too: one that can be had is enough.
                unsupported = error
                continue
            bound.append(one)
            if reuse_address:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            port = address[1] or (bound[0].getsockname()[1] if len(bound) > 1 else 0)
            await one.bind((address[0], port, *address[2:]))
        if unsupported is not None and not bound:
            raise unsupported
    except BaseException:
        _close(bound)
        raise
    return bound


def _close(sockets: list[trio.socket.SocketType]) -> None:
    for one in sockets:
        one.close()


# The system takes less where it allows less.
_BACKLOG = 65535
# How often the system may choose a port.
_CHOICES = 10

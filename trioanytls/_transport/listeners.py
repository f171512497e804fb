"""Listening on a port: on all addresses of a host that this machine has, and together with other processes."""

from __future__ import annotations

import errno
import socket
from typing import Any

import trio

from trioanytls._checks import check_port, check_type

from .hosts import encode_host


async def open_listeners(
    port: int, host: str | bytes | None = None, *, reuse_port: bool = False
) -> list[trio.SocketListener]:
    """Listen on a TCP port of all addresses of a host, or of the machine.

    Like `trio.open_tcp_listeners`, with two differences. A port that the system chooses is the same one on all
    addresses. An address that this machine does not have, as `::1` of `localhost` if IPv6 is disabled, is skipped if
    another one of the host remains.

    Args:
      port: the TCP port; 0 for one that the system chooses.
      host: a name or an address; None for all addresses of the machine.
      reuse_port: whether other processes of the same user may listen on the port, too. The system then spreads the
        connections over them (`SO_REUSEPORT`).

    Raises:
      TypeError: `port` or `host` has the wrong type.
      ValueError: `port` is out of range.
      OSError: the port cannot be listened on, or the system has no `SO_REUSEPORT`.
    """
    check_port(port, minimum=0)
    check_type("host", host, str, bytes, optional=True)
    bound = await _bind(port, host, reuse_address=True, reuse_port=reuse_port)
    try:
        for one in bound:
            one.listen(_BACKLOG)
    except BaseException:
        _close(bound)
        raise
    return [trio.SocketListener(one) for one in bound]


async def reserve_port(port: int, host: str | bytes | None) -> list[trio.socket.SocketType]:
    """Keep a port for `open_listeners` of the processes of this user: sockets for all addresses that do not listen.

    Raises:
      OSError: see `open_listeners`.
    """
    try:
        # Where two may reuse an address, the port is not kept from somebody else before one of them listens.
        return await _bind(port, host, reuse_address=False, reuse_port=True)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    # Connections of a server that is gone may still have it.
    return await _bind(port, host, reuse_address=True, reuse_port=True)


async def _bind(
    port: int, host: str | bytes | None, *, reuse_address: bool, reuse_port: bool
) -> list[trio.socket.SocketType]:
    options = []
    if reuse_address:
        options.append(_REUSE_ADDRESS)
    if reuse_port:
        if not hasattr(socket, "SO_REUSEPORT"):
            raise OSError("this system does not let several processes listen on one port: it has no SO_REUSEPORT")
        options.append(socket.SO_REUSEPORT)
    if isinstance(host, str) and host:
        host = encode_host(host)
    addresses = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # What the system chooses for the first address may be taken on another one.
    for _ in range(_CHOICES - 1 if port == 0 else 0):
        try:
            return await _bind_all(addresses, options)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return await _bind_all(addresses, options)


async def _bind_all(addresses: list[tuple[Any, ...]], options: list[int]) -> list[trio.socket.SocketType]:
    """Bind to all addresses that this machine has. A port that the system chooses is the same one on all of them."""
    bound: list[trio.socket.SocketType] = []
    missing: list[OSError] = []
    try:
        for family, kind, protocol, _, address in addresses:
            port = address[1] or (bound[0].getsockname()[1] if bound else 0)
            try:
                bound.append(await _bind_one(family, kind, protocol, options, (address[0], port, *address[2:])))
            except OSError as error:
                if error.errno not in _MISSING:
                    raise
                missing.append(error)
        if missing and not bound:
            # An address that another machine has says more than a family that this one lacks.
            raise next((error for error in missing if error.errno == errno.EADDRNOTAVAIL), missing[0])
    except BaseException:
        _close(bound)
        raise
    return bound


async def _bind_one(
    family: int, kind: int, protocol: int, options: list[int], address: tuple[Any, ...]
) -> trio.socket.SocketType:
    one = trio.socket.socket(family, kind, protocol)
    try:
        for option in options:
            one.setsockopt(socket.SOL_SOCKET, option, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await one.bind(address)
    except BaseException:
        one.close()
        raise
    return one


def _close(sockets: list[trio.socket.SocketType]) -> None:
    for one in sockets:
        one.close()


# The system takes less where it allows less.
_BACKLOG = 65535
# On Windows, SO_REUSEADDR would let others take the port away.
_REUSE_ADDRESS = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
# Names have IPv6 addresses on systems without IPv6, or where it is disabled.
_MISSING = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
# How often the system may choose a port.
_CHOICES = 10

"""Listening on a TCP port: on all addresses of a host, and together with other processes."""

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
    """Listen on a TCP port on all addresses of a host, or of the machine.

    This is like `trio.open_tcp_listeners`, with two differences. A port chosen by the system is the same on all
    addresses. An address that this machine lacks is skipped if the host has another one: for example `::1` of
    `localhost` if IPv6 is disabled.

    Args:
      port: the TCP port; 0 to let the system choose.
      host: a name or an address; None for all addresses of the machine.
      reuse_port: whether other processes of the same user may listen on the port as well. The system then distributes
        the connections among them (`SO_REUSEPORT`).

    Raises:
      TypeError: `port` or `host` has the wrong type.
      ValueError: `port` is out of range.
      OSError: the port is unavailable, or the system lacks `SO_REUSEPORT`.
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
    """Reserve a port for `open_listeners` in processes of this user. Return bound sockets that do not listen.

    Raises:
      OSError: see `open_listeners`.
    """
    try:
        # With SO_REUSEADDR, another process could take the port until one of ours listens.
        return await _bind(port, host, reuse_address=False, reuse_port=True)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    # Connections of an earlier server may still use the address.
    return await _bind(port, host, reuse_address=True, reuse_port=True)


async def _bind(
    port: int, host: str | bytes | None, *, reuse_address: bool, reuse_port: bool
) -> list[trio.socket.SocketType]:
    options = []
    if reuse_address:
        options.append(_REUSE_ADDRESS)
    if reuse_port:
        if not hasattr(socket, "SO_REUSEPORT"):
            raise OSError("several processes cannot listen on one port: this system lacks SO_REUSEPORT")
        options.append(socket.SO_REUSEPORT)
    if isinstance(host, str) and host:
        host = encode_host(host)
    addresses = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # The port picked for the first address may be in use on another; retry.
    for _ in range(_CHOICES - 1 if port == 0 else 0):
        try:
            return await _bind_all(addresses, options)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return await _bind_all(addresses, options)


async def _bind_all(addresses: list[tuple[Any, ...]], options: list[int]) -> list[trio.socket.SocketType]:
    """Bind to all addresses that this machine has, on the same port."""
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
            # EADDRNOTAVAIL is more helpful than EAFNOSUPPORT: it concerns the address, not the system.
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


# The system reduces it to its own limit.
_BACKLOG = 65535
# On Windows, SO_REUSEADDR would let other processes take over the port.
_REUSE_ADDRESS = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
# A name can have an IPv6 address even if the system lacks IPv6 or has disabled it.
_MISSING = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
# The number of attempts to let the system choose a port.
_CHOICES = 10

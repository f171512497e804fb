"""Listening on a port together with other processes."""

from __future__ import annotations

import socket

import trio


async def open_listeners(port: int, host: str | bytes | None, *, reuse_port: bool = False) -> list[trio.SocketListener]:
    """Like `trio.open_tcp_listeners`; with `reuse_port`, other processes of the same user may listen on the port, too.

    The system then spreads the connections over them (`SO_REUSEPORT`).

    Raises:
      OSError: the port cannot be listened on, or the system has no `SO_REUSEPORT`.
    """
    if not reuse_port:
        return await trio.open_tcp_listeners(port, host=host)
    if not hasattr(socket, "SO_REUSEPORT"):
        raise OSError("this system does not let several processes listen on one port")
    addresses = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[trio.SocketListener] = []
    try:
        for family, kind, protocol, _, address in addresses:
            listener = trio.socket.socket(family, kind, protocol)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                await listener.bind(address)
                listener.listen(_BACKLOG)
            except BaseException:
                listener.close()
                raise
            listeners.append(trio.SocketListener(listener))
    except BaseException:
        for opened in listeners:
            opened.socket.close()
        raise
    return listeners


# The system takes less where it allows less.
_BACKLOG = 65535

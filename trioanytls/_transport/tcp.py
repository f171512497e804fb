"""TCP connections of clients."""

from __future__ import annotations

import socket

import trio

from .addresses import format_address


async def open_tcp_stream(host: str, port: int) -> trio.SocketStream:
    """Connect to a host and a TCP port, like `trio.open_tcp_stream`.

    With an IP address, that takes four times as long: it looks the address up, and runs a nursery for one attempt.

    Raises:
      OSError: the connection failed.
    """
    family = _family_of(host)
    if family is None:
        return await trio.open_tcp_stream(host, port)
    try:
        return trio.SocketStream(await _connect(family, host, port))
    except OSError as error:
        # As Trio says it.
        text = f"all attempts to connect to {format_address((host, port))} failed"
        raise OSError(text) from ExceptionGroup(text, [error])


async def _connect(family: socket.AddressFamily, address: str, port: int) -> trio.socket.SocketType:
    connecting = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        await connecting.connect((address, port))
    except BaseException:
        connecting.close()
        raise
    return connecting


def _family_of(host: str) -> socket.AddressFamily | None:
    """Return the family of an IP address; None if the host is a name, or an address with a zone."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.inet_pton(family, host)
    except OSError:
        return None
    return family

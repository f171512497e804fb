"""Whom a transport leads to."""

from __future__ import annotations

import trio


def peer_address(transport: object) -> tuple[str, int] | None:
    """The address and port at the other end of a transport; None where it is no socket, or the peer has gone."""
    if not isinstance(transport, trio.SocketStream):
        return None
    try:
        address = transport.socket.getpeername()
    except OSError:
        return None
    # One of a Unix socket is a path, or nothing.
    return (address[0], address[1]) if isinstance(address, tuple) else None

"""The addresses of both ends of a transport, and how addresses are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio


def peer_address(transport: object) -> tuple[str, int] | None:
    """Return the address and port of the peer; None if the transport is not a socket or the peer disconnected."""
    return _call(transport.socket.getpeername) if isinstance(transport, trio.SocketStream) else None


def local_address(transport: object) -> tuple[str, int] | None:
    """Return the address and port of this end; None if the transport is not a socket."""
    return _call(transport.socket.getsockname) if isinstance(transport, trio.SocketStream) else None


def _call(get_address: Callable[[], Any]) -> tuple[str, int] | None:
    try:
        address = get_address()
    except OSError:
        return None
    # The address of a Unix socket is a path, or empty.
    return (address[0], address[1]) if isinstance(address, tuple) else None


def format_address(address: tuple[str, int] | None) -> str | None:
    """Return `ADDRESS:PORT`, with an IPv6 address in brackets."""
    if address is None:
        return None
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

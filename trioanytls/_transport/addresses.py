"""The addresses of both ends of a transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio


def peer_address(transport: object) -> tuple[str, int] | None:
    """The address and port at the other end of a transport; None where it is no socket, or the peer has gone."""
    return _ask(lambda: transport.socket.getpeername()) if isinstance(transport, trio.SocketStream) else None


def local_address(transport: object) -> tuple[str, int] | None:
    """Return the address and port of this end of a transport; None if it is not a socket."""
    return _ask(lambda: transport.socket.getsockname()) if isinstance(transport, trio.SocketStream) else None


def _ask(ask: Callable[[], Any]) -> tuple[str, int] | None:
    try:
        address = ask()
    except OSError:
        return None
    # One of a Unix socket is a path, or nothing.
    return (address[0], address[1]) if isinstance(address, tuple) else None


def format_address(address: tuple[str, int] | None) -> str | None:
    """An address and a port as they are written, IPv6 in brackets."""
    if address is None:
        return None
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

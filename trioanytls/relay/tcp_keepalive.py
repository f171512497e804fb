"""TCP keep-alive for the connections at both edges of the relay.

Streams may be silent for hours there. An application, or a destination, whose machine has gone without a word would
otherwise keep its stream for all that time.
"""

from __future__ import annotations

import socket
from typing import Final

import trio

# Probes find out whether the peer is there; they do not keep the state of routers alive. Times are in seconds.
_OPTIONS: Final = {
    "TCP_KEEPIDLE": 600,
    "TCP_KEEPALIVE": 600,  # macOS has this name for it
    "TCP_KEEPINTVL": 60,
    "TCP_KEEPCNT": 5,
}


def keep_alive(stream: trio.SocketStream) -> None:
    """Let the system probe the peer of a connection that is silent for 10 minutes, and end it after 5 lost probes."""
    try:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _OPTIONS.items():
            option = getattr(socket, name, None)
            if option is not None:
                stream.setsockopt(socket.IPPROTO_TCP, option, value)
    except OSError:
        # It has ended already, or is not TCP. Whoever uses it will see.
        return

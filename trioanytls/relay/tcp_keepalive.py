"""TCP keep-alive for the connections to applications and destinations.

Such connections may be silent for hours. An application or destination whose machine has disappeared would otherwise
keep its stream open for all that time.
"""

from __future__ import annotations

import socket
from typing import Final

import trio

# The probes detect a peer that has disappeared. They are too rare to keep NAT entries alive. Times are in seconds.
_OPTIONS: Final = {
    "TCP_KEEPIDLE": 600,
    "TCP_KEEPALIVE": 600,  # the name on macOS
    "TCP_KEEPINTVL": 60,
    "TCP_KEEPCNT": 5,
}
_AVAILABLE: Final = [(getattr(socket, name), value) for name, value in _OPTIONS.items() if hasattr(socket, name)]


def keep_alive(stream: trio.SocketStream) -> None:
    """Make the system probe the peer of a connection that is silent for 10 minutes, and end it after 5 lost probes."""
    try:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _AVAILABLE:
            stream.setsockopt(socket.IPPROTO_TCP, option, value)
    except OSError:
        # The connection has ended, in which case its next use fails, or it is not TCP.
        return

"""Errors of the system, said in one line that tells what to do."""

from __future__ import annotations

import errno
import socket

from .option_types import ListenAddress


def listening(address: ListenAddress, option: str, error: OSError) -> str:
    """Why an address cannot be listened on.

    Args:
      option: by what the address is given.
    """
    if isinstance(error, socket.gaierror):
        return f"{option}: {address.host!a} cannot be resolved: {error.strerror}; give an address of this machine"
    number = error.errno
    if number == errno.EADDRINUSE:
        return f"{address} is in use: stop the other program, or choose another port with {option}"
    if number in (errno.EACCES, errno.EPERM):
        return (
            f"{address} is not allowed to you: choose a port from 1024 on with {option}, or give this program the "
            "capability CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=)"
        )
    if number == errno.EADDRNOTAVAIL:
        return f"{address} is no address of this machine: choose one that is with {option}, or *:{address.port} for all"
    if number == errno.EAFNOSUPPORT:
        return f"{address}: this system has no such addresses: choose one of the other kind with {option}, as 0.0.0.0"
    return f"{address} cannot be listened on ({option}): {error.strerror or error}"

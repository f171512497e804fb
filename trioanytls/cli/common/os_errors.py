"""Errors of the operating system as one line that says what to do: the only such mapping of the command line."""

from __future__ import annotations

import errno
import os
import socket

from trioanytls.destination import Destination
from trioanytls.relay.errors import leaves

from .option_types import ListenAddress


def describe_listen_error(address: ListenAddress, option: str, error: OSError) -> str:
    """Describe why the command cannot listen on an address.

    Args:
      option: the option that gives the address.
    """
    if isinstance(error, socket.gaierror):
        return f"{option}: cannot resolve {address.host!a}: {error.strerror}; give a name or an address of this machine"
    number = error.errno
    if number == errno.EADDRINUSE:
        return f"{address} is in use: stop the other program, or choose another port with {option}"
    if number in (errno.EACCES, errno.EPERM):
        return (
            f"permission denied for {address}: choose a port of 1024 or above with {option}, or give this program the "
            "capability CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=)"
        )
    if number == errno.EADDRNOTAVAIL:
        return (
            f"{address} is not an address of this machine: choose one with {option}, or *:{address.port} for all "
            "addresses"
        )
    if number == errno.EAFNOSUPPORT:
        return (
            f"this system does not support the address family of {address}: choose another one with {option}, for "
            "example 0.0.0.0"
        )
    return f"cannot listen on {address} ({option}): {error.strerror or error}"


def describe_connect_error(server: Destination, error: OSError) -> str:
    """Describe why the client cannot connect to the server."""
    reason = error.strerror or str(error)
    # With several addresses, Trio raises an error without a number. Its cause has the error of each address.
    if error.errno is None and error.__cause__ is not None:
        numbers = [leaf.errno for leaf in leaves(error.__cause__) if isinstance(leaf, OSError) and leaf.errno]
        reason = os.strerror(numbers[0]) if numbers else reason
    return f"cannot connect to {server}: {reason}. Check the address and the port, and whether the server is running"

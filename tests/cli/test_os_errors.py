"""The descriptions of errors of the operating system."""

import errno
import socket

import pytest

from trioanytls.cli.common import os_errors
from trioanytls.cli.common.option_types import ListenAddress
from trioanytls.destination import Destination


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            OSError(errno.EADDRINUSE, "x"),
            "[::1]:443 is in use: stop the other program, or choose another port with --it",
        ),
        (
            OSError(errno.EACCES, "x"),
            "permission denied for [::1]:443: choose a port of 1024 or above with --it, or give",
        ),
        (OSError(errno.EADDRNOTAVAIL, "x"), "[::1]:443 is not an address of this machine: choose one with --it"),
        (
            OSError(errno.EAFNOSUPPORT, "x"),
            "this system does not support the address family of [::1]:443: choose another one with --it",
        ),
        (socket.gaierror(-2, "Name not known"), "--it: cannot resolve '::1': Name not known"),
        (OSError(errno.EMFILE, "Too many open files"), "cannot listen on [::1]:443 (--it): Too many open files"),
        (OSError("without a number"), "cannot listen on [::1]:443 (--it): without a number"),
    ],
)
def test_describe_listen_error(error: OSError | PermissionError | socket.gaierror, text: str) -> None:
    described = os_errors.describe_listen_error(ListenAddress("::1", 443), "--it", error)
    assert described.startswith(text)
    assert "\n" not in described


@pytest.mark.parametrize(
    ("error", "cause", "reason"),
    [
        (OSError("all attempts failed"), OSError(errno.ECONNREFUSED, "Error connecting to x"), "Connection refused"),
        (
            OSError("all attempts failed"),
            ExceptionGroup("all", [OSError(errno.ENETUNREACH, "x"), OSError(errno.ECONNREFUSED, "y")]),
            "Network is unreachable",
        ),
        (socket.gaierror(-2, "Name not known"), None, "Name not known"),
        (OSError(errno.EMFILE, "Too many open files"), None, "Too many open files"),
        (OSError("something else"), None, "something else"),
        (OSError("something else"), ValueError("no number"), "something else"),
    ],
)
def test_describe_connect_error(error: OSError, cause: Exception | None, reason: str) -> None:
    error.__cause__ = cause
    described = os_errors.describe_connect_error(Destination("x", 443), error)
    assert described == (
        f"cannot connect to x:443: {reason}. Check the address and the port, and whether the server is running"
    )

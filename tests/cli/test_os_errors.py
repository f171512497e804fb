"""The descriptions of errors of the operating system."""

import errno
import socket

import pytest

from trioanytls.cli.common import os_errors
from trioanytls.cli.common.option_types import ListenAddress


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
def test_what_to_do_about_errors(error: OSError | PermissionError | socket.gaierror, text: str) -> None:
    told = os_errors.describe_listen_error(ListenAddress("::1", 443), "--it", error)
    assert told.startswith(text)
    assert "\n" not in told

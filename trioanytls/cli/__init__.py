"""The command line: `trioanytls`, or `python -m trioanytls`. It requires the extra `cli`.

It may import `trioanytls.relay` and the public names of the library. Each command has a package: its module `options`
contains the click command, and imports the implementation only if the command runs. `common` is shared by all commands.
"""

from __future__ import annotations

import os
import sys

from .common import extras

__all__ = ["run"]


def run() -> None:
    """Run the command line. This is the entry point of the program."""
    open_standard_streams()
    hint = extras.hint("the command line", "cli")
    if hint is not None:
        sys.exit(extras.fail(hint))
    # Imported here, since it needs the packages of the extra.
    from .main import trioanytls

    trioanytls(prog_name="trioanytls")


def open_standard_streams() -> None:
    """Open the null device for each standard stream that is closed, as after `>&-` in a shell.

    Otherwise, the first sockets of the process would get the descriptors 0 to 2, and receive all printed output.
    """
    for name, descriptor, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            # The system uses the lowest free descriptor, which is this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", errors="replace", closefd=False))

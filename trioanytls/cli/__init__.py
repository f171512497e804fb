"""The command line: `trioanytls`, and `python -m trioanytls`. It needs the extra `cli`.

It uses the public names of `trioanytls` only, as any program would.
"""

from __future__ import annotations

import os
import sys

from .common import extras

__all__ = ["run"]


def run() -> None:
    """Run the command line; the entry point."""
    open_standard_streams()
    hint = extras.hint("the command line", "cli")
    if hint is not None:
        sys.exit(extras.give_up(hint))
    # Only now: it needs what the extra brings.
    from .main import trioanytls

    trioanytls(prog_name="trioanytls")


def open_standard_streams() -> None:
    """Open the null device in place of each standard stream that is closed, as after `>&-` in a shell.

    Otherwise, the first sockets of the process would get the numbers 0 to 2, and would receive what a library prints.
    """
    for name, descriptor, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest number that is free, which is this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", errors="replace", closefd=False))

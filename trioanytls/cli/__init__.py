"""The command line: `trioanytls`, and `python -m trioanytls`. It needs the extra `cli`.

It uses the public names of `trioanytls` only, as any program would.
"""

from __future__ import annotations

import sys

from . import _extras

__all__ = ["main"]


def main() -> None:
    """Run the command line; the entry point."""
    hint = _extras.hint("the command line", "cli")
    if hint is not None:
        sys.exit(_extras.give_up(hint))
    # Only now: it needs what the extra brings.
    from . import _commands

    _commands.trioanytls(prog_name="trioanytls")

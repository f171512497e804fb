"""The exit codes of all commands."""

from __future__ import annotations

import enum
from typing import Final


class ExitCode(enum.IntEnum):
    """The exit code of a command. See `after_signal` for those above 128."""

    SUCCESS = 0
    FAILURE = 1
    #: click's own code for a usage error. The systemd units in docs/systemd do not restart after it.
    INVALID = 2


#: The meaning of each exit code, as in docs/commands.md and the manual page.
MEANINGS: Final = {
    "0": "The command succeeded, or it drained after a signal and stopped.",
    "1": "The command failed. The standard error says why.",
    "2": "The command line or the configuration file is invalid, or a package of an extra is not installed.",
    "128 and above": "A signal stopped the command immediately: 128 plus the signal's number.",
}


def after_signal(number: int) -> int:
    """Return the exit code of a command that was stopped by a signal, as a shell reports it."""
    return 128 + number

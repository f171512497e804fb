"""The packages that an extra installs: which of them are missing, and how to install them.

This module imports none of these packages.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Final

from .exit_codes import ExitCode

_PACKAGES: Final = {
    "cli": ("click", "rich", "cryptography", "segno"),
    "metrics": ("h11", "prometheus_client"),
    "plot": ("matplotlib",),
}


def hint(purpose: str, extra: str) -> str | None:
    """Return one line on what to install for `purpose`, None if nothing is missing."""
    missing = [package for package in _PACKAGES[extra] if importlib.util.find_spec(package) is None]
    if not missing:
        return None
    return f"{purpose} needs {', '.join(missing)}; install it with: python3 -m pip install 'trioanytls[{extra}]'"


def fail(text: str) -> int:
    """Print an error, and return the exit code."""
    print(f"Error: {text}", file=sys.stderr)
    return ExitCode.INVALID

"""Packages that only an extra brings: which are missing, and how to get them. It needs none of them itself."""

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
    """What to install before `purpose` is possible, in one line; None where everything is there."""
    missing = [package for package in _PACKAGES[extra] if importlib.util.find_spec(package) is None]
    if not missing:
        return None
    return f"{purpose} needs {', '.join(missing)}; install it with: python3 -m pip install 'trioanytls[{extra}]'"


def give_up(text: str) -> int:
    """Say why nothing is done; the exit code."""
    print(f"Error: {text}", file=sys.stderr)
    return ExitCode.INVALID

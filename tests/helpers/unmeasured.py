"""The environment of a process whose coverage is not measured."""

from __future__ import annotations

import os


def unmeasured() -> dict[str, str]:
    """Return the environment without the variables of coverage: its start imports modules, such as pickle."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}

"""The negotiated extensions, for tests that run with and without them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

import trioanytls

ALL = frozenset({"fin", "goaway", "reset", "window"})
NO_EXTENSIONS: frozenset[str] = frozenset()

#: A test of what holds without extensions and with all of them.
EITHER_WAY = pytest.mark.parametrize(
    "extensions", [pytest.param(NO_EXTENSIONS, id="version 1"), pytest.param(ALL, id="extensions")]
)


def extending(extensions: Collection[str], **options: Any) -> trioanytls.Config:
    """Return the settings of an end that knows these extensions only."""
    options["extensions"] = frozenset(extensions)
    return trioanytls.Config(**options)

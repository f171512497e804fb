"""Fixtures for the tests of a client."""

from __future__ import annotations

import random

import pytest


@pytest.fixture
def full_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all pauses as long as possible, without the random part."""
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)

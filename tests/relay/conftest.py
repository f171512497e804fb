"""Fixtures of the tests of the relay."""

from __future__ import annotations

import pytest

from trioanytls._protocol.interface import WireFormat


@pytest.fixture(params=["anytls1", "legacy"])
def wire_format(request: pytest.FixtureRequest) -> WireFormat:
    """Return the wire format between the two ends of the relay. The test runs with each."""
    found: WireFormat = request.param
    return found

"""Fixtures of the server's tests."""

from __future__ import annotations

import functools
import ssl

import pytest

from ..helpers.server_harness import Start, running


@pytest.fixture
def start(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> Start:
    """Start a server with a control."""
    return functools.partial(running, server_context, client_context)

"""Fixtures of the server's tests."""

from __future__ import annotations

import contextlib
import functools
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from trioanytls._transport.handshake import handshake
from trioanytls._transport.tls_stream import TLSStream

from ..conftest import HOST, Serving
from ..helpers.fallback_harness import Dialling, Relayed, Relaying, receive_exactly, service_listener
from ..helpers.server_harness import Start, running


@pytest.fixture
def start(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> Start:
    """Start a server with a control."""
    return functools.partial(running, server_context, client_context)


@pytest.fixture
def dialling(client_context: ssl.SSLContext) -> Dialling:
    """Return a function that opens a TLS connection to a server of `serving`, without authentication."""

    async def dial(port: int) -> TLSStream:
        transport = await trio.open_tcp_stream(HOST, port)
        return await handshake(transport, client_context, timeout=10, server_hostname=HOST)

    return dial


@pytest.fixture
def relaying(serving: Serving, dialling: Dialling) -> Relaying:
    """Return a context manager: a server with a fallback service, and a connection of which `first` was relayed."""

    @contextlib.asynccontextmanager
    async def start(first: bytes = b"GET", **options: Any) -> AsyncIterator[Relayed]:
        async with service_listener() as (listener, fallback), serving(fallback=fallback, **options) as port:
            client = await dialling(port)
            await client.send_all(first)
            async with await listener.accept() as service:
                assert await receive_exactly(service, len(first)) == first
                yield Relayed(client, service)
            await trio.aclose_forcefully(client.transport)

    return start

"""TLS contexts without any version below TLS 1.3, on both sides (spec: Connections)."""

from __future__ import annotations

import ssl

import pytest

import trioanytls
from trioanytls._transport.tls_context import client_context, require_tls13
from trioanytls.testing import echo

from ..conftest import HOST, USERS


def test_a_context_that_allows_less_is_raised() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    assert require_tls13(context) is context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3


def test_the_default_context_verifies_and_allows_tls13_only() -> None:
    context = client_context()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


async def test_a_context_that_forbids_tls13_is_refused(server_context: ssl.SSLContext) -> None:
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (server_context, client_context):
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ValueError, match=r"TLS 1\.3 or higher; the ssl_context allows at most TLSv1_2"):
        async with trioanytls.open_connection(HOST, 1, password="x", ssl_context=client_context):
            pass
    with pytest.raises(ValueError, match=r"TLS 1\.3"):
        await trioanytls.serve(echo, 0, host=HOST, ssl_context=server_context, users=USERS)

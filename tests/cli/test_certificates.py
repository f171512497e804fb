"""The certificate that the command line makes: real clients accept it for its hosts, and for no other."""

import contextlib
import functools
import ssl
from typing import Any

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls.cli.common import certificates

from ..conftest import HOST, USERS, Serving


async def shake_hands(server: certificates.Certificate, context: ssl.SSLContext, name: str) -> dict[str, Any]:
    """Connect to a server with this certificate under this name; the certificate as the client got it."""
    near, far = trio.testing.memory_stream_pair()
    client = trio.SSLStream(near, context, server_hostname=name)
    async with trio.open_nursery() as nursery:
        other = trio.SSLStream(far, server.server_context(), server_side=True)

        async def serve() -> None:
            # Broken where the client did not trust it.
            with contextlib.suppress(trio.BrokenResourceError):
                await other.do_handshake()

        nursery.start_soon(serve)
        try:
            await client.do_handshake()
            shown: dict[str, Any] = client.getpeercert()
            return shown
        finally:
            await trio.aclose_forcefully(near)


async def refusal(server: certificates.Certificate, context: ssl.SSLContext, name: str) -> str:
    with pytest.RaisesGroup(pytest.RaisesExc(trio.BrokenResourceError)) as info:
        await shake_hands(server, context, name)
    cause = info.value.exceptions[0].__cause__
    assert isinstance(cause, ssl.SSLCertVerificationError)
    return cause.verify_message


@functools.cache
def certificate() -> certificates.Certificate:
    return certificates.make_certificate("localhost", "relay.example", "127.0.0.1", "::1")


@pytest.mark.parametrize("name", ["localhost", "relay.example", "127.0.0.1", "::1"])
@pytest.mark.parametrize("strict", [False, True])
async def test_is_accepted_for_its_hosts(name: str, strict: bool) -> None:
    context = certificate().client_context()
    if strict:  # as Python 3.13 has it by default
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    got = await shake_hands(certificate(), context, name)
    assert ("DNS", "relay.example") in got["subjectAltName"]


@pytest.mark.parametrize("name", ["example", "other.example", "127.0.0.2", "::2"])
async def test_is_refused_for_another_host(name: str) -> None:
    assert "mismatch" in await refusal(certificate(), certificate().client_context(), name)


async def test_is_refused_by_who_does_not_trust_it() -> None:
    other = certificates.make_certificate("localhost")
    assert "self-signed" in await refusal(certificate(), other.client_context(), "localhost")
    assert "self-signed" in await refusal(certificate(), ssl.create_default_context(), "localhost")


def test_the_key_is_not_shown() -> None:
    assert "PRIVATE" not in repr(certificate())


def test_needs_a_host() -> None:
    with pytest.raises(ValueError, match="hosts must not be empty"):
        certificates.make_certificate()


async def test_the_pin_is_the_one_that_a_client_checks(serving: Serving) -> None:
    certificate = certificates.make_certificate(HOST)
    async with serving(ssl_context=certificate.server_context()) as port:
        for pin, fits in ((certificate.pin, True), (certificates.make_certificate(HOST).pin, False)):
            uri = trioanytls.ServerURI(HOST, USERS["alice"], port, pin=pin)
            async with trioanytls.open_client_uri(uri) as client:
                if fits:
                    await (await client.open_stream()).aclose()
                else:
                    with pytest.raises(trioanytls.ConnectFailed, match="pinned"):
                        await client.open_stream()

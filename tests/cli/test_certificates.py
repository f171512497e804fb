"""Self-signed certificates: clients accept them for their hosts only."""

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
    """Connect to a server with this certificate under `name`. Return the certificate that the client received."""
    near, far = trio.testing.memory_stream_pair()
    client = trio.SSLStream(near, context, server_hostname=name)
    async with trio.open_nursery() as nursery:
        other = trio.SSLStream(far, server.server_context(), server_side=True)

        async def serve() -> None:
            # The client closes the connection if it does not trust the certificate.
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
async def test_accepted_for_its_hosts(name: str, strict: bool) -> None:
    context = certificate().client_context()
    if strict:  # the default of Python 3.13
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    got = await shake_hands(certificate(), context, name)
    assert ("DNS", "relay.example") in got["subjectAltName"]


@pytest.mark.parametrize("name", ["example", "other.example", "127.0.0.2", "::2"])
async def test_rejected_for_another_host(name: str) -> None:
    assert "mismatch" in await refusal(certificate(), certificate().client_context(), name)


async def test_rejected_by_a_client_that_does_not_trust_it() -> None:
    other = certificates.make_certificate("localhost")
    assert "self-signed" in await refusal(certificate(), other.client_context(), "localhost")
    assert "self-signed" in await refusal(certificate(), ssl.create_default_context(), "localhost")


def test_repr_hides_the_key() -> None:
    assert "PRIVATE" not in repr(certificate())


def test_hosts_must_not_be_empty() -> None:
    with pytest.raises(ValueError, match="hosts must not be empty"):
        certificates.make_certificate()


async def test_pin_matches_the_client(serving: Serving) -> None:
    certificate = certificates.make_certificate(HOST)
    async with serving(ssl_context=certificate.server_context()) as port:
        for pin, fits in ((certificate.pin, True), (certificates.make_certificate(HOST).pin, False)):
            uri = trioanytls.ServerURI(HOST, USERS["alice"], port, pin=pin, protocol="anytls1")
            async with trioanytls.open_client_uri(uri) as client:
                if fits:
                    await (await client.open_stream()).aclose()
                else:
                    with pytest.raises(trioanytls.ConnectFailed, match="does not match a pin"):
                        await client.open_stream()

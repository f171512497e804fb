"""The TLS handshake: rejected peers and versions, and their errors (spec: Connections)."""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
import trustme

import trioanytls
from trioanytls._transport.handshake import check_version, handshake
from trioanytls.testing import echo

from ..conftest import HOST, USERS, Connecting, Serving


async def test_a_server_that_only_speaks_tls12_is_refused(
    server_context: ssl.SSLContext, connecting: Connecting
) -> None:
    server_context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def handle(transport: trio.SSLStream[trio.SocketStream]) -> None:
        with pytest.raises(trio.BrokenResourceError):
            await transport.do_handshake()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(_serve_ssl, handle, server_context)
        with pytest.raises(trioanytls.TLSError, match=r"TLS 1\.3"):
            async with connecting(listeners[0].transport_listener.socket.getsockname()[1]):
                pass
        nursery.cancel_scope.cancel()


async def _serve_ssl(handle: Any, context: ssl.SSLContext, *, task_status: Any) -> None:
    await trio.serve_ssl_over_tcp(handle, 0, context, host=HOST, task_status=task_status)


class Ending(trio.abc.Stream):
    """A transport whose peer sends some bytes and then closes the connection."""

    def __init__(self, answer: bytes) -> None:
        self._answers = [answer] if answer else []

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._answers.pop(0) if self._answers else b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("server_side", "answer"),
    [
        (False, b""),
        (True, b""),
        (False, b"\x16\x03\x03\x00\x7a\x02"),
        (True, b"\x16\x03\x01\x00\x7a\x01"),
        # A close_notify. To a server, it would be an unexpected message.
        (False, b"\x15\x03\x03\x00\x02\x01\x00"),
    ],
)
async def test_an_end_during_the_handshake_is_reported_alike_by_all_versions_of_python(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, server_side: bool, answer: bytes
) -> None:
    with pytest.raises(trioanytls.TLSError, match="the peer closed the connection during the TLS handshake"):
        await handshake(
            Ending(answer),
            server_context if server_side else client_context,
            timeout=10,
            server_side=server_side,
            server_hostname=None if server_side else HOST,
        )


async def test_a_client_that_only_supports_tls12_is_refused_without_harm(
    serving: Serving, connecting: Connecting, authority: trustme.CA
) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(old)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with serving() as port:
        transport = trio.SSLStream(await trio.open_tcp_stream(HOST, port), old, server_hostname=HOST)
        with pytest.raises(trio.BrokenResourceError):
            await transport.do_handshake()
        await trio.aclose_forcefully(transport)
        async with connecting(port) as connection:
            assert await connection.ping() >= 0


async def test_the_version_is_checked_after_the_handshake() -> None:
    check_version("TLSv1.3")
    for version in ("TLSv1.2", None):
        with pytest.raises(trioanytls.TLSError, match=r"TLS 1\.3"):
            check_version(version)


async def test_certificates_are_verified(serving: Serving, connecting: Connecting) -> None:
    other_trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trustme.CA().configure_trust(other_trust)
    async with serving() as port:
        for options in ({"ssl_context": other_trust}, {"server_hostname": "elsewhere.example"}):
            with pytest.raises(trioanytls.CertificateError, match="certificate is not accepted") as caught:
                async with connecting(port, **options):
                    pass
            assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
            assert isinstance(caught.value, trio.BrokenResourceError)


async def test_garbage_instead_of_a_handshake_does_no_harm(serving: Serving, connecting: Connecting) -> None:
    async with serving() as port:
        scanner = await trio.open_tcp_stream(HOST, port)
        await scanner.send_all(b"GET / HTTP/1.1\r\n\r\n")
        await scanner.aclose()
        async with connecting(port) as connection:
            assert await connection.ping() >= 0


# A string that cannot be encoded, and so cannot be a password.
UNENCODABLE = "pass\udc80word"


async def test_a_transport_is_closed_also_when_an_argument_is_invalid(autojump_clock: trio.testing.MockClock) -> None:
    near, far = trio.testing.memory_stream_pair()
    with pytest.raises(ValueError, match="surrogates"):
        async with trioanytls.wrap_client(near, password=UNENCODABLE):
            pass
    with trio.fail_after(1):
        assert await far.receive_some() == b""
    for users, config in (
        ({"alice": UNENCODABLE}, trioanytls.Config()),
        ({}, trioanytls.Config()),
        (USERS, trioanytls.Config(on_violation="fallback")),
    ):
        near, far = trio.testing.memory_stream_pair()
        with pytest.raises(ValueError):  # noqa: PT011 - of each kind
            await trioanytls.serve_connection(near, echo, users=users, config=config)
        with trio.fail_after(1):
            assert await far.receive_some() == b""


async def never(*_: object) -> None:
    await trio.sleep(math.inf)


async def to_nobody(*_: object) -> trio.abc.Stream:
    await trio.sleep(1)
    return trio.testing.memory_stream_pair()[0]


@pytest.mark.parametrize(
    ("connect", "expected", "message"),
    [
        (never, TimeoutError, "no TCP connection to there.example:443 within 4 s"),
        # The time left after connecting with TCP.
        (to_nobody, trioanytls.TLSError, "the TLS handshake took longer than 3 s"),
    ],
)
async def test_what_took_too_long_is_named(
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    client_context: ssl.SSLContext,
    connect: Callable[..., object],
    expected: type[Exception],
    message: str,
) -> None:
    monkeypatch.setattr(trio, "open_tcp_stream", connect)
    pool = trioanytls.PoolConfig(connect_timeout=4, open_timeout=6)
    async with trioanytls.open_client(
        "there.example", 443, password="x", ssl_context=client_context, pool=pool
    ) as client:
        with pytest.raises(trioanytls.ConnectFailed, match=message) as caught:
            await client.open_stream()
        assert type(caught.value.__cause__) is expected
        # Another attempt may succeed.
        assert client.stats.connecting == 1

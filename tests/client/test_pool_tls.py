"""A client over TLS: sessions are resumed, pins are checked, and errors name what is wrong with a server."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import hashlib
import logging
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import trioanytls
from trioanytls import PoolConfig
from trioanytls._client.pool import Client
from trioanytls._transport.handshake import handshake
from trioanytls._transport.pinning import pin_of
from trioanytls.testing import echo

from ..conftest import HOST, USERS, Serving
from ..transport.test_pinning import KEYS, certificate, public_key, two_faced

SINGLE = PoolConfig(max_streams_per_connection=1)
#: A generous timeout for an immediate failure on a busy machine, in seconds.
TIMEOUT = 20


async def work(client: Client) -> trioanytls.Connection:
    with trio.fail_after(TIMEOUT):
        async with await client.open_stream() as stream:
            await stream.send_all(b"ping")
            assert await stream.receive_some() == b"ping"
            return stream.connection


async def fails(client: Client, attempts: int = 1) -> trioanytls.ConnectFailed:
    """Call `open_stream` until this number of attempts have failed, and return the last error.

    A busy machine may need more than one call.
    """
    with trio.fail_after(TIMEOUT):
        while True:
            with pytest.raises(trioanytls.ConnectFailed) as caught:
                await client.open_stream()
            if client.stats.connections_failed >= attempts and caught.value.__cause__ is not None:
                return caught.value


def client_of(
    port: int, context: ssl.SSLContext | None = None, **options: Any
) -> contextlib.AbstractAsyncContextManager[trioanytls.Client]:
    options = {"password": USERS["alice"], "ssl_context": context, "pool": SINGLE, **options}
    return trioanytls.open_client(HOST, port, **options)


def context_of(key: ec.EllipticCurvePrivateKey, der: bytes, directory: Path) -> ssl.SSLContext:
    """Make a server's context with this certificate."""
    path = directory / "server.pem"
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem + ssl.DER_cert_to_PEM_cert(der).encode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    """Make a server's context with an expired, self-signed certificate for the first of `KEYS`."""
    return context_of(KEYS[0], certificate(KEYS[0]), tmp_path)


PIN = hashlib.sha256(public_key(KEYS[0])).hexdigest()
OTHER_PIN = hashlib.sha256(public_key(KEYS[1])).hexdigest()


@contextlib.asynccontextmanager
async def tcp_server(
    handle: Callable[[trio.SocketStream], Awaitable[None]],
) -> AsyncIterator[tuple[int, list[trio.SocketStream]]]:
    """Run a TCP server that does not speak ANYTLS. Yield its port and the connections that were made to it."""
    accepted: list[trio.SocketStream] = []

    async def accept(transport: trio.SocketStream) -> None:
        accepted.append(transport)
        with contextlib.suppress(trio.BrokenResourceError):
            await handle(transport)

    async with trio.open_nursery() as nursery:
        serve = functools.partial(trio.serve_tcp, accept, 0, host=HOST)
        listeners = await nursery.start(serve)
        yield listeners[0].socket.getsockname()[1], accepted
        nursery.cancel_scope.cancel()


# Resumption


async def test_the_second_connection_resumes_the_session_of_the_first(
    serving: Serving, client_context: ssl.SSLContext
) -> None:
    async with serving() as port, client_of(port, client_context) as client:
        streams = []
        for number in range(5):
            streams.append(await client.open_stream())
            await streams[-1].send_all(b"x")
            assert await streams[-1].receive_some() == b"x"
            assert client.stats.connections_resumed == number
        assert client.stats.connections_made == 5
        assert [stream.connection._transport.resumed for stream in streams] == [False] + [True] * 4  # type: ignore[attr-defined]  # of the class that the test uses


async def test_a_session_is_resumed_after_all_connections_have_ended(
    serving: Serving, client_context: ssl.SSLContext
) -> None:
    async with serving() as port, client_of(port, client_context) as client:
        for _ in range(3):
            connection = await work(client)
            client._leases.connections[0].retire("idle")
            await connection.wait_closed()
        assert (client.stats.connections_made, client.stats.connections_resumed) == (3, 2)


async def test_a_connection_that_brings_no_ticket_leaves_the_last_one(
    serving: Serving, client_context: ssl.SSLContext
) -> None:
    async with serving() as port, client_of(port, client_context) as client:
        await work(client)
        for _ in range(3):
            transport = await client._connector.dial(TIMEOUT)
            assert transport.resumed  # type: ignore[attr-defined]  # of the class that the test uses
            # Closed before the server has sent anything.
            await trio.aclose_forcefully(transport)


async def test_a_server_that_gives_no_tickets_is_connected_to_in_full(
    serving: Serving, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    server_context.num_tickets = 0
    async with serving() as port, client_of(port, client_context) as client:
        async with await client.open_stream() as stream:
            await stream.wait_acknowledged()
            await work(client)
            await work(client)
        assert (client.stats.connections_made, client.stats.connections_resumed) == (2, 0)


async def test_a_ticket_that_the_server_does_not_know_any_more_harms_nothing(
    authority: trustme.CA, client_context: ssl.SSLContext
) -> None:
    made: list[bool] = []
    async with trio.open_nursery() as nursery, contextlib.AsyncExitStack() as stack:
        port, client = 0, None
        # The second server has the port of the first one, and different ticket keys.
        for _ in range(2):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(HOST).configure_cert(context)
            scope = trio.CancelScope()
            listeners = await nursery.start(serve_in, scope, port, context)
            port = listeners[0].socket.getsockname()[1]
            client = client or await stack.enter_async_context(client_of(port, client_context))  # type: ignore[arg-type, func-returns-value]  # a stand-in, or what is tested
            for _ in range(2):
                connection = await work(client)  # type: ignore[arg-type]  # a stand-in, or what is tested
                made.append(connection._transport.resumed)  # type: ignore[attr-defined]  # of the class that the test uses
                client._leases.connections[-1].retire("idle")  # type: ignore[attr-defined]  # of the class that the test uses
                await connection.wait_closed()
            scope.cancel()
    assert made == [False, True, False, True]


async def serve_in(
    scope: trio.CancelScope,
    port: int,
    context: ssl.SSLContext,
    *,
    task_status: trio.TaskStatus[list[trio.SocketListener]],
) -> None:
    with scope:
        await trioanytls.serve(echo, port, host=HOST, ssl_context=context, users=USERS, task_status=task_status)


# Pins


async def test_a_pin_takes_the_place_of_the_systems_trust(serving: Serving, self_signed: ssl.SSLContext) -> None:
    async with serving(ssl_context=self_signed) as port:
        for pin in (PIN, PIN.upper(), f"sha256/{PIN}", [OTHER_PIN, PIN]):
            async with client_of(port, pin=pin) as client:
                await work(client)
        async with trioanytls.open_connection(HOST, port, password=USERS["alice"], pin=PIN) as connection:
            await connection.ping()


async def test_a_server_with_another_key_is_not_the_one(serving: Serving, self_signed: ssl.SSLContext) -> None:
    async with serving(ssl_context=self_signed) as port:
        for pin in (OTHER_PIN, [OTHER_PIN, "0" * 64]):
            async with client_of(port, pin=pin) as client:
                error = await fails(client)
                assert str(error) == "the server's public key does not match a pin"
                assert isinstance(error.__cause__, trioanytls.CertificateError)
                assert client.stats.connections_failed == 1
        with pytest.raises(trioanytls.CertificateError, match="does not match a pin"):
            async with trioanytls.open_connection(HOST, port, password=USERS["alice"], pin=OTHER_PIN):
                pass


async def test_beside_a_context_both_have_to_be_satisfied(
    serving: Serving, authority: trustme.CA, client_context: ssl.SSLContext, self_signed: ssl.SSLContext, tmp_path: Path
) -> None:
    issued = authority.issue_cert(HOST)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(server_context)
    pin = pin_of(ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())).hex()
    async with serving(ssl_context=server_context) as port:
        async with client_of(port, client_context, pin=pin) as client:
            await work(client)
        async with client_of(port, client_context, pin=PIN) as client:
            assert "does not match a pin" in str(await fails(client))
    async with serving(ssl_context=self_signed) as port, client_of(port, client_context, pin=PIN) as client:
        assert "certificate is not accepted" in str(await fails(client))


async def test_a_session_that_is_resumed_is_checked_against_the_pins_as_well(
    serving: Serving, self_signed: ssl.SSLContext
) -> None:
    async with (
        serving(ssl_context=self_signed) as port,
        client_of(port, pin=PIN) as client,
        await client.open_stream() as held,
    ):
        await held.wait_acknowledged()
        resumed = await work(client)
        assert resumed._transport.resumed  # type: ignore[attr-defined]  # of the class that the test uses
        session = resumed._transport.take_session()  # type: ignore[attr-defined]  # of the class that the test uses
    context = client._connector.dial.__self__._endpoint._context  # type: ignore[attr-defined]  # of the class that the test uses
    async with serving(ssl_context=self_signed) as port:
        for pins, accepted in (([bytes.fromhex(PIN)], True), ([bytes.fromhex(OTHER_PIN)], False)):
            transport = await trio.open_tcp_stream(HOST, port)
            secure = functools.partial(
                handshake,
                transport,
                context,
                timeout=TIMEOUT,
                server_hostname=HOST,
                pins=pins,
                session=session,
            )
            if accepted:
                secured = await secure()
                assert secured.resumed
                await trio.aclose_forcefully(secured)
            else:
                with pytest.raises(trioanytls.CertificateError):
                    await secure()


async def test_a_certificate_that_can_be_read_in_two_ways_satisfies_no_pin(serving: Serving, tmp_path: Path) -> None:
    mine = ec.generate_private_key(ec.SECP256R1())
    context = context_of(mine, two_faced(mine, KEYS[0]), tmp_path)
    async with serving(ssl_context=context) as port, client_of(port, pin=PIN) as client:
        assert "does not match a pin" in str(await fails(client))


async def test_a_pin_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="expected the SHA-256"):
        async with trioanytls.open_client(HOST, 1, password="x", pin="nonsense"):
            pass


# Faults of a server


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("untrusted", "unable to get local issuer certificate"),
        ("self-signed", "self-signed certificate"),
        ("expired", "certificate has expired"),
        ("not yet valid", "certificate is not yet valid"),
        ("another host's", f"IP address mismatch, certificate is not valid for '{HOST}'"),
        ("another name's", "Hostname mismatch, certificate is not valid for 'www.example'"),
    ],
)
async def test_a_certificate_that_is_not_accepted_is_an_error_at_once(
    serving: Serving, self_signed: ssl.SSLContext, what: str, message: str
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    options: dict[str, Any] = {"context": trusting(trustme.CA() if what == "untrusted" else authority)}
    if what == "self-signed":
        context = self_signed
    elif what == "expired":
        authority.issue_cert(HOST, not_before=now - 2 * day, not_after=now - day).configure_cert(context)
    elif what == "not yet valid":
        authority.issue_cert(HOST, not_before=now + day, not_after=now + 2 * day).configure_cert(context)
    else:
        authority.issue_cert("elsewhere.example" if what == "another host's" else HOST).configure_cert(context)
    if what == "another name's":
        options["server_hostname"] = "www.example"
    async with serving(ssl_context=context) as port:
        async with client_of(port, **options) as client:
            error = await fails(client)
            assert str(error).startswith("the server's certificate is not accepted: ")
            assert message in str(error)
            assert isinstance(error.__cause__, trioanytls.CertificateError)
            assert isinstance(error.__cause__.__cause__, ssl.SSLCertVerificationError)
            # There was no second attempt, and all waiting callers fail.
            assert client.stats.connections_failed == 1
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(fails, client)
        with pytest.raises(trioanytls.CertificateError, match="certificate is not accepted"):
            async with trioanytls.open_connection(
                HOST, port, password="x", ssl_context=options.pop("context"), **options
            ):
                pass


SHORT = PoolConfig(open_timeout=0.3)


@contextlib.contextmanager
def openssl_server(context: ssl.SSLContext) -> Iterator[int]:
    """Run a server with blocking sockets: if a handshake fails, OpenSSL itself sends the alert to the client."""
    listener = socket.create_server((HOST, 0))

    def run() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
                    secured.recv(1)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        # This ends `accept`.
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


async def test_a_server_that_only_speaks_tls12_is_named_as_such(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    server_context.maximum_version = ssl.TLSVersion.TLSv1_2
    with openssl_server(server_context) as port:
        async with client_of(port, client_context) as client:
            # At once, as another attempt would have no other outcome.
            error = await fails(client)
            assert client.stats.connections_failed == 1
        with pytest.raises(trioanytls.TLSError, match=r"^the peer does not support TLS 1\.3$"):
            async with trioanytls.open_connection(HOST, port, password="x", ssl_context=client_context):
                pass
    assert str(error) == "the peer does not support TLS 1.3"
    assert type(error.__cause__) is trioanytls.TLSError
    assert error.__cause__ is not None
    assert isinstance(error.__cause__.__cause__, ssl.SSLError)


async def test_a_server_that_only_closes_may_be_such_a_one(client_context: ssl.SSLContext) -> None:
    async def handle(transport: trio.SocketStream) -> None:
        await transport.receive_some()
        await transport.aclose()

    async with tcp_server(handle) as (port, _), client_of(port, client_context, pool=SHORT) as client:
        # Another attempt may have another outcome.
        error = await fails(client, attempts=2)
    assert "it may not support TLS 1.3" in str(error)


async def test_a_server_that_speaks_something_else(client_context: ssl.SSLContext) -> None:
    async def handle(transport: trio.SocketStream) -> None:
        await transport.send_all(b"220 mail.example ESMTP\r\n")
        await transport.receive_some()

    async with tcp_server(handle) as (port, _), client_of(port, client_context, pool=SHORT) as client:
        error = await fails(client)
    assert "the TLS handshake failed" in str(error)
    assert error.__cause__ is not None
    assert isinstance(error.__cause__.__cause__, ssl.SSLError)


async def test_where_nobody_listens_the_cause_says_so(client_context: ssl.SSLContext) -> None:
    listeners = await trio.open_tcp_listeners(0, host=HOST)
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    async with client_of(port, client_context, pool=SHORT) as client:
        error = await fails(client)
    # Trio tries all addresses of a name, and gives the reasons in the causes only.
    assert "no connection could be made: all attempts to connect to" in str(error)
    assert "refused" in str(error)
    assert type(error.__cause__) is OSError


async def test_a_host_that_cannot_be_one_is_refused_at_once(client_context: ssl.SSLContext) -> None:
    with pytest.raises(ValueError, match="invalid host name"):
        async with trioanytls.open_client("ä..b", 1, password="x", ssl_context=client_context):
            pass


async def test_a_server_name_that_tls_does_not_take_is_an_error_at_once(
    serving: Serving, client_context: ssl.SSLContext
) -> None:
    async with (
        serving() as port,
        trioanytls.open_client(
            HOST, port, password="x", ssl_context=client_context, server_hostname=".example"
        ) as client,
    ):
        error = await fails(client)
        assert isinstance(error.__cause__, ValueError)
        assert client.stats.connections_failed == 1


async def test_a_server_that_closes_behind_the_handshake_is_not_connected_to_without_a_pause(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def handle(transport: trio.SocketStream) -> None:
        secured = trio.SSLStream(transport, server_context, server_side=True)
        await secured.do_handshake()
        await secured.aclose()

    pool = PoolConfig(retry_delay=0.05, max_retry_delay=0.05, open_timeout=0.3)
    async with tcp_server(handle) as (port, accepted), client_of(port, client_context, pool=pool) as client:
        started = trio.current_time()
        for _ in range(3):
            with trio.fail_after(TIMEOUT), pytest.raises((trioanytls.ConnectionClosed, trioanytls.ConnectFailed)):
                await (await client.open_stream()).receive_some()
        # One attempt at the beginning and one after each pause. No pause is shorter than this.
        assert len(accepted) <= 1 + (trio.current_time() - started) / 0.025


async def test_a_wrong_password_over_tls(serving: Serving, client_context: ssl.SSLContext) -> None:
    async with serving() as port, client_of(port, client_context, password="wrong") as client:
        for _ in range(2):
            with trio.fail_after(TIMEOUT), pytest.raises(trioanytls.ConnectionClosed):
                async with await client.open_stream() as stream:
                    await stream.send_all(b"x")
                    await stream.receive_some()
        assert client.stats.connections_made == 2


# URIs


@contextlib.asynccontextmanager
async def server_that_notes_names(
    serving: Serving, context: ssl.SSLContext
) -> AsyncIterator[tuple[int, list[str | None]]]:
    names: list[str | None] = []
    context.sni_callback = lambda _object, name, _context: names.append(name)
    async with serving(ssl_context=context) as port:
        yield port, names


@pytest.mark.parametrize(
    ("option", "sent"),
    [
        ("", None),
        ("sni=www.example&", "www.example"),
        ("sni=192.0.2.1&", None),
        ("sni=2001:db8::1&", None),
        ("sni=&", None),
    ],
)
async def test_no_name_is_sent_that_is_an_ip_address(
    serving: Serving, self_signed: ssl.SSLContext, option: str, sent: str | None
) -> None:
    async with server_that_notes_names(serving, self_signed) as (port, names):
        uri = f"anytls://password@{HOST}:{port}/?{option}pin={PIN}&proto=anytls1"
        async with trioanytls.open_client_uri(uri) as client:
            await work(client)
    assert names == [sent]


async def test_an_insecure_uri_is_a_warning_and_accepts_anybody(
    serving: Serving, self_signed: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(ssl_context=self_signed) as port:
        address = f"anytls://password@{HOST}:{port}/?proto=anytls1"
        async with trioanytls.open_client_uri(f"{address}&insecure=1") as client:
            await work(client)
        warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
        text = "insecure=1 disables certificate verification: the connection is open to man-in-the-middle attacks"
        assert [(record.name, record.message) for record in warnings] == [
            ("trioanytls.client", f"{HOST}:{port}: {text}")
        ]
        caplog.clear()
        # With a pin, no other server is accepted.
        async with trioanytls.open_client_uri(f"{address}&insecure=1&pin={PIN}") as client:
            await work(client)
        async with trioanytls.open_client_uri(trioanytls.parse_uri(f"{address}&insecure=1&pin={OTHER_PIN}")) as client:
            assert "does not match a pin" in str(await fails(client))
        # Without either, the system's authorities decide.
        async with trioanytls.open_client_uri(address) as client:
            assert "certificate is not accepted" in str(await fails(client))
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_uri_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(trioanytls.URIError):
        async with trioanytls.open_client_uri("anytls://localhost/"):
            pass

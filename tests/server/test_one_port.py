"""One port for both wire formats and a web server, over TLS on loopback (legacy: 9).

The timers of these servers are off unless a test is about them: a connection that waited for one would never go on.
"""

from __future__ import annotations

import contextlib
import hmac
import math
import ssl
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Any
from unittest import mock

import pytest
import trio

import trioanytls
from trioanytls import Config, WireFormat
from trioanytls._protocol.anytls1 import frames as anytls1_frames
from trioanytls._protocol.credentials import hash_password
from trioanytls._protocol.formats import WIRE_FORMATS
from trioanytls._protocol.legacy.preamble import encode_preamble
from trioanytls._transport.handshake import handshake
from trioanytls._transport.tls_stream import TLSStream
from trioanytls.testing import StreamQueue

from ..conftest import HOST, USERS, Connecting, Serving
from ..helpers.fallback_harness import Dialling, end_tcp, end_tls, receive_all, receive_exactly, service_listener
from ..helpers.legacy_bytes import ALERT, CLIENT_SETTINGS, PREAMBLE, SERVER_SETTINGS_2, frame, psh, syn, synack, waste
from ..helpers.legacy_bytes import HELLO as LEGACY_HELLO
from ..helpers.raw_peer import HELLO
from ..helpers.server_harness import Start, answers, eventually, running

NO_TIMERS = Config(auth_timeout=math.inf, idle_timeout=math.inf)
BOTH = WIRE_FORMATS

every_format = pytest.mark.parametrize("protocol", WIRE_FORMATS)


class Fronted:
    """A server of ANYTLS, and the TCP service that it falls back to."""

    def __init__(self, port: int, service: trio.SocketListener, control: trioanytls.ServerControl) -> None:
        self.port = port
        self.service = service
        self._control = control

    async def has_received(self, size: int) -> None:
        """Wait until the server has received this many bytes, so that the next ones are another record for it."""
        await eventually(lambda: self._control.snapshot().bytes_received == size)


Front = Callable[..., AbstractAsyncContextManager[Fronted]]


@pytest.fixture
def front(serving: Serving) -> Front:
    """Return a context manager: a server without timers, in front of a service."""

    @contextlib.asynccontextmanager
    async def start(protocols: Collection[WireFormat] = BOTH, **options: Any) -> AsyncIterator[Fronted]:
        control = trioanytls.ServerControl()
        options = {"config": NO_TIMERS, "control": control, **options}
        async with (
            service_listener() as (service, fallback),
            serving(fallback=fallback, protocols=protocols, **options) as port,
        ):
            # Without a timer of the server, a fault would be a test that never ends.
            with trio.fail_after(30):
                yield Fronted(port, service, control)

    return start


async def is_served(connecting: Connecting, port: int, protocol: WireFormat, **options: Any) -> bool:
    async with connecting(port, protocol=protocol, **options) as connection:
        return await answers(connection)


# What is not ANYTLS

#: What clients of 20 protocols send first: from 14 bytes up.
REQUESTS: dict[str, bytes] = {
    "HTTP/0.9": b"GET /page.html",
    "redis": b"*1\r\n$4\r\nPING\r\n",
    "memcached": b"get some_key\r\n\r\n",
    "ftp": b"USER anonymous\r\n",
    "smtp": b"EHLO relay.test\r\n",
    "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
    "HEAD": b"HEAD / HTTP/1.0\r\n\r\n",
    "imap": b"a001 LOGIN ali secret\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.6p1\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "rtsp": b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n",
    "dns": bytes.fromhex("001d123401000001000000000000076578616d706c6503636f6d0000010001"),
    "33 bytes": b"x" * 33,
    "34 bytes": b"x" * 34,
    "35 bytes": b"x" * 35,
    "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\n\r\n",
    "POST": b"POST /form HTTP/1.1\r\nHost: example.com\r\nContent-Length: 5\r\n\r\nhello",
    "postgresql": bytes.fromhex("00000029 00030000") + b"user\0alice\0database\0alice\0\0\0\0\0\0",
    "tls": bytes.fromhex("16030100f8010000f40303") + bytes(range(242)),
    "20,000 bytes": bytes(range(1, 251)) * 80,
}


def test_the_requests_are_twenty_from_14_bytes_up() -> None:
    assert len(REQUESTS) == 20
    assert min(map(len, REQUESTS.values())) == 14


@pytest.mark.parametrize("protocols", [BOTH, ("legacy",)], ids=["both", "legacy"])
@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
async def test_the_service_answers_at_once(
    front: Front, dialling: Dialling, request_: bytes, protocols: tuple[WireFormat, ...]
) -> None:
    async with front(protocols) as server, await dialling(server.port) as client:
        await client.send_all(request_)
        async with await server.service.accept() as service:
            assert await receive_exactly(service, len(request_)) == request_
            await service.send_all(b"the answer")
            assert await receive_exactly(client, 10) == b"the answer"


@pytest.mark.parametrize("size", [1, 3, 13, 34])
@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
async def test_the_service_gets_each_piece_at_once(
    front: Front, dialling: Dialling, request_: bytes, size: int
) -> None:
    beginning = request_[: 40 * size]
    pieces = [beginning[start : start + size] for start in range(0, len(beginning), size)]
    # Zeros may be the beginning of AUTH: 34 bytes, or another first byte, decide.
    waits = [number for number, piece in enumerate(pieces) if not may_be_auth(b"".join(pieces[: number + 1]))]
    async with front() as server, await dialling(server.port) as client:
        decided = waits[0]
        for number in range(decided + 1):
            await client.send_all(pieces[number])
            await server.has_received(len(b"".join(pieces[: number + 1])))
        async with await server.service.accept() as service:
            first = b"".join(pieces[: decided + 1])
            assert await receive_exactly(service, len(first)) == first
            for piece in pieces[decided + 1 :]:
                await client.send_all(piece)
                assert await receive_exactly(service, len(piece)) == piece


def may_be_auth(data: bytes) -> bool:
    return len(data) < 34 and b"\x00\x00".startswith(data[:2])


@pytest.mark.parametrize("end", [end_tls, end_tcp])
@pytest.mark.parametrize("first", [b"", b"\x00", bytes(33), PREAMBLE[:34], PREAMBLE[:63]], ids=len)
async def test_the_end_of_a_client_decides(
    front: Front, dialling: Dialling, first: bytes, end: Callable[[TLSStream], Any]
) -> None:
    async with front() as server:
        client = await dialling(server.port)
        if first:
            await client.send_all(first)
        await end(client)
        async with await server.service.accept() as service:
            assert await receive_all(service) == first
        await trio.aclose_forcefully(client)


@pytest.mark.parametrize(
    "first",
    [
        encode_preamble(hash_password("wrong"), 30),
        encode_preamble(hash_password("wrong"), 30) + CLIENT_SETTINGS + syn(1) + psh(1, b"data"),
        anytls1_frames.encode_auth(hash_password("wrong"), 30),
        # A known hash in the wrong place
        b"\x00" + hash_password(USERS["alice"]) + bytes(10),
        b"\x00\x01" + hash_password(USERS["alice"]) + bytes(10),
        # A padding longer than the limit
        hash_password(USERS["alice"]) + b"\xff\xff" + b"x" * 10,
    ],
)
async def test_a_failed_authentication_goes_to_the_fallback_whole(
    front: Front, dialling: Dialling, first: bytes
) -> None:
    config = Config(auth_timeout=math.inf, idle_timeout=math.inf, max_auth_padding=1000)
    async with front(config=config) as server, await dialling(server.port) as client:
        await client.send_all(first)
        async with await server.service.accept() as service:
            assert await receive_exactly(service, len(first)) == first
            await client.send_all(b"more")
            assert await receive_exactly(service, 4) == b"more"
            await service.send_all(b"answer")
            assert await receive_exactly(client, 6) == b"answer"


async def test_without_a_fallback_tls_ends_at_once(serving: Serving, dialling: Dialling) -> None:
    async with serving(protocols=BOTH, config=NO_TIMERS) as port:
        for first in (b"GET / HTTP/1.0\r\n\r\n", b"x" * 34, encode_preamble(hash_password("wrong"), 30)):
            async with await dialling(port) as client:
                await client.send_all(first)
                # A close_notify, and nothing else.
                assert await receive_all(client) == b""


# Hashes that look like something else


@every_format
@pytest.mark.parametrize("prefix", [b"\x00\x00", b"GET ", b"GET / HTTP/1.0\r\n\r\n"])
async def test_a_hash_may_begin_like_auth_or_http(
    front: Front,
    dialling: Dialling,
    connecting: Connecting,
    hashes: dict[str, bytes],
    prefix: bytes,
    protocol: WireFormat,
) -> None:
    hashes["unlucky"] = prefix + bytes(range(100, 132 - len(prefix)))
    async with front(users={**USERS, "eve": "unlucky"}) as server:
        assert await is_served(connecting, server.port, protocol, password="unlucky")
        assert await is_served(connecting, server.port, protocol)
        # The web server still answers at once, also a request that goes on like the hash.
        for request in (b"GET / HTTP/1.0\r\n\r\n", hashes["unlucky"][:31] + b"x" * 10):
            async with await dialling(server.port) as client:
                await client.send_all(request)
                async with await server.service.accept() as service:
                    assert await receive_exactly(service, len(request)) == request


# How the first bytes arrive


async def test_the_record_of_a_preamble_may_arrive_byte_by_byte(front: Front, dialling: Dialling) -> None:
    """The first record counts, and not the packets of TCP that it comes in."""
    async with front() as server, await dialling(server.port) as client:
        client._encrypt(PREAMBLE[:34])
        for byte in client._take_outgoing():
            await client.transport.send_all(bytes((byte,)))
            await trio.sleep(0.001)
        await client.send_all(PREAMBLE[34:] + CLIENT_SETTINGS + syn(1))
        answer = SERVER_SETTINGS_2 + synack(1)
        assert await receive_exactly(client, len(answer)) == answer


async def test_a_record_of_the_largest_size_is_received_whole(front: Front, dialling: Dialling) -> None:
    preamble = encode_preamble(hash_password(USERS["alice"]), 8000)
    fill = waste(16384 - len(preamble) - len(CLIENT_SETTINGS) - len(syn(1)) - 7)
    async with front() as server, await dialling(server.port) as client:
        await client.send_all(preamble + CLIENT_SETTINGS + fill + syn(1))
        answer = SERVER_SETTINGS_2 + synack(1)
        assert await receive_exactly(client, len(answer)) == answer


async def test_the_preamble_may_come_with_the_end_of_the_handshake(
    front: Front, client_context: ssl.SSLContext
) -> None:
    async with front() as server:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_context.wrap_bio(incoming, outgoing, server_hostname=HOST)
        async with await trio.open_tcp_stream(HOST, server.port) as transport:
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await transport.send_all(outgoing.read())
                    incoming.write(await transport.receive_some())
            client.write(PREAMBLE)
            client.write(CLIENT_SETTINGS + syn(1))
            # Finished, the preamble, and the first frames in one packet
            await transport.send_all(outgoing.read())
            answer, received = SERVER_SETTINGS_2 + synack(1), b""
            while len(received) < len(answer):
                with contextlib.suppress(ssl.SSLWantReadError):
                    received += client.read(100)
                    continue
                incoming.write(await transport.receive_some())
            assert received == answer


async def test_auth_of_anytls1_may_come_byte_by_byte(front: Front, dialling: Dialling) -> None:
    async with front() as server, await dialling(server.port) as client:
        for number, byte in enumerate(HELLO):
            await client.send_all(bytes((byte,)))
            await server.has_received(number + 1)
        await client.send_all(anytls1_frames.encode_open(1))
        answer = anytls1_frames.encode_server_nego(b"v=1\n") + anytls1_frames.encode_ack(1)
        assert await receive_exactly(client, len(answer)) == answer


async def test_the_padding_of_a_preamble_may_come_in_records(front: Front, dialling: Dialling) -> None:
    preamble = encode_preamble(hash_password(USERS["alice"]), 5000)
    async with front() as server, await dialling(server.port) as client:
        for start in range(0, len(preamble), 1186):
            await client.send_all(piece := preamble[start : start + 1186])
            await server.has_received(start + len(piece))
        await client.send_all(CLIENT_SETTINGS + syn(1))
        answer = SERVER_SETTINGS_2 + synack(1)
        assert await receive_exactly(client, len(answer)) == answer


# Constant time


async def test_as_many_hashes_are_compared_for_every_user_and_format(serving: Serving, connecting: Connecting) -> None:
    users = {f"user {number}": f"password {number}" for number in range(20)}
    compare, compared = hmac.compare_digest, list[bytes]()

    def counted(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return compare(one, other)

    async with serving(users=users, protocols=BOTH, config=NO_TIMERS) as port:
        counts = set()
        with mock.patch.object(hmac, "compare_digest", counted):
            for password in ("password 0", "password 10", "password 19"):
                for protocol in WIRE_FORMATS:
                    compared.clear()
                    assert await is_served(connecting, port, protocol, password=password)
                    counts.add(len(compared))
            # Each possible hash with each user; and once more by the format that is chosen.
            assert counts == {3 * len(users)}
            for protocol in WIRE_FORMATS:
                compared.clear()
                async with connecting(port, protocol=protocol, password="wrong") as connection:
                    await connection.wait_closed()
                assert len(compared) == 2 * len(users)


# Users are replaced while a connection is undecided


@pytest.mark.parametrize(
    ("hello", "sent"),
    # A legacy client sends the first 34 bytes in one record.
    [*((HELLO, sent) for sent in (2, 20, 34, 40)), *((LEGACY_HELLO, sent) for sent in (34, 40))],
    ids=lambda value: value if isinstance(value, int) else "anytls1" if value == HELLO else "legacy",
)
async def test_an_undecided_connection_keeps_the_users_of_its_beginning(start: Start, hello: bytes, sent: int) -> None:
    async with start(protocols=BOTH, config=NO_TIMERS) as server:
        peer = await server.raw(hello[:sent])
        await eventually(lambda: server.stats.bytes_received == sent)
        server.control.replace_users({"carol": "new"})
        await peer.send(hello[sent:])
        await eventually(lambda: server.stats.authentications == 1)
        other = await server.raw(hello)
        assert await receive_all(other.transport) == b""
        await eventually(lambda: server.stats.authentications_failed == 1)
        late = await server.raw(encode_preamble(hash_password("new"), 30) + CLIENT_SETTINGS)
        assert await receive_exactly(late.transport, len(SERVER_SETTINGS_2)) == SERVER_SETTINGS_2


# Violations


async def test_a_violation_of_legacy_goes_to_the_fallback(front: Front, dialling: Dialling) -> None:
    config = Config(auth_timeout=math.inf, idle_timeout=math.inf, on_violation="fallback")
    async with front(config=config) as server, await dialling(server.port) as client:
        rest = syn(1) + psh(1, b"GET / HTTP/1.0\r\n\r\n")
        await client.send_all(PREAMBLE + waste(5) + rest)
        async with await server.service.accept() as service:
            # From the offending frame on
            assert await receive_exactly(service, len(rest)) == rest
            await client.send_all(b"more")
            assert await receive_exactly(service, 4) == b"more"
            await service.send_all(b"answer")
            assert await receive_exactly(client, 6) == b"answer"


async def test_a_violation_of_legacy_is_told_by_alert(front: Front, dialling: Dialling) -> None:
    async with front() as server, await dialling(server.port) as client:
        await client.send_all(PREAMBLE + syn(1))
        alert = frame(ALERT, data=b"client did not send its settings")
        assert await receive_all(client) == alert


@pytest.mark.parametrize("size", [34, 35, 63])
async def test_an_incomplete_padding_is_a_failed_authentication(front: Front, dialling: Dialling, size: int) -> None:
    async with (
        front(config=Config(auth_timeout=0.05)) as server,
        await dialling(server.port) as client,
    ):
        await client.send_all(PREAMBLE[:size])
        async with await server.service.accept() as service:
            assert await receive_exactly(service, size) == PREAMBLE[:size]


async def test_a_client_without_settings_is_told_when_auth_timeout_ends(front: Front, dialling: Dialling) -> None:
    async with (
        front(config=Config(auth_timeout=0.05)) as server,
        await dialling(server.port) as client,
    ):
        await client.send_all(PREAMBLE)
        alert = frame(ALERT, data=b"Settings: not received within auth_timeout")
        assert await receive_all(client) == alert


# PROXY headers

PROXY_HEADERS = {
    "version 1": b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 443\r\n",
    "version 2": b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes.fromhex("c0000207c00002081267 01bb"),
}


@every_format
@pytest.mark.parametrize("header", PROXY_HEADERS.values(), ids=PROXY_HEADERS)
async def test_a_proxy_header_may_precede_either_format(start: Start, protocol: WireFormat, header: bytes) -> None:
    queue = StreamQueue()
    async with start(queue, protocols=BOTH, trusted_proxies=[HOST]) as server:
        transport = await server.tcp()
        await transport.send_all(header)
        secured = await handshake(transport, server.client_context, timeout=10, server_hostname=HOST)
        async with (
            trioanytls.wrap_client(secured, password=USERS["alice"], protocol=protocol) as connection,
            await connection.open_stream(),
            await queue.get() as stream,
        ):
            assert stream.connection.peer_address == ("192.0.2.7", 4711)
            assert stream.connection.protocol == protocol


@pytest.mark.parametrize("header", PROXY_HEADERS.values(), ids=PROXY_HEADERS)
async def test_a_proxy_header_may_precede_http(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, header: bytes
) -> None:
    async with (
        service_listener() as (listener, fallback),
        running(
            server_context,
            client_context,
            config=NO_TIMERS,
            fallback=fallback,
            protocols=BOTH,
            trusted_proxies=[HOST],
        ) as server,
    ):
        transport = await server.tcp()
        await transport.send_all(header)
        client = await handshake(transport, client_context, timeout=10, server_hostname=HOST)
        await client.send_all(b"GET / HTTP/1.0\r\n\r\n")
        async with await listener.accept() as service:
            assert await receive_exactly(service, 18) == b"GET / HTTP/1.0\r\n\r\n"

"""SOCKS4, SOCKS4a, SOCKS5 and HTTP on one port, and SOCKS4 on that of SOCKS5, with a real relay."""

from __future__ import annotations

import base64
import contextlib
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls._protocol.interface import WireFormat
from trioanytls.cli.client.settings import Forwarding
from trioanytls.cli.common.option_types import ListenAddress
from trioanytls.destination import Destination, encode

from ..conftest import HOST, USERS, Serving
from ..helpers.front_ends import ANY_PORT, MANUAL, all_of, ask, connect, exactly, offering, relay, shouting

PROXY_USERS = {"alice": "open sesame", "bob": "b"}
CONNECTED5 = b"\x05\x00\x05\x00\x00\x01" + bytes(6)
CONNECTED4 = b"\x00\x5a" + bytes(6)


@pytest.fixture
async def client(
    serving: Serving, client_context: ssl.SSLContext, wire_format: WireFormat
) -> AsyncIterator[trioanytls.Client]:
    async with (
        serving(relay(), config=MANUAL, protocols=[wire_format]) as port,
        trioanytls.open_client(
            HOST, port, password=USERS["alice"], ssl_context=client_context, protocol=wire_format
        ) as one,
    ):
        yield one


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "trioanytls")
    return lambda: [
        record.getMessage()
        for record in caplog.records
        if record.name in ("trioanytls.relay", "trioanytls.cli") and not record.getMessage().startswith("connection ")
    ]


def requests(port: int) -> dict[str, tuple[bytes, bytes]]:
    """Return the bytes that an application sends, and the expected answer, by protocol."""
    return {
        "socks4": (b"\x04\x01" + port.to_bytes(2, "big") + b"\x7f\x00\x00\x01me\x00", CONNECTED4),
        "socks4a": (b"\x04\x01" + port.to_bytes(2, "big") + b"\x00\x00\x00\x07me\x00localhost\x00", CONNECTED4),
        "socks5": (b"\x05\x01\x00\x05\x01\x00" + encode(Destination("localhost", port)), CONNECTED5),
        "connect": (b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: x\r\n\r\n" % port, b"HTTP/1.1 200 "),
    }


@pytest.mark.parametrize("kind", ["socks4", "socks4a", "socks5", "connect"])
@pytest.mark.parametrize("front", ["mixed", "own"])
@pytest.mark.parametrize("pieces", ["whole", "first byte", "all bytes"])
async def test_the_first_byte_tells_the_protocol(
    client: trioanytls.Client, kind: str, front: str, pieces: str, caplog: pytest.LogCaptureFixture
) -> None:
    own = "http" if kind == "connect" else "socks"
    async with (
        shouting() as far,
        offering(client, **{"mixed" if front == "mixed" else own: [ANY_PORT]}) as [door],
        await connect(door) as stream,
    ):
        request, answer = requests(far)[kind]
        size = {"whole": len(request), "first byte": 1, "all bytes": 1}[pieces]
        first, rest = request[:size], request[size:]
        await stream.send_all(first)
        for piece in [rest] if pieces != "all bytes" else [bytes([byte]) for byte in rest]:
            await stream.send_all(piece)
        assert await exactly(stream, len(answer)) == answer
        if kind == "connect":
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += await exactly(stream, 1)
        await stream.send_all(b"hello")
        assert await exactly(stream, 5) == b"HELLO"


@pytest.mark.parametrize("kind", ["socks4", "socks4a", "socks5"])
async def test_data_after_the_request_is_not_lost(client: trioanytls.Client, kind: str) -> None:
    async with shouting() as far, offering(client, mixed=[ANY_PORT]) as [door], await connect(door) as stream:
        request, answer = requests(far)[kind]
        await stream.send_all(request + b"hello")
        assert await exactly(stream, len(answer) + 5) == answer + b"HELLO"


async def test_a_request_in_absolute_form(client: trioanytls.Client) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        web = listeners[0].socket.getsockname()[1]
        async with offering(client, mixed=[ANY_PORT]) as [door]:
            request = b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % web
            assert (await ask(door, request)).endswith(b"\r\n\r\nhello")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("front", ["mixed", "socks"])
async def test_a_socks4_destination_that_cannot_be_reached(client: trioanytls.Client, front: str) -> None:
    request, _ = requests(0)["socks4"]
    async with offering(client, **{front: [ANY_PORT]}) as [door]:
        assert await ask(door, request) == b"\x00\x5b" + bytes(6)


@pytest.mark.parametrize("front", ["mixed", "socks"])
async def test_socks4_is_refused_if_a_password_is_required(
    client: trioanytls.Client, front: str, said: Callable[[], list[str]]
) -> None:
    request, _ = requests(80)["socks4"]
    # The name of a user does not suffice.
    request = request.replace(b"me\x00", b"alice\x00")
    async with offering(client, **{front: [ANY_PORT]}, proxy_users=PROXY_USERS) as [door]:
        assert await ask(door, request) == b"\x00\x5d" + bytes(6)
    assert said() == ["SOCKS: SOCKS4 has no password; set the application to SOCKS5"]


@pytest.mark.parametrize(("user", "password"), [*PROXY_USERS.items(), ("alice", "b"), ("carol", "")])
async def test_all_users_of_the_file_may_use_it(client: trioanytls.Client, user: str, password: str) -> None:
    right = PROXY_USERS.get(user) == password
    async with shouting() as far, offering(client, mixed=[ANY_PORT], proxy_users=PROXY_USERS) as [door]:
        async with await connect(door) as stream:
            login = b"\x01%c%b%c%b" % (len(user), user.encode(), len(password), password.encode())
            await stream.send_all(b"\x05\x02\x00\x02" + login + b"\x05\x01\x00" + encode(Destination(HOST, far)))
            assert await exactly(stream, 4) == (b"\x05\x02\x01\x00" if right else b"\x05\x02\x01\x01")
        credentials = base64.b64encode(f"{user}:{password}".encode())
        request = b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic %b\r\n\r\n"
        async with await connect(door) as stream:
            await stream.send_all(request % (far, credentials))
            assert (await exactly(stream, 12))[-3:] == (b"200" if right else b"407")


@pytest.mark.parametrize("first", [b"\x16\x03\x01\x02\x00", b"\x00\x01", b"\xff", b"\r\n", b" ", b"?"])
async def test_something_else_gets_no_further(client: trioanytls.Client, first: bytes) -> None:
    async with offering(client, mixed=[ANY_PORT]) as [door], await connect(door) as stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(first)
            await stream.send_eof()
        answer = await all_of(stream)
        assert not answer or answer.startswith(b"HTTP/1.1 400")
        # The proxy continues to serve.
        assert (await ask(door, b"\x04\x02")) == b"\x00\x5b" + bytes(6)


async def test_tls_is_named(client: trioanytls.Client, said: Callable[[], list[str]]) -> None:
    async with offering(client, mixed=[ANY_PORT]) as [door]:
        assert await ask(door, b"\x16\x03\x01") == b""
    [text] = said()
    assert "TLS" in text


async def test_an_application_that_disconnects_at_once(
    client: trioanytls.Client, said: Callable[[], list[str]]
) -> None:
    async with offering(client, mixed=[ANY_PORT], socks=[ANY_PORT]) as doors:
        for door in doors:
            for how in ("end", "reset"):
                stream = await connect(door)
                if how == "reset":
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                await stream.aclose()
            assert await ask(door, b"\x04\x02") == b"\x00\x5b" + bytes(6)
    assert not [text for text in said() if "command" not in text]


@pytest.mark.parametrize("front", ["mixed", "socks"])
@pytest.mark.parametrize("first", [b"", b"\x04", b"\x04\x01\x00\x50\x7f\x00\x00\x01user", b"\x05\x01\x00\x05\x01"])
async def test_an_application_that_sends_nothing(
    client: trioanytls.Client,
    front: str,
    first: bytes,
    said: Callable[[], list[str]],
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with offering(client, **{front: [ANY_PORT]}) as [door], await connect(door) as stream:
        await stream.send_all(first)
        while await stream.receive_some():
            pass
    assert [text for text in said() if "within 30 s" in text]


# Open proxies


@pytest.mark.parametrize(
    ("what", "given", "open_"),
    [
        ("SOCKS5", {"socks": [ListenAddress("0.0.0.0", 0)]}, True),
        ("SOCKS5", {"socks": [ListenAddress(None, 0)]}, True),
        ("HTTP proxy", {"http": [ListenAddress("0.0.0.0", 0)]}, True),
        ("mixed proxy", {"mixed": [ListenAddress(HOST, 0), ListenAddress("0.0.0.0", 0)]}, True),
        ("SOCKS5", {"socks": [ListenAddress("0.0.0.0", 0)], "proxy_users": PROXY_USERS}, False),
        ("SOCKS5", {"socks": [ListenAddress("127.0.0.2", 0), ListenAddress("localhost", 0)]}, False),
        # A forward leads to one destination only.
        ("forward", {"forwards": [Forwarding(ListenAddress("0.0.0.0", 0), Destination("x", 1))]}, False),
        ("UDP forward", {"udp_forwards": [Forwarding(ListenAddress("0.0.0.0", 0), Destination("x", 1))]}, False),
    ],
)
async def test_an_open_proxy_is_warned_of(
    client: trioanytls.Client, what: str, given: dict[str, object], open_: bool, said: Callable[[], list[str]]
) -> None:
    async with offering(client, **given) as doors:
        address = doors[-1].address
        told = said()
    if open_:
        [text] = told
        assert text.startswith(f"{what} on {address} requires no password")
    else:
        assert told == []

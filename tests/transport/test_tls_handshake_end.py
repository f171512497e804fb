"""Data in the same read as the end of the TLS handshake belongs to the connection, at both ends."""

from __future__ import annotations

import contextlib
import functools
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from attrs import frozen

import trioanytls
from trioanytls._protocol.anytls1 import frames
from trioanytls._transport.handshake import handshake
from trioanytls._transport.tls_stream import TLSStream
from trioanytls.testing import echo

from ..conftest import HOST, Serving
from ..helpers.raw_peer import HELLO, data
from ..malicious._records import ALERT, Records

#: The timeout for data that was lost, in seconds. It does not affect a passing test.
TIMEOUT = 10
CLOSE_NOTIFY = b"\x01\x00"


@frozen
class Content:
    """The data after the handshake.

    It has pieces, each in a record. `late` is the number of bytes of the last record that arrive later. A close_notify
    may follow.
    """

    pieces: tuple[bytes, ...]
    ends: bool = False
    late: int = 0


CONTENTS = {
    "a record": Content((b"first words",)),
    "three records": Content((b"first", b" ", b"words")),
    "an end alone": Content((), ends=True),
    "a record and the end": Content((b"only words",), ends=True),
    "a record and a half": Content((b"first", b"and then more"), late=20),
    "a header in half": Content((b"first words",), late=30),
    "many": Content((bytes(16000), b"x" * 16000, b"y")),
}


class ServersPeer:
    """A client that sends content in one piece with its Finished."""

    def __init__(self, context: ssl.SSLContext, _directory: Path) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_hostname=HOST)

    async def shake(self, transport: trio.abc.Stream) -> bytes:
        """Do the handshake. Return its last bytes, which are not sent yet."""
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._ssl.do_handshake()
                return self._outgoing.read()
            await transport.send_all(self._outgoing.read())
            self._incoming.write(bytes(await transport.receive_some()))

    def seal(self, content: Content) -> bytes:
        for piece in content.pieces:
            self._ssl.write(piece)
        if content.ends:
            with contextlib.suppress(ssl.SSLError):
                self._ssl.unwrap()
        return self._outgoing.read()


class ClientsPeer:
    """A server that sends content in one piece with its Finished, as RFC 8446 allows and Python's `ssl` does not."""

    def __init__(self, context: ssl.SSLContext, directory: Path) -> None:
        self._secrets = directory / "secrets"
        context.keylog_filename = str(self._secrets)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def shake(self, transport: trio.abc.Stream) -> bytes:
        """Do the handshake. Return its last bytes, which are not sent yet."""
        self._incoming.write(bytes(await transport.receive_some()))
        with contextlib.suppress(ssl.SSLWantReadError):
            self._ssl.do_handshake()
        return self._outgoing.read()

    def seal(self, content: Content) -> bytes:
        cipher = self._ssl.cipher()
        assert cipher is not None
        records = Records(self._secrets, cipher[0], "SERVER")
        sealed = b"".join(map(records.seal, content.pieces))
        return sealed + records.seal(CLOSE_NOTIFY, ALERT) if content.ends else sealed


@pytest.fixture(params=["server", "client"])
def under_test(request: pytest.FixtureRequest) -> str:
    """Return the end under test."""
    return str(request.param)


#: Both ends of a transport.
Ends = tuple[trio.abc.Stream, trio.abc.Stream]


@pytest.fixture(params=["memory", "sockets"])
async def ends(request: pytest.FixtureRequest) -> Ends:
    if request.param == "memory":
        return trio.testing.memory_stream_pair()
    async with (await trio.open_tcp_listeners(0, host=HOST))[0] as listener:
        near = await trio.open_tcp_stream(HOST, listener.socket.getsockname()[1])
        return near, await listener.accept()


async def all_of(receive: Callable[[], Awaitable[bytes | memoryview]], content: Content) -> bytes:
    received, size = b"", sum(map(len, content.pieces))
    while len(received) < size:
        piece = bytes(await receive())
        assert piece, "an end too early"
        received += piece
    if content.ends:
        assert not await receive()
    return received


async def receiving(transport: TLSStream, content: Content) -> bytes:
    return await all_of(transport.receive_some, content)


async def receiving_a_little(transport: TLSStream, content: Content) -> bytes:
    return await all_of(functools.partial(transport.receive_some, 700), content)


async def receiving_views(transport: TLSStream, content: Content) -> bytes:
    return await all_of(transport.receiving_views(), content)


async def after_the_own_end(transport: TLSStream, content: Content) -> bytes:
    await transport.send_eof()
    return await all_of(transport.receive_some, content)


async def after_a_cancelled_try(transport: TLSStream, content: Content) -> bytes:
    received = b""
    # Before any of it was decrypted, and after a part of it was returned.
    for _ in range(2):
        with trio.CancelScope() as scope:
            scope.cancel()
            await transport.receive_some()
        if content.pieces and not received:
            received = await transport.receive_some(1)

    async def receive() -> bytes:
        nonlocal received
        first, received = received, b""
        return first or await transport.receive_some()

    return await all_of(receive, content)


WAYS = [receiving, receiving_a_little, receiving_views, after_the_own_end, after_a_cancelled_try]


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("way", WAYS)
async def test_it_is_received(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    tmp_path: Path,
    ends: Ends,
    under_test: str,
    way: Callable[[TLSStream, Content], Awaitable[bytes]],
    content: Content,
) -> None:
    near, far = ends
    if under_test == "server":
        peer: ServersPeer | ClientsPeer = ServersPeer(client_context, tmp_path)
        secure = functools.partial(handshake, far, server_context, timeout=TIMEOUT, server_side=True)
    else:
        peer = ClientsPeer(server_context, tmp_path)
        secure = functools.partial(handshake, far, client_context, timeout=TIMEOUT, server_hostname=HOST)
    secured: list[TLSStream] = []

    async def shake() -> None:
        secured.append(await secure())

    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shake)
            end = await peer.shake(near)
            sealed = peer.seal(content)
            cut = len(sealed) - content.late
            await near.send_all(end + sealed[:cut])
        (transport,) = secured
        # The data arrived together with the end of the handshake. Otherwise, this would test nothing.
        assert transport._incoming.pending
        async with trio.open_nursery() as nursery:
            if content.late:
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(near.send_all, sealed[cut:])
            assert await way(transport, content) == b"".join(content.pieces)
    for stream in (transport, near):
        await trio.aclose_forcefully(stream)


async def finish(port: int, context: ssl.SSLContext, tmp_path: Path, sent: bytes, expected: bytes) -> None:
    """Send bytes together with the end of the handshake, and wait until the answer contains `expected`."""
    with trio.fail_after(TIMEOUT):
        async with await trio.open_tcp_stream(HOST, port) as transport:
            peer = ServersPeer(context, tmp_path)
            await transport.send_all(await peer.shake(transport) + peer.seal(Content((sent,))))
            received = b""
            while expected not in received:
                with contextlib.suppress(ssl.SSLWantReadError):
                    piece = peer._ssl.read(65536)
                    assert piece
                    received += piece
                    continue
                came = bytes(await transport.receive_some())
                assert came
                peer._incoming.write(came)


async def test_a_connection_may_begin_in_it(serving: Serving, client_context: ssl.SSLContext, tmp_path: Path) -> None:
    async with serving(echo) as port:
        await finish(
            port, client_context, tmp_path, HELLO + frames.encode_open(1) + data(1, b"first words"), b"first words"
        )


async def test_it_is_the_fallbacks_as_well(serving: Serving, client_context: ssl.SSLContext, tmp_path: Path) -> None:
    async def fallback(stream: trioanytls.FallbackStream) -> None:
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            received += await stream.receive_some()
        await stream.send_all(b"200 " + received)

    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with serving(fallback=fallback) as port:
        await finish(port, client_context, tmp_path, request, b"200 " + request)

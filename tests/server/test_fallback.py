"""Other connections than ANYTLS go to the fallback, byte for byte (spec: Connections / Authentication; protocol: 4)."""

from __future__ import annotations

import functools
import hashlib
import http.client
import http.server
import logging
import os
import ssl
import struct
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import FallbackStream
from trioanytls._protocol import data_blocks
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.frame_decoder import FrameDecoder
from trioanytls._protocol.anytls1.frames import FrameType
from trioanytls._protocol.credentials import hash_password
from trioanytls._transport import tls_stream
from trioanytls._transport.handshake import handshake
from trioanytls._transport.tls_stream import TLSStream
from trioanytls.testing import StreamQueue, echo

from ..conftest import HOST, USERS, Connecting, Serving
from ..helpers.fallback_harness import (
    END_METHODS,
    GET,
    Dialling,
    Relaying,
    check_echo,
    facing,
    patient_service,
    receive_all,
    receive_exactly,
    service_listener,
)
from ..helpers.raw_peer import AUTH, HELLO, NEGO_BLOCK, RawPeer, data

Clock = trio.testing.MockClock

MIB = 1024 * 1024
WRONG_AUTH = frames.encode_auth(hash_password("not the password"), 300)

# Frames that violate the protocol in their first bytes, and bytes that cannot begin a frame.
OFFENDING = {
    "unknown type": b"\x20\x00 what follows is unreadable",
    "unknown type of eight bytes": b"\xff" * 8 + b"GET / HTTP/1.1\r\n\r\n",
    "oversize": b"\x06\x00" + struct.pack("!I", 0x80000000 | (64 * 1024 + 1)) + bytes(2000),
    "open of stream 0": frames.encode_open(1)[:1] + b"\x00" + b"and more",
    "open of stream 1 again": frames.encode_open(1) + data(1, b"more"),
    "data of a stream that never was": data(99, b"x" * 500),
    "second auth": AUTH,
}


class Collector:
    """A fallback that receives all data.

    Attributes:
      received: the data.
      streams: the streams it was called with.
      called, ended: set when it was called, and when it has reached the end.
    """

    def __init__(self, answer: bytes = b"") -> None:
        self.received = b""
        self.streams: list[FallbackStream] = []
        self.called = trio.Event()
        self.ended = trio.Event()
        self._answer = answer

    async def __call__(self, stream: FallbackStream) -> None:
        self.streams.append(stream)
        self.called.set()
        if self._answer:
            await stream.send_all(self._answer)
        async for piece in stream:
            self.received += piece
        self.ended.set()


# A web server


class Pages(http.server.BaseHTTPRequestHandler):
    """Answers GET with a page, and POST with the posted data."""

    protocol_version = "HTTP/1.1"
    # Separate writes of header and body would be delayed by Nagle's algorithm.
    wbufsize = -1

    def do_GET(self) -> None:
        self._answer(f"This is {self.path}.\n".encode())

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return "always the same, so that answers can be compared"

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def web_port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer((HOST, 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("piece", [1, 7, 1000])
@pytest.mark.parametrize(
    "request_",
    [
        GET,
        # Two requests at once.
        b"GET /first HTTP/1.1\r\nHost: localhost\r\n\r\n" + GET,
        b"POST /post HTTP/1.0\r\nContent-Length: 4\r\n\r\n\x00\xff\r\n",
        GET.replace(b"GET", b"BREW"),
        # The server closes after reading such a line. Further data would cause a reset.
        b"no HTTP\r\n",
        b"\x00" * 40 + b"\r\n",
        b"@\r\n",
    ],
    ids=["GET", "pipelined", "POST", "BREW", "no HTTP", "zeros", "at sign"],
)
async def test_a_request_is_answered_as_by_the_web_server_itself(
    serving: Serving, client_context: ssl.SSLContext, web_port: int, request_: bytes, piece: int
) -> None:
    async def ask(stream: trio.abc.Stream) -> bytes:
        async with stream:
            for start in range(0, len(request_), piece):
                await stream.send_all(request_[start : start + piece])
            return await receive_all(stream)

    directly = await ask(await trio.open_tcp_stream(HOST, web_port))
    assert directly
    async with serving(fallback=trioanytls.relay_to(HOST, web_port)) as port:
        # Trio's TLS, since both ends with TLSStream could share a bug.
        transport = await trio.open_tcp_stream(HOST, port)
        assert await ask(trio.SSLStream(transport, client_context, server_hostname=HOST)) == directly


async def test_an_ordinary_http_client_notices_nothing(
    serving: Serving, client_context: ssl.SSLContext, web_port: int
) -> None:
    body = os.urandom(MIB)

    def use(port: int) -> None:
        connection = http.client.HTTPSConnection(HOST, port, context=client_context, timeout=10)
        # All requests on one connection.
        for method, path, sent, expected in (
            ("GET", "/one", None, b"This is /one.\n"),
            ("POST", "/two", body, body),
            ("GET", "/three", None, b"This is /three.\n"),
        ):
            connection.request(method, path, body=sent)
            answer = connection.getresponse().read()
            assert hashlib.sha256(answer).digest() == hashlib.sha256(expected).digest()
        connection.close()

    control = trioanytls.ServerControl()
    async with serving(fallback=trioanytls.relay_to(HOST, web_port), control=control) as port:
        await trio.to_thread.run_sync(use, port)
        stats = control.snapshot()
    assert (stats.connections_accepted, stats.fallbacks, stats.authentications_failed) == (1, 1, 1)


# Every byte from the first one on

FIRST_BYTES = {
    "request": GET,
    "wrong password": WRONG_AUTH + frames.encode_client_nego(NEGO_BLOCK) + b"and more",
    "wrong password in longer integers": b"\x40\x00\x80\x00\x00\x00" + WRONG_AUTH[2:],
    "too much padding": AUTH[:34] + struct.pack("!I", 0x80000000 | (64 * 1024 + 1)) + b"padding",
    "not the control stream": b"\x00\x01" + bytes(50),
    "a frame, but not AUTH": frames.encode_client_nego(NEGO_BLOCK),
}


@pytest.mark.parametrize("name", FIRST_BYTES)
async def test_every_byte_is_replayed_for_any_cut(name: str) -> None:
    sent = FIRST_BYTES[name]
    cuts = [[sent[:cut], sent[cut:]] for cut in range(0, len(sent), 3)]
    for pieces in [[sent], [sent[i : i + 1] for i in range(len(sent))], *cuts]:
        collector = Collector()
        async with facing(collector) as client:
            for piece in pieces:
                await client.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()
            await client.send_eof()
            await collector.ended.wait()
        assert collector.received == sent


@pytest.mark.parametrize("size", [1, 5, 10_000])
async def test_every_byte_is_replayed_over_tls(serving: Serving, dialling: Dialling, size: int) -> None:
    sent = WRONG_AUTH + frames.encode_client_nego(NEGO_BLOCK) + GET
    async with service_listener() as (listener, fallback), serving(fallback=fallback) as port:
        client = await dialling(port)
        for start in range(0, len(sent), size):
            await client.send_all(sent[start : start + size])
        async with await listener.accept() as service:
            assert await receive_exactly(service, len(sent)) == sent
            await client.send_all(b"later")
            assert await receive_exactly(service, 5) == b"later"
        await client.aclose()


@pytest.mark.parametrize("first", [b"G", b"\x01", b"\x00G", b"\x40\x01"], ids=bytes.hex)
async def test_the_first_impossible_byte_is_enough(relaying: Relaying, first: bytes) -> None:
    # No more data arrives, and no time passes. The service has received the byte.
    config = trioanytls.Config(auth_timeout=1000, idle_timeout=1000)
    with trio.fail_after(5):
        async with relaying(first, config=config) as relayed:
            await relayed.service.send_all(b"answer")
            assert await receive_exactly(relayed.client, 6) == b"answer"


@pytest.mark.parametrize("first", [b"", b"\x00", AUTH[:20], AUTH[:34], AUTH[:-1]], ids=len)
async def test_an_incomplete_auth_and_silence_go_to_the_fallback_at_auth_timeout(
    autojump_clock: Clock, first: bytes
) -> None:
    collector = Collector(b"answer")
    async with facing(collector, auth_timeout=4) as client:
        start = trio.current_time()
        if first:
            await client.send_all(first)
        assert await client.receive_some() == b"answer"
        assert trio.current_time() - start == pytest.approx(4)
        # The rest arrives too late, and goes to the fallback as well.
        await client.send_all(AUTH[len(first) :] + b"more")
        await client.send_eof()
        await collector.ended.wait()
    assert collector.received == AUTH + b"more"


async def test_an_idle_timeout_that_is_shorter_does_the_same(autojump_clock: Clock) -> None:
    collector = Collector(b"answer")
    async with facing(collector, idle_timeout=2) as client:
        start = trio.current_time()
        assert await client.receive_some() == b"answer"
        assert trio.current_time() - start == pytest.approx(2)


async def test_silence_goes_to_the_fallback_over_tls(
    autojump_clock: Clock, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    near, far = await tls_pair(server_context, client_context)
    collector = Collector(b"answer")
    config = trioanytls.Config(auth_timeout=3)
    async with trio.open_nursery() as nursery:
        serve = functools.partial(trioanytls.serve_connection, users=USERS, fallback=collector, config=config)
        nursery.start_soon(serve, far, echo)
        assert await near.receive_some() == b"answer"
        assert trio.current_time() == pytest.approx(3)
        await near.send_all(b"hello?")
        await near.send_eof()
        assert await near.receive_some() == b""
    assert collector.received == b"hello?"


async def test_no_other_task_receives_when_the_fallback_begins(autojump_clock: Clock) -> None:
    # It receives at once. BusyResourceError would mean that another task is still receiving.
    collector = Collector()
    async with facing(collector, auth_timeout=1) as client:
        await collector.called.wait()
        await client.send_all(b"hello?")
        await client.send_eof()
        await collector.ended.wait()
    assert collector.received == b"hello?"


class Mailbox(trio.abc.Stream):
    """A transport into which a test puts data without a checkpoint."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[bytes](100)
        self.put = self._send.send_nowait

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._receive.receive()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        self._receive.close()
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("hello", [AUTH[:10], HELLO[:-10]], ids=["AUTH", "NEGO"])
async def test_data_at_the_moment_of_the_timeout_is_not_lost(autojump_clock: Clock, hello: bytes) -> None:
    for passes in range(8):
        collector = Collector()
        mailbox = Mailbox()
        config = trioanytls.Config(auth_timeout=1, on_violation="fallback")
        async with trio.open_nursery() as nursery:
            serve = functools.partial(trioanytls.serve_connection, users=USERS, fallback=collector, config=config)
            nursery.start_soon(serve, mailbox, echo)
            # In one piece: the timeout for AUTH, and then NEGO, starts now.
            await trio.testing.wait_all_tasks_blocked()
            mailbox.put(hello)
            await trio.sleep(1)
            for _ in range(passes):
                await trio.lowlevel.checkpoint()
            mailbox.put(b"and more")
            await collector.called.wait()
            mailbox.put(b"")
            await collector.ended.wait()
        expected = hello if hello in AUTH else hello[len(AUTH) :]
        assert collector.received == expected + b"and more"


@pytest.mark.parametrize("end", END_METHODS)
@pytest.mark.parametrize("first", [b"", b"\x00", AUTH[:-1]], ids=len)
async def test_an_end_before_auth_is_complete_goes_to_the_fallback(
    serving: Serving, dialling: Dialling, first: bytes, end: Callable[[TLSStream], Awaitable[None]]
) -> None:
    async with service_listener() as (listener, fallback), serving(fallback=fallback) as port:
        client = await dialling(port)
        if first:
            await client.send_all(first)
        await end(client)
        with trio.fail_after(5):
            async with await listener.accept() as service:
                assert await receive_all(service) == first
                await service.send_all(b"too short")
            assert await receive_all(client) == b"too short"
        await client.aclose()


# A custom fallback


async def test_a_custom_fallback_is_served_next_to_anytls(
    serving: Serving, connecting: Connecting, dialling: Dialling
) -> None:
    peers = []

    async def shout(stream: FallbackStream) -> None:
        """Answer each line in capitals."""
        peers.append(stream.peer_address)
        line = b""
        async for piece in stream:
            *lines, line = (line + piece).split(b"\n")
            for complete in lines:
                await stream.send_all(complete.upper() + b"\n")

    async with serving(fallback=shout) as port:
        client = await dialling(port)
        await client.send_all(b"one\ntw")
        assert await receive_exactly(client, 4) == b"ONE\n"
        await check_echo(connecting, port)
        await client.send_all(b"o\n")
        assert await receive_exactly(client, 4) == b"TWO\n"
        assert peers == [client.transport.socket.getsockname()]  # type: ignore[attr-defined]  # of the class that the test uses
        await client.aclose()


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (ValueError("a mistake"), logging.ERROR),
        (ExceptionGroup("", [ValueError("a mistake")]), logging.ERROR),
        # The peer disconnected.
        (trio.BrokenResourceError("gone"), logging.INFO),
    ],
)
async def test_a_fallback_that_raises_ends_its_connection_only(
    serving: Serving,
    connecting: Connecting,
    dialling: Dialling,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    level: int,
) -> None:
    caplog.set_level(logging.INFO)

    async def fail(stream: FallbackStream) -> None:
        assert await receive_exactly(stream, 3) == b"GET"
        raise error

    async with serving(fallback=fail) as port, connecting(port) as connection:
        async with await connection.open_stream() as stream:
            client = await dialling(port)
            await client.send_all(b"GET")
            assert await receive_all(client) == b""
            await client.aclose()
            await stream.send_all(b"hello")
            assert await receive_exactly(stream, 5) == b"hello"
        await check_echo(connecting, port)
    (record,) = [record for record in caplog.records if "the fallback failed" in record.getMessage()]
    assert record.levelno == level
    # With a traceback if it is a bug.
    assert bool(record.exc_info) == (level == logging.ERROR)


async def test_no_more_than_max_fallbacks_at_once(serving: Serving, connecting: Connecting, dialling: Dialling) -> None:
    control = trioanytls.ServerControl()
    config = trioanytls.Config(max_fallbacks=1)
    async with (
        service_listener() as (listener, fallback),
        serving(fallback=fallback, config=config, control=control) as port,
    ):
        first = await dialling(port)
        await first.send_all(b"GET")
        service = await listener.accept()
        assert await receive_exactly(service, 3) == b"GET"
        second = await dialling(port)
        await second.send_all(b"GET")
        assert await receive_all(second) == b""
        await second.aclose()
        await check_echo(connecting, port)
        await service.send_all(b"answer")
        assert await receive_exactly(first, 6) == b"answer"
        await service.aclose()
        await first.receive_some()
        await first.aclose()
        # There is room for another connection.
        while control.snapshot().fallback_connections:
            await trio.testing.wait_all_tasks_blocked()
        third = await dialling(port)
        await third.send_all(b"GET")
        await (await listener.accept()).aclose()
        await third.aclose()
    assert control.snapshot().fallbacks == 2


async def test_a_connection_that_breaks_before_auth_is_not_handed_over(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(trio.abc.Stream):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await trio.lowlevel.checkpoint()
            raise trio.BrokenResourceError("reset")

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            raise AssertionError("nothing is said to it")

        async def wait_send_all_might_not_block(self) -> None:
            raise AssertionError("nothing is said to it")

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    async def fallback(stream: FallbackStream) -> None:
        raise AssertionError("there is nothing to take over")

    caplog.set_level(logging.INFO, "trioanytls")
    await trioanytls.serve_connection(Broken(), echo, users={"alice": "password"}, fallback=fallback)
    (failed,) = [record for record in caplog.records if "authentication failed" in record.getMessage()]
    assert failed.getMessage().endswith(": authentication failed: the connection broke before AUTH was complete")


async def test_alpn_stays_the_contexts(
    serving: Serving, dialling: Dialling, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    server_context.set_alpn_protocols(["h2", "http/1.1"])
    client_context.set_alpn_protocols(["http/1.1"])

    async def tell(stream: FallbackStream) -> None:
        await stream.send_all(stream.transport.selected_alpn_protocol().encode())  # type: ignore[attr-defined]  # of the class that the test uses

    async with serving(fallback=tell) as port:
        client = await dialling(port)
        await client.send_all(GET)
        assert await receive_all(client) == b"http/1.1"
        assert client.selected_alpn_protocol() == "http/1.1"
        await client.aclose()


# Without a fallback, nothing is sent


@pytest.mark.parametrize("first", [b"", b"\x00\x00", GET], ids=len)
async def test_an_unauthenticated_client_receives_nothing_for_any_end(autojump_clock: Clock, first: bytes) -> None:
    for config in ({"auth_timeout": 2}, {"idle_timeout": 2}, {"auth_timeout": 1000, "idle_timeout": 1000}):
        near, far = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            serve = functools.partial(trioanytls.serve_connection, far, echo, users=USERS)
            nursery.start_soon(functools.partial(serve, config=trioanytls.Config(**dict[str, Any](config))))
            if first:
                await near.send_all(first)
            await trio.sleep(10)
            # The last connection is still open, and is cancelled.
            nursery.cancel_scope.cancel()
        assert await receive_all(near) == b""


async def test_an_unauthenticated_client_receives_nothing_from_a_draining_server(
    serving: Serving, dialling: Dialling, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How long the server waits for the rest of AUTH and NEGO.
    monkeypatch.setattr("trioanytls._server.connection._MAX_ANNOUNCEMENT", 0.1)
    control = trioanytls.ServerControl()
    async with serving(control=control) as port:
        client = await dialling(port)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(control.drain)
            assert await receive_all(client) == b""
            await client.aclose()


# Violations after authentication

VIOLATION: dict[str, Any] = {"on_violation": "fallback"}


def test_a_fallback_for_violations_has_to_be_there(server_context: ssl.SSLContext) -> None:
    config = trioanytls.Config(**VIOLATION)
    serve = functools.partial(trioanytls.serve, port=0, ssl_context=server_context, users=USERS, config=config)
    with pytest.raises(ValueError, match="fallback"):
        trio.run(serve, echo)


@pytest.mark.parametrize("name", OFFENDING)
async def test_the_fallback_has_a_violation_from_the_offending_byte_on(name: str) -> None:
    legal = frames.encode_open(1) + data(1, b"legal") + frames.encode_padding(5)
    sent = OFFENDING[name] + GET
    size = len(OFFENDING[name])
    cuts = sorted({*range(min(size, 12)), size // 2, size, len(sent)})
    # In one piece with legal frames, cut in the middle, and byte by byte.
    for pieces in [
        [HELLO + legal + sent],
        *([HELLO + legal + sent[:cut], sent[cut:]] for cut in cuts),
        [HELLO + legal, *(sent[i : i + 1] for i in range(len(sent)))],
    ]:
        collector = Collector()
        queue = StreamQueue()
        async with facing(collector, queue, **VIOLATION) as client:
            for piece in filter(None, pieces):
                await client.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()
            await client.send_eof()
            stream = await queue.get()
            assert await receive_exactly(stream, 5) == b"legal"
            with pytest.raises(trioanytls.ConnectionClosed) as caught:
                await stream.receive_some()
            assert isinstance(caught.value.__cause__, trioanytls.ProtocolViolation)
            with pytest.raises(trioanytls.ConnectionClosed):
                await stream.send_all(b"x")
            await stream.aclose()
            await collector.ended.wait()
        assert collector.received == sent


@pytest.mark.parametrize("size", [3, 100_000])
@pytest.mark.parametrize("name", ["unknown type", "oversize", "open of stream 0"])
async def test_no_frame_is_sent_after_the_hand_over(serving: Serving, dialling: Dialling, name: str, size: int) -> None:
    """Data is in transit in both directions, over TLS, at the time of the violation."""
    closed = []

    async def flood(stream: trioanytls.Stream) -> None:
        with pytest.raises(trioanytls.ConnectionClosed) as caught:
            while True:
                await stream.send_all(b"f" * 1000)
        closed.append(caught.value)

    sent = OFFENDING[name] + GET
    legal = b"".join(frames.encode_open(number) + data(number, b"x" * 3000) for number in range(1, 6))
    collector = Collector(b"the fallback's answer")
    async with serving(flood, fallback=collector, config=trioanytls.Config(**VIOLATION)) as port:
        client = await dialling(port)
        await client.send_all(HELLO + legal)
        received = bytes(await receive_exactly(client, 100_000))
        async with trio.open_nursery() as nursery:

            async def violate() -> None:
                for start in range(0, len(sent), size):
                    await client.send_all(sent[start : start + size])
                await client.send_eof()

            nursery.start_soon(violate)
            received += await receive_all(client)
        await client.aclose()
    assert collector.received == sent
    assert len(closed) == 5
    answers, answer, rest = received.partition(b"the fallback's answer")
    assert answer
    assert not rest
    decoder = FrameDecoder()
    kinds = {kind for kind, _, _ in decoder.decode(answers)}
    # Complete frames, and neither ALERT nor CLOSE.
    assert decoder.incomplete == b""
    assert decoder._left == 0
    assert kinds == {FrameType.SERVER_NEGO, FrameType.STREAM_ACK, FrameType.STREAM_DATA}


async def test_a_violation_is_relayed_to_a_service_like_anything_else(
    serving: Serving, dialling: Dialling, web_port: int
) -> None:
    fallback = trioanytls.relay_to(HOST, web_port)
    control = trioanytls.ServerControl()
    async with serving(fallback=fallback, config=trioanytls.Config(**VIOLATION), control=control) as port:
        client = await dialling(port)
        await client.send_all(HELLO + frames.encode_open(1) + data(1, b"hello") + GET)
        answer = await receive_all(client)
        await client.aclose()
    assert b"This is /page." in answer
    stats = control.snapshot()
    assert (stats.authentications, stats.violations, stats.fallbacks) == (1, 1, 1)
    assert stats.connections_closed == {"FALLBACK": 1}


async def test_a_nego_that_does_not_come_in_full_is_handed_over_as_far_as_it_came(autojump_clock: Clock) -> None:
    collector = Collector(b"answer")
    async with facing(collector, auth_timeout=5, **VIOLATION) as client:
        await client.send_all(HELLO[:-1])
        assert await client.receive_some() == b"answer"
        await client.send_all(HELLO[-1:])
        await client.send_eof()
        await collector.ended.wait()
    assert collector.received == frames.encode_client_nego(NEGO_BLOCK)


async def test_an_unknown_version_and_a_limit_are_answered_by_close(autojump_clock: Clock) -> None:
    other_version = data_blocks.format_key_values({"v": ["2"], "client": ["raw/1"], "padding-md5": ["0" * 32]})
    for sent, code, config in (
        (AUTH + frames.encode_client_nego(other_version), 2, {}),
        (HELLO + frames.encode_padding(0) * 10, 5, {"max_idle_frames": 5}),
    ):
        collector = Collector()
        async with facing(collector, **VIOLATION, **config) as client:  # type: ignore[arg-type]  # a stand-in, or what is tested
            peer = RawPeer(client)
            await peer.send(sent)
            assert (await peer.pending())[-1] == (FrameType.CLOSE, 0, code)
        assert not collector.streams


async def test_the_end_of_a_fallback_does_not_wait_for_handlers(autojump_clock: Clock) -> None:
    async def dawdle(_stream: trioanytls.Stream) -> None:
        await trio.sleep(500)

    async def answer(stream: FallbackStream) -> None:
        await stream.send_all(b"answer")

    async with facing(answer, dawdle, **VIOLATION) as client:
        peer = RawPeer(client)
        await peer.send(HELLO, frames.encode_open(1))
        await peer.pending()
        await peer.send(GET)
        assert await receive_all(client) == b"answer"
        assert trio.current_time() < 1


class Clogged(Mailbox):
    """A transport whose peer accepts a few writes, and then no more."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.stuck = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))
        if len(self.sent) > 3:
            self.stuck.set()
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()


async def test_a_connection_whose_last_write_is_stuck_is_not_handed_over(autojump_clock: Clock) -> None:
    async def flood(stream: trioanytls.Stream) -> None:
        while True:
            await stream.send_all(bytes(1000))

    transport = Clogged()
    collector = Collector(b"in the middle of a frame")
    config = trioanytls.Config(close_timeout=7, **VIOLATION)
    transport.put(HELLO + frames.encode_open(1))
    async with trio.open_nursery() as nursery:
        serve = functools.partial(trioanytls.serve_connection, users=USERS, fallback=collector, config=config)
        nursery.start_soon(serve, transport, flood)
        await transport.stuck.wait()
        transport.put(GET)
    # Within close_timeout, and without sending more.
    assert trio.current_time() == pytest.approx(7, abs=0.1)
    assert len(transport.sent) == 4
    assert not collector.streams
    with pytest.raises(trio.BrokenResourceError):
        transport.put(b"")


# FallbackStream


async def test_received_data_comes_first_in_any_pieces() -> None:
    near, far = trio.testing.memory_stream_pair()
    stream = FallbackStream(far, b"abcdef")
    await near.send_all(b"ghi")
    assert await stream.receive_some(1) == b"a"
    assert await stream.receive_some(2) == b"bc"
    # Never more than requested, and never consumed and new data in one piece.
    assert await stream.receive_some(100) == b"def"
    assert await stream.receive_some() == b"ghi"
    stream = FallbackStream(far, b"abc")
    assert await stream.receive_some() == b"abc"


@pytest.mark.parametrize("received", [b"", b"abc"], ids=len)
async def test_max_bytes_is_checked(received: bytes) -> None:
    _, far = trio.testing.memory_stream_pair()
    stream = FallbackStream(far, received)
    for max_bytes in (0, -1):
        with pytest.raises(ValueError, match="max_bytes"):
            await stream.receive_some(max_bytes)
    with pytest.raises(TypeError):
        await stream.receive_some(1.5)  # type: ignore[arg-type] # what is tested


async def test_cancelling_loses_nothing() -> None:
    _, far = trio.testing.memory_stream_pair()
    stream = FallbackStream(far, b"abc")
    with trio.CancelScope() as scope:
        scope.cancel()
        await stream.receive_some()
    assert scope.cancelled_caught
    assert await stream.receive_some() == b"abc"


async def test_closing_drops_unread_data() -> None:
    _, far = trio.testing.memory_stream_pair()
    stream = FallbackStream(far, b"abc")
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()


async def test_a_transport_without_a_half_close_is_closed_instead() -> None:
    near, far = trio.testing.memory_stream_pair()
    mailbox = Mailbox()
    stream = FallbackStream(mailbox, b"")
    await stream.send_eof()
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()
    await near.aclose()
    await far.aclose()


async def tls_pair(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    ends: tuple[trio.abc.Stream, trio.abc.Stream] | None = None,
) -> tuple[TLSStream, TLSStream]:
    """Make both ends of a TLS connection, the client's first, by default in memory."""
    near, far = ends or trio.testing.memory_stream_pair()
    made: dict[str, TLSStream] = {}
    async with trio.open_nursery() as nursery:

        async def shake(name: str, transport: trio.abc.Stream, context: ssl.SSLContext, **options: Any) -> None:
            made[name] = await handshake(transport, context, timeout=10, **options)

        nursery.start_soon(functools.partial(shake, "near", near, client_context, server_hostname=HOST))
        nursery.start_soon(functools.partial(shake, "far", far, server_context, server_side=True))
    return made["near"], made["far"]


async def socket_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    async with (await trio.open_tcp_listeners(0, host=HOST))[0] as listener:
        return await trio.open_tcp_stream(HOST, listener.socket.getsockname()[1]), await listener.accept()


async def test_it_passes_trios_own_checks_over_tls(
    autojump_clock: Clock, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def make() -> tuple[FallbackStream, FallbackStream]:
        near, far = await tls_pair(server_context, client_context)
        return FallbackStream(near, b""), FallbackStream(far, b"")

    async def make_clogged() -> tuple[FallbackStream, FallbackStream]:
        near, far = await tls_pair(server_context, client_context, trio.testing.lockstep_stream_pair())
        return FallbackStream(near, b""), FallbackStream(far, b"")

    await trio.testing.check_half_closeable_stream(make, make_clogged)


async def test_it_passes_trios_own_checks_over_tls_over_sockets(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def make() -> tuple[FallbackStream, FallbackStream]:
        near, far = await tls_pair(server_context, client_context, await socket_pair())
        return FallbackStream(near, b""), FallbackStream(far, b"")

    await trio.testing.check_half_closeable_stream(make, None)


# The half-close of TLS


@pytest.mark.parametrize("by", [0, 1])
async def test_a_half_closed_side_receives_to_the_end(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, by: int
) -> None:
    ends = await tls_pair(server_context, client_context)
    first, second = ends[by], ends[1 - by]
    await first.send_all(b"first")
    await first.send_eof()
    assert await receive_all(second) == b"first"
    await second.send_all(b"second")
    await second.send_eof()
    assert await receive_all(first) == b"second"
    assert await first.receive_some() == b""


async def test_data_received_with_the_handshake_is_not_lost_by_a_half_close(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    near, far = await tls_pair(server_context, client_context)
    await near.send_all(b"early")
    # As if the last read of the handshake had contained the record.
    far._incoming.write(await far.transport.receive_some())
    await far.send_eof()
    await near.send_all(b" and later")
    await near.send_eof()
    assert await receive_all(far) == b"early and later"


async def test_a_record_that_is_cut_by_a_half_close_is_not_lost(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    near, far = await tls_pair(server_context, client_context)
    near._encrypt(b"one record")
    record = near._take_outgoing()
    await near.transport.send_all(record[:9])
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    await far.send_eof()
    await near.transport.send_all(record[9:])
    assert await far.receive_some() == b"one record"


async def test_a_half_close_does_not_disturb_a_concurrent_receive(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    for passes in range(6):
        near, far = await tls_pair(server_context, client_context, await socket_pair())
        await near.send_all(b"first")
        # As after a read that has filled the buffer: the next read does not wait.
        far._pump._empty = False  # type: ignore[attr-defined]  # of the class that the test uses
        async with trio.open_nursery() as nursery:

            async def receive(far: TLSStream = far) -> None:
                assert await receive_all(far) == b"first and last"

            nursery.start_soon(receive)
            for _ in range(passes):
                await trio.lowlevel.checkpoint()
            await far.send_eof()
            await near.send_all(b" and last")
            await near.send_eof()
        await near.aclose()
        await far.aclose()


async def test_after_a_truncation_sending_still_works(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    near, far = await tls_pair(server_context, client_context, await socket_pair())
    await near.send_all(b"question")
    await near.transport.send_eof()  # type: ignore[attr-defined]  # of the class that the test uses
    assert await far.receive_some() == b"question"
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError) as caught:
            await far.receive_some()
        assert tls_stream.is_truncation(caught.value)
    await far.send_all(b"answer")
    await far.send_eof()
    assert await receive_all(near) == b"answer"
    await near.aclose()
    await far.aclose()


# Slots for the fallback


async def dial_from(address: str, port: int, context: ssl.SSLContext) -> TLSStream:
    transport = await trio.open_tcp_stream(HOST, port, local_address=address)
    return await handshake(transport, context, timeout=10, server_hostname=HOST)


@pytest.mark.skipif(sys.platform != "linux", reason="needs more addresses of loopback than one")
async def test_one_address_does_not_take_the_slots_of_others(
    serving: Serving, client_context: ssl.SSLContext, mock_clock: Clock
) -> None:
    control = trioanytls.ServerControl()
    config = trioanytls.Config(max_fallbacks=8, max_fallbacks_per_address=5)
    async with (
        patient_service() as service,
        serving(fallback=trioanytls.relay_to(HOST, service), config=config, control=control) as port,
    ):
        half = [await dial_from("127.0.0.2", port, client_context) for _ in range(12)]
        for client in half:
            await client.send_all(b"GET / HTTP/1.1\r\n")
        # The clock does not advance, so none of them is idle.
        while control.snapshot().fallbacks_refused != {"max_fallbacks_per_address": 7}:
            await trio.lowlevel.checkpoint()
        prober = await dial_from("127.0.0.3", port, client_context)
        await prober.send_all(GET)
        assert await receive_exactly(prober, 8) == b"the page"
        for client in [*half, prober]:
            await trio.aclose_forcefully(client.transport)


async def test_idle_connections_make_room_for_a_probe(serving: Serving, dialling: Dialling, mock_clock: Clock) -> None:
    """A prober gets an answer, even from the same address, as with a web server that runs out of connections."""
    control = trioanytls.ServerControl()
    config = trioanytls.Config(max_fallbacks_per_address=3)
    async with (
        patient_service() as service,
        serving(fallback=trioanytls.relay_to(HOST, service), config=config, control=control) as port,
    ):
        half = []
        for number in range(3):
            half.append(client := await dialling(port))
            await client.send_all(b"GET / HTTP/1.1\r\n")
            while control.snapshot().fallbacks <= number:
                await trio.lowlevel.checkpoint()
            mock_clock.jump(1)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(4)
        prober = await dialling(port)
        await prober.send_all(GET)
        assert await receive_exactly(prober, 8) == b"the page"
        # The first connection was idle for longest.
        assert await receive_all(half[0]) == b""
        for client in [*half[1:], prober]:
            await client.send_all(b"Host: localhost\r\n\r\n")
        for client in half[1:]:
            assert await receive_exactly(client, 8) == b"the page"
        for client in [*half, prober]:
            await trio.aclose_forcefully(client.transport)
    assert control.snapshot().fallbacks_displaced == 1

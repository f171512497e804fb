"""The front ends with relays that speak the legacy format, but are not of this package."""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio

import trioanytls
from trioanytls._protocol.legacy import server as legacy_server
from trioanytls.destination import Destination, DestinationDecoder, encode
from trioanytls.relay import refusal_reasons, upstream
from trioanytls.relay.reply_codes import ReplyCode
from trioanytls.relay.upstream import Unreachable, Upstream
from trioanytls.testing import memory_connection_pair

from ..conftest import HOST, USERS, Serving
from ..helpers.front_ends import ANY_PORT, MANUAL, all_of, ask, connect, exactly, offering, relay, shout

Handler = Callable[[trioanytls.Stream], Awaitable[object]]
Start = Callable[..., contextlib.AbstractAsyncContextManager[trioanytls.Client]]

THERE = Destination(HOST, 1)
SOCKS = b"\x05\x01\x00\x05\x01\x00" + encode(THERE)
CONNECT = b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: x\r\n\r\n"
# What anytls-go sends (legacy: 3).
TEXT = "dial tcp 127.0.0.1:1: connect: connection refused"


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "trioanytls.relay")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "trioanytls.relay"]


@pytest.fixture
def start(serving: Serving, client_context: ssl.SSLContext) -> Start:
    """Return a function that runs a server with a handler, and yields its client."""

    @contextlib.asynccontextmanager
    async def run(handler: Handler) -> AsyncIterator[trioanytls.Client]:
        async with (
            serving(handler, config=MANUAL, protocols=["legacy"]) as port,
            trioanytls.open_client(
                HOST, port, password=USERS["alice"], ssl_context=client_context, protocol="legacy"
            ) as client,
        ):
            yield client

    return run


async def read_destination(stream: trioanytls.Stream) -> bytes:
    """Read the destination. Return the data after it."""
    decoder = DestinationDecoder()
    while decoder.destination is None:
        decoder.feed(await stream.receive_some())
    assert decoder.destination == THERE
    return decoder.rest


def refusing(text: str) -> Handler:
    async def refuse(stream: trioanytls.Stream) -> None:
        await read_destination(stream)
        await stream.refuse(reason=text)

    return refuse


# Refusals


async def test_the_text_of_a_refusal_reaches_the_application_and_the_log(
    start: Start, said: Callable[[], list[str]]
) -> None:
    async with start(refusing(TEXT)) as client, offering(client, socks=[ANY_PORT], http=[ANY_PORT]) as [socks, http]:
        assert await ask(socks, SOCKS) == b"\x05\x00" + b"\x05\x01\x00\x01" + bytes(6)
        answer = await ask(http, CONNECT)
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert answer.endswith(f"127.0.0.1:1: {TEXT}\n".encode())
        # No other stream was opened to find out more.
        assert client.stats.streams_opened == 2
    assert said() == [
        f"SOCKS: 127.0.0.1:1: {TEXT}",
        f"HTTP: request refused with 502: 127.0.0.1:1: {TEXT}",
    ]


@pytest.mark.parametrize("reply", [reply for reply in ReplyCode if reply is not ReplyCode.SUCCEEDED])
async def test_the_text_of_a_relay_of_this_package_is_a_reply(start: Start, reply: ReplyCode) -> None:
    async with start(refusing(reply.text)) as client:
        with pytest.raises(Unreachable) as caught:
            await Upstream(client).open_stream(THERE)
    assert (caught.value.reply, str(caught.value)) == (reply, reply.text)


async def test_a_text_is_one_printable_line(start: Start) -> None:
    async with start(refusing("no\r\nSet-Cookie: a=b\x1b[2J \N{SNOWMAN}")) as client:
        with pytest.raises(Unreachable) as caught:
            await Upstream(client).open_stream(THERE)
    assert caught.value.reply is ReplyCode.GENERAL_FAILURE
    assert str(caught.value).isprintable()


async def test_a_refusal_without_a_text_has_the_usual_reason(start: Start) -> None:
    async with start(refusing("")) as client:
        with pytest.raises(Unreachable) as caught:
            await Upstream(client).open_stream(THERE)
        assert client.stats.streams_opened == 1
    assert caught.value.reply is ReplyCode.CONNECTION_REFUSED


async def test_anytls1_carries_no_text_without_the_extension() -> None:
    config = trioanytls.Config(acknowledge="manual", extensions={"fin", "goaway", "window"})
    async with (
        memory_connection_pair(refusing(TEXT), server_config=config) as (client, _),
        await client.open_stream() as stream,
    ):
        await stream.send_all(encode(THERE))
        with pytest.raises(trioanytls.StreamRefused) as caught:
            await stream.wait_acknowledged()
        assert caught.value.reason is None
        assert str(caught.value) == "the server refused the stream"


async def test_anytls1_carries_a_text_with_the_extension() -> None:
    extended = trioanytls.Config(acknowledge="manual", extensions={"reset"})
    async with (
        memory_connection_pair(
            refusing(TEXT), client_config=trioanytls.Config(extensions={"reset"}), server_config=extended
        ) as (client, _),
        await client.open_stream() as stream,
    ):
        await stream.send_all(encode(THERE))
        with pytest.raises(trioanytls.StreamRefused) as caught:
            await stream.wait_acknowledged()
        assert caught.value.reason == TEXT
        assert str(caught.value) == f"the server refused the stream: {TEXT} (code 2, NOT_ALLOWED)"


async def test_a_relay_that_accepts_before_it_connects(start: Start) -> None:
    # mihomo does. The application has its reply already, and sees the end.
    async def accept(stream: trioanytls.Stream) -> None:
        await read_destination(stream)
        await stream.acknowledge()

    async with start(accept) as client, offering(client, socks=[ANY_PORT]) as [socks]:
        assert await ask(socks, SOCKS) == b"\x05\x00" + b"\x05\x00\x00\x01" + bytes(6)


# Version 1


@pytest.fixture
def version_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make servers ones of version 1: they send neither ServerSettings nor SYNACK."""
    monkeypatch.setattr(legacy_server, "parse_version", lambda _settings: 1)


async def echo(stream: trioanytls.Stream) -> None:
    rest = await read_destination(stream)
    if rest:
        await stream.send_all(rest)
    async for data in stream:
        await stream.send_all(data)


@pytest.mark.usefixtures("version_1")
async def test_a_server_of_version_1_is_not_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    pair = memory_connection_pair(echo, server_config=MANUAL, protocol="legacy")
    async with pair as (client, _):
        way = Upstream(client)  # type: ignore[arg-type]  # a stand-in for a client
        for waited in (upstream.VERSION_TIMEOUT, 0):
            start = trio.current_time()
            async with await way.open_stream(THERE) as stream:
                assert trio.current_time() - start == pytest.approx(waited, abs=0.1)
                await stream.send_all(b"hello")
                assert await stream.receive_some() == b"hello"
        # With the first data, the version was known.
        assert client.version == 1


@pytest.mark.usefixtures("version_1")
async def test_a_server_of_version_1_that_refuses_at_once(autojump_clock: trio.testing.MockClock) -> None:
    pair = memory_connection_pair(refusing(TEXT), server_config=MANUAL, protocol="legacy")
    async with pair as (client, _):
        start = trio.current_time()
        with pytest.raises(Unreachable) as caught:
            await Upstream(client).open_stream(THERE)  # type: ignore[arg-type]  # a stand-in for a client
        assert trio.current_time() == start
    assert caught.value.reply is ReplyCode.CONNECTION_REFUSED


async def test_a_server_of_version_2_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    async def accept(stream: trioanytls.Stream) -> None:
        await read_destination(stream)
        await trio.sleep(9)
        await stream.acknowledge()
        await trio.sleep_forever()

    async with memory_connection_pair(accept, server_config=MANUAL, protocol="legacy") as (client, _):
        start = trio.current_time()
        async with await Upstream(client).open_stream(THERE):  # type: ignore[arg-type]  # a stand-in for a client
            assert trio.current_time() - start == pytest.approx(9, abs=0.1)


# Half-close


async def test_the_end_of_an_applications_sending_is_withheld(start: Start) -> None:
    # A FIN would end both directions, and the answer would be lost.
    waiting = trio.Event()
    answer = bytes(1 << 20)

    async def serve(stream: trioanytls.Stream) -> None:
        await read_destination(stream)
        await stream.acknowledge()
        assert await stream.receive_some() == b"request"
        with trio.move_on_after(0.2):
            # Neither data nor an end.
            pytest.fail(repr(await stream.receive_some()))
        waiting.set()
        await stream.send_all(answer)

    async with start(serve) as client, offering(client, socks=[ANY_PORT]) as [door], await connect(door) as stream:
        await stream.send_all(SOCKS)
        await exactly(stream, 12)
        await stream.send_all(b"request")
        await stream.send_eof()
        assert await all_of(stream) == answer
        assert waiting.is_set()


async def test_the_end_of_an_applications_sending_with_a_relay_of_this_package(start: Start) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await trio.sleep(0.1)
        await stream.send_all(bytes(6000))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        far = Destination(HOST, listeners[0].socket.getsockname()[1])
        async with (
            start(relay()) as client,
            offering(client, socks=[ANY_PORT]) as [door],
            await connect(door) as stream,
        ):
            await stream.send_all(b"\x05\x01\x00\x05\x01\x00" + encode(far) + b"request")
            await stream.send_eof()
            assert len(await all_of(stream)) == 12 + 6000
        nursery.cancel_scope.cancel()


# Other clients


async def test_a_client_that_ends_a_stream_closes_its_destination(start: Start) -> None:
    # Real clients send FIN as soon as the application ends its sending.
    ended = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await shout(stream)
        ended.set()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        far = Destination(HOST, listeners[0].socket.getsockname()[1])
        async with start(relay()) as client:
            for data in (b"first", b"again"):
                # The session carries the next stream.
                async with await Upstream(client).open_stream(far) as stream:
                    await stream.send_all(data)
                    assert await exactly(stream, 5) == data.upper()
                with trio.fail_after(10):
                    await ended.wait()
            assert client.stats.connections == 1
        nursery.cancel_scope.cancel()


async def test_our_relay_does_not_need_the_stream_for_reasons(start: Start) -> None:
    # It is answered all the same, as for clients of the other format.
    async with start(relay()) as client:
        stream = await client.open_stream()
        await stream.send_all(encode(refusal_reasons.DESTINATION) + bytes(8))
        assert await exactly(stream, 1) == bytes([ReplyCode.GENERAL_FAILURE])
        await stream.aclose()

"""The relay as a library: a server and all front ends from the public names alone, over real sockets."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import logging
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio

import trioanytls
from trioanytls import relay
from trioanytls._protocol.interface import WireFormat
from trioanytls.destination import Destination, encode
from trioanytls.relay import AddressPolicy, RelayHandler, ReplyCode, Unreachable, Upstream, parse_network

from ..conftest import HOST, USERS
from ..helpers.front_ends import all_of, exactly, shouting

ROOT = Path(__file__).parent.parent.parent
LOOPBACK = AddressPolicy(allow=[parse_network("127.0.0.0/8")])

Start = Callable[..., Awaitable[Any]]


def port_of(listeners: list[trio.SocketListener]) -> int:
    port: int = listeners[0].socket.getsockname()[1]
    return port


@contextlib.asynccontextmanager
async def upstream_to(
    handler: RelayHandler,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    wire_format: WireFormat,
) -> AsyncIterator[tuple[Upstream, trio.Nursery]]:
    """Yield an upstream whose server has this handler, and a nursery for front ends."""
    async with trio.open_nursery() as nursery:
        serve = partial(trioanytls.serve, host=HOST, ssl_context=server_context, users=USERS, protocols=[wire_format])
        config = trioanytls.Config(acknowledge="manual")
        port = port_of(await nursery.start(partial(serve, handler, 0, config=config)))
        client_of = partial(trioanytls.open_client, ssl_context=client_context, protocol=wire_format)
        async with client_of(HOST, port, password=USERS["alice"]) as client:
            yield Upstream(client), nursery
        nursery.cancel_scope.cancel()


@pytest.fixture
async def upstream(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, wire_format: WireFormat
) -> AsyncIterator[tuple[Upstream, trio.Nursery]]:
    async with upstream_to(RelayHandler.with_udp(LOOPBACK), server_context, client_context, wire_format) as found:
        yield found


async def socks5(port: int, destination: Destination, data: bytes) -> bytes:
    async with await trio.open_tcp_stream(HOST, port) as stream:
        await stream.send_all(b"\x05\x01\x00\x05\x01\x00" + encode(destination))
        assert (await exactly(stream, 12))[2:4] == b"\x05\x00"
        await stream.send_all(data)
        return await exactly(stream, len(data))


async def connect(port: int, destination: Destination, data: bytes, fields: bytes = b"") -> bytes:
    async with await trio.open_tcp_stream(HOST, port) as stream:
        target = str(destination).encode()
        await stream.send_all(b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (target, target, fields))
        established = b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert await exactly(stream, len(established)) == established
        await stream.send_all(data)
        return await exactly(stream, len(data))


async def test_all_front_ends(upstream: tuple[Upstream, trio.Nursery]) -> None:
    way, nursery = upstream
    async with shouting() as far:
        there = Destination(HOST, far)
        socks = port_of(await nursery.start(relay.serve_socks, way, 0))
        http = port_of(await nursery.start(relay.serve_http_proxy, way, 0))
        mixed = port_of(await nursery.start(relay.serve_mixed, way, 0))
        forward = port_of(await nursery.start(relay.forward_port, way, there, 0))

        assert await socks5(socks, there, b"socks") == b"SOCKS"
        assert await connect(http, there, b"http") == b"HTTP"
        assert await socks5(mixed, there, b"mixed") == b"MIXED"
        assert await connect(mixed, there, b"mixed") == b"MIXED"
        async with await trio.open_tcp_stream(HOST, forward) as stream:
            await stream.send_all(b"forward")
            assert await exactly(stream, 7) == b"FORWARD"
    assert (way.up, way.down) == (26, 26)


async def test_the_example_of_the_page(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    example = load_example()
    async with trio.open_nursery() as nursery, shouting() as far:
        there = Destination(HOST, far)
        server = port_of(await nursery.start(example.run_server, server_context, 0, "127.0.0.0/8"))
        async with trioanytls.open_client(HOST, server, password="secret", ssl_context=client_context) as client:
            proxies = partial(example.run_proxies, client, there, (0, 0, 0, 0))
            socks, http, mixed, forward = await nursery.start(proxies)
            assert await socks5(socks, there, b"one") == b"ONE"
            assert await connect(http, there, b"two") == b"TWO"
            password = b"Proxy-Authorization: Basic YnJvd3NlcjpwYXNzd29yZA==\r\n"
            assert await connect(mixed, there, b"three", password) == b"THREE"
            async with await trio.open_tcp_stream(HOST, forward) as stream:
                await stream.send_all(b"four")
                assert await exactly(stream, 4) == b"FOUR"
            nursery.cancel_scope.cancel()


def load_example() -> ModuleType:
    path = ROOT / "docs" / "examples" / "relay_library.py"
    spec = importlib.util.spec_from_file_location("relay_library", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_by_default_only_this_machine_can_connect(upstream: tuple[Upstream, trio.Nursery]) -> None:
    way, nursery = upstream
    starts: list[Start] = [relay.serve_socks, relay.serve_http_proxy, relay.serve_mixed]
    for start in starts:
        [listener] = await nursery.start(start, way, 0)
        assert listener.socket.getsockname()[0] == "127.0.0.1"
    [listener] = await nursery.start(partial(relay.serve_socks, way, 0, host="127.0.0.2"))
    assert listener.socket.getsockname()[0] == "127.0.0.2"


@pytest.mark.parametrize("serve", [relay.serve_socks, relay.serve_mixed])
async def test_users_of_socks(upstream: tuple[Upstream, trio.Nursery], serve: Start) -> None:
    way, nursery = upstream
    async with shouting() as far:
        port = port_of(await nursery.start(partial(serve, way, 0, users={"alice": "secret"})))
        async with await trio.open_tcp_stream(HOST, port) as stream:
            await stream.send_all(b"\x05\x01\x00")
            assert await all_of(stream) == b"\x05\xff"
        async with await trio.open_tcp_stream(HOST, port) as stream:
            await stream.send_all(b"\x05\x01\x02\x01\x05alice\x06secret\x05\x01\x00" + encode(Destination(HOST, far)))
            assert await exactly(stream, 14) == b"\x05\x02\x01\x00\x05\x00\x00\x01" + bytes(6)


@pytest.mark.parametrize("serve", [relay.serve_http_proxy, relay.serve_mixed])
async def test_users_of_http(upstream: tuple[Upstream, trio.Nursery], serve: Start) -> None:
    way, nursery = upstream
    port = port_of(await nursery.start(partial(serve, way, 0, users={"alice": "secret"})))
    async with await trio.open_tcp_stream(HOST, port) as stream:
        await stream.send_all(b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n")
        assert (await all_of(stream)).startswith(b"HTTP/1.1 407 ")


async def test_a_refused_destination(upstream: tuple[Upstream, trio.Nursery]) -> None:
    way, nursery = upstream
    with pytest.raises(Unreachable) as caught:
        await way.open(Destination("10.0.0.1", 80))
    assert caught.value.reply is ReplyCode.NOT_ALLOWED
    forward = port_of(await nursery.start(relay.forward_port, way, Destination("10.0.0.1", 80), 0))
    async with await trio.open_tcp_stream(HOST, forward) as stream:
        # Not an empty answer.
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()


async def test_without_udp_the_handler_refuses_it(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, wire_format: WireFormat
) -> None:
    replies = []
    for handler in (RelayHandler(LOOPBACK), RelayHandler.with_udp(LOOPBACK)):
        async with upstream_to(handler, server_context, client_context, wire_format) as (way, nursery):
            port = port_of(await nursery.start(relay.serve_socks, way, 0))
            async with await trio.open_tcp_stream(HOST, port) as stream:
                await stream.send_all(b"\x05\x01\x00\x05\x03\x00" + encode(Destination("0.0.0.0", 0)))
                replies.append((await exactly(stream, 4))[3])
    assert replies == [ReplyCode.COMMAND_NOT_SUPPORTED, ReplyCode.SUCCEEDED]


async def test_special_hosts_are_added_to_udp() -> None:
    async def special(stream: trioanytls.Stream, _destination: Destination) -> None:
        await stream.refuse()

    handler = RelayHandler.with_udp(LOOPBACK, 5, special_hosts={"special.example": special})
    assert len(handler.special_hosts) == 2
    assert handler.special_hosts["special.example"] is special
    assert (handler.policy, handler.connect_timeout) == (LOOPBACK, 5)


async def test_cancelling_closes_the_listener_and_the_connections(upstream: tuple[Upstream, trio.Nursery]) -> None:
    way, _ = upstream
    async with shouting() as far, trio.open_nursery() as nursery:
        port = port_of(await nursery.start(relay.forward_port, way, Destination(HOST, far), 0))
        async with await trio.open_tcp_stream(HOST, port) as stream:
            await stream.send_all(b"hello")
            assert await exactly(stream, 5) == b"HELLO"
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                assert await all_of(stream) == b""
                with pytest.raises(OSError, match="refused"):
                    await trio.open_tcp_stream(HOST, port)


async def test_max_connections(upstream: tuple[Upstream, trio.Nursery]) -> None:
    way, nursery = upstream
    async with shouting() as far:
        serve = partial(relay.forward_port, way, Destination(HOST, far), 0, max_connections=1)
        port = port_of(await nursery.start(serve))
        # The second connection waits in the system's queue.
        async with await trio.open_tcp_stream(HOST, port) as first, await trio.open_tcp_stream(HOST, port) as second:
            await first.send_all(b"a")
            assert await exactly(first, 1) == b"A"
            await second.send_all(b"b")
            with trio.move_on_after(0.2) as scope:
                await second.receive_some()
            assert scope.cancelled_caught
            # An orderly end would not end the connection: the destination may still answer.
            await trioanytls.reset_stream(first)
            assert await exactly(second, 1) == b"B"


async def test_wrong_arguments(upstream: tuple[Upstream, trio.Nursery]) -> None:
    way, _ = upstream
    with pytest.raises(ValueError, match="port"):
        await relay.serve_socks(way, 65536)
    with pytest.raises(ValueError, match="x y"):
        await relay.serve_http_proxy(way, 0, via="x y")
    with socket.create_server((HOST, 0)) as taken, pytest.raises(OSError, match="in use"):
        await relay.serve_mixed(way, taken.getsockname()[1])


async def test_an_error_of_one_connection_is_logged(
    upstream: tuple[Upstream, trio.Nursery], caplog: pytest.LogCaptureFixture
) -> None:
    way, nursery = upstream
    caplog.set_level(logging.INFO, logger="trioanytls.relay")
    port = port_of(await nursery.start(relay.serve_socks, way, 0))
    async with shouting() as far:
        async with await trio.open_tcp_stream(HOST, port) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
            assert await all_of(stream) == b""
        assert await socks5(port, Destination(HOST, far), b"still here") == b"STILL HERE"
    assert [record.getMessage() for record in caplog.records if record.name == "trioanytls.relay"] == [
        "SOCKS: the application speaks HTTP; use the port of --http or --mixed for that"
    ]


def test_the_library_does_not_import_the_relay() -> None:
    program = "import sys, trioanytls; print([name for name in sys.modules if name.startswith('trioanytls.relay')])"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"


def test_each_public_name_is_documented() -> None:
    page = (ROOT / "docs" / "relay-library.md").read_text(encoding="utf-8")
    for name in relay.__all__:
        assert re.search(rf":: trioanytls\.relay\.{name}(\(\))?\n", page), name
        one = getattr(relay, name)
        assert inspect.getdoc(one) or not (inspect.isclass(one) or inspect.isfunction(one)), name


def test_signatures_have_public_types_only() -> None:
    """All classes of the package in the signatures of the functions are exported."""
    public = {getattr(relay, name) for name in relay.__all__}
    for function in (relay.serve_socks, relay.serve_http_proxy, relay.serve_mixed, relay.forward_port):
        for annotation in inspect.get_annotations(function, eval_str=True).values():
            module = getattr(annotation, "__module__", "")
            assert annotation in public or not str(module).startswith("trioanytls.relay"), annotation

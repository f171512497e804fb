"""Front ends: an error caused by one application or one site ends that connection alone."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import trioanytls
from trioanytls.cli.client.settings import Forwarding
from trioanytls.destination import Destination, encode
from trioanytls.relay.bypass import BypassRule
from trioanytls.relay.front_end import serve_front
from trioanytls.relay.upstream import Upstream

from ..conftest import HOST, USERS, Serving
from ..helpers import udp_sockets
from ..helpers.extensions import ALL
from ..helpers.front_ends import ANY_PORT, MANUAL, ask, connect, exactly, offering, relay, shouting

Serve = Callable[[trio.SocketStream], Awaitable[object]]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[logging.LogRecord]]:
    caplog.set_level(logging.DEBUG, "trioanytls.relay")
    return lambda: [record for record in caplog.records if record.name == "trioanytls.relay"]


@contextlib.asynccontextmanager
async def front(serve: Serve, **options: Any) -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        await nursery.start(partial(serve_front, "front", serve, listeners, **options))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def send(port: int, data: bytes) -> bytes:
    """Send, and read to the end, orderly or not."""
    received = bytearray()
    with trio.fail_after(10):
        async with await trio.open_tcp_stream(HOST, port) as stream:
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(data)
                async for piece in stream:
                    received += piece
    return bytes(received)


async def echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


MISTAKE = ValueError("a mistake")
BROKEN = trio.BrokenResourceError("it has gone")


def raising(error: BaseException) -> Serve:
    """Raise the error if requested, and echo otherwise."""

    async def serve(stream: trio.SocketStream) -> None:
        async for data in stream:
            if data == b"fail":
                raise error
            await stream.send_all(data)

    return serve


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (MISTAKE, logging.ERROR),
        (ExceptionGroup("", [MISTAKE]), logging.ERROR),
        (ExceptionGroup("", [BROKEN, ExceptionGroup("", [MISTAKE])]), logging.ERROR),
        (OSError(errno.ENOTCONN, "no"), logging.WARNING),
        (ExceptionGroup("", [BROKEN, OSError(errno.ENOTCONN, "no")]), logging.WARNING),
        (BROKEN, logging.DEBUG),
        (trio.ClosedResourceError(), logging.DEBUG),
        (ExceptionGroup("", [BROKEN, ExceptionGroup("", [trio.ClosedResourceError()])]), logging.DEBUG),
    ],
    ids=repr,
)
async def test_an_error_of_one_connection_leaves_the_others(
    error: Exception, level: int, said: Callable[[], list[logging.LogRecord]]
) -> None:
    async with front(raising(error)) as port, await trio.open_tcp_stream(HOST, port) as other:
        await other.send_all(b"before")
        assert await exactly(other, 6) == b"before"
        for _ in range(3):
            assert await send(port, b"fail") == b""
        await other.send_all(b"after")
        assert await exactly(other, 5) == b"after"
    assert [record.levelno for record in said()] == [level] * 3
    # Only a bug in the library is logged with a traceback.
    assert [bool(record.exc_info) for record in said()] == [level == logging.ERROR] * 3


async def test_cancellation_of_the_front_end_passes() -> None:
    started = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        try:
            started.set()
            await trio.sleep_forever()
        finally:
            # One task fails while another one is cancelled.
            raise MISTAKE

    async with front(serve) as port, await trio.open_tcp_stream(HOST, port):
        with trio.fail_after(10):
            await started.wait()


class Failing:
    """A listener's socket that cannot accept at first."""

    def __init__(self, one: trio.socket.SocketType, errors: list[int]) -> None:
        self.one = one
        self.errors = errors
        self.recovered = trio.Event()

    async def accept(self) -> object:
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        self.recovered.set()
        return await self.one.accept()

    def __getattr__(self, name: str) -> object:
        return getattr(self.one, name)


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED, errno.EINVAL]
)
async def test_a_system_that_cannot_accept_at_present(
    number: int, autojump_clock: trio.testing.MockClock, said: Callable[[], list[logging.LogRecord]]
) -> None:
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host=HOST)
        port = listener.socket.getsockname()[1]
        failing = Failing(listener.socket, [number] * 1000)
        listener.socket = failing  # type: ignore[assignment]  # a stand-in
        nursery.start_soon(serve_front, "front", echo, [listener])
        await failing.recovered.wait()
        async with await trio.open_tcp_stream(HOST, port) as stream:
            await stream.send_all(b"hello")
            assert await exactly(stream, 5) == b"hello"
        nursery.cancel_scope.cancel()
    # Once a minute instead of ten times a second: two minutes have passed.
    loud = [record for record in said() if record.levelno >= logging.WARNING]
    assert len(loud) == (0 if number == errno.ECONNABORTED else 2)


async def test_so_many_are_served_and_the_rest_wait() -> None:
    async with front(raising(MISTAKE), most_connections=2) as port:
        streams = [await trio.open_tcp_stream(HOST, port) for _ in range(3)]
        for stream in streams:
            await stream.send_all(b"hello")
        for stream in streams[:2]:
            assert await exactly(stream, 5) == b"hello"
        # A failed connection makes room as well.
        await streams[0].send_all(b"fail")
        assert await exactly(streams[2], 5) == b"hello"
        for stream in streams:
            await stream.aclose()


BAD = Destination("bad.example", 1)
REQUESTS = {
    "socks": b"\x05\x01\x00\x05\x01\x00" + encode(BAD),
    "socks4": b"\x04\x01\x00\x01\x00\x00\x00\x01\x00bad.example\x00",
    "udp": b"\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00",
    "http": b"GET http://bad.example:1/ HTTP/1.1\r\nHost: bad.example\r\n\r\n",
    "connect": b"CONNECT bad.example:1 HTTP/1.1\r\nHost: bad.example\r\n\r\n",
    "forward": b"hello",
}


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("mixed", [False, True])
async def test_all_front_ends_of_the_client_are_served_this_way(
    kind: str,
    mixed: bool,
    serving: Serving,
    client_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    said: Callable[[], list[logging.LogRecord]],
) -> None:
    opening = Upstream.open_stream

    async def fail(self: Upstream, to: Destination, request: bytes = b"") -> trioanytls.Stream:
        if to == BAD or request:
            raise ValueError("a mistake")
        return await opening(self, to, request)

    monkeypatch.setattr(Upstream, "open_stream", fail)
    async with (
        serving(relay(), config=MANUAL) as port,
        trioanytls.open_client(HOST, port, password=USERS["alice"], ssl_context=client_context) as client,
        shouting() as far,
        offering(
            client,
            socks=[ANY_PORT],
            http=[ANY_PORT],
            mixed=[ANY_PORT],
            forwards=[Forwarding(ANY_PORT, BAD), Forwarding(ANY_PORT, Destination(HOST, far))],
        ) as (socks, http, both, bad, good),
        await connect(good) as other,
    ):
        if mixed:
            socks = http = both
        doors = {"socks": socks, "socks4": socks, "udp": socks, "http": http, "connect": http, "forward": bad}
        for _ in range(2):
            await ask(doors[kind], REQUESTS[kind])
        await other.send_all(b"hello")
        assert await exactly(other, 5) == b"HELLO"
    assert [str(record.exc_info[1]) for record in said() if record.exc_info] == ["a mistake"] * 2


async def test_udp_forwards_are_served_this_way(
    serving: Serving,
    client_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    said: Callable[[], list[logging.LogRecord]],
) -> None:
    opening = Upstream.open_stream
    failures = [ValueError("a mistake"), trio.BrokenResourceError("it has gone")]

    async def fail(self: Upstream, to: Destination, request: bytes = b"") -> trioanytls.Stream:
        if failures:
            raise failures.pop(0)
        return await opening(self, to, request)

    monkeypatch.setattr(Upstream, "open_stream", fail)
    async with (
        serving(relay(), config=MANUAL) as port,
        trioanytls.open_client(HOST, port, password=USERS["alice"], ssl_context=client_context) as client,
        udp_sockets.shouting() as far,
        offering(client, udp_forwards=[Forwarding(ANY_PORT, far)]) as [door],
        udp_sockets.peer() as one,
    ):
        for left in (1, 0):
            await one.socket.sendto(b"lost", (door.address.host, door.address.port))
            await udp_sockets.until(lambda left=left: len(failures) == left)  # type: ignore[misc]  # its default binds the loop's variable
        await udp_sockets.until(lambda: len(said()) >= 2)
        await one.socket.sendto(b"hello", (door.address.host, door.address.port))
        assert (await one.receive())[0] == b"HELLO"
    assert [str(record.exc_info[1]) for record in said() if record.exc_info] == ["a mistake"]


@contextlib.asynccontextmanager
async def half_closed(
    serving: Serving, context: ssl.SSLContext, *, rules: tuple[str, ...] = (), **options: Any
) -> AsyncIterator[trio.SocketStream]:
    """Yield the connection of an application that has ended its sending, to a destination that does not answer.

    `options` are settings of both ends.
    """

    async def wait(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            async for _ in stream:
                pass
            # It learns of the half-close only over TCP, and with the extension `fin`.
            await trio.sleep_forever()

    never = trioanytls.Config(idle_timeout=math.inf, stream_idle_timeout=math.inf, write_timeout=math.inf)
    config = attrs.evolve(never, **options)
    async with (
        serving(relay(), config=attrs.evolve(config, acknowledge="manual")) as port,
        trioanytls.open_client(HOST, port, password=USERS["alice"], ssl_context=context, config=config) as client,
        trio.open_nursery() as nursery,
    ):
        [listener] = await nursery.start(partial(trio.serve_tcp, wait, 0, host=HOST))
        far = Destination(HOST, listener.socket.getsockname()[1])
        bypass = tuple(BypassRule.parse(rule) for rule in rules)
        forwards = [Forwarding(ANY_PORT, far)]
        async with offering(client, forwards=forwards, bypass=bypass) as [door], await connect(door) as stream:
            await stream.send_all(b"hello")
            await stream.send_eof()
            yield stream
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("rules", [(), ("127.0.0.1",)], ids=["relayed", "direct"])
async def test_a_connection_closed_by_its_application_ends_after_a_while(
    rules: tuple[str, ...],
    serving: Serving,
    client_context: ssl.SSLContext,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A closed connection looks half-closed, and a stream cannot pass that on, so the destination keeps waiting."""
    async with half_closed(serving, client_context, rules=rules, extensions=ALL - {"fin"}) as stream:
        started = trio.current_time()
        # No data arrives, and then the end, orderly or not.
        with trio.fail_after(700), contextlib.suppress(trio.BrokenResourceError):
            assert await stream.receive_some() == b""
        assert trio.current_time() - started == pytest.approx(600, abs=60)


async def test_with_half_close_the_idle_timer_of_the_stream_limits_the_silence(
    serving: Serving, client_context: ssl.SSLContext, autojump_clock: trio.testing.MockClock
) -> None:
    """A destination that has seen the end may take long for its answer. The answer must not look complete."""
    async with half_closed(serving, client_context, extensions=ALL, stream_idle_timeout=4 * 3600) as stream:
        started = trio.current_time()
        with trio.fail_after(5 * 3600), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        assert trio.current_time() - started == pytest.approx(4 * 3600, abs=60)

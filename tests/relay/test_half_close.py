"""Ends and aborts through the relay, on every front end: an end stays an end, and an abort an abort (extensions: 3)."""

from __future__ import annotations

import contextlib
import errno
import logging
import ssl
from collections.abc import AsyncIterator, Collection
from functools import partial
from typing import Any

import pytest
import trio

import trioanytls
from trioanytls import reset_stream
from trioanytls.cli.client.front_ends import LocalListener
from trioanytls.cli.client.settings import Forwarding
from trioanytls.destination import Destination, encode

from ..conftest import HOST, USERS, Serving
from ..helpers.extensions import ALL, NO_EXTENSIONS, extending
from ..helpers.front_ends import ANY_PORT, all_of, connect, exactly, offering, relay
from ..helpers.losing_stream import LosingStream

#: The front ends, by the option that opens them.
FRONTS = {
    "socks4": "socks",
    "socks5": "socks",
    "connect": "http",
    "mixed-socks4": "mixed",
    "mixed-socks5": "mixed",
    "mixed-connect": "mixed",
    "forward": "forwards",
}
every_front = pytest.mark.parametrize("front", FRONTS)


class Relayed:
    """A client of a relay, and a destination.

    Attributes:
      client: the client.
      port: the destination's port.
      listener: the listener of the destination.
      server: cancels the relay's server.
    """

    def __init__(self, client: trioanytls.Client, listener: trio.SocketListener, server: trio.CancelScope) -> None:
        self.client = client
        self.port: int = listener.socket.getsockname()[1]
        self.server = server
        self.listener = listener

    @contextlib.asynccontextmanager
    async def opened(self, front: str) -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
        """Connect an application through a front end. Yield its connection, and that of the destination."""
        listens: Any = [ANY_PORT]
        if front == "forward":
            listens = [Forwarding(ANY_PORT, Destination(HOST, self.port))]
        async with offering(self.client, **{FRONTS[front]: listens}) as [door], await connect(door) as application:
            await self._request(front.removeprefix("mixed-"), application)
            with trio.fail_after(10):
                far = await self.listener.accept()
            async with far:
                yield application, far

    async def _request(self, front: str, application: trio.SocketStream) -> None:
        port = self.port.to_bytes(2, "big")
        if front == "socks4":
            await application.send_all(b"\x04\x01" + port + b"\x7f\x00\x00\x01me\x00")
            assert (await exactly(application, 8))[1] == 0x5A
        elif front == "socks5":
            await application.send_all(b"\x05\x01\x00\x05\x01\x00" + encode(Destination(HOST, self.port)))
            assert (await exactly(application, 12))[3] == 0
        elif front == "connect":
            await application.send_all(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: x\r\n\r\n" % self.port)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += await exactly(application, 1)
            assert head.startswith(b"HTTP/1.1 200 ")


@contextlib.asynccontextmanager
async def relayed(
    serving: Serving, context: ssl.SSLContext, extensions: Collection[str] = ALL, **options: Any
) -> AsyncIterator[Relayed]:
    """Run a relay whose server has these extensions, and a destination."""
    config = options.pop("config", extending(extensions, acknowledge="manual"))
    [listener] = await trio.open_tcp_listeners(0, host=HOST)
    async with listener, trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def serve(task_status: trio.TaskStatus[int]) -> None:
            with scope:
                async with serving(relay(), config=config, **options) as port:
                    task_status.started(port)
                    await trio.sleep_forever()

        port = await nursery.start(serve)
        protocols = options.get("protocols", ["anytls1"])
        offered = extending(extensions)
        open_client = partial(trioanytls.open_client, password=USERS["alice"], ssl_context=context, config=offered)
        async with open_client(HOST, port, protocol=protocols[0]) as client:
            yield Relayed(client, listener, scope)
        nursery.cancel_scope.cancel()


async def received(stream: trio.SocketStream) -> bytes:
    """Receive to the orderly end."""
    with trio.fail_after(10):
        return b"".join([bytes(piece) async for piece in stream])


async def is_aborted(stream: trio.SocketStream) -> bool:
    """Return whether the stream ends by an error."""
    with trio.fail_after(10):
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            return True
    return False


# Tunnels


@every_front
async def test_the_destination_sees_the_end_and_the_application_its_whole_answer(
    serving: Serving, client_context: ssl.SSLContext, front: str
) -> None:
    async with relayed(serving, client_context) as way, way.opened(front) as (application, far):
        await application.send_all(b"the request")
        await application.send_eof()
        assert await received(far) == b"the request"
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                await far.send_all(bytes(1 << 20))
                await far.send_eof()

            nursery.start_soon(answer)
            assert await received(application) == bytes(1 << 20)


@every_front
async def test_the_application_sees_the_end_and_can_send_on(
    serving: Serving, client_context: ssl.SSLContext, front: str
) -> None:
    async with relayed(serving, client_context) as way, way.opened(front) as (application, far):
        await far.send_all(b"the answer")
        await far.send_eof()
        assert await received(application) == b"the answer"
        await application.send_all(b"the rest")
        await application.send_eof()
        assert await received(far) == b"the rest"


@every_front
async def test_the_application_sees_the_abort_of_the_destination(
    serving: Serving, client_context: ssl.SSLContext, front: str
) -> None:
    async with relayed(serving, client_context) as way, way.opened(front) as (application, far):
        await far.send_all(b"half an ans")
        assert await exactly(application, 11) == b"half an ans"
        await reset_stream(far)
        assert await is_aborted(application)


async def test_a_destination_that_stalls_is_an_abort_with_its_code(
    serving: Serving, client_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trioanytls")
    config = extending(ALL, acknowledge="manual", stream_idle_timeout=0.5)
    async with relayed(serving, client_context, config=config) as way, way.opened("socks5") as (application, far):
        await far.send_all(b"half an ans")
        assert await exactly(application, 11) == b"half an ans"
        assert await is_aborted(application)
        assert await is_aborted(far)
    idle = "the stream was idle for longer than stream_idle_timeout"
    assert f"the peer has reset the stream: {idle} (code 8, IDLE)" in caplog.text
    assert f"stream 1 reset: {idle}" in caplog.text


async def test_a_destination_that_times_out_is_an_abort_with_its_code(
    serving: Serving,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As by TCP keep-alive, if its machine has disappeared."""
    caplog.set_level(logging.DEBUG, "trioanytls.relay")
    lost: list[LosingStream] = []

    async def copy(near: trioanytls.Stream, far: trio.SocketStream, **options: Any) -> None:
        lost.append(LosingStream(far, errno.ETIMEDOUT))
        await trioanytls.copy_both_ways(near, lost[0], **options)

    monkeypatch.setattr("trioanytls.relay.handler.copy_both_ways", copy)
    async with relayed(serving, client_context) as way, way.opened("socks5") as (application, far):
        await far.send_all(b"half an ans")
        assert await exactly(application, 11) == b"half an ans"
        lost[0].lose()
        await far.send_all(b"wer")
        assert await is_aborted(application)
    assert "the peer has reset the stream: the connection timed out (code 6, TIMED_OUT)" in caplog.text
    assert "ended: destination disconnected: socket connection broken: [Errno" in caplog.text


@every_front
@pytest.mark.parametrize("ended", [False, True], ids=["open", "half-closed"])
async def test_the_destination_sees_the_abort_of_the_application(
    serving: Serving, client_context: ssl.SSLContext, front: str, ended: bool
) -> None:
    async with relayed(serving, client_context) as way, way.opened(front) as (application, far):
        await application.send_all(b"half a requ")
        assert await exactly(far, 11) == b"half a requ"
        if ended:
            await far.send_eof()
            assert await received(application) == b""
        await reset_stream(application)
        assert await is_aborted(far)


@every_front
@pytest.mark.parametrize("extensions", [NO_EXTENSIONS, ALL], ids=["none", "all"])
async def test_a_server_that_stops_in_mid_download_is_an_error(
    serving: Serving, client_context: ssl.SSLContext, front: str, extensions: Collection[str]
) -> None:
    async with relayed(serving, client_context, extensions) as way, way.opened(front) as (application, far):
        await far.send_all(b"half an ans")
        assert await exactly(application, 11) == b"half an ans"
        way.server.cancel()
        assert await is_aborted(application)
        assert await is_aborted(far)


# Without half-close


@every_front
@pytest.mark.parametrize("options", [{"extensions": ALL - {"fin"}}, {"protocols": ["legacy"]}], ids=["fin", "legacy"])
async def test_without_half_close_the_end_is_withheld(
    serving: Serving, client_context: ssl.SSLContext, front: str, options: dict[str, Any]
) -> None:
    async with (
        relayed(serving, client_context, **options) as way,
        way.opened(front) as (application, far),
    ):
        await application.send_all(b"the request")
        await application.send_eof()
        assert await exactly(far, 11) == b"the request"
        with trio.move_on_after(0.2) as waiting:
            await far.receive_some()
        assert waiting.cancelled_caught
        await far.send_all(b"the answer")
        await far.send_eof()
        assert await received(application) == b"the answer"


@every_front
async def test_without_extensions_an_abort_is_an_end(
    serving: Serving, client_context: ssl.SSLContext, front: str
) -> None:
    async with relayed(serving, client_context, NO_EXTENSIONS) as way, way.opened(front) as (application, far):
        await far.send_all(b"half an ans")
        assert await exactly(application, 11) == b"half an ans"
        await reset_stream(far)
        assert await received(application) == b""


# Forwarded requests


@contextlib.asynccontextmanager
async def asking(way: Relayed, request: bytes) -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """Send a request in absolute form, with `%d` for the port. Yield both connections."""
    async with offering(way.client, http=[ANY_PORT]) as [door], await connect(door) as application:
        await application.send_all(request.replace(b"%d", b"%d" % way.port))
        with trio.fail_after(10):
            far = await way.listener.accept()
        async with far:
            yield application, far


async def read_head(far: trio.SocketStream) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await exactly(far, 1)
    return head


OLD_REQUEST = b"GET http://127.0.0.1:%d/ HTTP/1.0\r\nHost: x\r\n\r\n"
UPLOAD = b"POST http://127.0.0.1:%d/ HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\nhalf"


async def test_the_destination_of_a_request_sees_the_end(serving: Serving, client_context: ssl.SSLContext) -> None:
    async with relayed(serving, client_context) as way, asking(way, OLD_REQUEST) as (application, far):
        await read_head(far)
        await application.send_eof()
        assert await received(far) == b""
        await far.send_all(b"HTTP/1.0 200 OK\r\n\r\nthe whole answer")
        await far.send_eof()
        assert (await received(application)).endswith(b"\r\n\r\nthe whole answer")


async def test_the_end_after_another_request_is_not_passed_on(serving: Serving, client_context: ssl.SSLContext) -> None:
    first = b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: x\r\n\r\n"
    async with relayed(serving, client_context) as way, asking(way, first * 2) as (application, far):
        await application.send_eof()
        await read_head(far)
        with trio.move_on_after(0.2) as waiting:
            await far.receive_some()
        assert waiting.cancelled_caught
        await far.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst")
        with trio.fail_after(10):
            second = await way.listener.accept()
        async with second:
            await read_head(second)
            assert await received(second) == b""
            await second.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond")
            answers = await received(application)
        assert answers.count(b"HTTP/1.1 200 OK") == 2
        assert answers.endswith(b"second")


@pytest.mark.parametrize("extensions", [{"fin"}, {"reset"}, ALL], ids=sorted)
async def test_an_answer_that_is_cut_off_is_an_error(
    serving: Serving, client_context: ssl.SSLContext, extensions: Collection[str]
) -> None:
    way_of = relayed(serving, client_context, extensions)
    async with way_of as way, asking(way, OLD_REQUEST) as (application, far):
        await read_head(far)
        # Without a length: only the way in which the connection ends tells that it is not complete.
        await far.send_all(b"HTTP/1.0 200 OK\r\n\r\nhalf an ans")
        received_so_far = b""
        while not received_so_far.endswith(b"half an ans"):
            received_so_far += await exactly(application, 1)
        await reset_stream(far)
        assert await is_aborted(application)


async def test_an_answer_that_does_not_begin_is_502(serving: Serving, client_context: ssl.SSLContext) -> None:
    async with relayed(serving, client_context) as way, asking(way, OLD_REQUEST) as (application, far):
        await read_head(far)
        await reset_stream(far)
        answer = await all_of(application)
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert answer.endswith(b": the connection was reset\n")


@pytest.mark.parametrize("how", ["reset", "closed"])
async def test_a_request_that_is_cut_off_is_an_error_for_the_destination(
    serving: Serving, client_context: ssl.SSLContext, how: str
) -> None:
    async with relayed(serving, client_context) as way, asking(way, UPLOAD) as (application, far):
        await read_head(far)
        assert await exactly(far, 4) == b"half"
        await (reset_stream(application) if how == "reset" else application.aclose())
        assert await is_aborted(far)


async def test_an_early_answer_aborts_the_upload(serving: Serving, client_context: ssl.SSLContext) -> None:
    async with relayed(serving, client_context) as way, asking(way, UPLOAD) as (application, far):
        await read_head(far)
        assert await exactly(far, 4) == b"half"
        await far.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        answer = b""
        while not answer.endswith(b"\r\n\r\nno"):
            answer += await exactly(application, 1)
        assert await is_aborted(far)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (trioanytls.StreamCode.TIMED_OUT, 504),
        (trioanytls.StreamCode.IDLE, 504),
        (trioanytls.StreamCode.STALLED, 504),
        (trioanytls.StreamCode.LIMIT, 502),
    ],
)
async def test_the_code_of_a_reset_gives_the_status(
    serving: Serving, client_context: ssl.SSLContext, code: trioanytls.StreamCode, status: int
) -> None:
    async def give_up(stream: trioanytls.Stream) -> None:
        await stream.acknowledge()
        await stream.receive_some()
        await stream.reset(code, "for a reason")

    async with (
        serving(give_up, config=extending(ALL, acknowledge="manual")) as port,
        trioanytls.open_client(
            HOST, port, password=USERS["alice"], ssl_context=client_context, config=extending(ALL)
        ) as client,
        offering(client, http=[ANY_PORT]) as [door],
    ):
        answer = await _ask(door)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.endswith(b"x.example:80: for a reason\n")


async def _ask(door: LocalListener) -> bytes:
    async with await connect(door) as application:
        await application.send_all(b"GET http://x.example/ HTTP/1.1\r\nHost: x\r\n\r\n")
        return await all_of(application)

"""The HTTP proxy, the SOCKS proxy and forwards with a real relay, as seen by applications."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import h11
import pytest
import trio

import trioanytls
from trioanytls._protocol.interface import WireFormat
from trioanytls.cli.common.file_limit import raise_file_limit
from trioanytls.destination import Destination, encode
from trioanytls.relay.address_policy import AddressPolicy
from trioanytls.relay.handler import RelayHandler
from trioanytls.relay.http_proxy import HTTPProxy
from trioanytls.relay.port_forward import PortForward
from trioanytls.relay.proxy_users import ProxyUsers
from trioanytls.relay.socks_proxy import SOCKSProxy
from trioanytls.relay.upstream import Upstream

from ..conftest import HOST, USERS, Serving

RELAY = RelayHandler(AddressPolicy(allow=[ipaddress.ip_network("127.0.0.0/8")]), connect_timeout=5)
Serve = Callable[[trio.SocketStream], Awaitable[object]]


@contextlib.asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@pytest.fixture
async def upstream(
    serving: Serving, client_context: ssl.SSLContext, wire_format: WireFormat
) -> AsyncIterator[Upstream]:
    async with (
        serving(RELAY, config=trioanytls.Config(acknowledge="manual"), protocols=[wire_format]) as port,
        trioanytls.open_client(
            HOST, port, password=USERS["alice"], ssl_context=client_context, protocol=wire_format
        ) as client,
    ):
        yield Upstream(client)


async def all_of(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([bytes(data) async for data in stream])


async def ask(port: int, request: bytes) -> bytes:
    """Send, end sending, and read to the end."""
    async with await trio.open_tcp_stream(HOST, port) as stream:
        with trio.fail_after(10):
            await stream.send_all(request)
            return await all_of(stream)


def origin(answer: bytes, seen: list[bytes]) -> Serve:
    """Make a web server that gives the same answer to each request, and records the requests."""

    async def serve(stream: trio.SocketStream) -> None:
        http = h11.Connection(h11.SERVER)
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                data = await stream.receive_some()
                seen.append(data)
                http.receive_data(data)
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                await stream.send_all(answer)
                await stream.aclose()
                return

    return serve


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\n\r\nhello"


async def test_a_request_in_absolute_form(upstream: Upstream) -> None:
    seen: list[bytes] = []
    async with listening(origin(ANSWER, seen)) as web, listening(HTTPProxy(upstream)) as proxy:
        answer = await ask(
            proxy,
            b"GET http://127.0.0.1:%d/a?b=c HTTP/1.1\r\nHost: other\r\nProxy-Connection: keep-alive\r\n"
            b"Connection: X-Mine, close\r\nX-Mine: 1\r\nX-Far: 2\r\nProxy-Authorization: Basic eA==\r\n\r\n" % web,
        )
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nhello")
        assert b"x-hop" not in answer.lower()
        assert b"x-end: 2" in answer.lower()
        request = b"".join(seen)
        assert request.startswith(b"GET /a?b=c HTTP/1.1\r\n")
        assert b"host: 127.0.0.1:%d\r\n" % web in request.lower()
        for gone in (b"proxy-", b"x-mine", b"other"):
            assert gone not in request.lower()
        assert b"x-far: 2" in request.lower()


async def test_several_requests_on_one_connection(upstream: Upstream) -> None:
    seen: list[bytes] = []
    async with listening(origin(ANSWER, seen)) as web, listening(HTTPProxy(upstream)) as proxy:
        request = b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: x\r\n\r\n" % web
        last = request.replace(b"Host: x", b"Host: x\r\nConnection: close")
        answer = await ask(proxy, request + request + last)
        assert answer.count(b"HTTP/1.1 200 OK") == 3
        assert answer.count(b"hello") == 3


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_goes_up_whole(upstream: Upstream, chunked: bool) -> None:
    seen: list[bytes] = []
    body = bytes(range(256)) * 4096
    async with listening(origin(ANSWER, seen)) as web, listening(HTTPProxy(upstream)) as proxy:
        head = b"POST http://127.0.0.1:%d/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" % web
        if chunked:
            data = b"".join(b"1000\r\n%b\r\n" % body[i : i + 4096] for i in range(0, len(body), 4096)) + b"0\r\n\r\n"
            answer = await ask(proxy, head + b"Transfer-Encoding: chunked\r\n\r\n" + data)
        else:
            answer = await ask(proxy, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert answer.endswith(b"hello")
        server = h11.Connection(h11.SERVER)
        server.receive_data(b"".join(seen))
        received = bytearray()
        while not isinstance(event := server.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                received += event.data
        assert received == body


async def test_connect_is_a_tunnel_and_loses_nothing(upstream: Upstream) -> None:
    async def shout(stream: trio.SocketStream) -> None:
        # The end of the test cancels the proxy, which resets the tunnels that are open.
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in stream:
                await stream.send_all(data.upper())

    async with (
        listening(shout) as far,
        listening(HTTPProxy(upstream)) as proxy,
        await trio.open_tcp_stream(HOST, proxy) as stream,
    ):
        await stream.send_all(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: x\r\n\r\nearly " % far)
        received = b""
        while not received.endswith(b"EARLY "):
            received += await stream.receive_some()
        assert received.startswith(b"HTTP/1.1 200 ")
        await stream.send_all(b"late")
        # The padding scheme may divide it.
        received = b""
        while len(received) < 4:
            piece = await stream.receive_some()
            assert piece
            received += piece
        assert received == b"LATE"


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400, b"absolute form"),
        (b"GET https://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, b"absolute form"),
        (b"GET http://x:99999/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, b"ort"),
        (b"CONNECT example.com HTTP/1.1\r\nHost: x\r\n\r\n", 400, b"missing port"),
        (b"CONNECT 10.1.2.3:80 HTTP/1.1\r\nHost: x\r\n\r\n", 403, b"policy forbids this destination"),
        (b"CONNECT no-such-name.invalid:80 HTTP/1.1\r\nHost: x\r\n\r\n", 502, b"has no address"),
        (b"GET http://10.1.2.3/ HTTP/1.1\r\nHost: x\r\n\r\n", 403, b"policy forbids this destination"),
        (b"nonsense\r\n\r\n", 400, b""),
        (b"GET http://x/ HTTP/1.1\r\nA: " + bytes(100_000).replace(b"\0", b"x"), 431, b""),
    ],
)
async def test_requests_that_cannot_be_served_get_an_answer(
    upstream: Upstream, request_: bytes, status: int, text: bytes
) -> None:
    async with listening(HTTPProxy(upstream)) as proxy:
        answer = await ask(proxy, request_)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert text in answer


async def test_a_refused_port_is_502_and_a_reply_of_5(upstream: Upstream) -> None:
    with trio.socket.socket() as unused:
        await unused.bind((HOST, 0))
        port = unused.getsockname()[1]
    async with listening(HTTPProxy(upstream)) as http, listening(SOCKSProxy(upstream)) as socks:
        assert (await ask(http, b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: x\r\n\r\n" % port)).startswith(
            b"HTTP/1.1 502 "
        )
        answer = await ask(socks, b"\x05\x01\x00\x05\x01\x00" + encode(Destination(HOST, port)))
        assert answer == b"\x05\x00" + b"\x05\x05\x00\x01" + bytes(6)


async def test_a_destination_that_never_answers_is_504_and_a_reply_of_6(
    serving: Serving, client_context: ssl.SSLContext
) -> None:
    async def silent(stream: trioanytls.Stream) -> None:
        await trio.sleep_forever()

    async with (
        serving(silent, config=trioanytls.Config(acknowledge="manual")) as port,
        trioanytls.open_client(HOST, port, password=USERS["alice"], ssl_context=client_context) as client,
    ):
        upstream = Upstream(client, connect_timeout=0.05)
        async with listening(HTTPProxy(upstream)) as http, listening(SOCKSProxy(upstream)) as socks:
            assert (await ask(http, b"CONNECT 127.0.0.1:9 HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 504 ")
            answer = await ask(socks, b"\x05\x01\x00\x05\x01\x00" + encode(Destination(HOST, 9)))
            assert answer[2:4] == b"\x05\x06"
        assert client.stats.streams == 0


@pytest.mark.parametrize(
    ("open_timeout", "connect_timeout", "text"),
    [(0.1, 15.0, b"no connection could be made"), (30.0, 0.1, b"the relay is unavailable")],
)
async def test_without_a_server_it_is_502_and_a_reply_of_1(
    client_context: ssl.SSLContext, open_timeout: float, connect_timeout: float, text: bytes
) -> None:
    with trio.socket.socket() as unused:
        await unused.bind((HOST, 0))
        port = unused.getsockname()[1]
    pool = trioanytls.PoolConfig(open_timeout=open_timeout)
    async with trioanytls.open_client(HOST, port, password="x", ssl_context=client_context, pool=pool) as client:
        upstream = Upstream(client, connect_timeout=connect_timeout)
        async with listening(HTTPProxy(upstream)) as http, listening(SOCKSProxy(upstream)) as socks:
            answer = await ask(http, b"CONNECT 127.0.0.1:9 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 502 ")
            assert text in answer
            answer = await ask(socks, b"\x05\x01\x00\x05\x01\x00" + encode(Destination(HOST, 9)))
            assert answer[2:4] == b"\x05\x01"


async def test_http_credentials(upstream: Upstream) -> None:
    right = base64.b64encode(b"alice:secret")
    seen: list[bytes] = []
    async with (
        listening(origin(ANSWER, seen)) as web,
        listening(HTTPProxy(upstream, ProxyUsers({"alice": "secret"}))) as proxy,
    ):
        for value, status in ((b"", 407), (b"Basic eDp5", 407), (b"Basic " + right, 200)):
            answer = await ask(
                proxy,
                b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nProxy-Authorization: %b\r\n\r\n"
                % (web, value),
            )
            assert answer.startswith(b"HTTP/1.1 %d " % status)
            assert (b"proxy-authenticate: basic" in answer.lower()) == (status == 407)
    assert right not in b"".join(seen)


async def test_an_answer_that_breaks_off_does_not_look_complete(upstream: Upstream) -> None:
    seen: list[bytes] = []
    short = b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nonly this"
    async with listening(origin(short, seen)) as web, listening(HTTPProxy(upstream)) as proxy:
        answer = await ask(proxy, b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: x\r\n\r\n" % web)
        assert b"content-length: 50" in answer.lower()
        assert answer.endswith(b"only this")


async def test_an_answer_that_breaks_off_does_not_look_complete_in_http_1_0(upstream: Upstream) -> None:
    seen: list[bytes] = []
    # The application gets no chunks, and its answer ends with the connection, which must therefore be reset.
    short = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    async with listening(origin(short, seen)) as web, listening(HTTPProxy(upstream)) as proxy:
        with pytest.raises(trio.BrokenResourceError):
            await ask(proxy, b"GET http://127.0.0.1:%d/ HTTP/1.0\r\nHost: x\r\n\r\n" % web)


async def test_a_web_server_that_closes_without_an_answer_is_502(upstream: Upstream) -> None:
    seen: list[bytes] = []
    async with listening(origin(b"", seen)) as web, listening(HTTPProxy(upstream)) as proxy:
        answer = await ask(proxy, b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: x\r\n\r\n" % web)
        assert answer.startswith(b"HTTP/1.1 502 ")


async def test_an_answer_without_a_length_ends_with_its_connection(upstream: Upstream) -> None:
    seen: list[bytes] = []
    endless = b"HTTP/1.0 200 OK\r\n\r\nuntil the end"
    async with listening(origin(endless, seen)) as web, listening(HTTPProxy(upstream)) as proxy:
        answer = await ask(proxy, b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % web)
        assert b"until the end" in answer


async def test_an_application_that_ends_its_sending_first_gets_its_whole_answer(upstream: Upstream) -> None:
    async def slow(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        for _ in range(64):
            await stream.send_all(bytes(65536))

    async with (
        listening(slow) as far,
        listening(PortForward(upstream, Destination(HOST, far))) as door,
        await trio.open_tcp_stream(HOST, door) as stream,
    ):
        await stream.send_all(b"go")
        await stream.send_eof()
        with trio.fail_after(10):
            assert len(await all_of(stream)) == 64 * 65536


# All streams share connections, of which a client of the legacy format would need 500.
@pytest.mark.parametrize("wire_format", ["anytls1"])
async def test_500_connections_of_1_mib_both_ways(upstream: Upstream) -> None:
    # Both ends of all connections are in this process.
    raise_file_limit()
    size = 1024 * 1024
    # Each connection sends another part of the same bytes, which needs less memory than 500 times 1 MiB.
    content = random.Random(1).randbytes(2 * size)

    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async with listening(echo) as far, listening(SOCKSProxy(upstream)) as socks:
        done = 0

        async def one(number: int) -> None:
            nonlocal done
            first = number * 2000
            async with await trio.open_tcp_stream(HOST, socks) as stream:
                await stream.send_all(b"\x05\x01\x00\x05\x01\x00" + encode(Destination(HOST, far)))
                head = b""
                while len(head) < 12:
                    head += await stream.receive_some(12 - len(head))
                assert head[3] == 0
                received = 0

                async def send() -> None:
                    await stream.send_all(memoryview(content)[first : first + size])

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send)
                    while received < size:
                        data = await stream.receive_some()
                        assert data
                        assert data == content[first + received : first + received + len(data)]
                        received += len(data)
            assert received == size
            done += 1

        # It takes 8 s of processor time, 17 s with flow control, and twice that if coverage is measured.
        with trio.fail_after(240):
            async with trio.open_nursery() as nursery:
                for number in range(500):
                    nursery.start_soon(one, number)
        assert done == 500

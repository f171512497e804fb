"""HTTP over pooled streams: the network backend for httpcore, and the example in the documentation."""

from __future__ import annotations

import http.server
import importlib.util
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpcore
import pytest
import trio
import trio.testing
import trustme

import trioanytls
from trioanytls._protocol.formats import WIRE_FORMATS
from trioanytls.contrib.httpcore import AnyTLSBackend
from trioanytls.testing import StreamQueue

from ..conftest import HOST, USERS, Serving

EXAMPLE = Path(__file__).parent.parent.parent / "docs" / "examples" / "http_over_streams.py"


class Pages(http.server.BaseHTTPRequestHandler):
    """Answers with the path or the body of the request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(self.path.encode() * 1000)

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


def web_server(context: ssl.SSLContext | None = None) -> Iterator[str]:
    with http.server.ThreadingHTTPServer((HOST, 0), Pages) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http{'s' if context else ''}://{HOST}:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def web() -> Iterator[str]:
    yield from web_server()


@pytest.fixture
def secure_web(authority: trustme.CA) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    yield from web_server(context)


@pytest.fixture
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("http_over_streams", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MANUAL = trioanytls.Config(acknowledge="manual")


async def test_the_example_fetches_through_one_connection(
    example: ModuleType, web: str, serving: Serving, client_context: ssl.SSLContext
) -> None:
    urls = [f"{web}/{number}" for number in range(30)]
    async with (
        serving(example.relay, config=MANUAL) as port,
        trioanytls.open_client(HOST, port, password=USERS["alice"], ssl_context=client_context) as client,
    ):
        responses = await example.fetch(client, urls)
        assert client.stats.connections_made == 1
    assert sorted(responses) == sorted(urls)
    for url, response in responses.items():
        assert response.status == 200
        assert response.content == f"/{url.rpartition('/')[2]}".encode() * 1000


async def test_a_legacy_client_has_a_connection_for_each_http_connection(
    example: ModuleType, web: str, serving: Serving, client_context: ssl.SSLContext
) -> None:
    async with (
        serving(example.relay, config=MANUAL, protocols=["legacy"]) as port,
        trioanytls.open_client(
            HOST, port, password=USERS["alice"], ssl_context=client_context, protocol="legacy"
        ) as client,
    ):
        for _ in range(2):
            responses = await example.fetch(client, [f"{web}/{number}" for number in range(5)])
            assert [response.status for response in responses.values()] == [200] * 5
            for url, response in responses.items():
                assert response.content == f"/{url.rpartition('/')[2]}".encode() * 1000
        # The streams of the second round are on the connections of the first one.
        assert client.stats.connections_made == 5
        assert client.stats.streams_opened == 10
        async with httpcore.AsyncConnectionPool(network_backend=AnyTLSBackend(client)) as http_pool:
            for _ in range(3):
                assert (await http_pool.request("GET", f"{web}/again")).status == 200
        # HTTP kept its connection alive, so one stream was enough.
        assert client.stats.streams_opened == 11


@pytest.mark.parametrize("wait_acknowledged", [True, False])
async def test_a_destination_that_refuses_is_an_error_over_legacy(
    example: ModuleType, serving: Serving, client_context: ssl.SSLContext, wait_acknowledged: bool
) -> None:
    with trio.socket.socket() as unused:
        await unused.bind((HOST, 0))
        closed_port = unused.getsockname()[1]
    async with (
        serving(example.relay, config=MANUAL, protocols=["legacy"]) as port,
        trioanytls.open_client(
            HOST, port, password=USERS["alice"], ssl_context=client_context, protocol="legacy"
        ) as client,
    ):
        backend = AnyTLSBackend(client, wait_acknowledged=wait_acknowledged)
        async with httpcore.AsyncConnectionPool(network_backend=backend) as http_pool:
            error = httpcore.ConnectError if wait_acknowledged else httpcore.ReadError
            with pytest.raises(error, match="refused"):
                await http_pool.request("GET", f"http://{HOST}:{closed_port}/")


@pytest.mark.parametrize("protocol", WIRE_FORMATS)
async def test_https_is_end_to_end_inside_of_the_stream(
    example: ModuleType,
    secure_web: str,
    serving: Serving,
    client_context: ssl.SSLContext,
    protocol: trioanytls.WireFormat,
) -> None:
    body = bytes(range(256)) * 4096
    async with (
        serving(example.relay, config=MANUAL, protocols=WIRE_FORMATS) as port,
        trioanytls.open_client(
            HOST, port, password=USERS["alice"], ssl_context=client_context, protocol=protocol
        ) as client,
        httpcore.AsyncConnectionPool(network_backend=AnyTLSBackend(client), ssl_context=client_context) as http_pool,
    ):
        for _ in range(3):
            response = await http_pool.request("POST", f"{secure_web}/upload", content=body)
            assert response.content == body
        # The connection was kept alive: one stream served all three requests.
        assert client.stats.streams_opened == 1


async def test_a_destination_that_refuses_is_a_connect_error(
    example: ModuleType, serving: Serving, client_context: ssl.SSLContext
) -> None:
    with trio.socket.socket() as unused:
        await unused.bind((HOST, 0))
        closed_port = unused.getsockname()[1]
    async with (
        serving(example.relay, config=MANUAL) as port,
        trioanytls.open_client(HOST, port, password=USERS["alice"], ssl_context=client_context) as client,
        httpcore.AsyncConnectionPool(network_backend=AnyTLSBackend(client)) as http_pool,
    ):
        with pytest.raises(httpcore.ConnectError, match="refused"):
            await http_pool.request("GET", f"http://{HOST}:{closed_port}/")


async def test_timeouts_and_broken_streams_are_httpcores_errors(
    serving: Serving, client_context: ssl.SSLContext
) -> None:
    queue = StreamQueue()
    async with (
        serving(queue) as port,
        trioanytls.open_client(HOST, port, password=USERS["alice"], ssl_context=client_context) as client,
    ):
        backend = AnyTLSBackend(client, preamble=lambda host, port: f"{host} {port}\n".encode())
        stream = await backend.connect_tcp("example.com", 80, timeout=5)
        far = await queue.get()
        assert await far.receive_some() == b"example.com 80\n"
        assert stream.get_extra_info("is_readable") is False
        assert stream.get_extra_info("socket") is None
        with pytest.raises(httpcore.ReadTimeout):
            await stream.read(10, timeout=0.01)
        await far.send_all(b"late")
        assert await stream.read(10) == b"late"
        await far.aclose()
        assert await stream.read(10) == b""
        assert stream.get_extra_info("is_readable") is True
        with pytest.raises(httpcore.WriteError):
            await stream.write(b"too late")
        await stream.aclose()
        with pytest.raises(httpcore.ReadError):
            await stream.read(10)
        with pytest.raises(httpcore.UnsupportedProtocol):
            await backend.connect_unix_socket("/socket")


async def test_without_waiting_a_refusal_comes_with_the_first_read(
    serving: Serving, client_context: ssl.SSLContext
) -> None:
    async def refuse(stream: trioanytls.Stream) -> None:
        await stream.refuse()

    async with (
        serving(refuse, config=MANUAL) as port,
        trioanytls.open_client(HOST, port, password=USERS["alice"], ssl_context=client_context) as client,
    ):
        stream = await AnyTLSBackend(client, wait_acknowledged=False).connect_tcp("example.com", 80, timeout=5)
        with pytest.raises(httpcore.ReadError):
            await stream.read(10, timeout=5)
        with pytest.raises(httpcore.ConnectError):
            await AnyTLSBackend(client).connect_tcp("example.com", 80, timeout=5)


async def test_tls_runs_once_in_a_stream(
    serving: Serving, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async def secure(stream: trioanytls.Stream) -> None:
        await stream.receive_some(7 + len(HOST))
        secured = trio.SSLStream(stream, server_context, server_side=True, https_compatible=True)
        await secured.do_handshake()
        await stream.wait_closed()

    async with (
        serving(secure) as port,
        trioanytls.open_client(HOST, port, password=USERS["alice"], ssl_context=client_context) as client,
    ):
        backend = AnyTLSBackend(client, preamble=lambda host, _port: bytes(7 + len(host)))
        stream = await backend.connect_tcp(HOST, 443, timeout=5)
        secured = await stream.start_tls(client_context, server_hostname=HOST, timeout=5)
        assert secured.get_extra_info("ssl_object").version() == "TLSv1.3"
        with pytest.raises(httpcore.UnsupportedProtocol, match="TLS in TLS"):
            await secured.start_tls(client_context, server_hostname=HOST, timeout=5)
        await secured.aclose()


async def test_the_backend_sleeps_on_trios_clock(autojump_clock: trio.testing.MockClock) -> None:
    # The client opens no connection before its first stream.
    async with trioanytls.open_client(HOST, 1, password="x") as client:
        await AnyTLSBackend(client).sleep(100)
    assert trio.current_time() == 100


async def test_no_stream_is_left_when_the_relay_does_not_answer(
    serving: Serving, client_context: ssl.SSLContext
) -> None:
    async def silent(stream: trioanytls.Stream) -> None:
        await trio.sleep_forever()

    async with (
        serving(silent, config=MANUAL) as port,
        trioanytls.open_client(HOST, port, password=USERS["alice"], ssl_context=client_context) as client,
    ):
        with pytest.raises(httpcore.ConnectTimeout):
            await AnyTLSBackend(client).connect_tcp("example.com", 80, timeout=0.05)
        assert client.stats.streams == 0


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("", 80),
        ("exa mple", 80),
        ("💩.la", 80),
        ("a\u200db.de", 80),
        ("x" * 256, 80),
        ("fe80::1%eth0", 80),
        ("a", 65536),
    ],
)
async def test_what_is_not_a_host_is_a_connect_error(
    serving: Serving, client_context: ssl.SSLContext, host: str, port: int
) -> None:
    async with (
        serving() as server_port,
        trioanytls.open_client(HOST, server_port, password=USERS["alice"], ssl_context=client_context) as client,
    ):
        with pytest.raises(httpcore.ConnectError, match=r"host|name|zone|port") as caught:
            await AnyTLSBackend(client).connect_tcp(host, port, timeout=5)
        assert isinstance(caught.value.__cause__, ValueError)
        # No stream was opened for it.
        assert client.stats.streams_opened == 0


@pytest.mark.parametrize("name", ["", ".example", "💩.la", "exa\0mple", "x" * 300, None])
async def test_a_server_name_that_tls_does_not_take_is_a_connect_error(
    serving: Serving, client_context: ssl.SSLContext, name: str | None
) -> None:
    async with (
        serving() as port,
        trioanytls.open_client(HOST, port, password=USERS["alice"], ssl_context=client_context) as client,
    ):
        stream = await AnyTLSBackend(client).connect_tcp("example.com", 443, timeout=5)
        with pytest.raises(httpcore.ConnectError):
            await stream.start_tls(client_context, server_hostname=name, timeout=5)
        assert client.stats.streams == 0


async def test_a_name_in_other_characters_is_the_same_for_the_relay_and_for_tls(
    serving: Serving, client_context: ssl.SSLContext, authority: trustme.CA
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("xn--fa-hia.de").configure_cert(context)
    received: list[bytes] = []

    async def web_server(stream: trioanytls.Stream) -> None:
        received.append(await stream.receive_some(18))
        secured = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        received.append(bytes(await secured.receive_some()))
        await secured.send_all(b"answer")
        await stream.wait_closed()

    async with (
        serving(web_server) as port,
        trioanytls.open_client(HOST, port, password=USERS["alice"], ssl_context=client_context) as client,
    ):
        stream = await AnyTLSBackend(client).connect_tcp("faß.de", 443, timeout=5)
        secured = await stream.start_tls(client_context, server_hostname="faß.de", timeout=5)
        await secured.write(b"request", timeout=5)
        assert await secured.read(100, timeout=5) == b"answer"
        await secured.aclose()
    assert received == [b"\x03\x0dxn--fa-hia.de\x01\xbb"[:18], b"request"]


async def test_tls_that_fails_is_a_connect_error_and_closes_the_stream(
    serving: Serving, client_context: ssl.SSLContext
) -> None:
    async def no_tls(stream: trioanytls.Stream) -> None:
        await stream.receive_some()
        await stream.send_all(b"this is not TLS")
        await stream.wait_closed()

    async with (
        serving(no_tls) as port,
        trioanytls.open_client(HOST, port, password=USERS["alice"], ssl_context=client_context) as client,
    ):
        stream = await AnyTLSBackend(client).connect_tcp("example.com", 443, timeout=5)
        with pytest.raises(httpcore.ConnectError):
            await stream.start_tls(client_context, server_hostname="example.com", timeout=5)
        assert client.stats.streams == 0
        await client.aclose()
        with pytest.raises(httpcore.ConnectError, match="closed"):
            await AnyTLSBackend(client).connect_tcp("example.com", 443, timeout=5)


async def test_an_https_request_to_a_name_that_is_none(serving: Serving, client_context: ssl.SSLContext) -> None:
    async with (
        serving() as port,
        trioanytls.open_client(HOST, port, password=USERS["alice"], ssl_context=client_context) as client,
        httpcore.AsyncConnectionPool(network_backend=AnyTLSBackend(client)) as http_pool,
    ):
        with pytest.raises(httpcore.ConnectError):
            await http_pool.request("GET", httpcore.URL(scheme=b"https", host=b"exa mple", port=None, target=b"/"))

"""A prober sees the web server: nginx as the fallback answers exactly as nginx itself.

Each request is made three times: through an ANYTLS server, whose fallback is nginx without TLS; to that port of nginx
directly; and to another port of nginx with TLS and the same certificate. All bytes above TLS are compared, up to the
end of the connection, except the Date header.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest
import trio
import trustme

import trioanytls
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.credentials import hash_password
from trioanytls._protocol.formats import WIRE_FORMATS
from trioanytls._protocol.legacy import frames as legacy_frames
from trioanytls._protocol.legacy.frames import Command
from trioanytls._protocol.legacy.preamble import encode_preamble

from ..conftest import HOST, USERS, Serving
from ..helpers.raw_peer import HELLO, NEGO

# The directory of system programs is not on the path of all users.
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")

pytestmark = pytest.mark.skipif(NGINX is None or os.name != "posix", reason="nginx is not installed")

# The end of the connection shows that an answer is complete, so nginx uses short timeouts.
_CONFIGURATION = """
daemon off;
{user}
worker_processes 1;
pid {directory}/pid;
error_log {directory}/error.log;
events {{
    worker_connections 64;
}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    default_type text/plain;
    gzip on;
    gzip_types text/plain;
    gzip_min_length 1;
    keepalive_timeout 20ms;
    lingering_timeout 20ms;
    server {{
        listen {host}:{plain};
        listen {host}:{tls} ssl;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        root {directory}/pages;
        location /say {{
            return 200 "$request_method $request_uri $server_protocol $http_x_word\\n";
        }}
        location /body {{
            proxy_pass http://{host}:{plain}/say;
        }}
    }}
    server {{
        listen {host}:{impatient};
        client_header_timeout 20ms;
    }}
}}
"""


class Ports:
    """The ports of nginx: without TLS, with TLS, and with short timeouts; and its certificate."""

    def __init__(self, plain: int, tls: int, impatient: int, certificate: Path) -> None:
        self.plain = plain
        self.tls = tls
        self.impatient = impatient
        self.certificate = certificate


@pytest.fixture(scope="module")
def nginx(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    """Run nginx with a configuration of the test, without that of the system."""
    directory = tmp_path_factory.mktemp("nginx")
    certificate = directory / "certificate.pem"
    authority.issue_cert("localhost", HOST).private_key_and_cert_chain_pem.write_to_path(certificate)
    pages = directory / "pages"
    (pages / "directory").mkdir(parents=True)
    (pages / "index.html").write_text("Welcome.\n")
    (pages / "long.txt").write_bytes(b"0123456789abcdef" * 65536)
    # Gives all answers the same Last-Modified.
    for page in pages.rglob("*"):
        os.utime(page, (1_000_000_000, 1_000_000_000))
    with contextlib.ExitStack() as stack:
        # nginx inherits its sockets as in a binary upgrade: no other program can take a port, and connections made
        # before it runs only wait.
        sockets = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(3)]
        plain, tls, impatient = (listener.getsockname()[1] for listener in sockets)
        ports = Ports(plain, tls, impatient, certificate)
        configuration = directory / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                user="user root;" if os.getuid() == 0 else "",
                directory=directory,
                certificate=certificate,
                host=HOST,
                plain=ports.plain,
                tls=ports.tls,
                impatient=ports.impatient,
            )
        )
        descriptors = [listener.fileno() for listener in sockets]
        assert NGINX is not None
        process = subprocess.Popen(
            [NGINX, "-p", directory, "-e", directory / "error.log", "-c", configuration],
            env={**os.environ, "NGINX": "".join(f"{descriptor};" for descriptor in descriptors)},
            pass_fds=descriptors,
        )
    try:
        yield ports
    finally:
        process.terminate()
        assert process.wait(10) == 0, (directory / "error.log").read_text()


Ask = Callable[[Sequence[bytes]], Awaitable[bytes]]


class Asking:
    """The ways to send a request: each sends some pieces, and returns the data received until the connection ends."""

    def __init__(self, port: int, nginx: Ports, client_context: ssl.SSLContext) -> None:
        self._port = port
        self._nginx = nginx
        self._context = client_context

    async def ours(self, pieces: Sequence[bytes]) -> bytes:
        return await self._ask(await self._open_tls(self._port), pieces)

    async def plain(self, pieces: Sequence[bytes]) -> bytes:
        return await self._ask(await trio.open_tcp_stream(HOST, self._nginx.plain), pieces)

    async def impatient(self, pieces: Sequence[bytes]) -> bytes:
        return await self._ask(await trio.open_tcp_stream(HOST, self._nginx.impatient), pieces)

    async def tls(self, pieces: Sequence[bytes]) -> bytes:
        return await self._ask(await self._open_tls(self._nginx.tls), pieces)

    async def all(self, pieces: Sequence[bytes], *ways: Ask) -> list[bytes]:
        answers: dict[Ask, bytes] = {}

        async def ask(way: Ask) -> None:
            answers[way] = _undated(await way(pieces))

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                for way in ways:
                    nursery.start_soon(ask, way)
        return [answers[way] for way in ways]

    async def _open_tls(self, port: int) -> trio.SSLStream[trio.SocketStream]:
        stream = await trio.open_tcp_stream(HOST, port)
        tls = trio.SSLStream(stream, self._context, server_hostname=HOST, https_compatible=True)
        await tls.do_handshake()
        return tls

    async def _ask(self, stream: trio.abc.Stream, pieces: Sequence[bytes]) -> bytes:
        received = bytearray()
        # nginx may accept no more data, and does not end TLS orderly after a timeout.
        with contextlib.suppress(trio.BrokenResourceError):
            for number, piece in enumerate(pieces):
                if number:
                    # A client that sends several pieces waits for an answer to each.
                    received += await stream.receive_some()
                await stream.send_all(piece)
            async for data in stream:
                received += data
        await trio.aclose_forcefully(stream)
        return bytes(received)


def _undated(answer: bytes) -> bytes:
    return re.sub(rb"\r\nDate: [^\r]*\r\n", b"\r\n", answer)


@pytest.fixture
def server_side(nginx: Ports) -> ssl.SSLContext:
    """Return the server's context, with nginx's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(nginx.certificate)
    context.set_alpn_protocols(["http/1.1"])
    return context


@pytest.fixture
async def asking(
    nginx: Ports,
    serving: Serving,
    server_side: ssl.SSLContext,
    client_context: ssl.SSLContext,
    request: pytest.FixtureRequest,
) -> AsyncIterator[Asking]:
    fallback = trioanytls.relay_to(HOST, getattr(request, "param", None) or nginx.plain)
    # Short, since some requests could be the start of ANYTLS. Others are not delayed.
    config = trioanytls.Config(auth_timeout=0.02, on_violation="fallback")
    async with serving(ssl_context=server_side, fallback=fallback, config=config) as port:
        yield Asking(port, nginx, client_context)


def request(line: str, *headers: str, body: bytes = b"", host: str | None = "localhost") -> bytes:
    lines = [line, *([f"Host: {host}"] if host is not None else []), *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


CHUNKED = "Transfer-Encoding: chunked"

#: The data sent, and a part of the answer that is the same in all versions of nginx.
REQUESTS: dict[str, tuple[bytes, bytes]] = {
    "GET": (request("GET / HTTP/1.1"), b"Welcome."),
    "GET and close": (request("GET / HTTP/1.1", "Connection: close"), b"Connection: close"),
    "a long page": (request("GET /long.txt HTTP/1.1"), b"0123456789abcdef" * 65536),
    "a compressed page": (request("GET /long.txt HTTP/1.1", "Accept-Encoding: gzip"), b"Content-Encoding: gzip"),
    "a page that is not there": (request("GET /nowhere HTTP/1.1"), b" 404 "),
    "HEAD": (request("HEAD / HTTP/1.1"), b"Content-Length: 9"),
    "OPTIONS": (request("OPTIONS / HTTP/1.1"), b""),
    "OPTIONS of all": (request("OPTIONS * HTTP/1.1"), b""),
    "TRACE": (request("TRACE / HTTP/1.1"), b""),
    "CONNECT": (request("CONNECT localhost:443 HTTP/1.1"), b""),
    "DELETE": (request("DELETE / HTTP/1.1"), b""),
    "an unknown method": (request("BREW /say HTTP/1.1"), b"BREW /say"),
    "a method in small letters": (request("get / HTTP/1.1"), b""),
    "HTTP/0.9": (b"GET /\r\n", b"Welcome."),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n", b""),
    "HTTP/1.0, kept alive": (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", b""),
    "HTTP/9.9": (request("GET / HTTP/9.9"), b""),
    "no Host": (request("GET / HTTP/1.1", host=None), b""),
    "two Hosts": (request("GET / HTTP/1.1", "Host: localhost"), b""),
    "a bad Host": (request("GET / HTTP/1.1", host="local/host"), b""),
    "an absolute URI": (request("GET http://localhost/say HTTP/1.1"), b""),
    "two at once": (request("GET / HTTP/1.1") + request("GET /nowhere HTTP/1.1"), b" 404 "),
    "twenty at once": (request("GET /say HTTP/1.1") * 19 + request("GET /last HTTP/1.1"), b" 404 "),
    "one and a half": (request("GET / HTTP/1.1", "Connection: close") + b"GET / HT", b""),
    "POST": (request("POST /body HTTP/1.1", "Content-Length: 5", body=b"hello"), b"POST /say"),
    "POST where it is not allowed": (request("POST / HTTP/1.1", "Content-Length: 5", body=b"hello"), b" 405 "),
    "POST without a length": (request("POST /body HTTP/1.1"), b""),
    "a chunked POST": (request("POST /body HTTP/1.1", CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n"), b"POST /say"),
    "a bad chunk": (request("POST /body HTTP/1.1", CHUNKED, body=b"five\r\nhello\r\n0\r\n\r\n"), b" 400 "),
    "chunks and a length": (request("POST /body HTTP/1.1", CHUNKED, "Content-Length: 5"), b""),
    "an unknown coding": (request("POST /body HTTP/1.1", "Transfer-Encoding: other"), b""),
    "a bad length": (request("POST /body HTTP/1.1", "Content-Length: five"), b""),
    "too large a body": (request("POST /body HTTP/1.1", "Content-Length: 99999999"), b" 413 "),
    "Range": (request("GET /long.txt HTTP/1.1", "Range: bytes=10-19"), b"abcdef0123"),
    "a Range that is not there": (request("GET /long.txt HTTP/1.1", "Range: bytes=9999999-"), b" 416 "),
    "If-Modified-Since": (
        request("GET / HTTP/1.1", "If-Modified-Since: Sun, 09 Sep 2001 01:46:40 GMT"),
        b" 304 ",
    ),
    "If-None-Match": (request("GET / HTTP/1.1", 'If-None-Match: "3b9aca00-9"'), b""),
    "an upgrade": (request("GET /say HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket"), b""),
    "a huge header": (request("GET / HTTP/1.1", "X-Word: " + "x" * 40_000), b""),
    "many headers": (request("GET / HTTP/1.1", *(f"X-{n}: {n}" * 50 for n in range(200))), b""),
    "a very long URI": (request("GET /" + "x" * 40_000 + " HTTP/1.1"), b" 414 "),
    "a header without a colon": (request("GET /say HTTP/1.1", "X-Word"), b""),
    "a space before the colon": (request("GET /say HTTP/1.1", "X-Word : x"), b""),
    "a header that goes on": (request("GET /say HTTP/1.1", "X-Word: one", "  two"), b""),
    "bytes beyond ASCII": (b"GET /say HTTP/1.1\r\nHost: localhost\r\nX-Word: \xff\xfe\r\n\r\n", b""),
    "line feeds alone": (b"GET /say HTTP/1.1\nHost: localhost\n\n", b""),
    "empty lines first": (b"\r\n\r\n" + request("GET /say HTTP/1.1"), b""),
    "a way up": (request("GET /../../../etc/passwd HTTP/1.1"), b""),
    "a hidden way up": (request("GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1"), b""),
    "a bad escape": (request("GET /%zz HTTP/1.1"), b""),
    "a null byte in the URI": (b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", b""),
    "a null byte in a header": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: \x00\r\n\r\n", b""),
    # These could be the start of AUTH.
    "a null byte": (b"\x00", b" 400 "),
    "two null bytes": (b"\x00\x00", b""),
    "null bytes": (bytes(100), b""),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"), b""),
    "TLS inside": (client_hello(), b""),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n", b""),
    "noise": (bytes(range(255, 0, -1)), b""),
    "no password of ours": (frames.encode_auth(hash_password("guess"), 30) + NEGO, b" 400 "),
    "ANYTLS without AUTH": (NEGO, b""),
    "ANYTLS in the clear, twice": (HELLO[:32] + b"\xff" + HELLO[33:] + HELLO, b""),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_the_answer_is_that_of_nginx(asking: Asking, name: str) -> None:
    sent, expected = REQUESTS[name]
    ours, plain, tls = await asking.all([sent], asking.ours, asking.plain, asking.tls)
    assert expected in plain
    assert ours == plain
    assert ours == tls


async def test_a_request_that_waits_for_100_continue(asking: Asking) -> None:
    head = request("POST /body HTTP/1.1", "Content-Length: 5", "Expect: 100-continue", "Connection: close")
    ours, plain, tls = await asking.all([head, b"hello"], asking.ours, asking.plain, asking.tls)
    assert plain.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert ours == plain == tls


# Not the requests that nginx answers before it has received them completely. It then closes soon.
@pytest.mark.parametrize("name", ["GET", "HTTP/0.9", "HEAD", "a chunked POST", "bytes beyond ASCII"])
async def test_a_byte_at_a_time(nginx: Ports, asking: Asking, name: str) -> None:
    sent, _ = REQUESTS[name]

    async def ours(_: Sequence[bytes]) -> bytes:
        stream = await asking._open_tls(asking._port)
        received = bytearray()
        with contextlib.suppress(trio.BrokenResourceError):
            for start in range(len(sent)):
                await stream.send_all(sent[start : start + 1])
            async for data in stream:
                received += data
        await trio.aclose_forcefully(stream)
        return bytes(received)

    slowly, at_once = await asking.all([sent], ours, asking.plain)
    assert slowly == at_once


@pytest.fixture
async def asking_untimed(
    nginx: Ports, serving: Serving, server_side: ssl.SSLContext, client_context: ssl.SSLContext
) -> AsyncIterator[Asking]:
    """Ask a server that accepts both wire formats, and whose timers are off: it may not wait for one."""
    config = trioanytls.Config(auth_timeout=math.inf, idle_timeout=math.inf)
    fallback = trioanytls.relay_to(HOST, nginx.plain)
    async with serving(ssl_context=server_side, fallback=fallback, config=config, protocols=WIRE_FORMATS) as port:
        yield Asking(port, nginx, client_context)


#: The first 34 bytes decide about these, and they are shorter.
UNDECIDED = ("a null byte", "two null bytes")
LEGACY_REQUESTS = {
    "a preamble": encode_preamble(hash_password("guess"), 30),
    "a preamble and more": encode_preamble(hash_password("guess"), 30) + legacy_frames.encode(Command.SETTINGS),
    "a part of a preamble": encode_preamble(hash_password(USERS["alice"]), 0)[:33],
    "legacy without a preamble": legacy_frames.encode(Command.SETTINGS, data=b"v=2\nclient=x\npadding-md5="),
}


@pytest.mark.parametrize("name", [*(name for name in REQUESTS if name not in UNDECIDED), *LEGACY_REQUESTS])
async def test_for_both_wire_formats_the_answer_is_that_of_nginx_and_comes_at_once(
    asking_untimed: Asking, name: str
) -> None:
    asking = asking_untimed
    sent = LEGACY_REQUESTS[name] if name in LEGACY_REQUESTS else REQUESTS[name][0]
    ours, plain, tls = await asking.all([sent], asking.ours, asking.plain, asking.tls)
    assert plain
    assert ours == plain == tls


async def test_a_redirect_names_the_port_of_the_web_server(asking: Asking) -> None:
    # nginx writes the scheme and port of its listener into it. Any web server with TLS in front of it needs
    # `absolute_redirect off` for this reason.
    ours, plain, tls = await asking.all([request("GET /directory HTTP/1.1")], asking.ours, asking.plain, asking.tls)
    assert b"Location: http://localhost:" in plain
    assert b"Location: https://localhost:" in tls
    assert ours == plain


@pytest.mark.parametrize("sent", [b"", b"GET", request("GET / HTTP/1.1")[:-2]], ids=len)
async def test_silence_is_closed_when_nginx_has_waited_long_enough(
    nginx: Ports, serving: Serving, client_context: ssl.SSLContext, sent: bytes
) -> None:
    fallback = trioanytls.relay_to(HOST, nginx.impatient)
    async with serving(fallback=fallback, config=trioanytls.Config(auth_timeout=0.02)) as port:
        asking = Asking(port, nginx, client_context)
        assert await asking.all([sent], asking.ours, asking.impatient) == [b"", b""]


async def test_an_http_client_is_offered_the_same_protocol(
    nginx: Ports, asking: Asking, client_context: ssl.SSLContext
) -> None:
    client_context.set_alpn_protocols(["http/1.1"])
    streams = [await asking._open_tls(asking._port), await asking._open_tls(nginx.tls)]
    assert [stream.selected_alpn_protocol() for stream in streams] == ["http/1.1"] * 2
    # The certificate is the same.
    assert len({stream.getpeercert(binary_form=True) for stream in streams}) == 1
    for stream in streams:
        await trio.aclose_forcefully(stream)


# The server's records as seen on the network: the sizes in their headers.


async def record_sizes(port: int, context: ssl.SSLContext, name: str | None) -> tuple[list[int], list[int]]:
    """Return the sizes of the server's records in its handshake, and of the two after it. A third one must not come
    before the answer to a request.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    received = bytearray()
    sizes: list[int] = []

    async def receive(transport: trio.SocketStream) -> None:
        data = await transport.receive_some()
        assert data
        incoming.write(data)
        received.extend(data)
        while len(received) >= 5 and len(received) >= (end := 5 + int.from_bytes(received[3:5])):
            sizes.append(end - 5)
            del received[:end]

    async with await trio.open_tcp_stream(HOST, port) as transport:
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                client.do_handshake()
                break
            await transport.send_all(outgoing.read())
            await receive(transport)
        handshake = len(sizes)
        # The client sends only Finished.
        await transport.send_all(outgoing.read())
        while len(sizes) < handshake + 2:
            await receive(transport)
        tickets = list(sizes)
        client.write(request("GET / HTTP/1.1", "Connection: close"))
        await transport.send_all(outgoing.read())
        answer = b""
        while not answer:
            with contextlib.suppress(ssl.SSLWantReadError):
                answer = client.read(65536)
                break
            await receive(transport)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert client.session is not None
        assert client.session.has_ticket
    return tickets[:handshake], tickets[handshake:]


#: The server names that the client sends, and how much shorter some of the server's records are than nginx's:
#: EncryptedExtensions, and each ticket. A ticket contains the session id context, 32 bytes in nginx and 6 in Python,
#: and the name. nginx acknowledges each name. Python does so only with a callback, and then fails for non-ASCII names.
@pytest.mark.parametrize(
    ("name", "protocols", "acknowledges", "shorter", "shorter_ticket"),
    [
        (None, [], False, 0, 16),
        (None, ["h2", "http/1.1"], False, 0, 16),
        ("localhost", [], False, 4, 32),
        ("localhost", ["h2", "http/1.1"], False, 4, 16),
        ("localhost", ["h2", "http/1.1"], True, 0, 0),
    ],
    ids=["nothing", "protocols", "a name", "both", "both, acknowledged"],
)
async def test_the_records_of_the_handshake_and_after_it_are_those_of_nginx(
    nginx: Ports,
    asking: Asking,
    server_side: ssl.SSLContext,
    authority: trustme.CA,
    name: str | None,
    protocols: list[str],
    acknowledges: bool,
    shorter: int,
    shorter_ticket: int,
) -> None:
    if acknowledges:
        server_side.sni_callback = lambda *_: None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(protocols)
    with trio.fail_after(10):
        (*ours, our_signature, our_finished), our_tickets = await record_sizes(asking._port, context, name)
        (*theirs, signature, finished), tickets = await record_sizes(nginx.tls, context, name)
    # ServerHello, ChangeCipherSpec, EncryptedExtensions, Certificate.
    assert len(theirs) == 4
    theirs[2] -= shorter
    assert ours == theirs
    # The size of an ECDSA signature varies by a few bytes.
    assert abs(our_signature - signature) <= 4
    assert our_finished == finished
    assert len(tickets) == len(set(tickets)) + 1
    assert our_tickets == [size - shorter_ticket for size in tickets]

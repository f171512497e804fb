"""Exchanges through an HTTP proxy: the bytes that an application and an origin send, and must receive.

The same table is used for this proxy and for others. It does not depend on how the proxy works. Both sides send bytes,
and record the bytes that they receive.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import trio
from attrs import define, evolve, field, frozen

from ..conftest import HOST

#: The time for one case, in seconds. A case that takes longer hangs.
PATIENCE = 20.0

Stream = trio.SocketStream


# The actions of a side.


@frozen
class Until:
    """Wait until these bytes were received."""

    data: bytes


@frozen
class Step:
    """An action named by its value."""

    name: str


#: End sending, and receive until the other side ends.
END = Step("end")
#: Reset the connection.
RESET = Step("reset")

Steps = Sequence["bytes | Until | Step"]


# Expectations.


@frozen
class Head:
    """Expectations for a request or an answer.

    Attributes:
      line: the first line, or its beginning for an answer.
      has: fields with their values, by their names in the exact case.
      present: required fields with any value.
      lacks: forbidden fields.
      order: the names of the first fields.
      body: all bytes after the head.
      content: the content, decoded if it is chunked.
      whole: whether the content must be complete, if it is compared.
    """

    line: bytes = b""
    has: dict[str, str] = field(factory=dict)
    present: Sequence[str] = ()
    lacks: Sequence[str] = ()
    order: Sequence[str] = ()
    body: bytes | None = None
    content: bytes | None = None
    whole: bool = True

    def check(self, head: bytes, body: bytes | None = None) -> None:
        """Compare a head, and the bytes after it."""
        first, *lines = head.split(b"\r\n")
        assert first.startswith(self.line), (first, self.line)
        fields = [tuple(part.strip() for part in line.decode("latin-1").split(":", 1)) for line in lines if line]
        for name, value in self.has.items():
            values = [given for key, given in fields if key == name]
            assert values == [value], (name, values, value)
        assert [key for key, *_ in fields][: len(self.order)] == list(self.order)
        names = {key.lower() for key, *_ in fields}
        for name in self.present:
            assert name.lower() in names, name
        for name in self.lacks:
            assert name.lower() not in names, name
        if self.body is not None:
            assert body == self.body, (body, self.body)
        if self.content is not None and body is not None:
            content, whole = content_of({key.lower(): value for key, value in fields}, body)
            assert content == self.content, (content[:200], self.content[:200])
            assert whole == self.whole


@frozen
class Case:
    """One exchange. `ORIGIN` in what the application sends, and in expectations, is the address of the origin.

    Attributes:
      name: the name of the case.
      app: the actions of the application. Bytes alone are a request. It receives until the proxy ends the connection.
      origin: the actions of the origin on each connection. Bytes alone are an answer, sent after the request's head.
      seen: requests that the origin must receive, each on a separate connection; None to accept any.
      got: answers that the application must receive.
      raw: all bytes that the application must receive, except Date; None to accept any.
      cut: whether the application must see by a reset that the answer is incomplete.
      users: whether the proxy has the user alice, with the password secret.
    """

    name: str
    app: bytes | Steps
    origin: bytes | Steps = b""
    seen: Sequence[Head] | None = None
    got: Sequence[Head] = ()
    raw: bytes | None = None
    cut: bool = False
    users: bool = False


def content_of(fields: dict[str, str], body: bytes) -> tuple[bytes, bool]:
    """Return the content in the bytes after a head, and whether it is known to be complete."""
    if "transfer-encoding" not in fields:
        return body, "content-length" not in fields or len(body) == int(fields["content-length"])
    content = bytearray()
    while True:
        line, _, rest = body.partition(b"\r\n")
        size = int(line.partition(b";")[0], 16) if line else -1
        if size <= 0:
            return bytes(content), size == 0 and rest.endswith(b"\r\n")
        content += rest[:size]
        if rest[size : size + 2] != b"\r\n":
            return bytes(content), False
        body = rest[size + 2 :]


# Running it.


@define(eq=False)
class Peer:
    """One side of an exchange."""

    stream: Stream
    received: bytearray = field(init=False, factory=bytearray)
    was_reset: bool = field(init=False, default=False)
    _ended: trio.Event = field(init=False, factory=trio.Event)
    _news: trio.Event = field(init=False, factory=trio.Event)

    async def run(self, steps: Steps) -> None:
        async with self.stream, trio.open_nursery() as nursery:
            nursery.start_soon(self._record)
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                for step in steps:
                    await self._do(step)
            await self._ended.wait()

    async def _do(self, step: bytes | Until | Step) -> None:
        if isinstance(step, bytes):
            await self.stream.send_all(step)
        elif isinstance(step, Until):
            while step.data not in self.received and not self._ended.is_set():
                self._news = trio.Event()
                await self._news.wait()
        elif step is END:
            await self.stream.send_eof()
        else:
            with contextlib.suppress(OSError):
                self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await trio.aclose_forcefully(self.stream)

    async def _record(self) -> None:
        try:
            while data := await self.stream.receive_some():
                self.received += data
                self._news.set()
        except trio.BrokenResourceError:
            self.was_reset = True
        except trio.ClosedResourceError:
            pass
        self._ended.set()
        self._news.set()


async def run_case(case: Case, proxy: int) -> None:
    """Run a case through the proxy on a port, and check what both sides received."""
    app, origins, address = await run_steps(case, proxy)
    check_answers(case, bytes(app.received), address)
    assert app.was_reset == case.cut, "the connection was " + ("reset" if app.was_reset else "ended")
    if case.seen is not None:
        check_requests(case.seen, origins, address)


async def run_steps(case: Case, proxy: int) -> tuple[Peer, list[Peer], bytes]:
    """Run a case to its end. Return the application, the connections of the origin, and its address."""
    origins: list[Peer] = []

    async def serve(stream: Stream) -> None:
        origins.append(Peer(stream))
        steps = case.origin
        await origins[-1].run((Until(b"\r\n\r\n"), steps, END) if isinstance(steps, bytes) else steps)

    async with listening(serve) as port:
        address = b"%s:%d" % (HOST.encode(), port)
        steps = (case.app,) if isinstance(case.app, bytes) else case.app
        named = [step.replace(b"ORIGIN", address) if isinstance(step, bytes) else step for step in steps]
        app = Peer(await trio.open_tcp_stream(HOST, proxy))
        with trio.fail_after(PATIENCE):
            await app.run(named)
    return app, origins, address


def check_requests(expected: Sequence[Head], peers: Sequence[Peer], address: bytes) -> None:
    """Compare the requests that the origin has received."""
    requests = [bytes(peer.received) for peer in peers]
    assert len(requests) == len(expected), requests
    for request, head in zip(requests, expected, strict=True):
        given, _, body = request.partition(b"\r\n\r\n")
        located(head, address).check(given, body)


def check_answers(case: Case, received: bytes, address: bytes) -> None:
    """Compare the bytes that the application has received."""
    rest = received
    if case.raw is not None:
        assert without_date(received) == case.raw
    for number, head in enumerate(case.got):
        given, _, rest = rest.partition(b"\r\n\r\n")
        last = number == len(case.got) - 1
        body = rest
        if not last and head.body is not None:
            body, rest = rest[: len(head.body)], rest[len(head.body) :]
        located(head, address).check(given, body)


def located(head: Head, address: bytes) -> Head:
    """Insert the address of the origin."""
    text = address.decode()
    has = {name: value.replace("ORIGIN", text) for name, value in head.has.items()}
    body = None if head.body is None else head.body.replace(b"ORIGIN", address)
    return evolve(head, line=head.line.replace(b"ORIGIN", address), has=has, body=body)


def without_date(received: bytes) -> bytes:
    """Remove Date."""
    return b"\r\n".join(line for line in received.split(b"\r\n") if not line.lower().startswith(b"date:"))


@contextlib.asynccontextmanager
async def listening(serve: Callable[[Stream], Awaitable[object]]) -> AsyncIterator[int]:
    """Serve on loopback, and yield the port."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        nursery.start_soon(partial(trio.serve_listeners, serve, listeners))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


# The table.


def get(path: bytes = b"/", *fields: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    """Make a request without content, on a separate connection."""
    return request(path, *fields, b"Connection: close", method=method, version=version)


def request(
    path: bytes = b"/", *fields: bytes, method: bytes = b"GET", version: bytes = b"1.1", content: bytes = b""
) -> bytes:
    """Make a request in absolute form."""
    head = [b"%b http://ORIGIN%b HTTP/%b" % (method, path, version), b"Host: ORIGIN", *fields, b"", b""]
    return b"\r\n".join(head) + content


def post(*fields: bytes, content: bytes, version: bytes = b"1.1") -> bytes:
    """Make a request with content, on a separate connection."""
    return request(b"/", *fields, b"Connection: close", method=b"POST", version=version, content=content)


def refused(status: int, request: bytes, name: str, **more: Any) -> Case:
    """Make the case of a request that the proxy answers itself."""
    return Case(name, request, OK, seen=[], got=[Head(b"HTTP/1.1 %d " % status)], **more)


def bad_answer(name: str, answer: bytes | Steps, **more: Any) -> Case:
    """Make the case of an answer that the proxy replaces."""
    return Case(name, more.pop("app", get()), answer, got=[Head(b"HTTP/1.1 502 ")], **more)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
IN_CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
PASSED = Head(b"HTTP/1.1 200 OK", content=b"hello")
CHUNKED = b"Transfer-Encoding: chunked"
LARGE = bytes(range(256)) * 4096
MANY_FIELDS = b"".join(b"X-Field-%04d: %b\r\n" % (number, b"v" * 80) for number in range(1000))
LONG_FIELD = b"X-Long: " + b"v" * 100_000 + b"\r\n"
WEBSOCKET = (b"Connection: keep-alive, Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: eA==")
SWITCHES = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def answered(name: str, answer: bytes, *heads: Head, app: bytes = get(), **more: Any) -> Case:
    """Make the case of an answer, and its forwarded form."""
    return Case(name, app, answer, got=heads, **more)


def passed_on(name: str, app: bytes | Steps, head: Head, **more: Any) -> Case:
    """Make the case of a forwarded request with the simplest answer."""
    return Case(name, app, OK, seen=[head], got=[PASSED], **more)


CASES: list[Case] = [
    # The target, and Host.
    passed_on("target-origin-form", get(b"/a?b=c"), Head(b"GET /a?b=c HTTP/1.1", has={"Host": "ORIGIN"})),
    passed_on("target-empty-query", get(b"/a?"), Head(b"GET /a? HTTP/1.1")),
    passed_on("target-empty-path", get(b""), Head(b"GET / HTTP/1.1")),
    passed_on("target-query-without-path", get(b"?q"), Head(b"GET /?q HTTP/1.1")),
    passed_on("target-utf-8", get("/\u00fc?\u20ac".encode()), Head("GET /\u00fc?\u20ac HTTP/1.1".encode())),
    passed_on(
        "target-unusual-characters",
        get(b"/a|b{c}^`\"<>\\'%zz//../x;y"),
        Head(b"GET /a|b{c}^`\"<>\\'%zz//../x;y HTTP/1.1"),
    ),
    passed_on("target-long", get(b"/" + b"a" * 8000), Head(b"GET /" + b"a" * 8000 + b" HTTP/1.1")),
    passed_on("target-scheme-case", get().replace(b"http:", b"HTTP:"), Head(b"GET / HTTP/1.1")),
    passed_on(
        "target-counts-and-not-host",
        get().replace(b"Host: ORIGIN", b"Host: other.example"),
        Head(b"GET / HTTP/1.1", has={"Host": "ORIGIN"}),
    ),
    refused(400, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "target-of-an-origin"),
    refused(400, get().replace(b"http:", b"https:"), "target-https"),
    refused(400, get().replace(b"ORIGIN", b"user:password@ORIGIN", 1), "target-with-user"),
    refused(400, get(b"/#fragment"), "target-with-fragment"),
    refused(400, get().replace(b"http://ORIGIN", b"http://"), "target-without-host"),
    refused(400, get().replace(b"http://ORIGIN", b"http://a b"), "target-with-space"),
    refused(400, get().replace(b"http://ORIGIN", b"http://ORIGIN:99999"), "target-port-twice"),
    refused(400, get().replace(b"http://ORIGIN", b"http://127.0.0.1:99999"), "target-port-too-high"),
    refused(400, get().replace(b"http://ORIGIN", b"http://127.0.0.1:0"), "target-port-0"),
    refused(400, get().replace(b"http://ORIGIN", b"http://[::1"), "target-bracket-open"),
    refused(400, get().replace(b"http://ORIGIN", b"http://[x]"), "target-bracket-not-ipv6"),
    refused(400, get().replace(b"http://ORIGIN", b"http://::1/"), "target-ipv6-without-brackets"),
    refused(400, get().replace(b"http://ORIGIN", b"http://x\\y/"), "target-backslash-in-host"),
    refused(400, get().replace(b"Host: ORIGIN\r\n", b""), "host-missing"),
    refused(400, get().replace(b"Host: ORIGIN\r\n", b"Host: a\r\nHost: b\r\n"), "host-twice"),
    refused(400, get().replace(b"Host: ORIGIN\r\n", b"Host: a/b\r\n"), "host-invalid"),
    passed_on(
        "host-empty", get().replace(b"Host: ORIGIN\r\n", b"Host:\r\n"), Head(b"GET / HTTP/1.1", has={"Host": "ORIGIN"})
    ),
    passed_on(
        "host-missing-in-1.0",
        get(version=b"1.0").replace(b"Host: ORIGIN\r\n", b""),
        Head(b"GET / HTTP/1.1", has={"Host": "ORIGIN"}),
    ),
    # Request lines and heads.
    passed_on("method-unknown", get(method=b"PROPFIND"), Head(b"PROPFIND / HTTP/1.1")),
    passed_on("method-case", get(method=b"get"), Head(b"get / HTTP/1.1")),
    passed_on("empty-lines-first", b"\r\n\r\n" + get(), Head(b"GET / HTTP/1.1")),
    passed_on("bare-lf", get().replace(b"\r\n", b"\n"), Head(b"GET / HTTP/1.1", has={"Host": "ORIGIN"})),
    passed_on("version-1.7", get(version=b"1.7"), Head(b"GET / HTTP/1.1")),
    passed_on("version-1.0", get(version=b"1.0"), Head(b"GET / HTTP/1.1")),
    refused(505, get(version=b"2.0"), "version-2.0"),
    refused(400, b"GET http://ORIGIN/\r\n\r\n", "version-0.9"),
    refused(400, get().replace(b"GET http", b"GET  http"), "two-spaces"),
    refused(400, get().replace(b"HTTP/1.1", b"http/1.1"), "version-lower-case"),
    refused(400, b"\x16\x03\x01\x02\x00\x01\x00", "tls-to-the-proxy"),
    refused(400, b"\x05\x01\x00", "socks-to-the-proxy"),
    refused(400, b"nonsense\r\n\r\n", "no-request"),
    refused(400, get(b"/", b"Name : value"), "space-before-colon"),
    refused(400, get(b"/", b"Content-Length : 0"), "space-before-colon-of-length"),
    refused(400, get(b"/", b"no colon"), "field-without-colon"),
    refused(400, get(b"/", b": value"), "field-without-name"),
    refused(400, get(b"/", b"a(b): value"), "field-name-invalid"),
    refused(400, get(b"/", b"Name: a\0b"), "nul-in-field"),
    refused(400, get(b"/", b"Name: a\rb"), "bare-cr-in-field"),
    refused(400, get(b"/\0"), "nul-in-target"),
    refused(400, get().replace(b"Host:", b" Host:", 1), "whitespace-before-first-field"),
    passed_on("folded-field", get(b"/", b"X-Folded: a\r\n\t b"), Head(b"GET /", has={"X-Folded": "a b"})),
    passed_on(
        "control-characters", get(b"/", b"X-Odd: a\x01\x7f\xe4\tb"), Head(b"GET /", has={"X-Odd": "a\x01\x7f\xe4\tb"})
    ),
    passed_on("field-names-keep-their-case", get(b"/", b"x-lOWER: 1"), Head(b"GET /", has={"x-lOWER": "1"})),
    passed_on("field-value-empty", get(b"/", b"X-Empty:"), Head(b"GET /", has={"X-Empty": ""})),
    Case(
        "field-order",
        get(b"/", b"X-A: 1", b"X-B: 2", b"X-A: 3"),
        OK,
        seen=[Head(b"GET / HTTP/1.1", order=["Host", "X-A", "X-B", "X-A"])],
        got=[PASSED],
    ),
    refused(431, get(b"/", b"X-Long: " + b"a" * 70_000), "head-too-long"),
    refused(414, get(b"/" + b"a" * 70_000), "target-too-long"),
    Case("head-cut", (b"GET http://ORIGIN/ HTT", END), OK, seen=[], got=[Head(b"HTTP/1.1 400 ")]),
    Case("nothing-sent", (END,), OK, seen=[], raw=b""),
    # Hop-by-hop fields.
    passed_on(
        "hop-by-hop-in-requests",
        request(
            b"/",
            b"Connection: close, X-Mine,, \t X-Other",
            b"X-Mine: 1",
            b"x-other: 2",
            b"Keep-Alive: 3",
            b"Proxy-Connection: keep-alive",
            b"Proxy-Authorization: Basic eA==",
            b"Upgrade: x",
            b"TE: gzip",
            b"X-End: 4",
        ),
        Head(
            b"GET / HTTP/1.1",
            has={"X-End": "4", "Connection": "close"},
            lacks=["X-Mine", "X-Other", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Upgrade", "TE"],
        ),
    ),
    answered(
        "hop-by-hop-in-answers",
        b"HTTP/1.1 200 OK\r\nConnection: close, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 2\r\nProxy-Connection: close\r\n"
        b"Proxy-Authenticate: Basic\r\nUpgrade: x\r\nX-End: 4\r\nContent-Length: 5\r\n\r\nhello",
        Head(
            b"HTTP/1.1 200 OK",
            has={"X-End": "4", "Connection": "close"},
            lacks=["X-Mine", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Upgrade"],
            content=b"hello",
        ),
    ),
    passed_on(
        "connection-names-length-in-requests",
        request(b"/", b"Content-Length: 3", b"Connection: close, content-length, host", method=b"POST", content=b"abc"),
        Head(b"POST / HTTP/1.1", has={"Content-Length": "3", "Host": "ORIGIN"}, content=b"abc"),
    ),
    passed_on(
        "connection-names-coding-in-requests",
        request(
            b"/", CHUNKED, b"Connection: close, Transfer-Encoding", method=b"POST", content=b"3\r\nabc\r\n0\r\n\r\n"
        ),
        Head(b"POST / HTTP/1.1", has={"Transfer-Encoding": "chunked"}, content=b"abc"),
    ),
    answered(
        "connection-names-length-in-answers",
        OK.replace(b"OK\r\n", b"OK\r\nConnection: Content-Length\r\n"),
        Head(b"HTTP/1.1 200 OK", has={"Content-Length": "5"}, content=b"hello"),
    ),
    answered(
        "connection-names-coding-in-answers",
        IN_CHUNKS.replace(b"OK\r\n", b"OK\r\nConnection: transfer-encoding\r\n"),
        Head(b"HTTP/1.1 200 OK", has={"Transfer-Encoding": "chunked"}, content=b"hello"),
    ),
    passed_on("no-via-in-requests", get(), Head(b"GET /", lacks=["Via", "X-Forwarded-For", "Forwarded", "User-Agent"])),
    answered("no-via-in-answers", OK, Head(b"HTTP/1.1 200 OK", lacks=["Via", "Server"], content=b"hello")),
    passed_on("via-of-others", get(b"/", b"Via: 1.1 other"), Head(b"GET /", has={"Via": "1.1 other"})),
    answered("date-is-added", OK, Head(b"HTTP/1.1 200 OK", present=["Date"], content=b"hello")),
    answered(
        "date-is-kept",
        OK.replace(b"OK\r\n", b"OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"),
        Head(b"HTTP/1.1 200 OK", has={"Date": "Thu, 01 Jan 1970 00:00:00 GMT"}),
    ),
    passed_on(
        "te-trailers",
        request(b"/", b"TE: trailers", b"Connection: close, TE"),
        Head(b"GET /", has={"TE": "trailers", "Connection": "close, TE"}),
    ),
    # OPTIONS, TRACE, Max-Forwards.
    Case(
        "options-of-the-proxy",
        b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        OK,
        seen=[],
        got=[Head(b"HTTP/1.1 200 ", has={"Content-Length": "0"}, body=b"")],
    ),
    passed_on("options-of-the-origin", get(b"", method=b"OPTIONS"), Head(b"OPTIONS * HTTP/1.1")),
    passed_on("options-of-a-path", get(b"/", method=b"OPTIONS"), Head(b"OPTIONS / HTTP/1.1")),
    passed_on(
        "max-forwards-less",
        get(b"/", b"Max-Forwards: 3", method=b"OPTIONS"),
        Head(b"OPTIONS /", has={"Max-Forwards": "2"}),
    ),
    passed_on("max-forwards-of-get", get(b"/", b"Max-Forwards: 0"), Head(b"GET /", has={"Max-Forwards": "0"})),
    Case(
        "max-forwards-0-options",
        get(b"/", b"Max-Forwards: 0", method=b"OPTIONS"),
        OK,
        seen=[],
        got=[Head(b"HTTP/1.1 200 ", body=b"")],
    ),
    Case(
        "max-forwards-0-trace",
        get(b"/", b"Max-Forwards: 0", b"Cookie: secret", b"Authorization: secret", b"X-End: 1", method=b"TRACE"),
        OK,
        seen=[],
        got=[
            Head(
                b"HTTP/1.1 200 ",
                has={"Content-Type": "message/http"},
                body=b"TRACE http://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\nMax-Forwards: 0\r\nX-End: 1\r\n"
                b"Connection: close\r\n\r\n",
            )
        ],
    ),
    refused(400, get(b"/", b"Max-Forwards: x", method=b"TRACE"), "max-forwards-invalid"),
    refused(400, get(b"/", b"Max-Forwards: 1", b"Max-Forwards: 0", method=b"TRACE"), "max-forwards-twice"),
    passed_on("trace", get(method=b"TRACE"), Head(b"TRACE / HTTP/1.1")),
    # The content of requests.
    passed_on(
        "content-with-length",
        post(b"Content-Length: 3", content=b"abc"),
        Head(b"POST /", has={"Content-Length": "3"}, content=b"abc"),
    ),
    passed_on(
        "content-of-length-0",
        post(b"Content-Length: 0", content=b""),
        Head(b"POST /", has={"Content-Length": "0"}, content=b""),
    ),
    passed_on(
        "content-of-none", post(content=b""), Head(b"POST /", lacks=["Content-Length", "Transfer-Encoding"], body=b"")
    ),
    passed_on(
        "content-of-get",
        request(b"/", b"Content-Length: 3", b"Connection: close", content=b"abc"),
        Head(b"GET /", content=b"abc"),
    ),
    passed_on(
        "content-in-chunks",
        post(CHUNKED, content=b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"),
        Head(b"POST /", has={"Transfer-Encoding": "chunked"}, content=b"abcde"),
    ),
    Case(
        "content-large",
        post(b"Content-Length: %d" % (len(LARGE) + 4), content=LARGE + b"last"),
        (Until(b"last"), OK, END),
        seen=[Head(b"POST /", content=LARGE + b"last")],
        got=[PASSED],
    ),
    passed_on(
        "length-twice-the-same",
        post(b"Content-Length: 3", b"Content-Length: 3", content=b"abc"),
        Head(b"POST /", has={"Content-Length": "3"}, content=b"abc"),
    ),
    passed_on(
        "length-as-a-list",
        post(b"Content-Length: 3, 3", content=b"abc"),
        Head(b"POST /", has={"Content-Length": "3"}, content=b"abc"),
    ),
    refused(400, post(b"Content-Length: 3", b"Content-Length: 4", content=b"abcd"), "lengths-differ"),
    refused(400, post(b"Content-Length: 3, 4", content=b"abcd"), "lengths-differ-in-a-list"),
    *[
        refused(400, post(b"Content-Length: " + value, content=b"abc"), f"length-invalid-{number}")
        for number, value in enumerate((b"+3", b"-1", b"3x", b"0x3", b"", b"3 3", b"3,", "\u0663".encode(), b"9" * 30))
    ],
    Case(
        "length-and-chunks",
        request(
            b"/",
            b"Content-Length: 30",
            CHUNKED,
            method=b"POST",
            content=b"3\r\nabc\r\n0\r\n\r\nGET http://ORIGIN/smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        ),
        OK,
        seen=[Head(b"POST /", has={"Transfer-Encoding": "chunked"}, lacks=["Content-Length"], content=b"abc")],
        got=[Head(b"HTTP/1.1 200 OK", has={"Connection": "close"}, body=b"hello")],
    ),
    refused(400, post(b"Content-Length: x", CHUNKED, content=b"0\r\n\r\n"), "length-invalid-and-chunks"),
    refused(400, post(b"Transfer-Encoding: chunked, chunked", content=b"0\r\n\r\n"), "chunked-twice"),
    refused(400, post(CHUNKED, CHUNKED, content=b"0\r\n\r\n"), "chunked-twice-in-two-fields"),
    refused(400, post(b"Transfer-Encoding: chunked, gzip", content=b"0\r\n\r\n"), "chunked-not-last"),
    refused(400, post(b"Transfer-Encoding: xchunked", content=b"0\r\n\r\n"), "coding-unknown"),
    refused(400, post(b"Transfer-Encoding:", content=b"abc"), "coding-empty"),
    refused(400, post(b"Transfer-Encoding: chunked;q=1", content=b"0\r\n\r\n"), "coding-with-parameter"),
    refused(400, post(b"Transfer-Encoding: identity", content=b"abc"), "coding-identity"),
    refused(501, post(b"Transfer-Encoding: gzip, chunked", content=b"0\r\n\r\n"), "coding-not-supported"),
    refused(400, post(b"Transfer-Encoding\t: chunked", content=b"0\r\n\r\n"), "coding-tab-before-colon"),
    refused(400, post(CHUNKED, content=b"0\r\n\r\n", version=b"1.0"), "chunks-in-1.0"),
    passed_on(
        "coding-case",
        post(b"transfer-ENCODING: Chunked", content=b"1\r\na\r\n0\r\n\r\n"),
        Head(b"POST /", content=b"a"),
    ),
    passed_on(
        "coding-folded",
        post(b"Transfer-Encoding:\r\n chunked", content=b"1\r\na\r\n0\r\n\r\n"),
        Head(b"POST /", has={"Transfer-Encoding": "chunked"}, content=b"a"),
    ),
    *[
        Case(f"chunk-invalid-{number}", post(CHUNKED, content=content), OK, got=[Head(b"HTTP/1.1 400 ")])
        for number, content in enumerate(
            (
                b"x\r\nabc\r\n",
                b"3\nabc\n0\n\n",
                b"3\r\nabcd\r\n",
                b"-3\r\n",
                b"0x3\r\nabc\r\n",
                b"3 3\r\nabc\r\n",
                b"\r\n",
                b"3;a\0\r\nabc\r\n",
                b"3;\na\r\nabc\r\n",
                b"f" * 16 + b"\r\n",
                b"1;" + b"a" * 5000 + b"\r\n",
                b"".join(b"1;" + b"a" * 4000 + b"\r\na\r\n" for _ in range(20)),
                b"0\r\nno trailer\r\n\r\n",
                b"0\r\n" + b"A: " + b"a" * 70_000 + b"\r\n\r\n",
                b"0\r\nA: b\n\r\n",
                b"3\r\nabc\r\r\n",
            )
        )
    ],
    Case(
        "content-cut",
        (post(b"Content-Length: 5", content=b"abc"), END),
        (Until(b"abc"),),
        seen=[Head(b"POST /", content=b"abc", whole=False)],
        got=[Head(b"HTTP/1.1 400 ")],
    ),
    Case(
        "chunks-cut",
        (post(CHUNKED, content=b"3\r\nabc\r\n"), END),
        (Until(b"abc"),),
        seen=[Head(b"POST /", content=b"abc", whole=False)],
        got=[Head(b"HTTP/1.1 400 ")],
    ),
    passed_on(
        "trailers-in-requests",
        post(
            CHUNKED,
            b"Trailer: X-Sum",
            content=b"1\r\na\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\nHost: 127.0.0.1\r\n\r\n",
        ),
        Head(b"POST /", has={"Trailer": "X-Sum"}, body=b"1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n"),
    ),
    # Expect, and answers that come early.
    Case(
        "continue-of-the-origin",
        (
            request(b"/", b"Expect: 100-continue", b"Content-Length: 3", method=b"POST"),
            Until(b"100"),
            b"abc",
            Until(b"hello"),
            END,
        ),
        (Until(b"\r\n\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n", Until(b"abc"), OK),
        seen=[Head(b"POST /", has={"Expect": "100-continue"}, content=b"abc")],
        got=[Head(b"HTTP/1.1 100 Continue", lacks=["Connection", "Date"], body=b""), PASSED],
    ),
    Case(
        "continue-of-nobody",
        (request(b"/", b"Expect: 100-continue", b"Content-Length: 3", method=b"POST"), b"abc", Until(b"hello"), END),
        (Until(b"abc"), OK),
        seen=[Head(b"POST /", content=b"abc")],
        got=[PASSED],
    ),
    Case(
        "continue-refused",
        request(b"/", b"Expect: 100-continue", b"Content-Length: 3", method=b"POST"),
        b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n",
        seen=[Head(b"POST /", body=b"")],
        got=[Head(b"HTTP/1.1 417 No", has={"Connection": "close"}, body=b"")],
    ),
    Case(
        "continue-in-1.0",
        post(b"Expect: 100-continue", b"Content-Length: 3", content=b"abc", version=b"1.0"),
        (Until(b"abc"), b"HTTP/1.1 100 Continue\r\n\r\n", OK, END),
        seen=[Head(b"POST /", lacks=["Expect"], content=b"abc")],
        got=[PASSED],
    ),
    Case(
        "answer-at-once-and-100-expected",
        request(b"/", b"Expect: 100-continue", b"Content-Length: %d" % len(LARGE), method=b"POST", content=LARGE),
        (OK, END),
        got=[Head(b"HTTP/1.1 200 OK", has={"Connection": "close"}, content=b"hello")],
    ),
    Case("answer-before-the-request", get(), (OK, END), got=[PASSED]),
    Case("answer-before-the-request-and-reset", get(), (OK, Until(b"\r\n\r\n"), END), got=[PASSED]),
    Case(
        "answer-during-an-upload",
        request(b"/", b"Content-Length: %d" % (2 * len(LARGE)), method=b"POST", content=LARGE),
        b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno",
        got=[Head(b"HTTP/1.1 413 Too Large", has={"Connection": "close"}, content=b"no")],
    ),
    Case(
        "both-ways-at-once",
        (request(b"/", CHUNKED, method=b"POST", content=b"1\r\na\r\n"), Until(b"b"), b"1\r\nc\r\n0\r\n\r\n"),
        (Until(b"a\r\n"), b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nb", Until(b"0\r\n\r\n"), b"d", END),
        seen=[Head(b"POST /", content=b"ac")],
        got=[Head(b"HTTP/1.1 200 OK", content=b"bd")],
    ),
    # Answers without content.
    answered(
        "answer-to-head",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        Head(b"HTTP/1.1 200 OK", has={"Content-Length": "5"}, body=b""),
        app=get(method=b"HEAD"),
    ),
    answered(
        "answer-to-head-in-chunks",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        Head(b"HTTP/1.1 200 OK", has={"Transfer-Encoding": "chunked"}, body=b""),
        app=get(method=b"HEAD"),
    ),
    answered("answer-to-head-with-content", OK, Head(b"HTTP/1.1 200 OK", body=b""), app=get(method=b"HEAD")),
    answered(
        "answer-204",
        b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\nhello",
        Head(b"HTTP/1.1 204 No", lacks=["Content-Length"], body=b""),
    ),
    answered(
        "answer-304",
        b"HTTP/1.1 304 No\r\nContent-Length: 5\r\nETag: x\r\n\r\nhello",
        Head(b"HTTP/1.1 304 No", has={"Content-Length": "5", "ETag": "x"}, body=b""),
    ),
    *[
        Case(
            f"own-answer-to-head-{status}",
            app,
            OK,
            seen=[],
            got=[Head(b"HTTP/1.1 %d " % status, body=b"")],
            users=users,
        )
        for status, app, users in (
            (400, b"HEAD / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", False),
            (403, b"HEAD http://10.1.2.3/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", False),
            (407, b"HEAD http://x/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", True),
            (502, b"HEAD http://no-such-name.invalid/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", False),
        )
    ],
    Case(
        "information-is-passed-on",
        get(),
        (
            Until(b"\r\n\r\n"),
            b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\nConnection: x\r\nX: 1\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n",
            OK,
            END,
        ),
        got=[
            Head(b"HTTP/1.1 103 Early Hints", has={"Link": "<a>"}, lacks=["X", "Connection"], body=b""),
            Head(b"HTTP/1.1 102 Processing", body=b""),
            PASSED,
        ],
    ),
    answered("information-not-to-1.0", b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK, PASSED, app=get(version=b"1.0")),
    # The content of answers.
    answered(
        "answer-in-chunks",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n002 \r\nlo\r\n0\r\n\r\n",
        Head(b"HTTP/1.1 200 OK", has={"Transfer-Encoding": "chunked"}, lacks=["Content-Length"], content=b"hello"),
    ),
    answered(
        "answer-in-chunks-to-1.0",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5\r\nhello\r\n0\r\nX: 1\r\n\r\n",
        Head(b"HTTP/1.1 200 OK", lacks=["Transfer-Encoding", "Trailer"], body=b"hello"),
        app=get(version=b"1.0"),
    ),
    answered(
        "answer-with-length-and-chunks",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        Head(b"HTTP/1.1 200 OK", has={"Connection": "close"}, lacks=["Content-Length"], content=b"hello"),
        app=request(),
    ),
    answered(
        "answer-until-the-end",
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        Head(b"HTTP/1.1 200 OK", has={"Connection": "close"}, content=b"hello"),
        app=request(),
    ),
    answered(
        "answer-of-1.0", b"HTTP/1.0 200 OK\r\n\r\nhello", Head(b"HTTP/1.1 200 OK", content=b"hello"), app=request()
    ),
    answered(
        "answer-of-1.0-in-chunks",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        Head(b"HTTP/1.1 200 OK", has={"Connection": "close"}, content=b"hello"),
        app=request(),
    ),
    answered(
        "answer-coded-until-the-end",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello",
        Head(b"HTTP/1.1 200 OK", has={"Transfer-Encoding": "gzip", "Connection": "close"}, body=b"hello"),
        app=request(),
    ),
    answered(
        "answer-coded-in-chunks",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        Head(b"HTTP/1.1 200 OK", has={"Transfer-Encoding": "gzip, chunked"}, content=b"hello"),
    ),
    bad_answer("answer-coded-to-1.0", IN_CHUNKS.replace(b"chunked", b"gzip, chunked"), app=get(version=b"1.0")),
    answered(
        "answer-trailers",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n"
        b"Connection: x\r\n\r\n",
        Head(b"HTTP/1.1 200 OK", has={"Trailer": "X-Sum"}, body=b"5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"),
    ),
    answered(
        "answer-trailers-that-connection-names",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X-Sum\r\n\r\n0\r\nX-Sum: 1\r\nX-End: 2\r\n\r\n",
        Head(b"HTTP/1.1 200 OK", body=b"0\r\nX-End: 2\r\n\r\n"),
    ),
    answered(
        "answer-lengths-the-same",
        OK.replace(b"th: 5", b"th: 5\r\nContent-Length: 5, 5"),
        Head(b"HTTP/1.1 200 OK", has={"Content-Length": "5"}, content=b"hello"),
    ),
    bad_answer("answer-lengths-differ", OK.replace(b"th: 5", b"th: 5\r\nContent-Length: 6")),
    bad_answer("answer-length-invalid", OK.replace(b"th: 5", b"th: -5")),
    bad_answer("answer-chunked-twice", OK.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked, chunked")),
    bad_answer("answer-chunked-not-last", OK.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked, gzip")),
    answered(
        "answer-large",
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(LARGE) + LARGE,
        Head(b"HTTP/1.1 200 OK", content=LARGE),
    ),
    answered(
        "answer-longer-than-its-length",
        OK + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad",
        Head(b"HTTP/1.1 200 OK", body=b"hello"),
    ),
    # The heads of answers.
    answered(
        "answer-field-names-keep-their-case",
        OK.replace(b"Content-Length", b"cONTENT-lENGTH"),
        Head(b"HTTP/1.1 200 OK", has={"cONTENT-lENGTH": "5"}, content=b"hello"),
    ),
    answered(
        "answer-many-fields",
        OK.replace(b"OK\r\n", b"OK\r\n" + MANY_FIELDS),
        Head(b"HTTP/1.1 200 OK", has={"X-Field-0999": "v" * 80}, content=b"hello"),
    ),
    answered(
        "answer-long-field",
        OK.replace(b"OK\r\n", b"OK\r\n" + LONG_FIELD),
        Head(b"HTTP/1.1 200 OK", has={"X-Long": "v" * 100_000}, content=b"hello"),
    ),
    Case(
        "answer-long-field-in-pieces",
        get(),
        (
            Until(b"\r\n\r\n"),
            b"HTTP/1.1 200 OK\r\n",
            *[LONG_FIELD[start : start + 5000] for start in range(0, len(LONG_FIELD), 5000)],
            b"Content-Length: 5\r\n",
            b"\r",
            b"\n",
            b"hello",
            END,
        ),
        got=[Head(b"HTTP/1.1 200 OK", has={"X-Long": "v" * 100_000}, content=b"hello")],
    ),
    bad_answer(
        "answer-head-too-long",
        (Until(b"\r\n\r\n"), OK.replace(b"OK\r\n", b"OK\r\nX: " + b"v" * 300_000 + b"\r\n"), END),
    ),
    answered(
        "answer-status-unknown", b"HTTP/1.1 299 Odd\r\nContent-Length: 0\r\n\r\n", Head(b"HTTP/1.1 299 Odd", body=b"")
    ),
    answered("answer-without-reason", OK.replace(b"200 OK", b"200"), Head(b"HTTP/1.1 200 ", content=b"hello")),
    answered(
        "answer-reason-utf-8",
        OK.replace(b"OK", "gr\u00fcn".encode()),
        Head("HTTP/1.1 200 gr\u00fcn".encode(), content=b"hello"),
    ),
    answered(
        "answer-space-before-colon",
        OK.replace(b"OK\r\n", b"OK\r\nX-Odd : 1\r\n"),
        Head(b"HTTP/1.1 200 OK", has={"X-Odd": "1"}, content=b"hello"),
    ),
    answered(
        "answer-folded-field",
        OK.replace(b"OK\r\n", b"OK\r\nX-Odd: 1\r\n  2\r\n"),
        Head(b"HTTP/1.1 200 OK", has={"X-Odd": "1 2"}, content=b"hello"),
    ),
    answered(
        "answer-bare-lf",
        OK.replace(b"\r\n", b"\n"),
        Head(b"HTTP/1.1 200 OK", has={"Content-Length": "5"}, content=b"hello"),
    ),
    bad_answer("answer-without-status-line", b"hello"),
    bad_answer("answer-of-2.0", OK.replace(b"1.1", b"2.0")),
    bad_answer("answer-status-invalid", OK.replace(b"200", b"20")),
    bad_answer("answer-nul", OK.replace(b"OK\r\n", b"OK\r\nX: \0\r\n")),
    bad_answer("answer-bare-cr", OK.replace(b"OK\r\n", b"OK\r\nX: \rA: b\r\n")),
    bad_answer("answer-field-without-colon", OK.replace(b"OK\r\n", b"OK\r\nodd\r\n")),
    bad_answer("answer-empty", b""),
    bad_answer("answer-reset", (Until(b"\r\n\r\n"), RESET)),
    bad_answer("answer-head-cut", b"HTTP/1.1 200 OK\r\nContent-"),
    # Incomplete answers.
    answered("answer-cut", OK.replace(b"5", b"50"), Head(b"HTTP/1.1 200 OK", content=b"hello", whole=False)),
    answered(
        "answer-cut-in-chunks",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        Head(b"HTTP/1.1 200 OK", content=b"hello", whole=False),
    ),
    bad_answer("answer-chunk-invalid", IN_CHUNKS.replace(b"0\r\n", b"x\r\n")),
    answered(
        "answer-cut-in-chunks-to-1.0",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        Head(b"HTTP/1.1 200 OK", body=b"hello"),
        app=get(version=b"1.0"),
        cut=True,
    ),
    Case(
        "answer-reset-within",
        get(),
        (Until(b"\r\n\r\n"), OK.replace(b"5", b"50"), RESET),
        got=[Head(b"HTTP/1.1 200 OK", whole=False)],
    ),
    # Persistent connections.
    Case(
        "two-requests",
        (request(b"/1"), Until(b"hello"), get(b"/2")),
        OK,
        seen=[Head(b"GET /1 "), Head(b"GET /2 ")],
        got=[
            Head(b"HTTP/1.1 200 OK", lacks=["Connection"], body=b"hello"),
            Head(b"HTTP/1.1 200 OK", has={"Connection": "close"}, body=b"hello"),
        ],
    ),
    Case(
        "requests-at-once",
        request(b"/1") + request(b"/2") + get(b"/3"),
        OK,
        seen=[Head(b"GET /1 "), Head(b"GET /2 "), Head(b"GET /3 ")],
        got=[Head(b"HTTP/1.1 200 OK", body=b"hello")] * 3,
    ),
    Case(
        "requests-with-content-at-once",
        request(b"/1", b"Content-Length: 3", method=b"POST", content=b"abc")
        + request(b"/2", CHUNKED, method=b"POST", content=b"1\r\nd\r\n0\r\n\r\n")
        + get(b"/3"),
        OK,
        seen=[Head(b"POST /1 ", content=b"abc"), Head(b"POST /2 ", content=b"d"), Head(b"GET /3 ")],
        got=[Head(b"HTTP/1.1 200 OK", body=b"hello")] * 3,
    ),
    Case(
        "answers-without-content-are-followed",
        request(b"/1", method=b"HEAD") + request(b"/2") + get(b"/3"),
        b"HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n",
        seen=[Head(b"HEAD /1 "), Head(b"GET /2 "), Head(b"GET /3 ")],
        got=[Head(b"HTTP/1.1 304 No", body=b"")] * 3,
    ),
    Case(
        "keep-alive-of-1.0",
        (request(b"/1", b"Connection: Keep-Alive", version=b"1.0"), Until(b"hello"), request(b"/2", version=b"1.0")),
        OK,
        seen=[Head(b"GET /1 "), Head(b"GET /2 ")],
        got=[
            Head(b"HTTP/1.1 200 OK", has={"Connection": "keep-alive"}, body=b"hello"),
            Head(b"HTTP/1.1 200 OK", has={"Connection": "close"}, body=b"hello"),
        ],
    ),
    Case(
        "no-keep-alive-of-1.0",
        request(version=b"1.0"),
        OK,
        got=[Head(b"HTTP/1.1 200 OK", has={"Connection": "close"}, body=b"hello")],
    ),
    Case("end-of-sending", (request(), END), OK, seen=[Head(b"GET / ")], got=[PASSED]),
    # Tunnels.
    Case(
        "connect",
        (b"CONNECT ORIGIN HTTP/1.1\r\nHost: ORIGIN\r\n\r\nearly\r\n\r\n", Until(b"hello"), b"late"),
        (Until(b"early"), b"hello", Until(b"late"), END),
        got=[Head(b"HTTP/1.1 200 ", lacks=["Content-Length", "Transfer-Encoding"], body=b"hello")],
    ),
    Case(
        "connect-1.0",
        (b"CONNECT ORIGIN HTTP/1.0\r\n\r\n", Until(b"\r\n\r\n"), b"x"),
        (Until(b"x"), b"hello", END),
        got=[Head(b"HTTP/1.1 200 ", body=b"hello")],
    ),
    Case(
        "connect-length-0",
        (b"CONNECT ORIGIN HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n",),
        (b"hello", END),
        got=[Head(b"HTTP/1.1 200 ", body=b"hello")],
    ),
    refused(400, b"CONNECT ORIGIN HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n\r\nabc", "connect-with-content"),
    refused(
        400,
        b"CONNECT ORIGIN HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "connect-with-chunks",
    ),
    refused(400, b"CONNECT 127.0.0.1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "connect-without-port"),
    refused(400, b"CONNECT 127.0.0.1: HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "connect-empty-port"),
    refused(400, b"CONNECT 127.0.0.1:x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "connect-port-invalid"),
    refused(400, b"CONNECT :80 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "connect-without-host"),
    refused(400, b"CONNECT ::1:80 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "connect-ipv6-without-brackets"),
    refused(400, b"CONNECT user@ORIGIN HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "connect-with-user"),
    refused(400, b"CONNECT http://ORIGIN/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "connect-absolute-form"),
    refused(403, b"CONNECT [2001:db8::1]:80 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "connect-ipv6"),
    refused(
        400,
        b"CONNECT 127.0.0.1:99999 HTTP/1.1\r\nHost: a\r\n\r\nGET http://ORIGIN/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "connect-refused-and-nothing-after-it",
    ),
    Case(
        "connect-to-nothing",
        b"CONNECT no-such-name.invalid:80 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        got=[Head(b"HTTP/1.1 502 ")],
    ),
    # Other protocols.
    Case(
        "websocket",
        (request(b"/ws", *WEBSOCKET), Until(b"\r\n\r\n"), b"\x81\x05there", Until(b"hello")),
        (Until(b"\r\n\r\n"), SWITCHES, Until(b"there"), b"\x81\x05hello", END),
        seen=[
            Head(
                b"GET /ws ",
                has={"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "eA=="},
                body=b"\x81\x05there",
            )
        ],
        got=[Head(b"HTTP/1.1 101 ", has={"Upgrade": "websocket", "Connection": "Upgrade"}, body=b"\x81\x05hello")],
    ),
    Case(
        "websocket-and-data-at-once",
        (request(b"/ws", *WEBSOCKET) + b"there",),
        (Until(b"\r\n\r\n"), SWITCHES + b"hello", Until(b"there"), END),
        seen=[Head(b"GET /ws ", body=b"there")],
        got=[Head(b"HTTP/1.1 101 ", body=b"hello")],
    ),
    Case(
        "websocket-refused",
        request(b"/ws", *WEBSOCKET) + get(b"/2"),
        OK,
        seen=[Head(b"GET /ws "), Head(b"GET /2 ")],
        got=[Head(b"HTTP/1.1 200 OK", body=b"hello")] * 2,
    ),
    bad_answer("switch-not-asked-for", SWITCHES),
    passed_on(
        "upgrade-in-1.0",
        request(b"/", b"Connection: Upgrade", b"Upgrade: websocket", version=b"1.0"),
        Head(b"GET /", lacks=["Upgrade"]),
    ),
    passed_on("upgrade-not-named", get(b"/", b"Upgrade: websocket"), Head(b"GET /", lacks=["Upgrade"])),
    passed_on(
        "upgrade-to-h2c",
        request(b"/", b"Connection: close, Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAA"),
        Head(b"GET /", lacks=["Upgrade", "HTTP2-Settings"]),
    ),
    answered(
        "upgrade-required",
        b"HTTP/1.1 426 No\r\nUpgrade: TLS/1.0\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
        Head(b"HTTP/1.1 426 No", has={"Upgrade": "TLS/1.0", "Connection": "Upgrade, close"}, body=b""),
    ),
    # Users.
    *[
        Case(
            f"user-accepted-{number}",
            get(b"/", b"Proxy-Authorization: " + value),
            OK,
            seen=[Head(b"GET /", lacks=["Proxy-Authorization"])],
            got=[PASSED],
            users=True,
        )
        for number, value in enumerate(
            (b"Basic YWxpY2U6c2VjcmV0", b"basic  YWxpY2U6c2VjcmV0", b"BASIC YWxpY2U6c2VjcmV0  ")
        )
    ],
    *[
        refused(407, get(b"/", *values), f"user-refused-{number}", users=True)
        for number, values in enumerate(
            (
                (),
                (b"Proxy-Authorization: Basic eDp5",),
                (b"Proxy-Authorization: Basic YWxpY2U6c2VjcmV0YQ==",),
                (b"Proxy-Authorization: Basic ???",),
                (b"Proxy-Authorization: BasicYWxpY2U6c2VjcmV0",),
                (b"Proxy-Authorization: Digest YWxpY2U6c2VjcmV0",),
                (b"Proxy-Authorization:",),
                (b"Authorization: Basic YWxpY2U6c2VjcmV0",),
            )
        )
    ],
    refused(407, get(b"/", *[b"Proxy-Authorization: Basic YWxpY2U6c2VjcmV0"] * 2), "user-refused-twice", users=True),
    refused(407, b"CONNECT ORIGIN HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "user-refused-connect", users=True),
]

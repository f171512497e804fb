"""An HTTP proxy for local applications: CONNECT, and requests in absolute form (RFC 9110, sections 7.6 and 9.3.6).

Each request gets a separate stream, since streams are cheap. While a request is served, one task reads from the
application and writes to the destination, and another task does the reverse. Each stream thus has one reader and one
writer, and an answer may arrive at any time, even before the request is complete or has begun.

`http_heads` and `http_bodies` parse and write messages. `http_forward` has the changes that a proxy makes to them.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio
from attrs import field, frozen

import trioanytls
from trioanytls import StreamCode, reset_stream
from trioanytls.destination import Destination

from . import http_forward
from .http_bodies import Body, Framing, Incomplete, answer_framing, request_framing, write_chunk, write_last_chunk
from .http_forward import Target
from .http_heads import (
    Answer,
    Fields,
    HeadBuffer,
    HTTPError,
    HTTPRequest,
    elements_of,
    parse_answer,
    parse_request,
    values_of,
)
from .proxy_users import ProxyUsers
from .upstream import Unreachable, Upstream

_log = logging.getLogger("trioanytls.relay")

# The most data received at once, in bytes.
_READ: Final = 64 * 1024
# The longest heads, in bytes. Answers may contain many cookies and long policies.
_LONGEST_REQUEST: Final = 64 * 1024
_LONGEST_ANSWER: Final = 256 * 1024


@frozen
class HTTPProxy:
    """Serves an HTTP proxy's connections. All times are in seconds.

    Attributes:
      upstream: opens streams to destinations.
      users: the users that applications must authenticate as, None to accept all applications.
      via: the name of the proxy in Via fields, None to send no such field.
      head_timeout: how long the head of a request may take.
      idle_timeout: how long a connection may wait for a request.
      silence_timeout: how long neither side may send or accept data while a request is served.
      half_closed_timeout: the same once the application has ended its sending. Usually it has disconnected.
      linger_time: how long to receive after the last answer. A TCP connection that is closed with unread bytes is
        reset, and the answer may be lost.
    """

    upstream: Upstream
    users: ProxyUsers | None = None
    via: str | None = field(default=None)
    head_timeout: float = 60.0
    idle_timeout: float = 60.0
    silence_timeout: float = 4 * 3600.0
    half_closed_timeout: float = 300.0
    linger_time: float = 5.0

    @via.validator
    def _check_via(self, _attribute: object, via: str | None) -> None:
        if via is not None:
            http_forward.parse_pseudonym(via)

    async def __call__(self, near: trio.SocketStream) -> None:
        """Serve one connection, and close it."""
        async with near:
            try:
                await _Session(self, near).run()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                _log.debug("HTTP: application disconnected: %s", error)


class _AnswerTruncated(Exception):
    """An answer cannot be completed after a part of it was sent."""


class _Session:
    """One connection of an application.

    Attributes:
      received: the data received from the application that was not consumed.
      ended: whether the application has ended its sending.
    """

    def __init__(self, proxy: HTTPProxy, near: trio.SocketStream) -> None:
        self.proxy = proxy
        self.upstream = proxy.upstream
        self.near = near
        self.received = HeadBuffer(_LONGEST_REQUEST)
        self.ended = False

    async def run(self) -> None:
        """Serve one request after the other."""
        request = None
        try:
            while (request := await self._next_request()) is not None:
                if not await self._serve(request):
                    return
                request = None
        except HTTPError as error:
            _log.info("HTTP: request refused with %d: %s", error.status, error)
            content = f"{error}\n".encode()
            method = b"" if request is None else request.method
            fields = [(b"Content-Type", b"text/plain; charset=utf-8"), *error.fields]
            await self._answer_last(error.status, fields, content, method)
        except _AnswerTruncated as error:
            _log.info("HTTP: answer truncated: %s", error)

    async def receive(self) -> bytes:
        """Receive from the application. Return no bytes at the end."""
        data = bytes(await self.near.receive_some(_READ))
        self.ended = not data
        return data

    async def _next_request(self) -> HTTPRequest | None:
        """Receive a request. Return None if the application sends none in time, or ends."""
        if not self.received:
            data = b""
            with trio.move_on_after(self.proxy.idle_timeout):
                data = await self.receive()
            if not data:
                return None
            self.received.feed(data)
        with trio.move_on_after(self.proxy.head_timeout):
            while (head := self.received.take_head()) is None:
                if self.received.cannot_be_request:
                    raise HTTPError(400, "not an HTTP request")
                data = await self.receive()
                if not data:
                    if self.received:
                        raise HTTPError(400, "the request ended within its head")
                    return None
                self.received.feed(data)
            return parse_request(head)
        if self.received:
            raise HTTPError(408, f"the head of the request was not complete within {self.proxy.head_timeout:g} s")
        return None

    async def _serve(self, request: HTTPRequest) -> bool:
        """Serve a request. Return whether another one may follow."""
        http_forward.check_host(request)
        framing = request_framing(request)
        self._check_credentials(request)
        if request.method == b"CONNECT":
            await self._connect(request, framing)
            return False
        if request.target == b"*" and request.method == b"OPTIONS":
            await self._answer_last(200, [], b"", request.method)
            return False
        target = http_forward.parse_target(request)
        forwarded = http_forward.take_forward(request)
        if forwarded is None:
            await self._answer_itself(request)
            return False
        far = await self._open(target.destination)
        async with far:
            return await _Exchange(self, far, forwarded, framing, target).run()

    def _check_credentials(self, request: HTTPRequest) -> None:
        users = self.proxy.users
        if users is not None and not users.accept(*_basic_credentials(request.fields)):
            challenge = (b"Proxy-Authenticate", b'Basic realm="trioanytls", charset="UTF-8"')
            raise HTTPError(407, "user and password are required", [challenge])

    async def _connect(self, request: HTTPRequest, framing: Framing) -> None:
        target = http_forward.parse_connect_target(request.target)
        if framing.chunked or framing.length:
            raise HTTPError(400, "content is not allowed in CONNECT")
        far = await self._open(target.destination)
        async with far:
            try:
                await self.near.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            except trio.BrokenResourceError:
                await reset_stream(far)
                raise
            await self.upstream.relay(self.near, far, self.received.take_rest())

    async def _open(self, destination: Destination) -> trio.abc.Stream:
        try:
            return await self.upstream.open(destination)
        except Unreachable as error:
            raise HTTPError(error.reply.http_status, f"{destination}: {error}") from error

    async def _answer_itself(self, request: HTTPRequest) -> None:
        """Answer a request that must not be forwarded, instead of the destination."""
        fields: Fields = []
        content = b""
        if request.method == b"TRACE":
            fields = [(b"Content-Type", b"message/http")]
            content = http_forward.write_trace(request)
        await self._answer_last(200, fields, content, request.method)

    async def _answer_last(self, status: int, fields: Fields, content: bytes, method: bytes) -> None:
        """Answer without a destination, and end the connection."""
        head = http_forward.write_own_answer(status, fields, len(content))
        with trio.move_on_after(self.proxy.linger_time):
            await self.near.send_all(head if method == b"HEAD" else head + content)
            await self.end()

    async def end(self) -> None:
        """End the connection after its last answer."""
        with trio.move_on_after(self.proxy.linger_time):
            await self.near.send_eof()
            while not self.ended:
                await self.receive()


class _Exchange:
    """A forwarded request, and its answer."""

    def __init__(
        self, session: _Session, far: trio.abc.Stream, request: HTTPRequest, framing: Framing, target: Target
    ) -> None:
        self._session = session
        self._proxy = session.proxy
        self._near = session.near
        self._far = far
        self._request = request
        self._framing = framing
        self._target = target
        self._scope = trio.CancelScope()
        # Whether the request was received completely, and an event for its having been sent.
        self._received = not framing.present
        self._sent = trio.Event()
        self._from_far = HeadBuffer(_LONGEST_ANSWER, of_answers=True)
        # The framing of the answer to the application, once its head was sent.
        self._answered: Framing | None = None
        # Whether a write to the application is in progress, or was cancelled.
        self._writing = False
        self._goes_on = False
        self._switched = False
        self._failure: Exception | None = None

    async def run(self) -> bool:
        """Serve the request. Return whether another one may follow on the connection.

        Raises:
          HTTPError: there is no answer, and nothing was sent to the application.
          _AnswerTruncated: the answer is incomplete. The application's connection was closed.
          trio.BrokenResourceError: the application has disconnected.

        Cancellation: the destination's connection is reset, and an answer that has begun is cut off.
        """
        try:
            await self._exchange()
        except BaseException:
            # Neither side may take what was sent so far for all.
            await reset_stream(self._far)
            if self._answered or self._writing:
                await self._cut_off()
            raise
        if self._switched:
            await self._session.upstream.relay(self._near, self._far, self._session.received.take_rest())
            return False
        if not self._sent.is_set():
            # The answer came before the whole request was sent.
            await reset_stream(self._far)
        if not self._goes_on:
            await self._session.end()
        return self._goes_on

    async def _exchange(self) -> None:
        # A task must not end the others by raising. Its error is handled when all have ended.
        with self._scope:
            self._progress()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_until_failure, self._send_request)
                await self._run_until_failure(self._receive_answer)
                nursery.cancel_scope.cancel()
        if self._scope.cancelled_caught and self._failure is None:
            self._failure = self._make_timeout()
        if self._failure is not None:
            if not isinstance(self._failure, HTTPError) or not (self._answered or self._writing):
                raise self._failure
            raise _AnswerTruncated(f"{self._target.destination}: {self._failure}")

    async def _run_until_failure(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except (HTTPError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._failure = self._failure or error
            self._scope.cancel()

    def _make_timeout(self) -> HTTPError:
        if not self._received:
            return HTTPError(408, "the content of the request was not sent in time")
        return HTTPError(504, f"{self._target.destination}: no data was sent or accepted in time")

    def _progress(self) -> None:
        """Restart the timeout."""
        proxy = self._proxy
        timeout = proxy.half_closed_timeout if self._session.ended else proxy.silence_timeout
        self._scope.deadline = trio.current_time() + timeout

    async def _cut_off(self) -> None:
        """End an answer so that it does not look complete."""
        if self._answered is not None and self._answered.until_close:
            await reset_stream(self._near)
        else:
            # Chunks or a length show that the answer is incomplete.
            await trio.aclose_forcefully(self._near)

    # The request

    async def _send_request(self) -> None:
        """Send the request, and then wait for the application to disconnect."""
        head = http_forward.write_request(self._request, self._target, self._framing, self._proxy.via)
        body = self._framing.body(400)
        data = self._session.received.take_rest()
        pending = head
        while True:
            pending += self._encode(body, data)
            if body.done:
                self._session.received.feed(body.rest)
                self._received = True
            await self._send_to_far(pending)
            if body.done:
                break
            data = await self._session.receive()
            self._progress()
            if not data:
                if self._answered is None:
                    raise HTTPError(400, "the request ended within its content")
                # The application has received its answer, or a part of it.
                return
            pending = b""
        self._sent.set()
        # Further data belongs to the next request. One piece is kept, and the rest left in the system's buffer.
        while not self._session.ended and not self._session.received:
            self._session.received.feed(await self._session.receive())
            self._progress()
        if not self._session.received:
            await self._pass_end_on()

    async def _pass_end_on(self) -> None:
        """Tell the destination that the application sends no more, if the stream can tell it."""
        if isinstance(self._far, trio.abc.HalfCloseableStream):
            with contextlib.suppress(trioanytls.NotSupported, trio.BrokenResourceError, trio.ClosedResourceError):
                await self._far.send_eof()

    def _encode(self, body: Body, data: bytes) -> bytes:
        content = body.feed(data)
        if not self._framing.chunked:
            return content
        return write_chunk(content) + (_write_end(body, self._request.fields) if body.done else b"")

    async def _send_to_far(self, data: bytes) -> None:
        """Send to the destination. If it accepts no more data, keep reading the request, and wait for the answer."""
        try:
            await self._far.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            _log.debug("HTTP: %s accepts no more data: %s", self._target.destination, error)
            return
        self._session.upstream.count(len(data), 0)
        self._progress()

    # The answer

    async def _receive_answer(self) -> None:
        answer = await self._receive_head()
        while answer.status < 200 and answer.status != 101:
            if self._request.minor >= 1:
                await self._send_to_near(http_forward.write_answer(answer, _NO_CONTENT, None, self._proxy.via))
            answer = await self._receive_head()
        if answer.status == 101:
            await self._switch(answer)
            return
        framing = answer_framing(answer, self._request.method)
        framed = framing if self._request.minor >= 1 else framing.for_http_1_0()
        self._goes_on = self._can_go_on(framing, framed)
        pending = http_forward.write_answer(answer, framed, self._connection(), self._proxy.via)
        body = framing.body(502)
        data = self._from_far.take_rest()
        while True:
            content = body.feed(data) if data else b""
            if framed.present and framed.chunked:
                content = write_chunk(content)
                if body.done:
                    content += _write_end(body, answer.fields)
            pending += content
            if pending:
                self._answered = framed
                await self._send_to_near(pending)
            if body.done:
                return
            pending = b""
            data = await self._receive_from_far()
            if not data:
                self._end(body)
                return

    async def _receive_head(self) -> Answer:
        while (head := self._from_far.take_head()) is None:
            data = await self._receive_from_far()
            if not data:
                raise HTTPError(502, f"{self._target.destination}: the connection was closed without an answer")
            self._from_far.feed(data)
        return parse_answer(head)

    def _end(self, body: Body) -> None:
        try:
            body.end()
        except Incomplete as error:
            raise HTTPError(502, f"the connection was closed within the answer: {error}") from error

    def _can_go_on(self, framing: Framing, framed: Framing) -> bool:
        """Return whether another request may follow on the connection (RFC 9112, section 9.3)."""
        if not self._received or framed.until_close or framing.faulty or self._framing.faulty:
            return False
        fields = self._request.fields
        options = {
            option.lower() for name in (b"connection", b"proxy-connection") for option in elements_of(fields, name)
        }
        return b"close" not in options and (self._request.minor >= 1 or b"keep-alive" in options)

    def _connection(self) -> bytes | None:
        if not self._goes_on:
            return b"close"
        return None if self._request.minor >= 1 else b"keep-alive"

    async def _switch(self, answer: Answer) -> None:
        """Switch protocols: all further data is not HTTP."""
        if not http_forward.upgrades_of(self._request):
            raise HTTPError(
                502, f"{self._target.destination}: the answer switches to a protocol that was not requested"
            )
        self._answered = _TUNNEL
        head = http_forward.write_answer(answer, _NO_CONTENT, None, self._proxy.via)
        await self._send_to_near(head + self._from_far.take_rest())
        await self._sent.wait()
        self._switched = True

    async def _receive_from_far(self) -> bytes:
        try:
            data = bytes(await self._far.receive_some(_READ))
        except trioanytls.StreamTimeout as error:
            raise HTTPError(504, f"{self._target.destination}: {error}") from error
        except trioanytls.StreamReset as error:
            status = 504 if error.code in _TIMEOUTS else 502
            text = error.reason or "the connection was reset"
            raise HTTPError(status, f"{self._target.destination}: {text}") from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise HTTPError(502, f"{self._target.destination}: {error}") from error
        self._session.upstream.count(0, len(data))
        self._progress()
        return data

    async def _send_to_near(self, data: bytes) -> None:
        self._writing = True
        await self._near.send_all(data)
        self._writing = False
        self._progress()


# The codes of a reset that mean that a timer has expired.
_TIMEOUTS: Final = (StreamCode.TIMED_OUT, StreamCode.IDLE, StreamCode.STALLED)
_NO_CONTENT: Final = Framing(None, present=False)
# What follows a switch of protocols ends with the connection.
_TUNNEL: Final = Framing(None, present=True)


def _write_end(body: Body, head: Fields) -> bytes:
    return write_last_chunk(http_forward.end_to_end_trailers(body.trailers, head))


def _basic_credentials(fields: Fields) -> tuple[bytes, bytes]:
    """Return user and password of Proxy-Authorization (RFC 7617), empty ones if it is invalid."""
    given = values_of(fields, b"proxy-authorization")
    scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
    try:
        user, _, password = base64.b64decode(token.strip(b" "), validate=True).partition(b":")
    except binascii.Error:
        return b"", b""
    return (user, password) if scheme.lower() == b"basic" else (b"", b"")

"""A small HTTP/1.1 server with one resource, `/metrics`: the endpoint of `trioanytls.metrics`."""

from __future__ import annotations

import datetime as dt
import email.utils
import http
import logging
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import h11
import trio
from attrs import define, field, frozen

_log = logging.getLogger("trioanytls.metrics")

_MAX_CONNECTIONS = 16
# The time for receiving a request, the same again for obtaining the metrics, and again for sending the response; in
# seconds.
_TIMEOUT = 10.0
# The maximum size of a request in bytes, without its body, which is ignored.
_MAX_REQUEST = 16 * 1024
# How much a client may still send after its response has been sent: bytes, seconds.
_LINGER_BYTES = 64 * 1024
_LINGER = 1.0

#: Render the metrics for an Accept header. Return the body and its content type.
Render = Callable[[str], Awaitable[tuple[bytes, str]]]


@frozen
class _Response:
    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def error(cls, status: int, text: str, *headers: tuple[str, str]) -> _Response:
        return cls(status, f"{text}\n".encode(), headers=headers)


@define(eq=False)
class MetricsEndpoint:
    """The handler of the endpoint's connections. Each connection gets one response."""

    _render: Render
    _open: int = field(init=False, default=0)

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Serve a connection. No exception is raised, as it would end the other connections."""
        self._open += 1
        try:
            await self._serve(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # The client has disconnected.
            pass
        except Exception:  # noqa: BLE001 - any error is logged
            _log.exception("internal error")
        finally:
            self._open -= 1
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_REQUEST)
        if self._open > _MAX_CONNECTIONS:
            # Without waiting for the request.
            with trio.move_on_after(_LINGER):
                await _send(stream, connection, _Response.error(503, "too many connections"))
            return
        request: h11.Request | None = None
        response = _Response.error(408, "timeout while waiting for the request")
        try:
            with trio.move_on_after(_TIMEOUT):
                request = await _receive(stream, connection)
                if request is None:
                    return
        except h11.RemoteProtocolError as error:
            response = _Response.error(error.error_status_hint, f"invalid request: {error}")
        if request is not None:
            response = await self._respond(request)
        with trio.move_on_after(_TIMEOUT):
            await _send(stream, connection, response, head=request is not None and request.method == b"HEAD")
            await _linger(stream)

    async def _respond(self, request: h11.Request) -> _Response:
        if not request.http_version.startswith(b"1."):
            return _Response.error(505, "unsupported HTTP version: use HTTP/1.1")
        if _path(request) != "/metrics":
            return _Response.error(404, "the metrics are at /metrics")
        if request.method not in (b"GET", b"HEAD"):
            return _Response.error(405, "method not allowed: use GET or HEAD", ("Allow", "GET, HEAD"))
        accept = ", ".join(value.decode("latin-1") for name, value in request.headers if name == b"accept")
        try:
            with trio.fail_after(_TIMEOUT):
                return _Response(200, *await self._render(accept))
        except Exception:  # noqa: BLE001 - any error of the source is logged, and reported to the client
            _log.exception("cannot collect statistics")
            return _Response.error(500, "cannot collect statistics")


async def _receive(stream: trio.abc.ReceiveStream, connection: h11.Connection) -> h11.Request | None:
    """Receive the request, or return None if the client closes the connection instead."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if isinstance(event, h11.ConnectionClosed):
            return None
        connection.receive_data(bytes(await stream.receive_some(_MAX_REQUEST)))


def _path(request: h11.Request) -> str:
    target = request.target.decode("latin-1")
    if not target.startswith("/"):
        # The absolute form, which is for proxies. Its host may be invalid.
        try:
            return urlsplit(target).path
        except ValueError:
            return ""
    return target.partition("?")[0]


async def _send(
    stream: trio.abc.SendStream, connection: h11.Connection, response: _Response, *, head: bool = False
) -> None:
    headers = [
        ("Date", email.utils.format_datetime(dt.datetime.now(dt.UTC), usegmt=True)),
        ("Content-Type", response.content_type),
        ("Content-Length", str(len(response.body))),
        ("Connection", "close"),
        *response.headers,
    ]
    start = h11.Response(
        status_code=response.status,
        reason=http.HTTPStatus(response.status).phrase.encode("ascii"),
        headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in headers],
    )
    body = [] if head else [h11.Data(data=response.body)]
    await stream.send_all(b"".join(connection.send(event) or b"" for event in (start, *body, h11.EndOfMessage())))


async def _linger(stream: trio.abc.HalfCloseableStream) -> None:
    """Discard input until the client closes: closing TCP with unread input would destroy the response."""
    await stream.send_eof()
    size = 0
    with trio.move_on_after(_LINGER):
        while size < _LINGER_BYTES and (data := await stream.receive_some(_MAX_REQUEST)):
            size += len(data)

"""An HTTP proxy for local applications: CONNECT, and requests in absolute form (RFC 9110, sections 7.6 and 9.3.6)."""

from __future__ import annotations

import base64
import logging
from typing import Final
from urllib.parse import urlsplit

import h11
import trio
from attrs import frozen

import trioanytls
from trioanytls.destination import Destination

from ._copy import reset
from ._gateway import Gateway, Unreachable
from ._proxy_users import ProxyUsers

_log = logging.getLogger("trioanytls.relay")

# How long an application may take for the next request, in seconds.
_REQUEST_TIMEOUT: Final = 60.0
_READ: Final = 64 * 1024
# How long the rest of a request that was refused is taken, in seconds.
_LINGER: Final = 2.0
_REALM: Final = b'Basic realm="trioanytls"'

# Between one hop and the next only (RFC 9110, section 7.6.1); those that `Connection` names go as well.
_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"upgrade",
    }
)
_VIA: Final = (b"via", b"1.1 trioanytls")

Headers = list[tuple[bytes, bytes]]


@frozen
class HTTPProxy:
    """Serves an HTTP proxy's connections.

    Attributes:
      gateway: the way out.
      users: who applications have to be, if anybody.
    """

    gateway: Gateway
    users: ProxyUsers | None = None

    async def __call__(self, near: trio.SocketStream) -> None:
        """Serve one connection; see `trio.serve_listeners`."""
        async with near:
            try:
                await _Session(self, near).run()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                _log.debug("HTTP: the application has gone: %s", error)


class _Refusal(Exception):
    """A request that is answered by the proxy itself."""

    def __init__(self, status: int, text: str, headers: Headers | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers or []


class _Session:
    """One connection of an application."""

    def __init__(self, proxy: HTTPProxy, near: trio.SocketStream) -> None:
        self._proxy = proxy
        self._gateway = proxy.gateway
        self._near = near
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=64 * 1024)

    async def run(self) -> None:
        """Serve one request after the other."""
        while True:
            try:
                with trio.move_on_after(_REQUEST_TIMEOUT) as scope:
                    request = await self._next()
                if scope.cancelled_caught or not isinstance(request, h11.Request):
                    return
                self._check_credentials(request)
                if request.method == b"CONNECT":
                    await self._connect(request)
                    return
                await self._forward(request)
            except h11.RemoteProtocolError as error:
                await self._answer(_Refusal(error.error_status_hint, str(error)))
                return
            except _Refusal as refusal:
                if not await self._answer(refusal):
                    return
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def _next(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]  # NEED_DATA is the only other one
            self._http.receive_data(await self._near.receive_some(_READ))

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            await self._near.send_all(data)

    def _check_credentials(self, request: h11.Request) -> None:
        if self._proxy.users is None:
            return
        scheme, _, given = dict(request.headers).get(b"proxy-authorization", b"").partition(b" ")
        try:
            name, _, password = base64.b64decode(given, validate=True).partition(b":")
        except ValueError:
            name = password = b""
        if scheme != b"Basic" or not self._proxy.users.accept(name, password):
            raise _Refusal(407, "user and password are needed", [(b"proxy-authenticate", _REALM)])

    async def _connect(self, request: h11.Request) -> None:
        try:
            destination = Destination.parse(request.target.decode("ascii"))
        except ValueError as error:
            raise _Refusal(400, f"CONNECT: {error}") from error
        far = await self._open(destination)
        async with far:
            await self._send(h11.Response(status_code=200, headers=[], reason=b"Connection established"))
            rest, _ = self._http.trailing_data
            await self._gateway.relay(self._near, far, rest)

    async def _open(self, destination: Destination) -> trio.abc.Stream:
        try:
            return await self._gateway.open(destination)
        except Unreachable as error:
            _log.info("HTTP: %s: %s", destination, error)
            raise _Refusal(error.reply.http_status, f"{destination}: {error}") from error

    async def _forward(self, request: h11.Request) -> None:
        """One request in absolute form, on a stream of its own: those cost next to nothing."""
        destination, target, host = _split(request.target)
        headers = _end_to_end(request.headers)
        # The target counts, whatever Host says (RFC 9112, section 3.2.2).
        headers = [(b"host", host), *((name, value) for name, value in headers if name != b"host"), _VIA]
        headers.append((b"connection", b"close"))
        far = await self._open(destination)
        async with far:
            origin = h11.Connection(h11.CLIENT)
            try:
                first = origin.send(h11.Request(method=request.method, target=target, headers=headers))
                await self._exchange(origin, far, first or b"")
            except (h11.RemoteProtocolError, trio.BrokenResourceError) as error:
                if self._http.our_state is not h11.SEND_RESPONSE:
                    # Half of an answer is out: only its end can say that it is none. In HTTP/1.0, where an answer
                    # without a length ends with its connection, a plain end would say that it is whole.
                    if self._http.their_http_version == b"1.0":
                        await reset(self._near)
                    await trio.aclose_forcefully(self._near)
                    return
                raise _Refusal(502, f"{destination}: {error}") from error

    async def _exchange(self, origin: h11.Connection, far: trio.abc.Stream, first: bytes) -> None:
        """The request's body goes one way while the answer comes the other way, which may begin before that ends."""
        await far.send_all(first)
        self._gateway.up += len(first)
        failures: list[Exception] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_body, origin, far, nursery.cancel_scope, failures)
            try:
                await self._receive_answer(origin, far)
            except (h11.RemoteProtocolError, trio.BrokenResourceError) as error:
                failures.append(error)
            nursery.cancel_scope.cancel()
        if failures:
            raise failures[0]

    async def _send_body(
        self,
        origin: h11.Connection,
        far: trio.abc.Stream,
        both: trio.CancelScope,
        failures: list[Exception],
    ) -> None:
        try:
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            while not isinstance(event := await self._next(), h11.EndOfMessage):
                if not isinstance(event, h11.Data):
                    raise trio.BrokenResourceError("the application has gone in the middle of its request")
                await self._send_on(origin, far, h11.Data(data=bytes(event.data)))
            await self._send_on(origin, far, h11.EndOfMessage())
        except trio.BrokenResourceError as error:
            if not (isinstance(far, trioanytls.Stream) and far.closed):
                failures.append(error)
                both.cancel()
            # A destination that has heard enough may still answer.
        except h11.RemoteProtocolError as error:
            failures.append(error)
            both.cancel()

    async def _send_on(self, origin: h11.Connection, far: trio.abc.Stream, event: h11.Event) -> None:
        data = origin.send(event)
        if data:
            await far.send_all(data)
            self._gateway.up += len(data)

    async def _receive_answer(self, origin: h11.Connection, far: trio.abc.Stream) -> None:
        while True:
            event = origin.next_event()
            if event is h11.NEED_DATA:
                data = await far.receive_some(_READ)
                self._gateway.down += len(data)
                origin.receive_data(bytes(data))
            elif isinstance(event, h11.Response):
                headers = [*_end_to_end(event.headers), _VIA]
                await self._send(h11.Response(status_code=event.status_code, headers=headers, reason=event.reason))
            elif isinstance(event, h11.Data):
                await self._send(h11.Data(data=bytes(event.data)))
            elif isinstance(event, h11.EndOfMessage):
                await self._send(h11.EndOfMessage())
                return
            elif not isinstance(event, h11.InformationalResponse):
                raise trio.BrokenResourceError("the destination closed the connection without an answer")

    async def _answer(self, refusal: _Refusal) -> bool:
        """Whether the connection can go on: the request was read to its end."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return False
        body = f"{refusal}\n".encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *refusal.headers,
        ]
        await self._send(h11.Response(status_code=refusal.status, headers=headers, reason=b""))
        await self._send(h11.Data(data=body))
        await self._send(h11.EndOfMessage())
        # Closing with something unread would reset the connection, and the answer might be lost.
        with trio.move_on_after(_LINGER):
            await self._near.send_eof()
            while await self._near.receive_some(_READ):
                pass
        return False


def _split(target: bytes) -> tuple[Destination, bytes, bytes]:
    """The destination of a request in absolute form, its target in origin form, and its Host."""
    try:
        parts = urlsplit(target.decode("ascii"))
        if parts.scheme.lower() != "http" or not parts.hostname:
            raise ValueError("a proxy takes CONNECT, and http:// requests in absolute form")
        destination = Destination(parts.hostname, 80 if parts.port is None else parts.port)
    except ValueError as error:
        raise _Refusal(400, str(error)) from error
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return destination, path.encode("ascii"), parts.netloc.rpartition("@")[2].encode("ascii")


def _end_to_end(headers: h11._headers.Headers) -> Headers:
    named = {token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")}
    return [(name, value) for name, value in headers if name not in _HOP_BY_HOP and name not in named]

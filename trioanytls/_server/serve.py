"""The server's side: listeners, the handshake of each connection, and a handler for each stream."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
from collections.abc import Iterator, Mapping, Sequence

import trio
from attrs import define, field

from trioanytls._config import Config
from trioanytls._connection import close_reason
from trioanytls._connection.connection import Connection
from trioanytls._connection.logging import ConnectionLoggerAdapter, LogThrottle, number_connection
from trioanytls._protocol.anytls1.server import ServerProtocol
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.credentials import UserTable
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._transport.addresses import local_address, peer_address
from trioanytls._transport.handshake import handshake
from trioanytls._transport.listeners import open_listeners
from trioanytls._transport.proxy_protocol import ProxyHeaderDecoder, ProxyProtocolError, TrustedProxies
from trioanytls._transport.tls_context import require_tls13
from trioanytls._transport.tls_stream import TLSStream

from .admission import AdmissionSlot
from .context import Handler, ServerContext
from .control import ServerControl
from .fallback import Fallback
from .stats import ServerStats


async def serve(
    handler: Handler,
    port: int,
    *,
    host: str | bytes | None = None,
    ssl_context: ssl.SSLContext,
    users: Mapping[str, str],
    padding_scheme: PaddingScheme | None = None,
    fallback: Fallback | None = None,
    config: Config = Config(),
    control: ServerControl | None = None,
    trusted_proxies: Sequence[str] = (),
    reuse_port: bool = False,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ANYTLS over TCP until cancelled, or drained.

    Each stream that a client opens is handed to `handler(stream)`, in a task and a cancel scope of its own. When it
    returns, the stream is closed; when it raises, the stream is reset, the exception is logged (`trioanytls.server`),
    and connection and server live on. When the stream has been idle for `Config.stream_idle_timeout`, the handler is
    cancelled; where it waits on the stream then, it meets `StreamTimeout` first.

    Args:
      handler: an async callable that takes a `Stream`.
      port: the TCP port; 0 for one that the system chooses.
      host: the name or address to listen on; default: all. See `open_listeners`.
      ssl_context: with the server's certificate. One that allows less than TLS 1.3 is raised to it, in place.
      users: name -> password. A client authenticates with the password alone.
      padding_scheme: what clients are told to shape with; default: the built-in one.
      fallback: an async callable that takes over connections whose client does not authenticate: `relay_to`, or your
        own. It is handed a `FallbackStream` that yields every byte that the client sent, and that is closed when it
        returns. Without one, such a connection is closed without a byte.
      config: timeouts and limits.
      control: what to steer the running server with.
      trusted_proxies: addresses, and networks like "10.0.0.0/8", of proxies that send a PROXY protocol header (version
        1 or 2) before each connection. The connection then counts as the client's. A connection from one of them must
        begin with the header, within `Config.handshake_timeout`. A header from any other peer fails as invalid TLS.
      reuse_port: whether other processes may listen on the same port, see `serve_workers`.
      handler_nursery: where connections, and so their handlers, run; default: one of `serve`'s own. With one of yours,
        cancelling `serve` ends only the listening.
      task_status: `nursery.start` returns the list of `trio.SocketListener`.

    Raises:
      OSError: the port cannot be listened on.
      ValueError: `ssl_context` forbids TLS 1.3; `users` is empty or has a password twice; an address in
        `trusted_proxies` is invalid; `Config.on_violation` is "fallback", and there is no fallback.
      RuntimeError: `control` steers another server.

    Cancellation: CLOSE 6 to every peer, within `Config.close_timeout`.
    """
    service = ServerContext(handler, UserTable(users), padding_scheme or PaddingScheme.DEFAULT, config, fallback)
    server = _Server(service, require_tls13(ssl_context), TrustedProxies(trusted_proxies))
    with server.attach_control(control):
        listeners = await open_listeners(port, host, reuse_port=reuse_port)
        if control is not None:
            control._listens()
        await server.run(listeners, handler_nursery, task_status)


async def serve_connection(
    transport: trio.abc.Stream,
    handler: Handler,
    *,
    users: Mapping[str, str],
    padding_scheme: PaddingScheme | None = None,
    fallback: Fallback | None = None,
    config: Config = Config(),
) -> None:
    """Serve one connection over a transport that is there and secured already; returns when it has ended.

    The transport is closed then, also after a `ValueError`, and all handlers have returned. For all else see `serve`.
    """
    try:
        service = ServerContext(handler, UserTable(users), padding_scheme or PaddingScheme.DEFAULT, config, fallback)
    except BaseException:
        # An argument is invalid.
        await trio.aclose_forcefully(transport)
        raise
    protocol = ServerProtocol(service.users, service.scheme, config.limits)
    await Connection(transport, protocol, service.scheme, config, service)._run()


@define(eq=False)
class _Server:
    """A server that runs: `ServerControl` steers it."""

    _service: ServerContext
    _context: ssl.SSLContext
    _proxies: TrustedProxies
    # Each connection's task, from TCP's accept to its end.
    _tasks: dict[trio.CancelScope, None] = field(init=False, factory=dict)
    _listening: trio.CancelScope = field(init=False, factory=trio.CancelScope)
    _draining: bool = field(init=False, default=False)
    # When draining ends, on Trio's clock.
    _patience: trio.CancelScope = field(init=False, factory=trio.CancelScope)
    _all_gone: trio.Event = field(init=False, factory=trio.Event)
    _stopped: trio.Event = field(init=False, factory=trio.Event)
    _refusals: LogThrottle = field(init=False, factory=LogThrottle)

    @contextlib.contextmanager
    def attach_control(self, control: ServerControl | None) -> Iterator[None]:
        if control is not None:
            control._attach(self)
        try:
            yield
        finally:
            self._stopped.set()
            if control is not None:
                control._detach()

    async def run(
        self,
        listeners: list[trio.SocketListener],
        handler_nursery: trio.Nursery | None,
        task_status: trio.TaskStatus[list[trio.SocketListener]],
    ) -> None:
        async with trio.open_nursery() as nursery:
            with self._listening:
                await trio.serve_listeners(
                    self._serve_socket, listeners, handler_nursery=handler_nursery or nursery, task_status=task_status
                )
            # Listening ends otherwise than by an exception only when the server is drained.
            with self._patience:
                await self._wait_until_all_gone()
            for connection in list(self._service.connections):
                # First of all: a handler that was cancelled would close its stream, which would look finished.
                connection._end(close_reason.close_with(CloseCode.SHUTTING_DOWN, "the server is shutting down"))
            for scope in self._tasks:
                scope.cancel()
            await self._wait_until_all_gone()

    async def _wait_until_all_gone(self) -> None:
        while self._tasks:
            # The one that is there may have been set when all earlier connections were gone.
            self._all_gone = trio.Event()
            await self._all_gone.wait()

    # One connection

    async def _serve_socket(self, transport: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            self._tasks[scope] = None
            try:
                await self._admit(transport)
            finally:
                del self._tasks[scope]
                if not self._tasks:
                    self._all_gone.set()

    async def _admit(self, transport: trio.SocketStream) -> None:
        service = self._service
        service.counts.connections_accepted += 1
        arrival = PendingConnection(peer_address(transport), local_address(transport))
        ticket = service.admission.enter()
        if isinstance(ticket, str):
            self._refuse(ticket, arrival)
            await trio.aclose_forcefully(transport)
            return
        try:
            secured = await self._secure(transport, arrival, ticket)
            if secured is not None:
                await self._serve_secured(secured, arrival, ticket)
        finally:
            ticket.leave()
            await trio.aclose_forcefully(transport)

    async def _secure(
        self, transport: trio.SocketStream, arrival: PendingConnection, ticket: AdmissionSlot
    ) -> TLSStream | None:
        """What comes before ANYTLS: a proxy's header, and TLS. None where the connection does not get past that."""
        service, config = self._service, self._service.config
        what = "TCP"
        try:
            if arrival.peer_address is None:
                # There is nobody to be served, or to be counted. So end the checks of a load balancer, often.
                raise trio.BrokenResourceError("the peer has gone already")
            what = "PROXY header"
            with trio.move_on_after(config.handshake_timeout) as scope:
                received = await self._read_proxy_header(transport, arrival)
            if scope.cancelled_caught:
                raise ProxyProtocolError("it was not complete within handshake_timeout")
            limit = ticket.come_from(arrival.peer_address[0])
            if limit is not None:
                self._refuse(limit, arrival)
                return None
            what = "TLS"
            return await handshake(
                transport, self._context, timeout=config.handshake_timeout, server_side=True, received=received
            )
        except (ProxyProtocolError, trio.BrokenResourceError) as error:
            service.counts.handshakes_failed += 1
            service.counts.connections_closed["HANDSHAKE"] += 1
            arrival.log.info("%s: %s", what, error)
            return None
        except trio.Cancelled:
            # The server ends. That is no failure of the client's, but an end of its connection.
            service.counts.connections_closed["HANDSHAKE"] += 1
            raise

    async def _read_proxy_header(self, transport: trio.SocketStream, arrival: PendingConnection) -> bytes:
        """Learn from a proxy whose connection this is; the bytes behind its header."""
        if arrival.peer_address is None or arrival.peer_address[0] not in self._proxies:
            return b""
        decoder = ProxyHeaderDecoder()
        while decoder.address is None:
            data = await transport.receive_some(_PROXY_READ)
            if not data:
                raise ProxyProtocolError("the connection ended before the header was complete")
            decoder.feed(bytes(data))
        # None where the proxy speaks for itself, as in its health checks: then it is the peer.
        arrival.peer_address = decoder.address.source or arrival.peer_address
        arrival.local_address = decoder.address.destination or arrival.local_address
        return decoder.rest

    async def _serve_secured(self, transport: TLSStream, arrival: PendingConnection, ticket: AdmissionSlot) -> None:
        service = self._service
        if self._draining:
            # There is nothing to be done for it any more; and not having authenticated, it is not told what this is.
            service.counts.connections_closed["SHUTTING_DOWN"] += 1
            arrival.log.info("closed: the server is shutting down")
            with trio.move_on_after(service.config.close_timeout):
                await transport.aclose()
            return
        connection = Connection(
            transport,
            ServerProtocol(service.users, service.scheme, service.config.limits),
            service.scheme,
            service.config,
            service,
            ticket,
            arrival.peer_address,
            arrival.connection_id,
            arrival.local_address,
        )
        service.connections[connection] = None
        try:
            await connection._run()
        finally:
            del service.connections[connection]
            _count_ended(service, connection)

    def _refuse(self, limit: str, arrival: PendingConnection) -> None:
        self._service.counts.connections_refused[limit] += 1
        level = self._refusals.level(logging.WARNING, trio.current_time())
        arrival.log.log(level, "refused: %s is reached", limit)

    # For the control

    @property
    def drain_timeout(self) -> float:
        return self._service.config.drain_timeout

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - not how long the call may take
        self._patience.deadline = min(self._patience.deadline, trio.current_time() + timeout)
        if not self._draining:
            self._draining = True
            self._listening.cancel()
            for connection in list(self._service.connections):
                connection._drain()
        await self._stopped.wait()

    def replace_users(self, users: Mapping[str, str]) -> None:
        self._service.users = UserTable(users)

    def replace_certificate(self, certificate: _Path, key: _Path | None, password: str | None) -> None:
        # A key that does not fit would spoil the context that is in use: the files are tried on another one. Without a
        # password, OpenSSL would ask for it on the terminal, and hold everything up.
        trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for context in (trial, self._context):
            context.load_cert_chain(certificate, key, "" if password is None else password)
        # Where a name decides, it is the application that chooses.
        if self._context.sni_callback is None and _shown_certificate(self._context) not in (
            None,
            _shown_certificate(trial),
        ):
            raise OSError(
                "clients are still shown the old certificate: the new one's key is of another kind (RSA, ECDSA)"
            )

    def snapshot(self) -> ServerStats:
        service = self._service
        counts, admission = service.counts, service.admission
        open_ = [(connection.stats, connection._handlers) for connection in service.connections]
        return ServerStats(
            draining=self._draining,
            connections=admission.open,
            unauthenticated=admission.unauthenticated,
            fallback_connections=admission.fallbacks,
            streams=sum(handlers for _, handlers in open_),
            connections_accepted=counts.connections_accepted,
            connections_refused=dict(counts.connections_refused),
            connections_closed=dict(counts.connections_closed),
            handshakes_failed=counts.handshakes_failed,
            authentications=counts.authentications,
            authentications_failed=counts.authentications_failed,
            fallbacks=counts.fallbacks,
            fallbacks_refused=dict(counts.fallbacks_refused),
            fallbacks_displaced=counts.fallbacks_displaced,
            violations=counts.violations,
            streams_opened=counts.streams_opened,
            streams_refused=dict(counts.streams_refused),
            streams_timed_out=dict(counts.streams_timed_out),
            handlers_failed=counts.handlers_failed,
            bytes_received=counts.bytes_received + sum(stats.bytes_received for stats, _ in open_),
            bytes_sent=counts.bytes_sent + sum(stats.bytes_sent for stats, _ in open_),
        )


_Path = str | os.PathLike[str]
# More than the longest header needs would only be handed on.
_PROXY_READ = 4096


class PendingConnection:
    """A connection before it is one: for the log."""

    def __init__(self, peer_address: tuple[str, int] | None, local_address: tuple[str, int] | None) -> None:
        self.connection_id = number_connection()
        self.peer_address = peer_address
        self.local_address = local_address
        self.user = None
        self.log = ConnectionLoggerAdapter("trioanytls.server", self)


def _shown_certificate(context: ssl.SSLContext) -> bytes | None:
    """The certificate that a client is shown, None where that cannot be told: found out by a handshake in memory."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(back, there), context.wrap_bio(there, back, server_side=True))
    # A server may ask a client to begin anew, with another group: then there are two rounds.
    for _ in range(3):
        for end in ends:
            with contextlib.suppress(ssl.SSLError):
                end.do_handshake()
    try:
        return ends[0].getpeercert(binary_form=True)
    except ValueError:
        # The handshake has failed.
        return None


def _count_ended(service: ServerContext, connection: Connection) -> None:
    stats, counts, ending = connection.stats, service.counts, connection._ending
    counts.bytes_received += stats.bytes_received
    counts.bytes_sent += stats.bytes_sent
    if ending is not None:
        counts.connections_closed[ending.label] += 1
        connection._log.info(
            "closed: %s; %d streams, %d bytes received, %d bytes sent",
            ending.reason,
            stats.streams_opened,
            stats.bytes_received,
            stats.bytes_sent,
        )

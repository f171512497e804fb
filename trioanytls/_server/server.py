"""The running server: it accepts TCP connections, runs each one to its end, and drains."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
from collections.abc import Iterator, Mapping

import trio
from attrs import define, evolve, field

from trioanytls._connection import close_reason
from trioanytls._connection.connection import multiplexer_of, run_connection
from trioanytls._connection.logging import LogThrottle
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.credentials import UserTable
from trioanytls._transport.proxy_protocol import TrustedProxies
from trioanytls._transport.tls_stream import TLSStream

from .admission import AdmissionSlot
from .connection import ServerConnection
from .context import ServerContext
from .control import ControllableServer, ControlLink
from .handshake import HandshakeError, PendingConnection, receive_proxy_header, start_tls
from .stats import ServerStats, freeze


@define(eq=False)
class Server:
    """A running server. `ServerControl` controls it."""

    _context: ServerContext
    _ssl_context: ssl.SSLContext
    _trusted_proxies: TrustedProxies
    # The task of each connection, from TCP's accept to the end.
    _tasks: dict[trio.CancelScope, None] = field(init=False, factory=dict)
    # The connections that are open and past the TLS handshake.
    _connections: dict[ServerConnection, None] = field(init=False, factory=dict)
    _listening: trio.CancelScope = field(init=False, factory=trio.CancelScope)
    _draining: bool = field(init=False, default=False)
    # Its deadline is the end of draining.
    _drain_scope: trio.CancelScope = field(init=False, factory=trio.CancelScope)
    _all_ended: trio.Event = field(init=False, factory=trio.Event)
    _stopped: trio.Event = field(init=False, factory=trio.Event)
    _refusals: LogThrottle = field(init=False, factory=LogThrottle)

    @contextlib.contextmanager
    def attach_control(self, link: ControlLink[ControllableServer]) -> Iterator[None]:
        """Attach this server to its control while the block runs."""
        with link.attach(self):
            try:
                yield
            finally:
                self._stopped.set()

    async def run(
        self,
        listeners: list[trio.SocketListener],
        handler_nursery: trio.Nursery | None,
        task_status: trio.TaskStatus[list[trio.SocketListener]],
    ) -> None:
        """Serve the connections that `listeners` accept, until cancelled or drained. For the arguments, see `serve`."""
        async with trio.open_nursery() as nursery:
            with self._listening:
                await trio.serve_listeners(
                    self._serve_socket, listeners, handler_nursery=handler_nursery or nursery, task_status=task_status
                )
            # Reached without an exception only when the server is drained.
            with self._drain_scope:
                await self._wait_until_all_ended()
            for connection in list(self._connections):
                # Before the tasks are cancelled: a cancelled handler closes its stream, which would look like success.
                reason = close_reason.close_with(CloseCode.SHUTTING_DOWN, "the server is shutting down")
                multiplexer_of(connection).close(reason)
            for scope in self._tasks:
                scope.cancel()
            await self._wait_until_all_ended()

    async def _wait_until_all_ended(self) -> None:
        while self._tasks:
            # The event may have been set already, when all earlier connections had ended.
            self._all_ended = trio.Event()
            await self._all_ended.wait()

    # One connection

    async def _serve_socket(self, transport: trio.SocketStream) -> None:
        context = self._context
        context.counts.connections_accepted += 1
        pending = PendingConnection(transport)
        slot = context.admission.enter()
        if isinstance(slot, str):
            self._refuse(slot, pending)
            await trio.aclose_forcefully(transport)
            return
        with trio.CancelScope() as scope:
            self._tasks[scope] = None
            try:
                tls = await self._do_handshake(transport, pending, slot)
                if tls is not None:
                    await self._serve_tls(tls, pending, slot)
            finally:
                slot.release()
                transport.socket.close()
                del self._tasks[scope]
                if not self._tasks:
                    self._all_ended.set()

    async def _do_handshake(
        self, transport: trio.SocketStream, pending: PendingConnection, slot: AdmissionSlot
    ) -> TLSStream | None:
        """Do the steps before ANYTLS. Return None if the connection fails or is refused."""
        counts, timeout = self._context.counts, self._context.config.handshake_timeout
        try:
            received = await receive_proxy_header(transport, pending, self._trusted_proxies, timeout)
            assert pending.peer_address is not None  # noqa: S101 - else the header has failed
            limit = slot.set_address(pending.peer_address[0])
            if limit is not None:
                self._refuse(limit, pending)
                return None
            return await start_tls(transport, self._ssl_context, received, timeout)
        except HandshakeError as error:
            counts.handshakes_failed += 1
            counts.connections_closed["HANDSHAKE"] += 1
            pending.log.info("%s: %s", error.step, error)
            return None
        except trio.Cancelled:
            # The server is stopping. The connection ends, but the client has not failed.
            counts.connections_closed["HANDSHAKE"] += 1
            raise

    async def _serve_tls(self, transport: TLSStream, pending: PendingConnection, slot: AdmissionSlot) -> None:
        context = self._context
        if self._draining and not context.announces_drain:
            # The client has not authenticated, so it is not sent CLOSE: that would show that this is ANYTLS.
            context.counts.connections_closed["SHUTTING_DOWN"] += 1
            pending.log.info("closed: the server is shutting down")
            with trio.move_on_after(context.config.close_timeout):
                await transport.aclose()
            return
        connection = ServerConnection(
            transport,
            context,
            slot,
            peer_address=pending.peer_address,
            connection_id=pending.connection_id,
            local_address=pending.local_address,
        )
        self._connections[connection] = None
        try:
            if self._draining:
                # The client has connected before, and may have sent its first stream already.
                await _run_draining(connection)
            else:
                await run_connection(connection)
        finally:
            del self._connections[connection]
            connection.count_end()

    def _refuse(self, limit: str, pending: PendingConnection) -> None:
        self._context.counts.connections_refused[limit] += 1
        level = self._refusals.level(logging.WARNING, trio.current_time())
        pending.log.log(level, "refused: %s is reached", limit)

    # Control

    @property
    def drain_timeout(self) -> float:
        """The default timeout of `drain`, in seconds."""
        return self._context.config.drain_timeout

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - not how long the call may take
        """See `ServerControl.drain`."""
        self._drain_scope.deadline = min(self._drain_scope.deadline, trio.current_time() + timeout)
        if not self._draining:
            self._draining = True
            self._listening.cancel()
            for connection in list(self._connections):
                connection.drain()
        await self._stopped.wait()

    def replace_users(self, users: Mapping[str, str]) -> None:
        """See `ServerControl.replace_users`."""
        self._context.users = UserTable(users)

    def replace_certificate(
        self, certificate: str | os.PathLike[str], key: str | os.PathLike[str] | None, password: str | None
    ) -> None:
        """See `ServerControl.replace_certificate`."""
        # A key that does not fit would spoil the context in use, so the files are first loaded into another one.
        # Without a password, OpenSSL would ask for one on the terminal and block the event loop.
        trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for ssl_context in (trial, self._ssl_context):
            ssl_context.load_cert_chain(certificate, key, "" if password is None else password)
        # With an SNI callback, the application selects the certificate.
        if self._ssl_context.sni_callback is None and _presented_certificate(self._ssl_context) not in (
            None,
            _presented_certificate(trial),
        ):
            raise OSError(
                "clients are still shown the old certificate: the new one's key is of another kind (RSA, ECDSA)"
            )

    def snapshot(self) -> ServerStats:
        """See `ServerControl.snapshot`."""
        admission, connections = self._context.admission, self._connections
        stats = freeze(
            self._context.counts,
            draining=self._draining,
            connections=admission.open,
            unauthenticated=admission.unauthenticated,
            fallback_connections=admission.fallbacks,
            streams=sum(connection.handlers for connection in connections),
        )
        open_ = [connection.stats for connection in connections]
        return evolve(
            stats,
            bytes_received=stats.bytes_received + sum(one.bytes_received for one in open_),
            bytes_sent=stats.bytes_sent + sum(one.bytes_sent for one in open_),
        )


async def _run_draining(connection: ServerConnection) -> None:
    """Run a connection that is drained from its beginning."""
    async with trio.open_nursery() as nursery:
        await nursery.start(run_connection, connection)
        connection.drain()


def _presented_certificate(context: ssl.SSLContext) -> bytes | None:
    """Return the certificate that a client is shown, by a handshake in memory, or None if the handshake fails."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    peers = (client.wrap_bio(to_client, to_server), context.wrap_bio(to_server, to_client, server_side=True))
    # A server may ask the client to retry with another group (HelloRetryRequest), which takes one more round.
    for _ in range(3):
        for peer in peers:
            with contextlib.suppress(ssl.SSLError):
                peer.do_handshake()
    try:
        return peers[0].getpeercert(binary_form=True)
    except ValueError:
        # The handshake has failed.
        return None

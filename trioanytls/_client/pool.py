"""A client that keeps connections to one server, for an application that only needs streams.

    open_stream -> a lease on the newest connection with room     (or a place in the queue, until there is one)
                -> verified, if it has been silent                (PINGPONG; another connection if it does not answer)
                -> Connection.open_stream                         (the lease ends with the stream)

A *lease* is the right to one stream on one connection. Its holder returns it in any case. Once the stream is open, the
connection itself reports the end of the stream. Connections are opened by the tasks of a `Connector`, as many as the
queue needs, so that a cancelled caller affects no other. A connection that closes before the server has answered counts
as a failed attempt: a server that does not know the password closes each connection without sending anything, and must
not be asked more often than one that is down.

`PoolConfig.max_connections` bounds all connections: new, retired, closing, and those being opened. A connection that is
retired for its age still works, and its streams may last for days. It is given streams again if no new connection can
be opened. So each connection either has room for streams, or is gone after `connect_timeout` or `Config.close_timeout`
at the latest. A connection whose server is shutting down (GOAWAY) has no room and stays until its streams have ended.
It therefore does not count, up to the same number of connections again.
"""

from __future__ import annotations

import contextlib
import logging
import math
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import trio
from attrs import asdict

from trioanytls._checks import check_methods, check_type
from trioanytls._config import Config, PoolConfig, pool_limits
from trioanytls._connection.connection import Connection
from trioanytls._connection.nursery import BackgroundNursery
from trioanytls._connection.stream import Stream
from trioanytls._exceptions import ConnectFailed, ConnectionClosed
from trioanytls._protocol.interface import WireFormat
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._transport.tls_context import client_context

from .acknowledgements import AcknowledgementTimer
from .backoff import Backoff
from .connect import Endpoint, RunningConnection, check_connection_arguments, client_connection
from .connector import Connector, Dial, describe
from .dialer import Dialer
from .events import ClientEvents, notify
from .health import HealthMonitor
from .leases import LeaseQueue
from .pooled_connection import PoolCallbacks, PooledConnection
from .scheme_store import SchemeStore
from .scheme_sync import SchemeSync
from .stats import ClientCounters, ClientStats
from .uri import ServerURI, parse_uri

_log = logging.getLogger("trioanytls.client")

# The text in the log for each reason for which the client closes a connection.
_CLOSE_REASONS: Final = {
    "idle": "it was idle",
    "lifetime": "it has reached max_lifetime",
    "silent": "the server did not answer",
    "closed": "the client is closing",
    "used": "its stream has ended",
    "goaway": "the server is shutting down",
}

# How long a server may be silent after a stream was opened until its connection is verified, in seconds. Legacy servers
# acknowledge streams within this time: otherwise the programs in the field close their connections (legacy: 3). A ping
# tells a dead connection from a slow destination. With "anytls1", connections are verified before reuse soon enough.
_VERIFY_UNACKNOWLEDGED: Final[dict[WireFormat, float]] = {"anytls1": math.inf, "legacy": 3.0}


class Client:
    """Streams to one server, over as many connections as needed. Created by `open_client`.

    Attributes:
      config: the settings of its connections.
      pool: the settings of the pool.
    """

    def __init__(
        self,
        dial: Dial,
        *,
        key: str,
        password: str,
        padding_scheme: PaddingScheme | None,
        config: Config,
        pool: PoolConfig,
        protocol: WireFormat = "anytls1",
        scheme_store: SchemeStore | None = None,
        events: ClientEvents | None = None,
    ) -> None:
        self.config = config
        self.pool = pool
        self._limits = limits = pool_limits(pool, protocol)
        self.protocol = protocol
        self._key = key
        self._password = password
        self._events = events or ClientEvents()
        self._counters = ClientCounters()
        self._leases = LeaseQueue(limits.max_streams_per_connection, pool.max_lifetime, caller_added=self._dispatch)
        self._health = HealthMonitor(self._leases.connections, pool, limits, self._counters, self._has_waiting)
        self._acknowledgements = AcknowledgementTimer(
            pool.acknowledge_timeout,
            _VERIFY_UNACKNOWLEDGED[protocol] if limits.verify_after < math.inf else math.inf,
            self._counters,
            self._health.verify_soon,
            self._health.abandon,
        )
        self._scheme_sync = SchemeSync(
            key, padding_scheme or PaddingScheme.DEFAULT, scheme_store, config.limits, self._events
        )
        self._connector = Connector(
            dial,
            key,
            pool.connect_timeout,
            Backoff(pool.retry_delay, pool.max_retry_delay),
            self._counters,
            self._events,
            is_needed=lambda: self._has_waiting() and not self._closed,
            carry=self._carry,
            failed_for_good=self._fail_waiting,
            changed=self._dispatch,
        )
        self._callbacks = PoolCallbacks(
            lease_returned=self._dispatch,
            server_answered=self._connector.server_answered,
            server_did_not_answer=self._connector.server_did_not_answer,
            stream_settled=self._acknowledgements.discard,
            scheme_received=self._scheme_sync.update,
            server_leaves=self._replace,
        )
        # The tasks of connections. As with a single connection, a cancellation from outside ends the block that uses
        # the client, and the end of the block closes the client.
        self._nursery: trio.Nursery | None = None
        self._background = trio.CancelScope(shield=True)
        self._closed = False

    def __repr__(self) -> str:
        return (
            f"<trioanytls.Client of {self._key} connections={len(self._leases.connections)}{' closed' * self._closed}>"
        )

    # Public

    async def open_stream(self) -> Stream:
        """Open a stream, on an open connection or on a new one. It can be used at once.

        If the server does not accept the stream within `PoolConfig.acknowledge_timeout`, the stream is closed, and its
        methods raise `StreamTimeout`.

        Raises:
          ConnectFailed: no connection could be opened, or none had room, within `PoolConfig.open_timeout`. The
            `__cause__` is the error of the last attempt to connect. It is raised at once if another attempt can have no
            other outcome: the server's certificate is not accepted, the server does not speak TLS 1.3, or the address
            is invalid.
          trio.ClosedResourceError: the client was closed.

        Cancellation: no stream was opened.
        """
        await trio.lowlevel.checkpoint()
        try:
            stream = await self._open_before(trio.current_time() + self.pool.open_timeout)
        except (ConnectFailed, trio.ClosedResourceError):
            self._counters.streams_failed += 1
            raise
        self._counters.streams_opened += 1
        notify(self._events, "on_stream", stream)
        return stream

    async def _open_before(self, deadline: float) -> Stream:
        while True:
            pooled = await self._lease(deadline)
            stream = None
            try:
                with trio.move_on_at(deadline):
                    if await self._health.is_alive(pooled):
                        stream = await pooled.connection.open_stream()
            except (ConnectionClosed, trio.ClosedResourceError):
                # The connection died before anything of the stream was sent, or its server is shutting down, so another
                # connection can carry the stream. If it broke while sending, it has not closed yet and must not be
                # chosen again.
                pooled.retire("lost")
                if self._closed:
                    raise self._closed_error() from None
            finally:
                if stream is None:
                    pooled.return_lease()
                else:
                    pooled.hand_over_lease(stream)
            if stream is not None:
                self._acknowledgements.add(stream, pooled)
                return stream
            if trio.current_time() >= deadline:
                raise self._timeout_error()

    async def ping(self) -> float:
        """Send a PINGPONG to the server and return the round-trip time in seconds.

        It takes the connection that a stream would take: the newest, or a new one.

        Raises:
          ConnectFailed, trio.ClosedResourceError: see `open_stream`.
          NotSupported: see `Connection.ping`.
          ConnectionClosed: the connection closed before the answer arrived. A server that does not know the password
            closes it without an answer.

        Cancellation: the answer is awaited in the background.
        """
        await trio.lowlevel.checkpoint()
        pooled = await self._lease(trio.current_time() + self.pool.open_timeout)
        try:
            return await pooled.connection.ping()
        finally:
            pooled.return_lease()

    @property
    def padding_scheme(self) -> PaddingScheme:
        """The scheme that the next connection starts with."""
        return self._scheme_sync.scheme

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""
        return self._closed

    @property
    def newest_connection(self) -> Connection | None:
        """The newest connection that can carry streams, for measurements. Those not past `max_lifetime` come first."""
        newest_first = self._leases.connections[::-1]
        in_order = [pooled for pooled in newest_first if not pooled.retired]
        in_order += [pooled for pooled in newest_first if pooled.is_reserve]
        return in_order[0].connection if in_order else None

    @property
    def capacity(self) -> int:
        """The number of streams that all connections together can carry at once."""
        return self._limits.max_connections * self._limits.max_streams_per_connection

    @property
    def stats(self) -> ClientStats:
        """The counters now."""
        connections = self._leases.connections
        return ClientStats(
            connections=len(connections),
            connecting=self._connector.attempts,
            idle=sum(not pooled.leases for pooled in connections),
            streams=sum(pooled.open_streams for pooled in connections),
            waiting=len(self._leases.waiting),
            **asdict(self._counters),
        )

    async def aclose(self) -> None:
        """Close all connections. Data that was accepted for sending is sent first, within `Config.close_timeout`.

        Callers that wait in `open_stream` get `trio.ClosedResourceError`. Closing again does nothing.

        Cancellation: the connections are closed in the background.
        """
        self._close()
        await trio.lowlevel.checkpoint()
        while self._leases.connections:
            await self._leases.connections[0].closed.wait()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            for pooled in self._leases.connections:
                pooled.retire("closed")
                pooled.close_requested.set()
            self._connector.cancel()
            self._leases.fail_all(self._closed_error)

    def _closed_error(self) -> trio.ClosedResourceError:
        return trio.ClosedResourceError("this client is closed")

    def _timeout_error(self) -> ConnectFailed:
        last = self._connector.backoff.last_error
        what = "no connection had room" if last is None else f"no connection could be made: {describe(last)}"
        error = ConnectFailed(f"{what} (within {self.pool.open_timeout:g} s)")
        error.__cause__ = last
        return error

    # Leases

    async def _lease(self, deadline: float) -> PooledConnection:
        if self._closed:
            raise self._closed_error()
        pooled = await self._leases.acquire(deadline)
        if pooled is None:
            raise self._timeout_error()
        return pooled

    def _has_waiting(self) -> bool:
        return bool(self._leases.waiting)

    def _dispatch(self) -> None:
        """Give leases to waiting callers, and start attempts to connect for those that are left.

        To be called whenever there may be more room, more callers, or another state of the attempts.
        """
        leases, connector = self._leases, self._connector
        leases.grant()
        if not leases.waiting or self._nursery is None or self._closed:
            return
        per_connection = self._limits.max_streams_per_connection
        # While attempts fail, one is enough to find out when they no longer do.
        wanted = 1 if connector.backoff.failures else -(-len(leases.waiting) // per_connection)
        while connector.attempts < min(wanted, self._room):
            connector.start(self._nursery)
        # Callers for which the connections being opened will have room wait for those. The others get a reserve
        # connection. During a pause all of them do, as it is unknown when an attempt will succeed.
        leases.grant_reserves(0 if connector.backoff.is_pausing else connector.attempts * per_connection)

    @property
    def _room(self) -> int:
        """The number of connections that can be open or being opened in addition to those in the pool."""
        most, connections = self._limits.max_connections, self._leases.connections
        leaving = sum(pooled.leaving for pooled in connections)
        return most - len(connections) + min(leaving, most)

    def _replace(self, leaving: PooledConnection) -> None:
        """Go on without a connection whose server is shutting down. If it was the last one, make another at once."""
        _log.info(
            "%s: connection %d gets no more streams: the server is shutting down",
            self._key,
            leaving.connection.connection_id,
        )
        # Callers that wait for room on it.
        self._dispatch()
        if self._nursery is None or self._closed or not self.pool.reuse or self._connector.attempts or self._room <= 0:
            return
        # Only once for each connection that was of use: a server may send GOAWAY on every new connection.
        age = trio.current_time() - leaving.opened_at
        was_useful = leaving.streams_opened or age >= self._limits.check_interval
        if was_useful and all(pooled.retired for pooled in self._leases.connections):
            self._connector.start(self._nursery, spare=True)

    def _fail_waiting(self, error: Exception) -> None:
        def make_error() -> ConnectFailed:
            failed = ConnectFailed(str(error))
            failed.__cause__ = error
            return failed

        self._leases.fail_all(make_error)

    # Connections

    async def _carry(self, transport: trio.abc.Stream, opened: Callable[[], None]) -> None:
        """Run a connection of the pool, until it closes or is no longer needed."""
        connection = client_connection(transport, self._password, self.padding_scheme, self.protocol, self.config)
        pooled = PooledConnection(connection, self._callbacks, reuse=self.pool.reuse)
        try:
            async with RunningConnection(connection):
                self._leases.connections.append(pooled)
                opened()
                if self._connector.backoff.failures:
                    # The connection may be of no use: that is not known before the server answers.
                    self._connector.pause()
                self._counters.connections_made += 1
                self._counters.connections_resumed += bool(getattr(transport, "resumed", False))
                notify(self._events, "on_connect", connection)
                self._dispatch()
                if self._closed:
                    pooled.retire("closed")
                await pooled.close_requested.wait()
        finally:
            self._remove(pooled)

    def _remove(self, pooled: PooledConnection) -> None:
        self._leases.connections.remove(pooled)
        pooled.closed.set()
        closed = self._counters.connections_closed
        closed[pooled.reason] = closed.get(pooled.reason, 0) + 1
        error = pooled.connection.close_reason
        reason = _CLOSE_REASONS.get(pooled.reason, error)
        _log.info("%s: connection %d closed: %s", self._key, pooled.connection.connection_id, reason)
        notify(self._events, "on_close", pooled.connection, error)
        self._dispatch()

    # Lifetime

    @contextlib.asynccontextmanager
    async def _run(self) -> AsyncIterator[Client]:
        """Run the tasks of the client while the block runs, and close the client at its end."""
        await self._scheme_sync.load()
        async with BackgroundNursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._run_background)
            try:
                yield self
            finally:
                with trio.CancelScope(shield=True):
                    await self.aclose()
                    self._background.cancel()
                    await self._scheme_sync.save()

    async def _run_background(self) -> None:
        with self._background:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._health.run)
                nursery.start_soon(self._acknowledgements.run)
                nursery.start_soon(self._scheme_sync.run)


def run_client(client: Client) -> AbstractAsyncContextManager[Client]:
    """Run a client while the block runs. For `open_client` and for tests."""
    return client._run()  # noqa: SLF001 - not public, as an application must not run a client twice


@contextlib.asynccontextmanager
async def open_client(
    host: str,
    port: int,
    *,
    password: str,
    ssl_context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    padding_scheme: PaddingScheme | None = None,
    pin: str | Sequence[str] | None = None,
    protocol: WireFormat = "anytls1",
    config: Config = Config(),
    pool: PoolConfig = PoolConfig(),
    scheme_store: SchemeStore | None = None,
    events: ClientEvents | None = None,
) -> AsyncIterator[Client]:
    """Keep connections to one server. An async context manager that yields a `Client` and closes it at the end.

    The first connection is made by the first `Client.open_stream`.

    If the password is wrong, `open_stream` succeeds, and the stream raises `ConnectionClosed`: the server closes each
    connection without an answer, as soon as it has read the password. This counts as a failed attempt to connect. The
    next `open_stream` makes another connection, after a pause.

    Args:
      host, port: the server's address, for TCP.
      password: the user's password.
      ssl_context, server_hostname, pin: see `open_connection`. Connections resume the TLS sessions of earlier ones if
        the server allows it.
      padding_scheme: the scheme to start with if neither the server nor `scheme_store` has provided another one;
        default: the built-in one.
      protocol: the wire format, see `open_connection`.
      config: timeouts and limits of each connection.
      pool: the number of connections, and how long they are kept.
      scheme_store: keeps the scheme that the server sends for the next start of the program; see `FileSchemeStore`.
      events: is notified of connections, streams and schemes.

    Raises:
      TypeError: an argument has the wrong type.
      ValueError: `host`, `port`, `server_hostname` or a pin is invalid, `ssl_context` forbids TLS 1.3, the password
        cannot be encoded, or a field of `config` is a setting of the server.

    Cancellation: the connections are closed, within `Config.close_timeout`.
    """
    # Checked here, as connections are made in the background.
    check_connection_arguments(password, padding_scheme, protocol, config)
    check_type("pool", pool, PoolConfig)
    check_methods("scheme_store", scheme_store, "load", "save", optional=True)
    check_type("events", events, ClientEvents, optional=True)
    dialer = Dialer(Endpoint(host, port, ssl_context, server_hostname, pin), config.handshake_timeout)
    client = Client(
        dialer.dial,
        key=f"{host}:{port}" if protocol == "anytls1" else f"{host}:{port}/{protocol}",
        password=password,
        padding_scheme=padding_scheme,
        config=config,
        pool=pool,
        protocol=protocol,
        scheme_store=scheme_store,
        events=events,
    )
    async with run_client(client):
        yield client


@contextlib.asynccontextmanager
async def open_client_uri(
    uri: str | ServerURI,
    *,
    padding_scheme: PaddingScheme | None = None,
    config: Config = Config(),
    pool: PoolConfig = PoolConfig(),
    scheme_store: SchemeStore | None = None,
    events: ClientEvents | None = None,
) -> AsyncIterator[Client]:
    """Keep connections to the server that an `anytls://` URI names, like `open_client`.

    The URI names the wire format: "anytls1" with `proto=anytls1`, else "legacy". A `pin` replaces the system's
    authorities. `insecure=1` without a pin accepts any server, and logs a warning (`trioanytls.client`).

    Raises:
      TypeError: an argument has the wrong type.
      URIError: the URI is invalid.
    """
    check_type("uri", uri, str, ServerURI)
    server = parse_uri(uri) if isinstance(uri, str) else uri
    if server.insecure and server.pin is None:
        _log.warning(
            "%s:%d: insecure=1 disables certificate verification: the connection is open to man-in-the-middle attacks",
            server.host,
            server.port,
        )
    async with open_client(
        server.host,
        server.port,
        password=server.password,
        ssl_context=client_context(verify=False) if server.insecure else None,
        server_hostname=server.sni,
        pin=server.pin,
        protocol=server.protocol,
        padding_scheme=padding_scheme,
        config=config,
        pool=pool,
        scheme_store=scheme_store,
        events=events,
    ) as client:
        yield client

"""A client that keeps connections to one server, for an application that only wants streams.

    open_stream -> a lease on the newest connection with room     (or a place in the line, until one is made)
                -> verified, if it has been silent                (PINGPONG; another connection if it does not answer)
                -> Connection.open_stream                         (the lease ends with the stream)

A *lease* is the right to one stream on one connection. Whoever holds it gives it back, whatever happens; when a stream
is open, the connection itself tells when it has ended. Connections are made by *connectors*, background tasks of which
there are as many as the line needs: so a caller that gives up takes nothing with it. While attempts fail, one connector
goes on, with growing pauses, for everybody. A connection that ends before the server has answered is a failed attempt,
too: a server that closes each without a word, as one does that does not know the password, is not asked more often.

`PoolConfig.max_connections` bounds all connections: new, retired, closing, and being made. A connection that is retired
because of its age still works, and its streams may last for days. So it opens streams again when no new connection can
be made. A place that is taken therefore either has room for streams, or is free after `connect_timeout` or
`Config.close_timeout` at the latest.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

import trio
from attrs import asdict

from trioanytls._checks import check_methods, check_type
from trioanytls._config import Config, PoolConfig
from trioanytls._connection import close_reason
from trioanytls._connection.connection import Connection
from trioanytls._connection.nursery import background_nursery
from trioanytls._connection.stream import Stream, StreamEnd
from trioanytls._exceptions import CertificateError, ConnectFailed, ConnectionClosed
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._transport.handshake import is_version_mismatch
from trioanytls._transport.tls_context import client_context

from .connect import Endpoint, check_connection_arguments, client_connection, running
from .dialer import Dialer
from .events import ClientEvents, notify
from .scheme_store import SchemeStore
from .scheme_sync import SchemeSync
from .stats import ClientCounters, ClientStats
from .uri import ServerURI, parse_uri

_log = logging.getLogger("trioanytls.client")

#: Makes a secured transport within so many seconds. If it takes longer, raises what took too long: `TimeoutError` for
#: TCP, `TLSError` for the handshake.
Dial = Callable[[float], Awaitable[trio.abc.Stream]]


class _Pooled:
    """A connection of the pool, as its `Observer`."""

    def __init__(self, client: Client, connection: Connection) -> None:
        self.connection = connection
        self.born = self.idle_since = trio.current_time()
        self.leases = 0
        # Set when it is to be closed; why.
        self.leave = trio.Event()
        self.reason = "lost"
        # Retired: no new streams, unless only its age is the reason and no new connection can be made. Failed: none.
        self.retired = False
        self.failed = False
        # Set when it has ended, and nothing of it is left.
        self.gone = trio.Event()
        self._client = client
        self._streams: set[int] = set()
        connection._observer = self

    def opened(self, stream: Stream) -> None:
        """The lease is the stream's from now on."""
        if stream._has_ended:
            self.give_back()
        else:
            self._streams.add(stream.stream_id)

    def give_back(self) -> None:
        """A lease ends."""
        self.leases -= 1
        if not self.leases:
            self.idle_since = trio.current_time()
            if self.retired:
                self.leave.set()
        self._client._dispatch()

    @property
    def is_spare(self) -> bool:
        """Whether it is retired because of its age alone, and still works."""
        return self.retired and not self.failed and not self.leave.is_set()

    def retire(self, reason: str) -> None:
        """Give it no more streams, and close it when it has none."""
        if not self.retired:
            self.retired = True
            self.reason = reason
        self.failed |= reason != "lifetime"
        if not self.leases:
            self.leave.set()

    # Observer

    def negotiated(self) -> None:
        self._client._answered()

    def stream_accepted(self, stream: Stream) -> None:
        self._client._unacknowledged.pop(stream, None)

    def stream_gone(self, stream: Stream) -> None:
        if stream.stream_id in self._streams:
            self._streams.discard(stream.stream_id)
            self._client._unacknowledged.pop(stream, None)
            self.give_back()

    def scheme_received(self, scheme: PaddingScheme) -> None:
        self._client._scheme_sync.update(scheme)

    def ending(self) -> None:
        self.retired = True
        self.leave.set()
        error = self.connection.close_reason
        if error is not None and self.connection.version is None and not self.connection._closed_here:
            self._client._not_answered(error)


class _Making:
    """A connection that is being made: it counts as one of those, until it counts as one that is there."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._done = False

    def done(self) -> None:
        if not self._done:
            self._done = True
            self._client._connecting -= 1


class _Waiter:
    """A caller in the line: what it waits for is a lease, or an error."""

    __slots__ = ("asleep", "outcome", "task")

    def __init__(self) -> None:
        self.task = trio.lowlevel.current_task()
        # Not yet where it is the caller itself who finds something for it.
        self.asleep = False
        self.outcome: _Pooled | Exception | None = None


class Client:
    """Streams to one server, over as many connections as that takes. Made by `open_client`, not by hand.

    Attributes:
      config, pool: the settings of its connections, and its own.
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
        scheme_store: SchemeStore | None = None,
        events: ClientEvents | None = None,
    ) -> None:
        self.config = config
        self.pool = pool
        self._dial = dial
        self._key = key
        self._password = password
        self._events = events or ClientEvents()
        self._scheme_sync = SchemeSync(
            key, padding_scheme or PaddingScheme.DEFAULT, scheme_store, config.limits, self._events
        )
        # The newest last.
        self._connections: list[_Pooled] = []
        self._connecting = 0
        # Since the server has answered for the last time: attempts that have failed, why the last one did, pauses that
        # were made, and until when the last one lasts, unless it is over sooner.
        self._failures = 0
        self._last_error: Exception | None = None
        self._pauses = 0
        self._pause_end = -math.inf
        self._pause_over = trio.Event()
        self._waiting: deque[_Waiter] = deque()
        # When those streams were opened that the server has not accepted yet.
        self._unacknowledged: dict[Stream, float] = {}
        self._unacknowledged_added = trio.Event()
        self._counters = ClientCounters()
        # Where connections live; what looks after them; attempts to connect. As with a single connection, a
        # cancellation from outside ends the block that uses the client, and that closes it.
        self._nursery: trio.Nursery | None = None
        self._keeping = trio.CancelScope(shield=True)
        self._attempts: set[trio.CancelScope] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<trioanytls.Client of {self._key} connections={len(self._connections)}{' closed' * self._closed}>"

    # What an application sees

    async def open_stream(self) -> Stream:
        """Open a stream, on a connection that is there or on a new one. It can be used at once.

        Where the server does not accept it within `PoolConfig.acknowledge_timeout`, it is closed, and meets
        `StreamTimeout`.

        Raises:
          ConnectFailed: no connection could be made, or none had room, within `PoolConfig.open_timeout`; the
            `__cause__` is what the last attempt to connect failed of. At once where a further attempt can have no other
            outcome: the server's certificate is not accepted, it does not speak TLS 1.3, or the address is none.
          trio.ClosedResourceError: the client was closed.

        Cancellation: no stream was opened.
        """
        await trio.lowlevel.checkpoint()
        deadline = trio.current_time() + self.pool.open_timeout
        try:
            stream = await self._open_before(deadline)
        except (ConnectFailed, trio.ClosedResourceError):
            self._counters.streams_failed += 1
            raise
        self._counters.streams_opened += 1
        if not stream._has_ended and self.pool.acknowledge_timeout < math.inf:
            self._unacknowledged[stream] = trio.current_time()
            self._unacknowledged_added.set()
        notify(self._events, "on_stream", stream)
        return stream

    async def _open_before(self, deadline: float) -> Stream:
        while True:
            pooled = await self._lease(deadline)
            stream = None
            try:
                with trio.move_on_at(deadline):
                    if await self._lives(pooled):
                        stream = await pooled.connection.open_stream()
            except (ConnectionClosed, trio.ClosedResourceError):
                # It died before anything of the stream was sent, so that another one can have it. Where it broke while
                # sending, it has not ended yet: it must not be chosen again.
                pooled.retire("lost")
                if self._closed:
                    raise self._closed_error() from None
            finally:
                if stream is None:
                    pooled.give_back()
                else:
                    pooled.opened(stream)
            if stream is not None:
                return stream
            if trio.current_time() >= deadline:
                raise self._timed_out()

    async def ping(self) -> float:
        """Send a PINGPONG to the server and return the round-trip time in seconds.

        The newest connection carries it, or a new one, as if it were a stream.

        Raises:
          ConnectFailed, trio.ClosedResourceError: see `open_stream`.
          ConnectionClosed: the connection ended before the answer came. A server that does not know the password closes
            it without a word.

        Cancellation: the answer is awaited in the background.
        """
        await trio.lowlevel.checkpoint()
        pooled = await self._lease(trio.current_time() + self.pool.open_timeout)
        try:
            return await pooled.connection.ping()
        finally:
            pooled.give_back()

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
        newest_first = self._connections[::-1]
        in_order = [pooled for pooled in newest_first if not pooled.retired]
        in_order += [pooled for pooled in newest_first if pooled.is_spare]
        return in_order[0].connection if in_order else None

    @property
    def stats(self) -> ClientStats:
        """The counters now."""
        return ClientStats(
            connections=len(self._connections),
            connecting=self._connecting,
            idle=sum(not pooled.leases for pooled in self._connections),
            streams=sum(len(pooled.connection._streams) for pooled in self._connections),
            waiting=len(self._waiting),
            **asdict(self._counters),
        )

    async def aclose(self) -> None:
        """Close all connections: what was accepted for sending goes out first, within `Config.close_timeout`.

        Whoever waits in `open_stream` meets `trio.ClosedResourceError`. Closing again does nothing.

        Cancellation: the connections are closed in the background.
        """
        self._close()
        await trio.lowlevel.checkpoint()
        while self._connections:
            await self._connections[0].gone.wait()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            for pooled in self._connections:
                pooled.retire("closed")
                pooled.leave.set()
            for attempt in self._attempts:
                attempt.cancel()
            while self._waiting:
                self._wake(self._waiting.popleft(), self._closed_error())

    def _closed_error(self) -> trio.ClosedResourceError:
        return trio.ClosedResourceError("this client is closed")

    def _timed_out(self) -> ConnectFailed:
        last = self._last_error
        what = "no connection had room" if last is None else f"no connection could be made: {_describe(last)}"
        error = ConnectFailed(f"{what} (within {self.pool.open_timeout:g} s)")
        error.__cause__ = self._last_error
        return error

    # Leases

    async def _lease(self, deadline: float) -> _Pooled:
        """The right to one stream, in the order in which it was asked for."""
        if self._closed:
            raise self._closed_error()
        if not self._waiting and (pooled := self._with_room()) is not None:
            pooled.leases += 1
            return pooled
        waiter = _Waiter()
        self._waiting.append(waiter)
        self._dispatch()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._waiting.remove(waiter)
            return trio.lowlevel.Abort.SUCCEEDED

        with trio.move_on_at(deadline):
            if waiter.outcome is None:
                waiter.asleep = True
                await trio.lowlevel.wait_task_rescheduled(abort)
        if waiter.outcome is None:
            raise self._timed_out()
        if isinstance(waiter.outcome, Exception):
            raise waiter.outcome
        return waiter.outcome

    def _with_room(self) -> _Pooled | None:
        """The newest connection that can carry one more stream."""
        now = trio.current_time()
        for pooled in reversed(self._connections):
            if not pooled.retired and pooled.born + self.pool.max_lifetime <= now:
                pooled.retire("lifetime")
            if not pooled.retired and pooled.leases < self.pool.max_streams_per_connection:
                return pooled
        return None

    def _spare_with_room(self) -> _Pooled | None:
        """The newest of the connections that are past `max_lifetime`, but can carry one more stream.

        The newest, so that the others become empty, and make room for new connections.
        """
        for pooled in reversed(self._connections):
            if pooled.is_spare and pooled.leases < self.pool.max_streams_per_connection:
                return pooled
        return None

    def _dispatch(self) -> None:
        """Give those who wait what there is, and see to it that there will be more."""
        while self._waiting and (pooled := self._with_room()) is not None:
            self._lease_to_next(pooled)
        if self._waiting and self._nursery is not None and not self._closed:
            per_connection = self.pool.max_streams_per_connection
            # One that finds out is enough while attempts fail.
            wanted = 1 if self._failures else -(-len(self._waiting) // per_connection)
            room = self.pool.max_connections - len(self._connections)
            while self._connecting < min(wanted, room):
                self._connecting += 1
                self._nursery.start_soon(self._connector)
            # The callers that the connections being made have room for wait for those. The others get a connection that
            # is past its lifetime; so do all while the last attempt has failed, as nobody knows when one succeeds.
            paused = self._failures > 0 and trio.current_time() < self._pause_end
            expected = 0 if paused else self._connecting * per_connection
            while len(self._waiting) > expected and (pooled := self._spare_with_room()) is not None:
                self._lease_to_next(pooled)

    def _lease_to_next(self, pooled: _Pooled) -> None:
        pooled.leases += 1
        self._wake(self._waiting.popleft(), pooled)

    def _wake(self, waiter: _Waiter, outcome: _Pooled | Exception) -> None:
        waiter.outcome = outcome
        if waiter.asleep:
            trio.lowlevel.reschedule(waiter.task)

    async def _lives(self, pooled: _Pooled) -> bool:
        """Whether a connection that has been silent still answers; if not, it is given up."""
        connection = pooled.connection
        reader = connection._reader
        now = trio.current_time()
        # Where we ourselves do not read, no answer could come.
        if now < reader.last_read + self.pool.verify_after or reader.stalled:
            return True
        # Others may have asked already, and share the answer.
        self._counters.verified += connection._ping is None
        with trio.move_on_after(self.pool.verify_timeout):
            await connection.ping()
            return True
        await reader.catch_up()
        if reader.last_read > now:
            # The answer is on its way, behind much else.
            return True
        self._give_up(connection, "it did not answer a PINGPONG")
        return False

    def _give_up(self, connection: Connection, why: str) -> None:
        for pooled in self._connections:
            if pooled.connection is connection:
                pooled.retire("silent")
        connection._end(close_reason.transport_lost(f"the server is silent: {why}"))
        self._verify_others()

    def _verify_others(self) -> None:
        """Find out at once which other connections are dead too.

        A network that has changed kills all connections at the same time. If each caller found them one after the
        other, `open_timeout` would be over after a few.
        """
        for pooled in self._connections:
            if self._nursery is not None and not pooled.leave.is_set() and pooled.connection._ping is None:
                self._nursery.start_soon(self._verify, pooled)

    # Connections

    async def _connector(self) -> None:
        """Make a connection, if somebody still waits for one, and be it until it ends."""
        making = _Making(self)
        transport = None
        with trio.CancelScope(shield=True):
            try:
                with trio.CancelScope() as attempt:
                    self._attempts.add(attempt)
                    transport = await self._connect()
                self._attempts.discard(attempt)
                if transport is not None:
                    await self._carry(transport, making)
            finally:
                making.done()
                # Somebody may have come since the line was looked at last.
                self._dispatch()

    async def _connect(self) -> trio.abc.Stream | None:
        """Attempt it until it is done, or nobody waits any more, or another connector does the same."""
        while True:
            with trio.move_on_at(self._pause_end):
                await self._pause_over.wait()
            if not self._waiting or self._closed:
                return None
            try:
                return await self._dial(self.pool.connect_timeout)
            except Exception as error:  # noqa: BLE001 - whatever it is: logged, and told to whoever waits
                if not self._attempt_failed(error) or self._connecting > 1:
                    return None

    def _attempt_failed(self, error: Exception) -> bool:
        """Whether it is worth another one."""
        # Others are mistakes: in the address, say, which cannot even be looked up.
        expected = isinstance(error, OSError | trio.BrokenResourceError)
        again = expected and not isinstance(error, CertificateError) and not is_version_mismatch(error)
        self._counters.connections_failed += 1
        self._failures += 1
        self._last_error = error
        if again:
            self._pause()
        _log.log(
            logging.INFO if expected else logging.ERROR,
            "%s: attempt %d to connect failed: %s",
            self._key,
            self._failures,
            _describe(error),
            exc_info=None if expected else error,
        )
        notify(self._events, "on_connect_failed", error, self._failures)
        while self._waiting and not again:
            failed = ConnectFailed(str(error))
            failed.__cause__ = error
            self._wake(self._waiting.popleft(), failed)
        return again

    def _pause(self) -> None:
        """Doubling, up to a limit, and never the same for all clients of a server that has come back."""
        now = trio.current_time()
        # What others meet who were under way as well is the same failure.
        if now >= self._pause_end:
            longest = min(self.pool.retry_delay * 2.0 ** min(self._pauses, 32), self.pool.max_retry_delay)
            self._pauses += 1
            self._pause_end = now + longest * random.uniform(0.5, 1.0)  # noqa: S311 - to spread attempts
        # Until then, connections past their lifetime carry the streams.
        self._dispatch()

    def _not_answered(self, error: ConnectionClosed) -> None:
        """A connection has ended before the server said a word of ANYTLS."""
        _log.info("%s: the server did not answer: %s; it may not know the password", self._key, error)
        self._failures += 1
        self._last_error = error
        self._pause()

    def _answered(self) -> None:
        """The server is there, and one of ours."""
        if self._failures:
            self._failures = self._pauses = 0
            self._last_error = None
            self._pause_end = -math.inf
            self._pause_over.set()
            self._pause_over = trio.Event()
            self._dispatch()

    async def _carry(self, transport: trio.abc.Stream, making: _Making) -> None:
        """Be a connection of the pool, until it ends or is not wanted any more."""
        connection = client_connection(transport, self._password, self.padding_scheme, self.config)
        pooled = _Pooled(self, connection)
        try:
            async with running(connection):
                self._connections.append(pooled)
                making.done()
                if self._failures:
                    # Whether it is any good is not known before the server answers.
                    self._pause()
                self._counters.connections_made += 1
                self._counters.connections_resumed += bool(getattr(transport, "resumed", False))
                notify(self._events, "on_connect", connection)
                self._dispatch()
                if self._closed:
                    pooled.retire("closed")
                await pooled.leave.wait()
        finally:
            self._forget(pooled)

    def _forget(self, pooled: _Pooled) -> None:
        self._connections.remove(pooled)
        pooled.gone.set()
        closed = self._counters.connections_closed
        closed[pooled.reason] = closed.get(pooled.reason, 0) + 1
        reason = pooled.connection.close_reason
        why = _WHY.get(pooled.reason, reason)
        _log.info("%s: connection %d has ended: %s", self._key, pooled.connection.connection_id, why)
        notify(self._events, "on_close", pooled.connection, reason)
        self._dispatch()

    # Background

    async def _keep(self) -> None:
        """Look after the connections."""
        with self._keeping:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._check_idle, nursery)
                nursery.start_soon(self._check_unacknowledged)
                nursery.start_soon(self._scheme_sync.run)

    async def _check_idle(self, nursery: trio.Nursery) -> None:
        """Close what nobody needs, the oldest first; and find out whether the rest still lives."""
        while True:
            await trio.sleep(self.pool.check_interval)
            now = trio.current_time()
            for pooled in self._connections:
                if pooled.born + self.pool.max_lifetime <= now:
                    pooled.retire("lifetime")
            idle = [pooled for pooled in self._connections if not pooled.leases and not pooled.retired]
            surplus = len(idle) - self.pool.min_idle
            for pooled in idle:
                if now < pooled.idle_since + self.pool.idle_timeout:
                    continue
                if surplus > 0:
                    surplus -= 1
                    pooled.retire("idle")
                elif now >= pooled.connection._reader.last_read + self.pool.idle_timeout:
                    nursery.start_soon(self._verify, pooled)
            if self._waiting and len(self._connections) >= self.pool.max_connections:
                self._end_failed()

    def _end_failed(self) -> None:
        """End the connections that can no longer send.

        Their readers go on for as long as the application leaves received data unread, but new streams need the places.
        """
        for pooled in self._connections:
            connection = pooled.connection
            if pooled.failed and not pooled.leave.is_set():
                connection._end(
                    close_reason.transport_lost("the connection broke while sending", connection._write_error)
                )

    async def _verify(self, pooled: _Pooled) -> None:
        with contextlib.suppress(ConnectionClosed, trio.ClosedResourceError):
            await self._lives(pooled)

    async def _check_unacknowledged(self) -> None:
        """Close the streams that the server does not accept in time."""
        while True:
            if not self._unacknowledged:
                self._unacknowledged_added = trio.Event()
                await self._unacknowledged_added.wait()
                # It may have been accepted at once.
                continue
            now = trio.current_time()
            due = min(self._acknowledged_by(stream, now) for stream in self._unacknowledged)
            if now < due:
                await trio.sleep_until(due)
                continue
            overdue = [stream for stream in self._unacknowledged if self._acknowledged_by(stream, now) <= now]
            for reader in {stream.connection._reader for stream in overdue}:
                await reader.catch_up()
            for stream in overdue:
                # A connection that was given up has taken its others along.
                if stream in self._unacknowledged and self._acknowledged_by(stream, now) <= now:
                    self._unacknowledged_too_long(stream)

    def _acknowledged_by(self, stream: Stream, now: float) -> float:
        """Return when the server has to have accepted a stream, or when to look again."""
        timeout, reader = self.pool.acknowledge_timeout, stream.connection._reader
        # What has come may wait to be read behind what our own application has not taken yet.
        return now + timeout if reader.stalled else max(self._unacknowledged[stream], reader.resumed) + timeout

    def _unacknowledged_too_long(self, stream: Stream) -> None:
        """Close a stream, or, if nothing has come since it was opened, its connection."""
        opened = self._unacknowledged.pop(stream)
        self._counters.streams_unacknowledged += 1
        if stream.connection._reader.last_read > opened:
            stream._expire(StreamEnd.UNACKNOWLEDGED)
        else:
            self._give_up(stream.connection, "it neither accepted nor refused a stream")


# Why the client ends a connection, as the log has it.
_WHY: Final = {
    "idle": "it was idle",
    "lifetime": "it has reached its max_lifetime",
    "silent": "the server did not answer",
    "closed": "the client is closing",
}


def _describe(error: Exception) -> str:
    """What happened. Trio says it of each address of a host, but in the cause only."""
    group = error.__cause__
    return f"{error}: {'; '.join(map(str, group.exceptions))}" if isinstance(group, ExceptionGroup) else str(error)


@contextlib.asynccontextmanager
async def run_client(client: Client) -> AsyncIterator[Client]:
    """The client's tasks, for as long as the block runs; it is closed at its end."""
    await client._scheme_sync.load()
    async with background_nursery() as nursery:
        client._nursery = nursery
        nursery.start_soon(client._keep)
        try:
            yield client
        finally:
            with trio.CancelScope(shield=True):
                await client.aclose()
                client._keeping.cancel()
                await client._scheme_sync.save()


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
    config: Config = Config(),
    pool: PoolConfig = PoolConfig(),
    scheme_store: SchemeStore | None = None,
    events: ClientEvents | None = None,
) -> AsyncIterator[Client]:
    """A client that keeps connections to one server; an async context manager that closes them at its end.

    Nothing is connected before the first `Client.open_stream`.

    Where the password is wrong, `open_stream` succeeds, and its stream meets `ConnectionClosed`: the server closes each
    connection without a word, as soon as it has read the password. That counts as a failed attempt to connect: the next
    `open_stream` makes another connection, after the pause that follows upon one.

    Args:
      host, port: where to connect to, over TCP.
      password: what the server knows the user by.
      ssl_context, server_hostname, pin: see `open_connection`. TLS sessions are resumed from one connection to the next
        where the server allows it.
      padding_scheme: the scheme to begin with, as long as the server has sent none and `scheme_store` has none;
        default: the built-in one.
      config: timeouts and limits of each connection.
      pool: how many connections, and for how long.
      scheme_store: what keeps the scheme that the server sends, for the next start; see `FileSchemeStore`.
      events: what is to be told of connections, streams and schemes.

    Raises:
      TypeError: an argument has the wrong type.
      ValueError: `host` or `server_hostname` is not a host, `ssl_context` forbids TLS 1.3, or a pin is none, or the
        password cannot be encoded.

    Cancellation: the connections are closed, within `Config.close_timeout`.
    """
    # Here, and not by a connection in the background.
    check_connection_arguments(password, padding_scheme, config)
    check_type("pool", pool, PoolConfig)
    check_methods("scheme_store", scheme_store, "load", "save", optional=True)
    check_type("events", events, ClientEvents, optional=True)
    dialer = Dialer(Endpoint(host, port, ssl_context, server_hostname, pin), config.handshake_timeout)
    client = Client(
        dialer.dial,
        key=f"{host}:{port}",
        password=password,
        padding_scheme=padding_scheme,
        config=config,
        pool=pool,
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
    """Like `open_client`, to the server that an `anytls://` URI names.

    A `pin` takes the place of the system's trust. `insecure=1` without a pin accepts any server; that is logged as a
    warning (`trioanytls.client`).

    Raises:
      TypeError: an argument has the wrong type.
      URIError: the URI cannot be used.
    """
    check_type("uri", uri, str, ServerURI)
    server = parse_uri(uri) if isinstance(uri, str) else uri
    if server.insecure and server.pin is None:
        _log.warning("%s:%d: insecure=1, so that anybody on the way can be the server", server.host, server.port)
    async with open_client(
        server.host,
        server.port,
        password=server.password,
        ssl_context=client_context(verify=False) if server.insecure else None,
        server_hostname=server.sni,
        pin=server.pin,
        padding_scheme=padding_scheme,
        config=config,
        pool=pool,
        scheme_store=scheme_store,
        events=events,
    ) as client:
        yield client

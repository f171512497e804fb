"""The client of the relay while it runs: front ends for applications, a pool of connections, and signals.

SIGTERM drains: nothing new is accepted, and what is open may finish, for a while. SIGHUP reads the settings again, and
applies what has changed: front ends that stay keep their connections, and so does the pool unless the server is another
one.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

import click
import trio

import trioanytls
from trioanytls.cli.common import runner
from trioanytls.cli.common.errors import ClientError
from trioanytls.cli.common.exit_codes import ExitCode, after_signal
from trioanytls.cli.common.file_limit import raise_file_limit
from trioanytls.cli.common.state_dir import StateDirectory, StateError, default_directory
from trioanytls.destination import Destination
from trioanytls.relay.bypass import Bypass
from trioanytls.relay.upstream import Upstream

from . import status_display
from .connectivity_check import ConnectFailures, check
from .front_ends import LocalListener, fronts, open_doors
from .settings import ClientSettings

_log = logging.getLogger("trioanytls.cli")

# How long an application's request waits for a connection to the server, in seconds: less than the gateway's patience,
# which could not say what stands in the way.
_OPEN_TIMEOUT: Final = 10.0
# How often a pool that is not used any more is looked at, in seconds.
_CHECK_INTERVAL: Final = 1.0

_HANG_UP: Final[int | None] = getattr(signal, "SIGHUP", None)
_SIGNALS: Final = [signal.SIGTERM, *([_HANG_UP] if _HANG_UP is not None else [])]

ReadSettings = Callable[[], ClientSettings]


def run(settings: ClientSettings, read_again: ReadSettings) -> int:
    """Serve until Ctrl-C or SIGTERM, and return the exit code.

    Args:
      settings: what to do.
      read_again: reads the settings once more, at SIGHUP.

    Raises:
      StateError: the directory for state that the user has named cannot be written.
    """
    raise_file_limit()
    client = RelayClient(settings, _scheme_store(settings), read_again)
    try:
        runner.run(client.run)
    except runner.Interrupted:
        # The usual way to end it.
        return ExitCode.SUCCESS
    return client.exit_code


def _scheme_store(settings: ClientSettings) -> trioanytls.FileSchemeStore | None:
    """Return the store of padding schemes, None if nothing is kept.

    Raises:
      StateError: the directory that the user has named cannot be written.
    """
    if not settings.keeps_state:
        return None
    try:
        directory = StateDirectory(settings.state_dir or default_directory())
        directory.prepare()
    except StateError as error:
        if settings.state_dir is not None:
            raise
        _log.warning("%s. Without it, each start begins with the built-in padding scheme", error)
        return None
    return trioanytls.FileSchemeStore(directory.path)


class _Pool:
    """Connections to one server. They are closed when it is retired and its last stream has ended."""

    def __init__(self, settings: ClientSettings, store: trioanytls.SchemeStore | None) -> None:
        self._settings = settings
        self._store = store
        self._retired = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[trioanytls.Client]) -> None:
        """Keep the connections. Gives the client when the server has answered, if it is to be asked.

        Raises:
          Failed: the server cannot be used.
        """
        settings, failures = self._settings, ConnectFailures()
        pool = trioanytls.PoolConfig(max_streams_per_connection=settings.streams, open_timeout=_OPEN_TIMEOUT)
        async with trioanytls.open_client_uri(
            settings.server, config=settings.config, pool=pool, scheme_store=self._store, events=failures
        ) as client:
            if settings.check:
                await check(client, Destination(settings.server.host, settings.server.port), failures)
            task_status.started(client)
            await self._retired.wait()
            while client.stats.streams or client.stats.waiting:  # noqa: ASYNC110 - a client has no event for that
                await trio.sleep(_CHECK_INTERVAL)

    def retire(self) -> None:
        self._retired.set()

    def serves(self, settings: ClientSettings) -> bool:
        """Return whether a pool for these settings would be the same."""
        old = self._settings
        return (old.server, old.streams, old.config) == (settings.server, settings.streams, settings.config)


class RelayClient:
    """The client, from its start to its end.

    Attributes:
      exit_code: of the process, when `run` has returned.
    """

    def __init__(
        self, settings: ClientSettings, store: trioanytls.SchemeStore | None, read_again: ReadSettings | None = None
    ) -> None:
        self.exit_code: int = ExitCode.SUCCESS
        self._settings = settings
        self._store = store
        self._read_again = read_again
        self._reloading = trio.Lock()
        self._draining = trio.Event()

    async def run(self) -> None:
        """Offer what the settings ask for, until SIGTERM.

        Raises:
          Failed: an address cannot be listened on, or the server cannot be used.
        """
        settings = self._settings
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            async with trio.open_nursery() as self._pools:
                self._pool = _Pool(settings, self._store)
                client: trioanytls.Client = await self._pools.start(self._pool.run)
                self._gateway = Upstream(client, bypass=Bypass(settings.bypass), capacity=_capacity(client))
                self._doors = await open_doors(
                    fronts(settings, self._gateway), have_password=settings.proxy_users is not None
                )
                async with trio.open_nursery() as background:
                    async with trio.open_nursery() as self._nursery:
                        background.start_soon(self._handle_signals, signals, background)
                        self._start(self._doors.values())
                        terminal = None if settings.quiet else status_display.find_terminal()
                        if terminal is not None:
                            background.start_soon(status_display.show, self._gateway, settings.server, terminal)
                        await self._drain()
                    background.cancel_scope.cancel()
                self._pools.cancel_scope.cancel()

    def _start(self, doors: Iterable[LocalListener]) -> None:
        for door in doors:
            self._nursery.start_soon(door.run)
            # On standard output, and only now: whoever started this may wait for it.
            if not self._settings.quiet:
                _announce(f"{door.front.what} on {door.address}")

    async def _drain(self) -> None:
        await self._draining.wait()
        for door in self._doors.values():
            door.stop()
        self._nursery.cancel_scope.deadline = trio.current_time() + self._settings.drain_timeout

    # Signals

    async def _handle_signals(self, signals: AsyncIterator[int], nursery: trio.Nursery) -> None:
        async for number in signals:
            name = signal.Signals(number).name
            if number == _HANG_UP:
                nursery.start_soon(self._reload)
            elif not self._draining.is_set():
                timeout = self._settings.drain_timeout
                _log.info(
                    "%s: draining, open connections have %g s to finish; send the signal again to stop immediately",
                    name,
                    timeout,
                )
                self._draining.set()
            else:
                _log.info("%s again: stopping immediately", name)
                self.exit_code = after_signal(number)
                self._nursery.cancel_scope.cancel()

    async def _reload(self) -> None:
        # One after the other, so that what was read last is what holds.
        async with self._reloading:
            if self._read_again is None or self._draining.is_set():
                return
            try:
                # A file that cannot be read to its end, as a pipe, is not to keep the client from ending.
                settings = await trio.to_thread.run_sync(self._read_again, abandon_on_cancel=True)
                await self._apply(settings)
            except click.ClickException as error:
                _log.error("SIGHUP: the settings remain as they were: %s", error.format_message())
            except (ClientError, OSError) as error:
                _log.error("SIGHUP: the settings remain as they were: %s", error)
            else:
                _log.info("SIGHUP: the settings were loaded")

    async def _apply(self, settings: ClientSettings) -> None:
        """Change to these settings.

        Raises:
          Failed: an address cannot be listened on, or another server cannot be used.
        """
        asked = fronts(settings, self._gateway)
        gone = {key: door for key, door in self._doors.items() if key not in asked}
        # What listens there has to go first.
        given_up = {door.address.port for door in gone.values()}
        new = {key: front for key, front in asked.items() if key not in self._doors}
        have_password = settings.proxy_users is not None
        opened = await open_doors(
            {key: front for key, front in new.items() if front.address.port not in given_up},
            have_password=have_password,
        )
        try:
            if not self._pool.serves(settings):
                await self._replace_pool(settings)
        except BaseException:
            for door in opened.values():
                door.close()
            raise
        # From here on, nothing is expected to fail.
        settings.log.set_up()
        self._settings = settings
        self._gateway.bypass = Bypass(settings.bypass)
        for key, door in gone.items():
            del self._doors[key]
            door.stop()
        for key, door in self._doors.items():
            door.front = asked[key]
        opened |= await open_doors(
            {key: front for key, front in new.items() if key not in opened}, have_password=have_password
        )
        self._doors |= opened
        self._start(opened.values())

    async def _replace_pool(self, settings: ClientSettings) -> None:
        pool = _Pool(settings, self._store)
        client: trioanytls.Client = await self._pools.start(pool.run)
        self._pool.retire()
        self._pool = pool
        self._gateway.client, self._gateway.capacity = client, _capacity(client)


def _capacity(client: trioanytls.Client) -> int:
    return client.pool.max_connections * client.pool.max_streams_per_connection


def _announce(line: str) -> None:
    try:
        click.echo(line)
    except OSError as error:
        # Whatever reads the standard output has gone. That is no reason not to serve.
        _log.warning("the standard output cannot be written: %s", error.strerror)
        runner.discard_standard_output()

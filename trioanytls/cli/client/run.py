"""The running client: front ends for applications, a pool of connections, and signals.

SIGTERM drains: front ends stop accepting, and open connections have some time to finish. SIGHUP reads the settings
again and applies the changes. Front ends that remain keep their connections, and so does the pool
unless the server changed.
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
from trioanytls.relay import Bypass, Upstream

from . import status_display
from .connectivity_check import ConnectFailures, check
from .front_ends import LocalListener, make_front_ends, open_local_listeners
from .settings import ClientSettings

_log = logging.getLogger("trioanytls.cli")

# How long a request waits for a connection to the server, in seconds. It is shorter than the timeout of `Upstream`,
# whose error could not name the cause.
_OPEN_TIMEOUT: Final = 10.0
# How often a retired pool checks whether its last stream has ended, in seconds.
_CHECK_INTERVAL: Final = 1.0

_HANG_UP: Final[int | None] = getattr(signal, "SIGHUP", None)
_SIGNALS: Final = [signal.SIGTERM, *([_HANG_UP] if _HANG_UP is not None else [])]

ReadSettings = Callable[[], ClientSettings]


def run(settings: ClientSettings, read_again: ReadSettings) -> int:
    """Serve until Ctrl-C or SIGTERM, and return the exit code.

    Args:
      settings: the settings at the start.
      read_again: reads the settings again, after SIGHUP.

    Raises:
      StateError: the state directory that the user named is not writable.
    """
    raise_file_limit()
    client = RelayClient(settings, _scheme_store(settings), read_again)
    try:
        runner.run(client.run)
    except runner.Interrupted:
        # The usual way to stop a client.
        return ExitCode.SUCCESS
    return client.exit_code


def _scheme_store(settings: ClientSettings) -> trioanytls.FileSchemeStore | None:
    """Return the store of padding schemes, None if there is no state directory.

    Raises:
      StateError: the state directory that the user named is not writable.
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
    """The connections to one server. They are closed after `retire`, when the last stream has ended."""

    def __init__(self, settings: ClientSettings, store: trioanytls.SchemeStore | None) -> None:
        self._settings = settings
        self._store = store
        self._retired = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[trioanytls.Client]) -> None:
        """Run the pool. It starts with the client, after the check of the server if the settings ask for it.

        Raises:
          ClientError: the check failed.
        """
        settings, failures = self._settings, ConnectFailures()
        pool = trioanytls.PoolConfig(
            max_streams_per_connection=settings.streams_per_connection, reuse=settings.reuse, open_timeout=_OPEN_TIMEOUT
        )
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
        """Close the pool when its last stream has ended."""
        self._retired.set()

    def serves(self, settings: ClientSettings) -> bool:
        """Return whether a pool for these settings would be the same."""
        old = self._settings
        return all(getattr(old, name) == getattr(settings, name) for name in ("server", "streams", "reuse", "config"))


class RelayClient:
    """The client, from start to end.

    Attributes:
      exit_code: the exit code of the process, valid after `run` has returned.
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
        """Serve the front ends in the settings until SIGTERM.

        Raises:
          ClientError: the client cannot listen on an address, or the check of the server failed.
        """
        settings = self._settings
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            async with trio.open_nursery() as self._pools:
                self._pool = _Pool(settings, self._store)
                client: trioanytls.Client = await self._pools.start(self._pool.run)
                self._upstream = Upstream(client, bypass=Bypass(settings.bypass), capacity=_capacity(client))
                self._listeners = await open_local_listeners(
                    make_front_ends(settings, self._upstream), have_password=settings.proxy_users is not None
                )
                async with trio.open_nursery() as background:
                    async with trio.open_nursery() as self._nursery:
                        background.start_soon(self._handle_signals, signals, background)
                        self._start(self._listeners.values())
                        terminal = None if settings.quiet else status_display.find_terminal()
                        if terminal is not None:
                            background.start_soon(status_display.show, self._upstream, settings.server, terminal)
                        await self._drain()
                    background.cancel_scope.cancel()
                self._pools.cancel_scope.cancel()

    def _start(self, listeners: Iterable[LocalListener]) -> None:
        for listener in listeners:
            self._nursery.start_soon(listener.run)
            # Printed to the standard output after the socket listens: a parent process may be waiting for this line.
            if not self._settings.quiet:
                _announce(f"{listener.front_end.what} on {listener.address}")

    async def _drain(self) -> None:
        await self._draining.wait()
        for listener in self._listeners.values():
            listener.stop()
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
        # One reload at a time, so that the settings that were read last are in use.
        async with self._reloading:
            if self._read_again is None or self._draining.is_set():
                return
            try:
                # The thread is abandoned on cancellation: a file without an end, such as a pipe, must not keep the
                # client from stopping.
                settings = await trio.to_thread.run_sync(self._read_again, abandon_on_cancel=True)
                await self._apply(settings)
            except click.ClickException as error:
                _log.error(
                    "SIGHUP: cannot apply the new settings, keeping the previous ones: %s", error.format_message()
                )
            except (ClientError, OSError) as error:
                _log.error("SIGHUP: cannot apply the new settings, keeping the previous ones: %s", error)
            else:
                _log.info("SIGHUP: loaded the settings")

    async def _apply(self, settings: ClientSettings) -> None:
        """Change to these settings.

        Raises:
          ClientError: the client cannot listen on an address, or the check of another server failed.
        """
        front_ends = make_front_ends(settings, self._upstream)
        removed = {key: listener for key, listener in self._listeners.items() if key not in front_ends}
        # The listeners on these ports have to be closed before others can be opened there.
        busy_ports = {listener.address.port for listener in removed.values()}
        added = {key: front_end for key, front_end in front_ends.items() if key not in self._listeners}
        have_password = settings.proxy_users is not None
        opened = await open_local_listeners(
            {key: front_end for key, front_end in added.items() if front_end.address.port not in busy_ports},
            have_password=have_password,
        )
        try:
            if not self._pool.serves(settings):
                await self._replace_pool(settings)
        except BaseException:
            for listener in opened.values():
                listener.close()
            raise
        # From here on, no step is expected to fail.
        settings.log.set_up()
        self._settings = settings
        self._upstream.bypass = Bypass(settings.bypass)
        for key, listener in removed.items():
            del self._listeners[key]
            listener.stop()
        for key, listener in self._listeners.items():
            listener.front_end = front_ends[key]
        opened |= await open_local_listeners(
            {key: front_end for key, front_end in added.items() if key not in opened}, have_password=have_password
        )
        self._listeners |= opened
        self._start(opened.values())

    async def _replace_pool(self, settings: ClientSettings) -> None:
        pool = _Pool(settings, self._store)
        client: trioanytls.Client = await self._pools.start(pool.run)
        self._pool.retire()
        self._pool = pool
        self._upstream.client, self._upstream.capacity = client, _capacity(client)


def _capacity(client: trioanytls.Client) -> int:
    return client.capacity


def _announce(line: str) -> None:
    try:
        click.echo(line)
    except OSError as error:
        # The reader of the standard output is gone. The client can still serve.
        _log.warning("cannot write to the standard output: %s", error.strerror)
        runner.discard_standard_output()

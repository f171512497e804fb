"""`trioanytls server`: the server, in one process or several, the signals that steer it, and what it says."""

from __future__ import annotations

import functools
import logging
import signal
from collections.abc import AsyncIterator
from typing import Final, Protocol

import trio

import trioanytls
from trioanytls import ServerControl, ServerStats, WorkersControl
from trioanytls.cli.common import os_errors, runner
from trioanytls.cli.common.errors import UserError
from trioanytls.cli.common.exit_codes import ExitCode, after_signal
from trioanytls.cli.common.file_limit import raise_file_limit
from trioanytls.cli.common.option_types import is_address
from trioanytls.destination import Destination
from trioanytls.relay.errors import leaves

from . import client_uri
from .certificate_files import CertificateFiles
from .settings import ServerSettings, WorkerSettings

_log = logging.getLogger("trioanytls.cli")

_HANG_UP: Final[int | None] = getattr(signal, "SIGHUP", None)
_SIGNALS: Final = [signal.SIGTERM, signal.SIGINT, *([_HANG_UP] if _HANG_UP is not None else [])]
# How long connections may take to say goodbye when they are not to go on, in seconds.
_HURRY: Final = 1.0
# For how many users URIs are printed without having been asked for.
_FEW_USERS: Final = 10


def run(settings: ServerSettings) -> int:
    """Serve until told to end; the exit code.

    Raises:
      ListenError: an address cannot be listened on.
    """
    # Workers inherit it.
    raise_file_limit()
    codes: list[int] = []

    async def main() -> None:
        codes.append(await _serve(settings))

    errors: list[BaseException] = []
    try:
        trio.run(main)
    except* ListenError as group:
        errors.extend(leaves(group))
    if errors:
        raise errors[0]
    return codes[0]


async def _serve(settings: ServerSettings) -> int:
    with trio.open_signal_receiver(*_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            server = _SingleProcessServer(settings) if settings.workers == 1 else _MultiProcessServer(settings)
            port = await server.start(nursery)
            if settings.metrics is not None:
                await _start_metrics(nursery, settings, server)
            _say_hello(settings, port)
            steersman = _SignalHandler(settings, server, nursery)
            nursery.start_soon(steersman.heed, signals)
            await server.stopped.wait()
            nursery.cancel_scope.cancel()
    _log.info("stopped")
    return steersman.exit_code


class ListenError(UserError):
    """The server cannot listen on an address."""


class _Server(Protocol):
    """What both kinds of servers have in common."""

    stopped: trio.Event

    async def start(self, nursery: trio.Nursery) -> int:
        """Start it; the port."""

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - not how long the call may take
        """See `ServerControl.drain`."""

    async def replace_users(self, users: dict[str, str]) -> None:
        """See `ServerControl.replace_users`."""

    async def replace_certificate(self, files: CertificateFiles) -> None:
        """See `ServerControl.replace_certificate`."""

    async def snapshot(self) -> ServerStats:
        """See `ServerControl.snapshot`."""


class _SingleProcessServer:
    """A server in this process."""

    def __init__(self, settings: ServerSettings) -> None:
        self.stopped = trio.Event()
        self._settings = settings
        self._control = ServerControl()

    async def start(self, nursery: trio.Nursery) -> int:
        try:
            listeners: list[trio.SocketListener] = await nursery.start(self._run)
        except OSError as error:
            raise ListenError(os_errors.listening(self._settings.listen, "--listen", error)) from error
        _say_where(listeners, "listens on %s")
        port: int = listeners[0].socket.getsockname()[1]
        return port

    async def _run(self, *, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
        await self._settings.serving.serve(self._settings.listen.port, self._control, task_status=task_status)
        self.stopped.set()

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - not how long the call may take
        await self._control.drain(timeout)

    async def replace_users(self, users: dict[str, str]) -> None:
        self._control.replace_users(users)

    async def replace_certificate(self, files: CertificateFiles) -> None:
        self._control.replace_certificate(files.certificate, files.key, "")

    async def snapshot(self) -> ServerStats:
        return self._control.snapshot()


class _MultiProcessServer:
    """A server in processes of their own."""

    def __init__(self, settings: ServerSettings) -> None:
        self.stopped = trio.Event()
        self._settings = settings
        self._control = WorkersControl()

    async def start(self, nursery: trio.Nursery) -> int:
        try:
            port: int = await nursery.start(self._run)
        except OSError as error:
            raise ListenError(os_errors.listening(self._settings.listen, "--listen", error)) from error
        _log.info("listens on port %d", port)
        return port

    async def _run(self, *, task_status: trio.TaskStatus[int]) -> None:
        settings = self._settings
        await trioanytls.serve_workers(
            functools.partial(work, settings.serving),
            settings.listen.port,
            host=settings.listen.host,
            workers=settings.workers or None,
            drain_timeout=settings.serving.config.drain_timeout,
            control=self._control,
            task_status=task_status,
        )
        self.stopped.set()

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - not how long the call may take
        await self._control.drain(timeout)

    async def replace_users(self, users: dict[str, str]) -> None:
        await self._control.replace_users(users)

    async def replace_certificate(self, files: CertificateFiles) -> None:
        await self._control.replace_certificate(files.certificate, files.key)

    async def snapshot(self) -> ServerStats:
        return await self._control.snapshot()


async def work(serving: WorkerSettings, port: int, control: ServerControl) -> None:
    """Be a worker of `trioanytls.serve_workers`."""
    serving.log.set_up()
    await serving.serve(port, control, reuse_port=True)


# Signals


class _SignalHandler:
    """Does as signals say.

    Attributes:
      exit_code: for when the server has stopped.
    """

    def __init__(self, settings: ServerSettings, server: _Server, nursery: trio.Nursery) -> None:
        self.exit_code: int = ExitCode.SUCCESS
        self._settings = settings
        self._server = server
        self._nursery = nursery
        self._draining = False
        self._reading = trio.Lock()

    async def heed(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == _HANG_UP:
                self._nursery.start_soon(self._reload)
            elif not self._draining:
                self._draining = True
                timeout = self._settings.serving.config.drain_timeout
                name = signal.Signals(number).name
                _log.info("%s: no new streams; what is open may go on for %g s; again to end at once", name, timeout)
                self._nursery.start_soon(self._server.drain, timeout)
            else:
                self._nursery.start_soon(self._force_stop, number)

    async def _force_stop(self, number: int) -> None:
        _log.info("%s again: it ends at once", signal.Signals(number).name)
        self.exit_code = after_signal(number)
        self._nursery.start_soon(self._server.drain, 0)
        await trio.sleep(_HURRY)
        # Somebody does not read, and would be waited for.
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    async def _reload(self) -> None:
        # One after the other, so that what was read last is what holds.
        async with self._reading:
            secrets = self._settings.secrets
            try:
                # A file that cannot be read to its end, as a pipe, is not to keep the server from ending.
                users = await trio.to_thread.run_sync(secrets.read_users, abandon_on_cancel=True)
                await self._server.replace_users(users)
                _log.info("SIGHUP: %d users from now on", len(users))
            except _UNREADABLE as error:
                _log.error("SIGHUP: the users remain as they were: %s", error)
            try:
                files = await trio.to_thread.run_sync(secrets.read_certificate, abandon_on_cancel=True)
                description = files.check()
                files.warn_of_expiry(description)
                await self._server.replace_certificate(files)
                _log.info("SIGHUP: the certificate is valid until %s", description.expiry.date())
            except _UNREADABLE as error:
                _log.error("SIGHUP: the certificate remains as it was: %s", error)


# Beside what is wrong with the files: what the library says of what is in them.
_UNREADABLE: Final = (UserError, OSError, ValueError, trio.TooSlowError)


# What is said


async def _start_metrics(nursery: trio.Nursery, settings: ServerSettings, server: _Server) -> None:
    from trioanytls.metrics import serve_metrics

    address = settings.metrics
    assert address is not None  # noqa: S101 - it is asked before
    try:
        listeners = await nursery.start(functools.partial(serve_metrics, server, address.port, host=address.host))
    except OSError as error:
        raise ListenError(os_errors.listening(address, "--metrics", error)) from error
    _say_where(listeners, "metrics are at http://%s/metrics")


def _warn_of_scheme(serving: WorkerSettings) -> None:
    """Log a warning if clients with the default limits do not accept the padding scheme."""
    if serving.scheme is None:
        return
    excess = trioanytls.Config().limits.find_excess(trioanytls.PaddingScheme.parse(serving.scheme))
    if excess is not None:
        what, value, limit = excess
        _log.warning(
            "--padding-scheme: its %s is %d, but clients with the default limits accept at most %d and disconnect",
            what,
            value,
            limit,
        )


def _say_hello(settings: ServerSettings, port: int) -> None:
    serving, public = settings.serving, settings.public
    certificate = serving.certificate.check()
    serving.certificate.warn_of_expiry(certificate)
    for what, networks in (("may", serving.policy.allow), ("may not", serving.policy.deny)):
        if networks:
            _log.info("%s be connected to: %s", what, ", ".join(map(str, networks)))
    _warn_of_scheme(serving)
    if not _is_uri_wanted(settings):
        return
    if settings.is_guessed and is_address(public.host):
        _log.info(
            "%s in the URI is what this machine has; if clients reach it by another one: --public-host", public.host
        )
    try:
        client_uri.announce(serving.users, public, port, certificate, qr=settings.qr)
    except trioanytls.URIError as error:
        _log.warning("there is no URI for clients: %s; --public-host names what they connect to", error)
    except OSError as error:
        _log.warning("the URI cannot be printed: %s", error.strerror)
        runner.discard_standard_output()


def _is_uri_wanted(settings: ServerSettings) -> bool:
    """Whether to print what has passwords in it, where nobody has said so."""
    if settings.print_uri is not None:
        return settings.print_uri
    if settings.serving.log.level >= logging.WARNING:
        return False
    if client_uri.is_journal():
        _log.info("the URI for clients has the password in it, and is not for the journal: --print-uri prints it")
        return False
    if len(settings.serving.users) > _FEW_USERS:
        _log.info("there are %d users, too many for a list of URIs: --print-uri prints it", len(settings.serving.users))
        return False
    return True


def _say_where(listeners: list[trio.SocketListener], text: str) -> None:
    for listener in listeners:
        host, port, *_ = listener.socket.getsockname()
        _log.info(text, Destination(host, port))

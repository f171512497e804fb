"""The running server: in the process of the command, or in several worker processes."""

from __future__ import annotations

import functools
import logging
from typing import Protocol

import trio

import trioanytls
from trioanytls import ServerControl, ServerStats, WorkersControl
from trioanytls.cli.common import os_errors
from trioanytls.cli.common.errors import UserError
from trioanytls.destination import Destination

from .certificate_files import CertificateFiles
from .settings import ServerSettings, WorkerSettings

_log = logging.getLogger("trioanytls.cli")


class ListenError(UserError):
    """The server cannot listen on an address."""


class Server(Protocol):
    """The common interface of `SingleProcessServer` and `MultiProcessServer`.

    Attributes:
      stopped: set after the server has stopped.
    """

    stopped: trio.Event

    async def start(self, nursery: trio.Nursery) -> int:
        """Start the server in `nursery`, and return its port.

        Raises:
          ListenError: it cannot listen on its address.
        """

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - not how long the call may take
        """See `ServerControl.drain`."""

    async def replace_users(self, users: dict[str, str]) -> None:
        """See `ServerControl.replace_users`."""

    async def replace_certificate(self, files: CertificateFiles) -> None:
        """See `ServerControl.replace_certificate`."""

    async def snapshot(self) -> ServerStats:
        """See `ServerControl.snapshot`."""


class SingleProcessServer:
    """A server in the process of the command. See `Server`."""

    def __init__(self, settings: ServerSettings) -> None:
        self.stopped: trio.Event = trio.Event()
        self._settings = settings
        self._control = ServerControl()

    async def start(self, nursery: trio.Nursery) -> int:
        """See `Server.start`."""
        try:
            listeners: list[trio.SocketListener] = await nursery.start(self._run)
        except OSError as error:
            raise _listen_error(self._settings, error) from error
        log_addresses(listeners, "listening on %s")
        port: int = listeners[0].socket.getsockname()[1]
        return port

    async def _run(self, *, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
        await self._settings.serving.serve(self._settings.listen.port, self._control, task_status=task_status)
        self.stopped.set()

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - not how long the call may take
        """See `ServerControl.drain`."""
        await self._control.drain(timeout)

    async def replace_users(self, users: dict[str, str]) -> None:
        """See `ServerControl.replace_users`."""
        self._control.replace_users(users)

    async def replace_certificate(self, files: CertificateFiles) -> None:
        """See `ServerControl.replace_certificate`."""
        self._control.replace_certificate(files.certificate, files.key, "")

    async def snapshot(self) -> ServerStats:
        """See `ServerControl.snapshot`."""
        return self._control.snapshot()


class MultiProcessServer:
    """A server in several worker processes. See `Server`."""

    def __init__(self, settings: ServerSettings) -> None:
        self.stopped: trio.Event = trio.Event()
        self._settings = settings
        self._control = WorkersControl()

    async def start(self, nursery: trio.Nursery) -> int:
        """See `Server.start`."""
        try:
            port: int = await nursery.start(self._run)
        except OSError as error:
            raise _listen_error(self._settings, error) from error
        _log.info("listening on port %d", port)
        return port

    async def _run(self, *, task_status: trio.TaskStatus[int]) -> None:
        settings = self._settings
        await trioanytls.serve_workers(
            functools.partial(run_worker, settings.serving),
            settings.listen.port,
            host=settings.listen.host,
            workers=settings.workers or None,
            drain_timeout=settings.serving.config.drain_timeout,
            control=self._control,
            task_status=task_status,
        )
        self.stopped.set()

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - not how long the call may take
        """See `WorkersControl.drain`."""
        await self._control.drain(timeout)

    async def replace_users(self, users: dict[str, str]) -> None:
        """See `WorkersControl.replace_users`."""
        self._control.replace_users(users)

    async def replace_certificate(self, files: CertificateFiles) -> None:
        """See `WorkersControl.replace_certificate`."""
        self._control.replace_certificate(files.certificate, files.key)

    async def snapshot(self) -> ServerStats:
        """See `WorkersControl.refresh`."""
        return await self._control.refresh()


async def run_worker(serving: WorkerSettings, port: int, control: ServerControl) -> None:
    """Run a worker process of `trioanytls.serve_workers`."""
    serving.log.set_up()
    await serving.serve(port, control, reuse_port=True)


def log_addresses(listeners: list[trio.SocketListener], text: str) -> None:
    """Log `text` with the address of each listener."""
    for listener in listeners:
        host, port, *_ = listener.socket.getsockname()
        _log.info(text, Destination(host, port))


def _listen_error(settings: ServerSettings, error: OSError) -> ListenError:
    return ListenError(os_errors.describe_listen_error(settings.listen, "--listen", error))

"""The signals that control a running server.

SIGTERM and SIGINT drain the server, and stop it immediately if they are sent again. SIGHUP reloads the users and the
certificate.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator
from typing import Final

import trio

from trioanytls.cli.common.errors import UserError
from trioanytls.cli.common.exit_codes import ExitCode, after_signal

from .processes import Server
from .settings import ServerSettings

_log = logging.getLogger("trioanytls.cli")

_HANG_UP: Final[int | None] = getattr(signal, "SIGHUP", None)
#: The signals that `SignalHandler` handles.
SIGNALS: Final[list[int]] = [signal.SIGTERM, signal.SIGINT, *([_HANG_UP] if _HANG_UP is not None else [])]
# How long the close handshakes of all connections may take after a second signal, in seconds.
_FORCE_TIMEOUT: Final = 1.0
# The errors that leave the previous users or certificate in place: invalid files, and content that the library rejects.
_RELOAD_ERRORS: Final = (UserError, OSError, ValueError)


class SignalHandler:
    """The signal handler of a server.

    Attributes:
      exit_code: the exit code of the process, valid after the server has stopped.
    """

    def __init__(self, settings: ServerSettings, server: Server, nursery: trio.Nursery) -> None:
        self.exit_code: int = ExitCode.SUCCESS
        self._settings = settings
        self._server = server
        self._nursery = nursery
        self._draining = False
        self._reloading = trio.Lock()

    async def handle(self, signals: AsyncIterator[int]) -> None:
        """Handle signals until cancelled."""
        async for number in signals:
            if number == _HANG_UP:
                self._nursery.start_soon(self._reload)
            elif not self._draining:
                self._draining = True
                timeout = self._settings.serving.config.drain_timeout
                _log.info(
                    "%s: draining, open streams have %g s to finish; send the signal again to stop immediately",
                    signal.Signals(number).name,
                    timeout,
                )
                self._nursery.start_soon(self._server.drain, timeout)
            else:
                self._nursery.start_soon(self._force_stop, number)

    async def _force_stop(self, number: int) -> None:
        _log.info("%s again: stopping immediately", signal.Signals(number).name)
        self.exit_code = after_signal(number)
        self._nursery.start_soon(self._server.drain, 0)
        await trio.sleep(_FORCE_TIMEOUT)
        # A peer that does not read would delay the end for longer.
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    async def _reload(self) -> None:
        # One reload at a time, so that the files that were read last are in use.
        async with self._reloading:
            await self._reload_users()
            await self._reload_certificate()

    # Files are read in a thread that is abandoned on cancellation: a file without an end, such as a pipe, must not keep
    # the server from stopping.

    async def _reload_users(self) -> None:
        try:
            users = await trio.to_thread.run_sync(self._settings.secrets.read_users, abandon_on_cancel=True)
            await self._server.replace_users(users)
        except _RELOAD_ERRORS as error:
            _log.error("SIGHUP: cannot load the users, keeping the previous ones: %s", error)
        else:
            _log.info("SIGHUP: loaded %d %s", len(users), "user" if len(users) == 1 else "users")

    async def _reload_certificate(self) -> None:
        try:
            files = await trio.to_thread.run_sync(self._settings.secrets.read_certificate, abandon_on_cancel=True)
            description = files.check()
            files.warn_of_expiry(description)
            await self._server.replace_certificate(files)
        except _RELOAD_ERRORS as error:
            _log.error("SIGHUP: cannot load the certificate, keeping the previous one: %s", error)
        else:
            _log.info("SIGHUP: loaded the certificate, which is valid until %s", description.expiry.date())

"""The client of the relay: listeners for applications, and one pool of connections to the server."""

from __future__ import annotations

import contextlib
import logging
import signal
from typing import Final

import click
import trio

import trioanytls
from trioanytls.destination import Destination

from . import _live, _run
from ._bypass import Bypass
from ._client_command import ClientSettings
from ._doors import open_doors
from ._errors import Failed
from ._gateway import Gateway
from ._state import StateDirectory, StateError, default_directory

_log = logging.getLogger("trioanytls.cli")

# How long the first question to the server may take, in seconds: longer than making a connection may.
_CHECK_TIMEOUT: Final = 15.0
# How long an application's request waits for a connection to the server, in seconds: less than the gateway's patience,
# which could not say what stands in the way.
_OPEN_TIMEOUT: Final = 10.0


def run(settings: ClientSettings) -> int:
    """Serve until Ctrl-C or SIGTERM, and return the exit code.

    Raises:
      StateError: the directory for state that the user has named cannot be written.
    """
    store = _scheme_store(settings)
    try:
        _run.run(lambda: serve(settings, store))
    except _run.Interrupted:
        # The usual way to end it.
        return 0
    return 0


async def serve(settings: ClientSettings, store: trioanytls.SchemeStore | None) -> None:
    """Offer what was asked for, until SIGTERM.

    Raises:
      Failed: an address cannot be listened on, or the server cannot be used.
    """
    failures = ConnectFailures()
    pool = trioanytls.PoolConfig(max_streams_per_connection=settings.streams, open_timeout=_OPEN_TIMEOUT)
    async with trioanytls.open_client_uri(
        settings.server, config=settings.config, pool=pool, scheme_store=store, events=failures
    ) as client:
        gateway = Gateway(client, bypass=Bypass(settings.bypass))
        if settings.check:
            await check(client, Destination(settings.server.host, settings.server.port), failures)
        doors = await open_doors(settings, gateway)
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                for door in doors:
                    nursery.start_soon(door.run)
                    # On standard output, and only now: whoever started this may wait for it.
                    if not settings.quiet:
                        _announce(f"{door.what} on {door.address}")
                terminal = None if settings.quiet else _live.find_terminal()
                if terminal is not None:
                    nursery.start_soon(_live.show, gateway, settings.server, terminal)
                async for _ in signals:
                    break
                nursery.cancel_scope.cancel()


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


def _announce(line: str) -> None:
    try:
        click.echo(line)
    except OSError as error:
        # Whatever reads the standard output has gone. That is no reason not to serve.
        _log.warning("the standard output cannot be written: %s", error.strerror)


class ConnectFailures(trioanytls.ClientEvents):
    """Lets the check at the start end with the first attempt to connect that fails.

    Later on, the client tries again for as long as applications wait.

    Attributes:
      error: the failure.
      scope: is cancelled by it.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.scope = trio.CancelScope()

    def on_connect_failed(self, error: Exception, attempt: int) -> None:
        """See `trioanytls.ClientEvents`."""
        self.error = error
        self.scope.cancel()


async def check(client: trioanytls.Client, server: Destination, failures: ConnectFailures) -> None:
    """Ask the server once whether it is there and accepts the password, over a connection that is used afterwards.

    Raises:
      Failed: it does not, as far as can be known.
    """
    failures.scope.deadline = trio.current_time() + _CHECK_TIMEOUT
    try:
        with failures.scope, contextlib.suppress(trioanytls.ConnectFailed):
            await client.ping()
            return
        if failures.error is not None:
            raise failures.error
        raise Failed(f"{server} has not answered in time: a firewall may be blocking the connection")
    except trioanytls.CertificateError as error:
        raise Failed(
            f"{server}: {error}. For a server with a self-signed certificate, use the URI that it printed, with pin=..."
            " in it; otherwise check the name, or sni=..."
        ) from error
    except trioanytls.TLSError as error:
        raise Failed(f"{server}: {error}. Is it an ANYTLS server? They speak TLS 1.3") from error
    except trioanytls.ConnectionClosed as error:
        # Nobody can tell these apart, which is the protocol's intention.
        raise Failed(
            f"{server} closed the connection without a word after the password: most likely it does not know the"
            " password, or it is not an ANYTLS server"
        ) from error
    except OSError as error:
        hint = "Check address and port, and whether the server runs"
        raise Failed(f"{server} cannot be reached: {error.strerror or error}. {hint}") from error

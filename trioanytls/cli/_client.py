"""The client of the relay: listeners for applications, and one pool of connections to the server."""

from __future__ import annotations

import errno
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import click
import trio
from attrs import frozen

import trioanytls
from trioanytls.destination import Destination

from . import _live, _run
from ._client_command import ClientSettings
from ._gateway import Gateway
from ._proxies import Forward, HTTPProxy, SocksProxy

# How long the first question to the server may take, in seconds.
_CHECK_TIMEOUT: Final = 15.0


class Failed(Exception):
    """The client cannot do what it is for; the text says what to do about it."""


@frozen
class Door:
    """What applications can connect to.

    Attributes:
      what: for people.
      listeners: what it listens on.
      serve: serves a connection.
    """

    what: str
    listeners: list[trio.SocketListener]
    serve: Callable[[trio.SocketStream], Awaitable[object]]

    @property
    def address(self) -> Destination:
        """Where it is; the port that the system chose where none was asked for."""
        host, port, *_ = self.listeners[0].socket.getsockname()
        return Destination(host, port)


def run(settings: ClientSettings) -> int:
    """Serve until Ctrl-C or SIGTERM; the exit code."""
    level = logging.WARNING if settings.quiet else logging.DEBUG if settings.verbose else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        _run.run(lambda: serve(settings))
    except _run.Interrupted:
        # The usual way to end it.
        return 0
    except Failed as error:
        raise click.ClickException(str(error)) from error
    return 0


async def serve(settings: ClientSettings) -> None:
    """Offer what was asked for, until SIGTERM.

    Raises:
      Failed: an address cannot be listened on, or the server cannot be used.
    """
    store = None if settings.state_dir is None else trioanytls.FileSchemeStore(settings.state_dir)
    pool = trioanytls.PoolConfig(max_streams_per_connection=settings.streams)
    async with trioanytls.open_client_uri(settings.server, pool=pool, scheme_store=store) as client:
        gateway = Gateway(client)
        doors = await _open_doors(settings, gateway)
        if settings.check:
            await check(client, settings.server)
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                for door in doors:
                    nursery.start_soon(trio.serve_listeners, door.serve, door.listeners)
                    # On standard output, and only now: whoever started this may wait for it.
                    if not settings.quiet:
                        click.echo(f"{door.what} on {door.address}")
                if sys.stdout.isatty() and not settings.quiet:
                    nursery.start_soon(_live.show, gateway, settings.server)
                async for _ in signals:
                    break
                nursery.cancel_scope.cancel()


async def _open_doors(settings: ClientSettings, gateway: Gateway) -> list[Door]:
    credentials = settings.credentials
    doors: list[tuple[str, Destination, Callable[[trio.SocketStream], Awaitable[object]]]] = [
        *[("SOCKS5", address, SocksProxy(gateway, credentials)) for address in settings.socks],
        *[("HTTP proxy", address, HTTPProxy(gateway, credentials)) for address in settings.http],
        *[
            (f"forward to {forward.destination}", forward.local, Forward(gateway, forward.destination))
            for forward in settings.forwards
        ],
    ]
    return [Door(what, await _listen(address), serve) for what, address, serve in doors]


async def _listen(address: Destination) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(address.port, host=address.host)
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "")
        raise Failed(f"{address} cannot be listened on: {error.strerror or error}{hint}") from error


_HINTS: Final = {
    errno.EADDRINUSE: "; another program has that port: stop it, or choose another port",
    errno.EACCES: "; ports below 1024 need privileges: choose a higher one",
    errno.EADDRNOTAVAIL: "; this machine does not have that address",
}


async def check(client: trioanytls.Client, server: trioanytls.ServerURI) -> None:
    """Ask the server whether it is there, and has accepted the password.

    Raises:
      Failed: it has not, as far as can be known.
    """
    name = Destination(server.host, server.port)
    try:
        with trio.fail_after(_CHECK_TIMEOUT):
            stream = await client.open_stream()
            async with stream:
                await stream.connection.ping()
    except trioanytls.ConnectFailed as error:
        raise Failed(f"{name}: {describe(error)}") from error
    except trioanytls.ConnectionClosed as error:
        # Nobody can tell these apart, which is the protocol's intention.
        raise Failed(
            f"{name} closed the connection without a word after the password: most likely it does not know the"
            " password, or it is no ANYTLS server"
        ) from error
    except trio.TooSlowError as error:
        raise Failed(
            f"{name} has not answered within {_CHECK_TIMEOUT:g} s: is something between that filters?"
        ) from error


def describe(error: trioanytls.ConnectFailed) -> str:
    """What is wrong, and what to do about it."""
    cause = error.__cause__
    if isinstance(cause, trioanytls.CertificateError):
        return (
            f"{cause}. For a server with a certificate of its own, use the URI that it printed, with pin=... in it; "
            "otherwise check the name, or sni=..."
        )
    if isinstance(cause, trioanytls.TLSError):
        return f"{cause}. Is it an ANYTLS server? They speak TLS 1.3"
    if isinstance(cause, OSError):
        return f"it cannot be reached: {cause}. Check address and port, and whether the server runs"
    return str(error)

"""`trioanytls server`: start the server, print what clients need, and run until a signal stops it."""

from __future__ import annotations

import functools
import logging
from typing import Final

import click
import trio

import trioanytls
from trioanytls.cli.common import os_errors, runner
from trioanytls.cli.common.file_limit import raise_file_limit
from trioanytls.cli.common.option_types import is_address
from trioanytls.relay.errors import leaves

from . import client_uri, outbounds
from .processes import ListenError, MultiProcessServer, Server, SingleProcessServer, log_addresses
from .settings import ServerSettings, WorkerSettings
from .signals import SIGNALS, SignalHandler

_log = logging.getLogger("trioanytls.cli")

# The highest number of users for which URIs are printed by default.
_MAX_PRINTED_USERS: Final = 10


def run(settings: ServerSettings) -> int:
    """Serve until a signal stops the server, and return the exit code.

    Raises:
      ListenError: the server cannot listen on an address.
    """
    # Worker processes inherit the limit.
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
    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            server = SingleProcessServer(settings) if settings.workers == 1 else MultiProcessServer(settings)
            port = await server.start(nursery)
            if settings.metrics is not None:
                await _start_metrics(nursery, settings, server)
            announce(settings, port)
            handler = SignalHandler(settings, server, nursery)
            nursery.start_soon(handler.handle, signals)
            await server.stopped.wait()
            nursery.cancel_scope.cancel()
    _log.info("server stopped")
    return handler.exit_code


async def _start_metrics(nursery: trio.Nursery, settings: ServerSettings, server: Server) -> None:
    from trioanytls.metrics import serve_metrics

    address = settings.metrics
    assert address is not None  # noqa: S101 - the caller checks it
    try:
        listeners = await nursery.start(functools.partial(serve_metrics, server, address.port, host=address.host))
    except OSError as error:
        raise ListenError(os_errors.describe_listen_error(address, "--metrics", error)) from error
    log_addresses(listeners, "serving metrics at http://%s/metrics")


def announce(settings: ServerSettings, port: int) -> None:
    """Log the settings that an administrator should see at the start, and print the URIs for clients."""
    serving, public = settings.serving, settings.public
    certificate = serving.certificate.check()
    serving.certificate.warn_of_expiry(certificate)
    for text, networks in (
        ("destinations allowed by --allow: %s", serving.policy.allow),
        ("destinations denied by --deny: %s", serving.policy.deny),
    ):
        if networks:
            _log.info(text, ", ".join(map(str, networks)))
    _warn_of_scheme(serving)
    if not _should_print_uri(settings):
        return
    if settings.is_guessed and is_address(public.host):
        _log.info("The URI uses this machine's address %s; pass --public-host if clients use another one", public.host)
    try:
        servers = {
            name: client_uri.describe_server(public, port, password, certificate, serving.protocols)
            for name, password in serving.users.items()
        }
        if settings.outbound is None:
            client_uri.announce(servers, qr=settings.qr)
        else:
            click.echo(outbounds.FORMS[settings.outbound](servers, certificate))
    except trioanytls.URIError as error:
        _log.warning("cannot make a URI for clients: %s; give the server's address with --public-host", error)
    except OSError as error:
        _log.warning("cannot print the URI: %s", error.strerror)
        runner.discard_standard_output()


def _warn_of_scheme(serving: WorkerSettings) -> None:
    """Log a warning if clients with the default limits do not accept the padding scheme."""
    if serving.scheme is None:
        return
    excess = trioanytls.Config().limits.find_excess(trioanytls.PaddingScheme.parse(serving.scheme))
    if excess is not None:
        what, value, limit = excess
        _log.warning(
            "--padding-scheme: the scheme's %s is %d, but clients with the default limits accept at most %d and "
            "disconnect",
            what,
            value,
            limit,
        )


def _should_print_uri(settings: ServerSettings) -> bool:
    """Return whether to print URIs, which contain passwords. Without an option, it depends on the circumstances."""
    if settings.print_uri is not None:
        return settings.print_uri
    if settings.serving.log.level >= logging.WARNING:
        return False
    if client_uri.is_journal():
        _log.info("the URI contains the password and is not printed to the journal; pass --print-uri to print it")
        return False
    if len(settings.serving.users) > _MAX_PRINTED_USERS:
        _log.info("the URIs of %d users are not printed; pass --print-uri to print them", len(settings.serving.users))
        return False
    return True

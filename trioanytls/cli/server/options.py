"""`trioanytls server`: its options, from the command line, the environment and a file. What it does is in `run`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from trioanytls.cli.common import extras
from trioanytls.cli.common.config_file import config_option, document
from trioanytls.cli.common.logging import LOG_FORMAT
from trioanytls.cli.common.option_types import LISTEN, NETWORK, PUBLIC, SERVICE

from . import users

_log = logging.getLogger("trioanytls.cli")

_FILE: Final = click.Path(path_type=Path)
_SECONDS: Final = click.FloatRange(0, min_open=True)


@click.command()
@config_option(keys=("password",), tables=("users", "connection"), without=("password-insecure",))
@click.option(
    "--listen",
    type=LISTEN,
    default="*:8443",
    show_default=True,
    help="Where to listen; *:PORT is on all addresses, a port alone is on 127.0.0.1.",
)
@click.option("--password-file", metavar="FILE", type=_FILE, help="A file with the password on its only line.")
@click.option("--users-file", metavar="FILE", type=_FILE, help="A file with a line NAME:PASSWORD for each user.")
@click.option(
    "--password-insecure",
    metavar="PASSWORD",
    help="The password itself. Everybody on this machine sees it in the list of processes.",
)
@click.option("--cert", metavar="FILE", type=_FILE, help="The certificate chain, in PEM.")
@click.option("--key", metavar="FILE", type=_FILE, help="The private key, in PEM; default: it is in the same file.")
@click.option(
    "--self-signed",
    is_flag=True,
    help="Make a certificate, and a password where none is given, and keep them. Clients know the server by the pin in "
    "the URI that is printed.",
)
@click.option("--state-dir", metavar="DIRECTORY", type=_FILE, help="Where to keep what --self-signed makes.")
@click.option(
    "--public-host", type=PUBLIC, help="What clients connect to, for the URI; default: found out as well as possible."
)
@click.option(
    "--fallback",
    type=SERVICE,
    help="A TCP service that gets the connections that are not ANYTLS; a port alone is one of 127.0.0.1.",
)
@click.option("--padding-scheme", metavar="FILE", type=_FILE, help="The padding scheme that clients are to use.")
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Processes; 0: one a processor.",
)
@click.option(
    "--allow",
    type=NETWORK,
    multiple=True,
    help="A network that may be connected to, though it is private, loopback, or otherwise not everybody's. Can be "
    "given several times, as the two below.",
)
@click.option("--deny", type=NETWORK, multiple=True, help="A network that may not be connected to; it wins.")
@click.option(
    "--proxy-protocol",
    type=NETWORK,
    multiple=True,
    help="A network of proxies that put a header of the PROXY protocol in front of each connection.",
)
@click.option(
    "--metrics",
    type=LISTEN,
    help="Where to show counters to Prometheus, over HTTP without a password; a port alone is one of 127.0.0.1.",
)
@click.option(
    "--connect-timeout",
    metavar="SECONDS",
    type=_SECONDS,
    default=10.0,
    show_default=True,
    help="How long a destination may take to be connected to.",
)
@click.option(
    "--drain-timeout",
    metavar="SECONDS",
    type=_SECONDS,
    default=30.0,
    show_default=True,
    help="How long connections may go on after SIGTERM.",
)
@click.option("--print-uri/--no-print-uri", default=None, help="Print the URIs for clients, with their passwords.")
@click.option("--qr/--no-qr", default=None, help="Print the URI as a QR code, too; default: on a terminal.")
@LOG_FORMAT
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but warnings and errors; print no URI.")
@click.option("-v", "--verbose", is_flag=True, help="Say where each stream goes.")
@click.pass_context
def server(context: click.Context, /, config: Path | None, **options: Any) -> None:
    """Relay streams to where their clients want them.

    Each stream begins with a destination, to which the server connects. Loopback, private and all other addresses that
    are not everybody's are refused, unless --allow says otherwise.

    It needs a certificate (--cert and --key, or --self-signed) and a password: from --password-file, --users-file, the
    environment variable TRIOANYTLS_PASSWORD, or the configuration file. SIGHUP reads both anew. SIGTERM and Ctrl-C let
    what is under way finish; a second one does not.
    """
    # Only now: the help needs none of it.
    from . import run
    from . import settings as _server_settings

    def is_on_command_line(name: str) -> bool:
        return context.get_parameter_source(name) is ParameterSource.COMMANDLINE

    given = _server_settings.ParsedOptions(options, document(context), is_on_command_line, users.from_environment())
    log = _server_settings.log_settings(given)
    log.set_up()
    hint = None if options["metrics"] is None else extras.hint("--metrics", "metrics")
    if hint is not None:
        sys.exit(extras.give_up(hint))
    settings = _server_settings.collect(given)
    if options["password_insecure"] is not None:
        _log.warning("--password-insecure: others on this machine can see the password in the list of processes")
    code = run.run(settings)
    sys.exit(code)

"""`trioanytls server`: the command. `run` has its implementation, and is imported only if the command runs."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from trioanytls.cli.common import extras
from trioanytls.cli.common.config_file import config_option, document
from trioanytls.cli.common.logging import LogSettings, log_options
from trioanytls.cli.common.option_types import EXTENSIONS, LISTEN, NETWORK, PROTOCOL, PUBLIC, SERVICE

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
    help="The address to listen on. *:PORT means all addresses, a port alone means 127.0.0.1.",
)
@click.option("--password-file", metavar="FILE", type=_FILE, help="A file whose only line is the password.")
@click.option("--users-file", metavar="FILE", type=_FILE, help="A file with a line NAME:PASSWORD for each user.")
@click.option(
    "--password-insecure",
    metavar="PASSWORD",
    help="The password itself. Every user of this machine can see it in the process list.",
)
@click.option("--cert", metavar="FILE", type=_FILE, help="The certificate chain, in PEM format.")
@click.option(
    "--key", metavar="FILE", type=_FILE, help="The private key, in PEM format; default: in the certificate's file."
)
@click.option(
    "--self-signed",
    is_flag=True,
    help="Generate a certificate, and a password if none is given, and keep both for the next start. Clients verify "
    "the server by the pin in the URI that is printed.",
)
@click.option(
    "--state-dir", metavar="DIRECTORY", type=_FILE, help="The directory for the files that --self-signed generates."
)
@click.option(
    "--public-host",
    type=PUBLIC,
    help="The server's address in the URI for clients; default: the certificate's name or this machine's address.",
)
@click.option(
    "--protocol",
    type=PROTOCOL,
    multiple=True,
    help="Accept clients of this wire format: anytls1 is that of the specification, legacy that of anytls-go, "
    "sing-box and mihomo; default: both, on the same port.",
)
@click.option(
    "--extensions",
    type=EXTENSIONS,
    help="The extensions of the protocol to accept if a client offers them: fin, goaway, reset, window, separated by "
    "commas, or none; default: all.",
)
@click.option(
    "--fallback",
    type=SERVICE,
    help="A TCP service that takes over the connections of unauthenticated clients. A port alone means 127.0.0.1.",
)
@click.option(
    "--padding-scheme", metavar="FILE", type=_FILE, help="The padding scheme that the server sends to clients."
)
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="The number of server processes; 0: one per processor.",
)
@click.option(
    "--allow",
    type=NETWORK,
    multiple=True,
    help="Allow destinations in this network even if its addresses are not public, such as loopback and private ones. "
    "This option and the two below can be given several times.",
)
@click.option(
    "--deny", type=NETWORK, multiple=True, help="Refuse destinations in this network. This overrides --allow."
)
@click.option(
    "--proxy-protocol",
    type=NETWORK,
    multiple=True,
    help="Require a PROXY protocol header on connections from this network, and trust it.",
)
@click.option(
    "--metrics",
    type=LISTEN,
    help="Serve metrics for Prometheus on this address, over HTTP without a password. A port alone means 127.0.0.1.",
)
@click.option(
    "--connect-timeout",
    metavar="SECONDS",
    type=_SECONDS,
    default=10.0,
    show_default=True,
    help="Timeout for connecting to a destination.",
)
@click.option(
    "--drain-timeout",
    metavar="SECONDS",
    type=_SECONDS,
    default=30.0,
    show_default=True,
    help="How long open streams have to finish after SIGTERM.",
)
@click.option("--print-uri/--no-print-uri", default=None, help="Print the URIs for clients, which contain passwords.")
@click.option(
    "--print",
    "outbound",
    type=click.Choice(["sing-box", "mihomo"]),
    help="Print configurations for clients in this form instead of URIs: outbounds of sing-box in JSON, or proxies of "
    "mihomo in YAML.",
)
@click.option(
    "--qr/--no-qr", default=None, help="Also print the URI as a QR code; default: if the output is a terminal."
)
@log_options(not_printed="URI")
@click.pass_context
def server(context: click.Context, /, config: Path | None, **options: Any) -> None:
    """Run a relay server.

    Each stream begins with a destination, and the server connects to it. Only public addresses are allowed as
    destinations, unless --allow allows others.

    The server requires a certificate (--cert and --key, or --self-signed) and a password, from --password-file,
    --users-file, the environment variable TRIOANYTLS_PASSWORD, or the configuration file. SIGHUP reloads both. SIGTERM
    and Ctrl-C let open streams finish; sending either again stops the server immediately.
    """
    # Imported here, since --help does not need them.
    from . import run
    from . import settings as server_settings

    def is_on_command_line(name: str) -> bool:
        return context.get_parameter_source(name) is ParameterSource.COMMANDLINE

    log = LogSettings.from_options(context, show_process=options["workers"] != 1)
    log.set_up()
    given = server_settings.ParsedOptions(options, document(context), is_on_command_line, users.from_environment(), log)
    hint = None if options["metrics"] is None else extras.hint("--metrics", "metrics")
    if hint is not None:
        sys.exit(extras.fail(hint))
    settings = server_settings.collect(given)
    if options["password_insecure"] is not None:
        _log.warning("--password-insecure: other users of this machine can see the password in the process list")
    sys.exit(run.run(settings))

"""`trioanytls client`: the command. `run` has its implementation, and is imported only if the command runs."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Final

import click
from click.core import ParameterSource

from trioanytls.cli.common.config_file import config_option, document
from trioanytls.cli.common.connection_settings import make_config
from trioanytls.cli.common.errors import InvalidSettings
from trioanytls.cli.common.logging import LogSettings, log_options
from trioanytls.cli.common.option_types import EXTENSIONS, LISTEN_LOCAL, ListenAddress, Parsed
from trioanytls.cli.common.password_files import read_proxy_users_file, warn_if_exposed
from trioanytls.cli.common.server_uri import read_server_uri, server_options
from trioanytls.relay import BypassRule
from trioanytls.relay.http_forward import parse_pseudonym

from .settings import ClientSettings, Forwarding

FORWARDING = Parsed("LOCAL=HOST:PORT", Forwarding.parse)
BYPASS = Parsed("RULE", BypassRule.parse)
PSEUDONYM = Parsed("NAME", parse_pseudonym)


class _Command(click.Command):
    """A command that keeps its arguments, so that its settings can be read again."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See `click.Command`."""
        ctx.meta[_ARGUMENTS] = args.copy()
        return super().parse_args(ctx, args)


# The key of the arguments in the `meta` of the command's context.
_ARGUMENTS: Final = "trioanytls.cli.arguments"


@click.command(cls=_Command)
@config_option(tables=("connection",))
@server_options(
    envvar="TRIOANYTLS_SERVER",
    help_text="The server's anytls:// URI. Other users of this machine can see the password of a URI on the command "
    "line: prefer the environment variable TRIOANYTLS_SERVER or a file.",
)
@click.option(
    "--socks",
    type=LISTEN_LOCAL,
    multiple=True,
    help="Serve SOCKS5, for TCP and UDP, and SOCKS4 on this address. Here and below, a port alone (1080 or :1080) "
    "means 127.0.0.1, and *:1080 means all addresses.",
)
@click.option("--http", type=LISTEN_LOCAL, multiple=True, help="Serve an HTTP proxy on this address.")
@click.option("--mixed", type=LISTEN_LOCAL, multiple=True, help="Serve SOCKS and an HTTP proxy on the same port.")
@click.option(
    "--http-via",
    type=PSEUDONYM,
    help="The name of this proxy in Via fields of requests and responses, as in RFC 9110; default: no Via fields.",
)
@click.option(
    "--forward",
    type=FORWARDING,
    multiple=True,
    help="Forward TCP connections from the address LOCAL to this destination.",
)
@click.option(
    "--forward-udp",
    type=FORWARDING,
    multiple=True,
    help="Forward UDP datagrams from the address LOCAL to this destination, and the answers back.",
)
@click.option(
    "--bypass",
    type=BYPASS,
    multiple=True,
    help="Connect directly to this host, network (10.0.0.0/8), or domain suffix (.lan). Names are not resolved to "
    "match networks.",
)
@click.option(
    "--proxy-auth-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with a line user:password for each user. The proxies then require one of them.",
)
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="The directory for padding schemes that the server sends, which the next start uses; default: a directory of "
    "the user.",
)
@click.option("--no-state", is_flag=True, help="Save no padding schemes: each start begins with the built-in one.")
@click.option(
    "--streams",
    type=click.IntRange(1),
    metavar="N",
    help="The maximum number of streams per connection; default: 32, or 1 with the format 'legacy'.",
)
@click.option(
    "--reuse/--no-reuse",
    default=True,
    help="Let a connection carry another stream after its first one has ended, or open a connection for each stream.",
)
@click.option(
    "--extensions",
    type=EXTENSIONS,
    help="The extensions of the protocol to offer to the server: fin, goaway, reset, window, separated by commas, or "
    "none; default: all.",
)
@click.option("--check/--no-check", default=True, help="Connect to the server at the start, and exit if that fails.")
@click.option(
    "--drain-timeout",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="How long open connections have to finish after SIGTERM.",
)
@log_options(not_printed="addresses of the front ends and the status")
@click.pass_context
def client(context: click.Context, /, **_options: object) -> None:
    """Run local proxies and port forwards.

    Applications connect to the addresses given below. The client relays their connections through a server, and
    `trioanytls server` connects to the destinations. Without --socks, --http, --mixed, --forward and --forward-udp,
    the client serves SOCKS on 127.0.0.1:1080.

    SIGTERM lets open connections finish; a second SIGTERM, or Ctrl-C, stops the client immediately. SIGHUP reads all
    files again, including the configuration, and applies all changes except that of the state directory.

    If an application stops sending first, it still receives its complete response. The destination learns that no more
    data will follow if the server has the extension fin.
    """
    from . import run

    LogSettings.from_options(context).set_up()
    arguments: list[str] = context.meta[_ARGUMENTS]

    def read_again() -> ClientSettings:
        again = context.command.make_context(context.info_name, arguments.copy(), context.parent)
        with again:
            return _collect(again)

    sys.exit(run.run(_collect(context), read_again))


def _collect(context: click.Context) -> ClientSettings:
    """Make the settings from the options.

    Raises:
      click.ClickException: a setting is missing, options contradict each other, or a file is invalid.
    """
    options = context.params
    if options["no_state"] and options["state_dir"] is not None:
        raise click.UsageError("--no-state and --state-dir are mutually exclusive.")
    config = make_config(document(context), "client", options["extensions"])
    configured = {name for name in options if context.get_parameter_source(name) is ParameterSource.DEFAULT_MAP}
    if options["config"] is not None and "server" in configured:
        warn_if_exposed(options["config"])
    server, server_file = options["server"], options["server_file"]
    if server is not None and "server" not in configured and "server_file" in configured:
        # A URI on the command line or in the environment overrides the file in the configuration.
        server_file = None
    if not options["reuse"] and options["streams"] not in (None, 1):
        raise click.UsageError("with --no-reuse, --streams can only be 1")
    uri = read_server_uri(server, server_file, options["protocol"])
    if uri.protocol == "anytls1" and not config.client_identifier:
        raise InvalidSettings("client_identifier must not be empty with the wire format anytls1; see --protocol")
    log = LogSettings.from_options(context)
    front_ends = [options[name] for name in ("socks", "http", "mixed", "forward", "forward_udp")]
    proxy_auth_file = options["proxy_auth_file"]
    return ClientSettings(
        server=uri,
        socks=options["socks"] if any(front_ends) else (ListenAddress("127.0.0.1", 1080),),
        http=options["http"],
        mixed=options["mixed"],
        http_via=options["http_via"],
        forwards=options["forward"],
        udp_forwards=options["forward_udp"],
        bypass=options["bypass"],
        proxy_users=None if proxy_auth_file is None else read_proxy_users_file(proxy_auth_file),
        state_dir=options["state_dir"],
        keeps_state=not options["no_state"],
        config=config,
        drain_timeout=options["drain_timeout"],
        streams=options["streams"],
        reuse=options["reuse"],
        check=options["check"],
        quiet=log.level >= logging.WARNING,
        log=log,
    )

"""`trioanytls client`: its options. What it does is in `run`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Final

import click
from click.core import ParameterSource

from trioanytls import ServerURI, URIError, parse_uri
from trioanytls.cli.common.config_file import config_option, document
from trioanytls.cli.common.connection_settings import make_config
from trioanytls.cli.common.logging import LOG_FORMAT, LogSettings
from trioanytls.cli.common.option_types import LISTEN_LOCAL, ListenAddress, Parsed
from trioanytls.cli.server.users import read_proxy_users_file, warn_if_exposed
from trioanytls.relay.bypass import BypassRule
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


# Where the arguments are, in the `meta` of the command's context.
_ARGUMENTS: Final = "trioanytls.cli.arguments"


@click.command(cls=_Command)
@config_option(tables=("connection",))
@click.option(
    "--server",
    metavar="URI",
    envvar="TRIOANYTLS_SERVER",
    help="The server's anytls:// URI. On the command line, others on this machine can see the password in it: better "
    "in the environment variable TRIOANYTLS_SERVER, or a file.",
)
@click.option(
    "--server-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with the URI in it.",
)
@click.option(
    "--socks",
    type=LISTEN_LOCAL,
    multiple=True,
    help="Offer SOCKS5, for TCP and UDP, and SOCKS4 on this address. Here and below, a port alone, as 1080 or :1080, "
    "is one of 127.0.0.1; *:1080 is on all addresses.",
)
@click.option("--http", type=LISTEN_LOCAL, multiple=True, help="Offer an HTTP proxy on this address.")
@click.option("--mixed", type=LISTEN_LOCAL, multiple=True, help="Offer SOCKS and an HTTP proxy on one port.")
@click.option(
    "--http-via",
    type=PSEUDONYM,
    help="Name this proxy in Via fields of requests and answers, as RFC 9110 asks for; default: no such fields.",
)
@click.option(
    "--forward",
    type=FORWARDING,
    multiple=True,
    help="Relay connections to the address LOCAL to one destination.",
)
@click.option(
    "--forward-udp",
    type=FORWARDING,
    multiple=True,
    help="Relay datagrams to the address LOCAL to one destination, and its answers back.",
)
@click.option(
    "--bypass",
    type=BYPASS,
    multiple=True,
    help="Connect directly to this host, network (10.0.0.0/8), or all names that end in this suffix (.lan). Names are "
    "not resolved to look for their addresses in networks.",
)
@click.option(
    "--proxy-auth-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with a line user:password for each user; applications then have to know one of them.",
)
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to keep padding schemes that the server sends, for the next start; default: a directory of the user's.",
)
@click.option("--no-state", is_flag=True, help="Keep nothing: each start begins with the built-in padding scheme.")
@click.option(
    "--streams",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    metavar="N",
    help="How many streams share one connection.",
)
@click.option("--check/--no-check", default=True, help="Ask the server at the start, and stop if that fails.")
@click.option(
    "--drain-timeout",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="How long open connections may go on after SIGTERM.",
)
@LOG_FORMAT
@click.option("-q", "--quiet", is_flag=True, help="Print warnings and errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Print each stream.")
@click.pass_context
def client(context: click.Context, /, **_options: object) -> None:
    """Offer SOCKS, an HTTP proxy, and forwarded ports, relayed through a server.

    Applications on this machine connect to the addresses given; `trioanytls server` connects to the destinations.
    Without any of --socks, --http, --mixed, --forward and --forward-udp, SOCKS is offered on 127.0.0.1:1080.

    SIGTERM lets open connections finish; a second one does not, and neither does Ctrl-C. SIGHUP reads all files again,
    the configuration included, and applies what has changed, but for the directory for state.

    A stream has no half-close. An application that ends its sending first still gets its whole answer, but the
    destination does not learn that nothing more will come: programs that wait for that wait for ever.
    """
    from . import run

    _log_settings(context).set_up()
    arguments: list[str] = context.meta[_ARGUMENTS]

    def read_again() -> ClientSettings:
        again = context.command.make_context(context.info_name, arguments.copy(), context.parent)
        with again:
            return _collect(again)

    sys.exit(run.run(_collect(context), read_again))


@click.command()
@click.option("--server", metavar="URI", envvar="TRIOANYTLS_SERVER", help="The server's anytls:// URI, see `client`.")
@click.option(
    "--server-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A file with the URI in it."
)
@click.option("--quick", is_flag=True, help="Take 3 seconds instead of 20.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, in seconds and bytes a second.")
def bench(server: str | None, server_file: Path | None, quick: bool, as_json: bool) -> None:
    """Measure the line to a server: times, and rates both ways.

    Without a server, one is started in this process, which says what this machine can do at least.
    """
    from trioanytls.cli import bench as _bench

    uri = None if server is None and server_file is None else _read_server(server, server_file)
    sys.exit(_bench.run(uri, 3.0 if quick else 20.0, as_json=as_json))


def _collect(context: click.Context) -> ClientSettings:
    """Put the settings together.

    Raises:
      click.ClickException: something is missing or contradicts something else, or a file cannot be used.
    """
    options = context.params
    if options["no_state"] and options["state_dir"] is not None:
        raise click.UsageError("--no-state and --state-dir contradict each other.")
    config = make_config(document(context), "client")
    configured = {name for name in options if context.get_parameter_source(name) is ParameterSource.DEFAULT_MAP}
    if options["config"] is not None and "server" in configured:
        warn_if_exposed(options["config"])
    server, server_file = options["server"], options["server_file"]
    if server is not None and "server" not in configured and "server_file" in configured:
        # One on the command line, or in the environment, wins over the file that the configuration names.
        server_file = None
    log = _log_settings(context)
    fronts = [options[name] for name in ("socks", "http", "mixed", "forward", "forward_udp")]
    return ClientSettings(
        server=_read_server(server, server_file),
        socks=options["socks"] if any(fronts) else (ListenAddress("127.0.0.1", 1080),),
        http=options["http"],
        mixed=options["mixed"],
        http_via=options["http_via"],
        forwards=options["forward"],
        udp_forwards=options["forward_udp"],
        bypass=options["bypass"],
        proxy_users=_read_proxy_users(options["proxy_auth_file"]),
        state_dir=options["state_dir"],
        keeps_state=not options["no_state"],
        config=config,
        drain_timeout=options["drain_timeout"],
        streams=options["streams"],
        check=options["check"],
        quiet=log.level >= logging.WARNING,
        log=log,
    )


def _log_settings(context: click.Context) -> LogSettings:
    quiet, verbose = context.params["quiet"], context.params["verbose"]
    if quiet and verbose:
        # One on the command line wins over one of the configuration file.
        from_file = {
            name: context.get_parameter_source(name) is ParameterSource.DEFAULT_MAP for name in ("quiet", "verbose")
        }
        if from_file["quiet"] == from_file["verbose"]:
            raise click.UsageError("--quiet and --verbose contradict each other.")
        quiet, verbose = not from_file["quiet"], not from_file["verbose"]
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    return LogSettings(level, context.params["log_format"])


def _read_server(uri: str | None, file: Path | None) -> ServerURI:
    if file is not None:
        uri = _read(file)
    # What editors and the clipboard leave around a line: a byte order mark, spaces, a line feed.
    uri = uri and uri.strip().strip("\ufeff").strip()
    if not uri:
        raise click.UsageError("Give the server's URI: in TRIOANYTLS_SERVER, with --server-file, or with --server.")
    try:
        return parse_uri(uri)
    except URIError as error:
        raise click.UsageError(f"The server's URI: {error}") from error


def _read_proxy_users(file: Path | None) -> dict[str, str] | None:
    return None if file is None else read_proxy_users_file(file)


def _read(file: Path) -> str:
    try:
        # Some editors begin each file with a byte order mark.
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{click.format_filename(file)} cannot be read: {error}") from error
    warn_if_exposed(file)
    return text

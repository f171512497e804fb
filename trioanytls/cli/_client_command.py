"""`trioanytls client`: its options. What it does is in `_client`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click
from attrs import field, frozen
from click.core import ParameterSource

from trioanytls import Config, ServerURI, URIError, parse_uri
from trioanytls.destination import Destination

from ._config_file import config_option, document
from ._connection_settings import make_config
from ._errors import UserError
from ._logging import LOG_FORMAT, Format, LogSettings
from ._passwords import warn_if_exposed


@frozen
class Forwarding:
    """A `--forward`.

    Attributes:
      local: where to listen.
      destination: where it leads.
    """

    local: Destination
    destination: Destination

    @classmethod
    def parse(cls, text: str) -> Forwarding:
        """Read `LOCAL=HOST:PORT`; `LOCAL` is `HOST:PORT`, or a port of 127.0.0.1.

        Raises:
          ValueError: it is something else.
        """
        local, equals, destination = text.partition("=")
        if not equals:
            raise ValueError(f"{text!a} is not LOCAL=HOST:PORT")
        if local.isascii() and local.isdigit():
            local = f"127.0.0.1:{local}"
        return cls(Destination.parse(local, least_port=0), Destination.parse(destination))


@frozen(kw_only=True)
class ClientSettings:
    """What `trioanytls client` was told."""

    server: ServerURI
    socks: tuple[Destination, ...] = ()
    http: tuple[Destination, ...] = ()
    forwards: tuple[Forwarding, ...] = ()
    credentials: tuple[str, str] | None = field(default=None, repr=False)
    state_dir: Path | None = None
    keeps_state: bool = True
    config: Config = Config()
    streams: int = 32
    check: bool = True
    quiet: bool = False
    log: LogSettings = field(factory=LogSettings)


class _Address(click.ParamType):  # type: ignore[type-arg] # not generic before click 8.4
    name = "host:port"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Destination:
        try:
            return value if isinstance(value, Destination) else Destination.parse(str(value), least_port=0)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Forward(click.ParamType):  # type: ignore[type-arg] # not generic before click 8.4
    name = "local=host:port"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Forwarding:
        try:
            return value if isinstance(value, Forwarding) else Forwarding.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
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
@click.option("--socks", type=_Address(), multiple=True, help="Offer SOCKS5 on this address, for TCP and UDP.")
@click.option("--http", type=_Address(), multiple=True, help="Offer an HTTP proxy on this address.")
@click.option(
    "--forward",
    type=_Forward(),
    multiple=True,
    help="Relay connections to LOCAL, an address or a port of 127.0.0.1, to one destination.",
)
@click.option(
    "--proxy-auth-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with user:password, which applications then have to know.",
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
@LOG_FORMAT
@click.option("-q", "--quiet", is_flag=True, help="Print warnings and errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Print each stream.")
@click.pass_context
def client(
    context: click.Context,
    /,
    config: Path | None,
    server: str | None,
    server_file: Path | None,
    socks: tuple[Destination, ...],
    http: tuple[Destination, ...],
    forward: tuple[Forwarding, ...],
    proxy_auth_file: Path | None,
    state_dir: Path | None,
    no_state: bool,
    streams: int,
    check: bool,
    log_format: Format,
    quiet: bool,
    verbose: bool,
) -> None:
    """Offer SOCKS5, an HTTP proxy, and forwarded ports, relayed through a server.

    Applications on this machine connect to the addresses given; `trioanytls server` connects to the destinations.
    Without --socks, --http and --forward, SOCKS5 is offered on 127.0.0.1:1080.

    A stream has no half-close. An application that ends its sending first still gets its whole answer, but the
    destination does not learn that nothing more will come: programs that wait for that wait for ever.
    """
    from . import _client

    log = LogSettings(_log_level(context, quiet, verbose), log_format)
    log.set_up()
    if no_state and state_dir is not None:
        raise click.UsageError("--no-state and --state-dir contradict each other.")
    connections = _make_config(context)
    if not (socks or http or forward):
        socks = (Destination("127.0.0.1", 1080),)
    configured = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.DEFAULT_MAP}
    if config is not None and "server" in configured:
        warn_if_exposed(config)
    if server is not None and "server" not in configured and "server_file" in configured:
        # One on the command line, or in the environment, wins over the file that the configuration names.
        server_file = None
    settings = ClientSettings(
        server=_read_server(server, server_file),
        socks=socks,
        http=http,
        forwards=forward,
        credentials=_read_credentials(proxy_auth_file),
        state_dir=state_dir,
        keeps_state=not no_state,
        config=connections,
        streams=streams,
        check=check,
        quiet=log.level >= logging.WARNING,
        log=log,
    )
    try:
        code = _client.run(settings)
    except UserError as error:
        raise click.ClickException(str(error)) from error
    sys.exit(code)


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
    from . import _bench

    uri = None if server is None and server_file is None else _read_server(server, server_file)
    sys.exit(_bench.run(uri, 3.0 if quick else 20.0, as_json=as_json))


def _log_level(context: click.Context, quiet: bool, verbose: bool) -> int:
    if quiet and verbose:
        # One on the command line wins over one of the configuration file.
        from_file = {
            name: context.get_parameter_source(name) is ParameterSource.DEFAULT_MAP for name in ("quiet", "verbose")
        }
        if from_file["quiet"] == from_file["verbose"]:
            raise click.UsageError("--quiet and --verbose contradict each other.")
        quiet, verbose = not from_file["quiet"], not from_file["verbose"]
    return logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO


def _make_config(context: click.Context) -> Config:
    try:
        return make_config(document(context), "client")
    except UserError as error:
        raise click.ClickException(str(error)) from error


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


def _read_credentials(file: Path | None) -> tuple[str, str] | None:
    if file is None:
        return None
    user, colon, password = _read(file).strip("\r\n").partition(":")
    if not colon or not user or not password or len(user.encode()) > 255 or len(password.encode()) > 255:
        raise click.UsageError(f"{click.format_filename(file)} does not hold user:password, each of at most 255 bytes.")
    return user, password


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{click.format_filename(file)} cannot be read: {error}") from error

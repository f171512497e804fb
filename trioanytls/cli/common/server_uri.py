"""The options `--server`, `--server-file` and `--protocol`, and the server's URI that they give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from attrs import evolve

from trioanytls import ServerURI, URIError, WireFormat, parse_uri

from .errors import InvalidSettings
from .option_types import PROTOCOL
from .password_files import warn_if_exposed

F = TypeVar("F", bound=Callable[..., Any])


def server_options(*, envvar: str, help_text: str) -> Callable[[F], F]:
    """Add the options `--server`, `--server-file` and `--protocol` to a command."""
    server = click.option("--server", metavar="URI", envvar=envvar, help=help_text)
    server_file = click.option(
        "--server-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="A file that contains the URI.",
    )
    protocol = click.option(
        "--protocol",
        type=PROTOCOL,
        help="The wire format, overriding that of the URI: anytls1 is that of the specification, legacy that of "
        "anytls-go, sing-box and mihomo. A URI without proto=anytls1 means legacy.",
    )
    return lambda command: server(server_file(protocol(command)))


def read_server_uri(text: str | None, file: Path | None, protocol: WireFormat | None = None) -> ServerURI:
    """Parse the server's URI, from `file` if there is one.

    Args:
      text: the URI.
      file: a file that contains the URI.
      protocol: the wire format, which overrides that of the URI.

    Raises:
      InvalidSettings: the file cannot be read.
      click.UsageError: there is no URI, or it is invalid.
    """
    if file is not None:
        text = _read(file)
    # Editors and the clipboard may add a byte order mark, spaces or a line feed.
    text = text and text.strip().strip("\ufeff").strip()
    if not text:
        raise click.UsageError("No server URI: set TRIOANYTLS_SERVER, or pass --server-file or --server.")
    try:
        uri = parse_uri(text)
    except URIError as error:
        raise click.UsageError(f"Invalid server URI: {error}") from error
    return uri if protocol is None else evolve(uri, protocol=protocol)


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"cannot read {click.format_filename(file)}: {error}") from error
    warn_if_exposed(file)
    return text

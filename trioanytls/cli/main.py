"""The commands, their arguments and options. What they do is in a module each, imported when it is needed."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from trioanytls import PaddingScheme, __version__
from trioanytls.cli.client.options import bench, client
from trioanytls.cli.common import extras
from trioanytls.cli.scheme.load import read_scheme
from trioanytls.cli.server.options import server


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def trioanytls() -> None:
    """ANYTLS: many independent byte streams over one TLS connection."""


@trioanytls.command()
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Upload the *.py files of this directory instead of the standard library.",
)
@click.option(
    "--fetch/--no-fetch", default=True, show_default=True, help="Fetch files through the relay as well, 420 MB in all."
)
def demo(directory: Path | None, fetch: bool) -> None:
    """Upload Python's standard library over one connection, and fetch files through the relay.

    Starts a server and a client on this machine. Every *.py file goes over a stream of its own, a hundred at a time, to
    a handler that answers with the SHA-256 of what it got.

    Then curl, where it is installed, fetches a file of 200 MB and 200 small ones from a web server on this machine,
    through SOCKS5 and through the HTTP proxy, and the digests are compared. The exit code is 0 if everything was right.
    """
    from trioanytls.cli.demo import fetch as _demo_fetch
    from trioanytls.cli.demo import upload

    sys.exit(upload.run(directory, sizes=_demo_fetch.Sizes() if fetch else None))


trioanytls.add_command(client)
trioanytls.add_command(bench)
trioanytls.add_command(server)


@trioanytls.group()
def scheme() -> None:
    """Padding schemes: the sizes of a connection's first writes."""


@scheme.command()
@click.argument("file", required=False)
@click.option("--png", metavar="OUT", type=click.Path(path_type=Path), help="Draw the sizes into this PNG file, too.")
def show(file: str | None, png: Path | None) -> None:
    """Show the deliveries of a padding scheme, and their sizes in bytes.

    FILE holds the scheme, "-" is the standard input. Without it, the built-in scheme is shown.
    """
    from trioanytls.cli.scheme import table

    hint = None if png is None else extras.hint("--png", "plot")
    if hint is not None:
        sys.exit(extras.give_up(hint))
    padding_scheme = PaddingScheme.DEFAULT if file is None else read_scheme(file)
    table.show(padding_scheme)
    if png is not None:
        from trioanytls.cli.scheme import plot

        try:
            plot.draw(padding_scheme, png)
        except OSError as error:
            raise click.ClickException(f"{click.format_filename(png)} cannot be written: {error.strerror}") from error
        click.echo(f"drawn: {click.format_filename(png)}")

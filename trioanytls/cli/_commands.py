"""The commands, their arguments and options. What they do is in a module each, imported when it is needed."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from trioanytls import PaddingScheme, SchemeError, __version__

from . import _extras

# Longer than any scheme: enough for `PaddingScheme.parse` to see that one is too long, whatever the file.
_SCHEME_READ = 1 << 20


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
def demo(directory: Path | None) -> None:
    """Upload Python's standard library over one connection, and compare.

    Starts a server and a client on this machine. Every *.py file goes over a stream of its own, a hundred at a time, to
    a handler that answers with the SHA-256 of what it got. The exit code is 0 if every answer was right.
    """
    from . import _demo

    sys.exit(_demo.run(directory))


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
    from . import _scheme

    hint = None if png is None else _extras.hint("--png", "plot")
    if hint is not None:
        sys.exit(_extras.give_up(hint))
    padding_scheme = PaddingScheme.DEFAULT if file is None else _read_scheme(file)
    _scheme.show(padding_scheme)
    if png is not None:
        from . import _plot

        try:
            _plot.draw(padding_scheme, png)
        except OSError as error:
            raise click.ClickException(f"{click.format_filename(png)} cannot be written: {error.strerror}") from error
        click.echo(f"drawn: {click.format_filename(png)}")


def _read_scheme(file: str) -> PaddingScheme:
    name = "standard input" if file == "-" else click.format_filename(file)
    try:
        with click.open_file(file, "rb") as stream:
            block = stream.read(_SCHEME_READ)
    except OSError as error:
        raise click.ClickException(f"{name} cannot be read: {error.strerror}") from error
    try:
        return PaddingScheme.parse(block)
    except SchemeError as error:
        raise click.ClickException(f"{name}: {error}") from error

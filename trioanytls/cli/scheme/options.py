"""`trioanytls scheme`: its commands. `table` and `plot` have their implementation."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from trioanytls import PaddingScheme
from trioanytls.cli.common import extras
from trioanytls.cli.common.errors import UserError

from .load import read_scheme


@click.group()
def scheme() -> None:
    """Show padding schemes.

    A padding scheme defines the sizes of a connection's first writes.
    """


@scheme.command()
@click.argument("file", required=False)
@click.option("--png", metavar="OUT", type=click.Path(path_type=Path), help="Also draw the sizes into this PNG file.")
def show(file: str | None, png: Path | None) -> None:
    """Show a padding scheme as a table.

    The table has a row for each shaped packet, with its sizes in bytes.

    FILE contains the scheme, "-" is the standard input. Without FILE, show the built-in scheme.
    """
    from . import table

    hint = None if png is None else extras.hint("--png", "plot")
    if hint is not None:
        sys.exit(extras.fail(hint))
    padding_scheme = PaddingScheme.DEFAULT if file is None else read_scheme(file)
    table.show(padding_scheme)
    if png is not None:
        from . import plot

        try:
            plot.draw(padding_scheme, png)
        except OSError as error:
            raise UserError(f"cannot write {click.format_filename(png)}: {error.strerror}") from error
        click.echo(f"wrote {click.format_filename(png)}")

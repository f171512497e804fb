"""Padding schemes out of files."""

from __future__ import annotations

import click

from trioanytls import PaddingScheme, SchemeError

# Longer than any scheme: enough for `PaddingScheme.parse` to see that one is too long, whatever the file.
_MOST = 1 << 20


def read_scheme(file: str) -> PaddingScheme:
    """The scheme in a file; "-" is the standard input.

    Raises:
      click.ClickException: it cannot be read, or is none.
    """
    name = "standard input" if file == "-" else click.format_filename(file)
    try:
        with click.open_file(file, "rb") as stream:
            block = stream.read(_MOST)
    except OSError as error:
        raise click.ClickException(f"{name} cannot be read: {error.strerror}") from error
    try:
        return PaddingScheme.parse(block)
    except SchemeError as error:
        raise click.ClickException(f"{name}: {error}") from error

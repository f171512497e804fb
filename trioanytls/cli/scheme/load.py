"""Padding schemes out of files."""

from __future__ import annotations

import click

from trioanytls import PaddingScheme, SchemeError
from trioanytls.cli.common.errors import UserError

# Longer than any scheme: enough for `PaddingScheme.parse` to see that one is too long, whatever the file.
_MOST = 1 << 20


class SchemeFileError(UserError):
    """A file cannot be read, or is not a padding scheme."""


def read_scheme(file: str) -> PaddingScheme:
    """The scheme in a file; "-" is the standard input.

    Raises:
      SchemeFileError: it cannot be read, or is not a padding scheme.
    """
    name = "standard input" if file == "-" else click.format_filename(file)
    try:
        with click.open_file(file, "rb") as stream:
            block = stream.read(_MOST)
    except OSError as error:
        raise SchemeFileError(f"{name} cannot be read: {error.strerror}") from error
    try:
        return PaddingScheme.parse(block)
    except SchemeError as error:
        raise SchemeFileError(f"{name}: {error}") from error

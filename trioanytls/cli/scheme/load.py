"""Padding schemes in files."""

from __future__ import annotations

import click

from trioanytls import PaddingScheme, SchemeError
from trioanytls.cli.common.errors import UserError

# How much of a file is read, in bytes. It is more than any scheme, so that `PaddingScheme.parse` rejects larger files.
_MAX_SIZE = 1 << 20


class SchemeFileError(UserError):
    """A file cannot be read, or is not a padding scheme."""


def read_scheme(file: str) -> PaddingScheme:
    """Read the scheme in a file; "-" is the standard input.

    Raises:
      SchemeFileError: it cannot be read, or is not a padding scheme.
    """
    name = "standard input" if file == "-" else click.format_filename(file)
    try:
        with click.open_file(file, "rb") as stream:
            block = stream.read(_MAX_SIZE)
    except OSError as error:
        raise SchemeFileError(f"cannot read {name}: {error.strerror}") from error
    try:
        return PaddingScheme.parse(block)
    except SchemeError as error:
        raise SchemeFileError(f"{name}: {error}") from error

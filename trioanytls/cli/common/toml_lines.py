"""Configuration files in TOML, with the line number of each key, which `tomllib` does not provide."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click
from attrs import field, frozen

from .errors import InvalidSettings

#: The largest configuration file, in bytes.
_MAX_SIZE: Final = 1 << 20


class ConfigError(InvalidSettings):
    """A configuration file is invalid. The message names the file and, if known, the line."""


@frozen
class Document:
    """The content of a configuration file.

    Attributes:
      path: the path of the file.
      values: its keys and tables.
    """

    path: Path
    # A password can be among them.
    values: Mapping[str, Any] = field(repr=False)
    _lines: Mapping[tuple[str, ...], int]

    def error(self, key: tuple[str, ...], text: str) -> ConfigError:
        """Return an error about a key, or about a key of a table."""
        known = next((key[:end] for end in range(len(key), 0, -1) if key[:end] in self._lines), None)
        line = "" if known is None else f", line {self._lines[known]}"
        return ConfigError(f"{click.format_filename(self.path)}{line}: {'.'.join(key)}: {text}")

    def table(self, name: str) -> Mapping[str, Any]:
        """Return a table, which is empty if it is not in the file.

        Raises:
          ConfigError: the key is not a table.
        """
        table = self.values.get(name, {})
        if not isinstance(table, dict):
            raise self.error((name,), f"must be a table: write [{name}], and its keys on the lines below")
        return table


def read(path: Path) -> Document:
    """Read a configuration file.

    Raises:
      ConfigError: the file cannot be read, or is not TOML.
    """
    name = click.format_filename(path)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_SIZE + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {name}: {error.strerror}") from error
    if len(data) > _MAX_SIZE:
        raise ConfigError(f"{name} is too large for a configuration file: the limit is {_MAX_SIZE} bytes")
    try:
        text = data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}, line {line}: invalid UTF-8") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}{_describe(error)}") from error
    return Document(path, values, dict(_find_keys(text)))


def _describe(error: tomllib.TOMLDecodeError) -> str:
    text = str(error)
    place = re.fullmatch(r"(?s)(.*) \(at (?:line (\d+), column (\d+)|(end of document))\)", text)
    if place is None:
        return f": {text}"
    what, line, column, _ = place.groups()
    # The message may quote any character of the file.
    what = what.encode("ascii", "backslashreplace").decode("ascii")
    return f": {what} at the end" if line is None else f", line {line}, column {column}: {what}"


# The lines of the keys. The text has been parsed as TOML before, so it is well-formed.

_KEY: Final = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_PATH: Final = rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*"
_BLANK: Final = re.compile(r"(?:[ \t\n]|#[^\n]*)+")
_HEADER: Final = re.compile(rf"\[\[?[ \t]*({_PATH})[ \t]*\]\]?")
_ASSIGNED: Final = re.compile(rf"({_PATH})[ \t]*=")
# The parts of a value: strings of several lines or of one line, comments, brackets, and other characters.
_PART: Final = re.compile(
    r'''"""(?:[^\\]|\\.)*?"""+|\'\'\'.*?\'\'\'+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|\#[^\n]*|(?P<open>[\[{])|(?P<close>[\]}])|(?P<end>\n)|.''',
    re.DOTALL,
)


def _find_keys(text: str) -> Iterator[tuple[tuple[str, ...], int]]:
    table: tuple[str, ...] = ()
    position = 0
    while True:
        if blank := _BLANK.match(text, position):
            position = blank.end()
        if header := _HEADER.match(text, position):
            table = _split(header[1])
            key, position = table, header.end()
        elif assigned := _ASSIGNED.match(text, position):
            key, position = (*table, *_split(assigned[1])), assigned.end()
        else:
            return
        yield key, text.count("\n", 0, position) + 1
        position = _skip_value(text, position)


def _skip_value(text: str, position: int) -> int:
    depth = 0
    while part := _PART.match(text, position):
        position = part.end()
        depth += (part["open"] is not None) - (part["close"] is not None)
        if part["end"] is not None and not depth:
            break
    return position


def _split(path: str) -> tuple[str, ...]:
    keys = []
    values: Any = tomllib.loads(f"{path} = 0")
    while isinstance(values, dict):
        [(key, values)] = values.items()
        keys.append(key)
    return tuple(keys)

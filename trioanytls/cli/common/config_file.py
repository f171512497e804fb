"""`--config`: the options of a command from a TOML file, with the same names. The command line overrides the file.

Each key is checked like its option, and an error names the line. A path is relative to the directory of the file.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from . import toml_lines
from .option_types import takes_number
from .toml_lines import Document

F = TypeVar("F", bound=Callable[..., Any])

#: The key of the `Document` in the `meta` of a command's context.
DOCUMENT: Final = "trioanytls.cli.document"


def config_option(
    *, keys: tuple[str, ...] = (), tables: tuple[str, ...] = (), without: tuple[str, ...] = ()
) -> Callable[[F], F]:
    """Return the option `--config`.

    Args:
      keys: additional keys of the file, which are strings. The command checks them.
      tables: tables of the file. The command checks them.
      without: options that the file cannot set.
    """

    def load(context: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
        if path is not None:
            document = toml_lines.read(path)
            context.default_map = _check(context, document, keys, tables, without)
            context.meta[DOCUMENT] = document
        return path

    return click.option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path),
        is_eager=True,
        callback=load,
        help="Read options from this TOML file. A key is the name of an option, such as `drain-timeout = 60`. The "
        "command line overrides the file.",
    )


def document(context: click.Context) -> Document | None:
    """Return the configuration file of a command, None if there is none."""
    found: Document | None = context.meta.get(DOCUMENT)
    return found


def _check(
    context: click.Context, document: Document, keys: tuple[str, ...], tables: tuple[str, ...], without: tuple[str, ...]
) -> dict[str, Any]:
    options = {
        name.removeprefix("--"): parameter
        for parameter in context.command.params
        for name in parameter.opts
        if isinstance(parameter, click.Option) and not parameter.is_eager and name.startswith("--")
    }
    options = {key: option for key, option in options.items() if key not in without}
    defaults = {}
    for key, value in document.values.items():
        option = options.get(key)
        if option is not None and option.name is not None:
            defaults[option.name] = _convert(context, document, key, option, value)
        elif key in tables:
            document.table(key)
        elif key not in keys:
            raise document.error((key,), _unknown(key, [*options, *keys, *tables]))
        elif not isinstance(value, str):
            raise document.error((key,), f"must be a string, not {_describe(value)}")
    return defaults


def _unknown(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key.replace("_", "-").lower(), known, 1)
    return f"unknown key; did you mean {close[0]!r}?" if close else "unknown key"


def _convert(context: click.Context, document: Document, key: str, option: click.Option, value: Any) -> Any:
    """Return the value in the form that the command line would give."""
    values = value if option.multiple and isinstance(value, list) else [value]
    kind, expected = _expected(option)
    for one in values:
        if not isinstance(one, kind) or (isinstance(one, bool) and kind is not bool):
            several = " or a list of them" if option.multiple else ""
            raise document.error((key,), f"must be {expected}{several}, not {_describe(one)}")
    if takes_number(option.type):
        values = [str(one) for one in values]
    if isinstance(option.type, click.Path):
        values = [str(document.path.parent / one) for one in values]
    converted = values if option.multiple else values[0]
    try:
        option.type_cast_value(context, converted)
    except click.BadParameter as error:
        raise document.error((key,), error.message.rstrip(".")) from error
    return converted


def _expected(option: click.Option) -> tuple[type | tuple[type, ...], str]:
    if option.is_flag:
        return bool, "true or false"
    if isinstance(option.type, click.types.IntParamType):
        return int, "an integer"
    if isinstance(option.type, click.types.FloatParamType):
        return (int, float), "a number"
    if takes_number(option.type):
        return (str, int), "a string or a port number"
    return str, "a string"


def _describe(value: object) -> str:
    """Describe the type of a value. The value itself may be a secret."""
    names = {
        bool: "a boolean",
        int: "an integer",
        float: "a float",
        str: "a string",
        list: "a list",
        dict: "a table",
    }
    return names.get(type(value), "a date or a time")

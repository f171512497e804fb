"""The table `[connection]` of a configuration file: the settings of connections, with the relay's defaults.

A relay carries connections that may be idle for hours, such as SSH sessions. RFC 5382 (REQ-5) requires network devices
to keep an idle connection for at least 2 hours and 4 minutes, so the idle timeout of a stream is longer than that.
Keep-alive detects a peer that is gone earlier.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal

from attrs import evolve, fields

from trioanytls import Config, Extension

from .toml_lines import Document

#: The settings of both ends of the relay that differ from the library's defaults. Times are in seconds.
RELAY_DEFAULTS: Final = {
    # Well below the 5 minutes after which many routers drop an idle TCP connection.
    "keepalive_interval": 60.0,
    "keepalive_timeout": 20.0,
    "stream_idle_timeout": 4 * 3600.0,
}

# Settings whose valid values depend on each other.
_RELATED: Final = ("stream_window", "max_stream_window")

Side = Literal["client", "server"]


def make_config(
    document: Document | None, side: Side, extensions: Collection[Extension] | None = None, **given: Any
) -> Config:
    """Make the settings of connections from the table `connection`, whose keys are the fields of `Config`.

    Args:
      document: the configuration file, if there is one.
      side: the end of the relay. The settings of the other end are rejected.
      extensions: the value of `--extensions`, which overrides the table; None if the option is not given.
      given: fields that the command sets itself, so that the file cannot set them.

    Raises:
      ConfigError: a key is unknown or applies to the other end, or a value is invalid.
    """
    config = _read_table(document, side, given)
    return config if extensions is None else evolve(config, extensions=extensions)


def _read_table(document: Document | None, side: Side, given: Mapping[str, Any]) -> Config:
    values: dict[str, Any] = {**RELAY_DEFAULTS, **given}
    if document is None:
        return Config(**values)
    foreign = {one.name for one in fields(Config) if one.metadata.get("side") not in (None, side)}
    table = document.table("connection")
    for key, value in table.items():
        _check_key(document, key, side, foreign, given)
        related = {name: table[name] for name in _RELATED if key in _RELATED and name in table}
        try:
            # One key at a time, so that the error is about this key.
            Config(**{**given, **related, key: value})
        except (ValueError, TypeError) as error:
            raise document.error(("connection", key), str(error)) from error
        values[key] = value
    return Config(**values)


def _check_key(document: Document, key: str, side: Side, foreign: Collection[str], given: Collection[str]) -> None:
    place = ("connection", key)
    if key == "drain_timeout":
        raise document.error(place, "write drain-timeout instead, above all tables")
    if key in foreign:
        raise document.error(place, f"this setting has no effect on a {side}")
    known = [one.name for one in fields(Config) if one.name not in (*foreign, *given)]
    if key not in known:
        close = difflib.get_close_matches(key.replace("-", "_").lower(), known, 1)
        suggestion = f"; did you mean {close[0]!r}?" if close else ""
        raise document.error(place, f"unknown connection setting{suggestion}")

"""The settings of a pool are validated when they are set."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest

from trioanytls import PoolConfig

TIMES = [
    "idle_timeout",
    "check_interval",
    "max_lifetime",
    "connect_timeout",
    "open_timeout",
    "acknowledge_timeout",
    "verify_after",
    "verify_timeout",
    "retry_delay",
    "max_retry_delay",
]
COUNTS = ["max_connections"]
COUNTS_OR_NONE = ["min_idle"]


def configured(**fields: Any) -> PoolConfig:
    """Make a `PoolConfig` of fields that a type checker does not know, or would not accept."""
    return PoolConfig(**fields)


def test_the_defaults_are_valid_and_frozen() -> None:
    pool = PoolConfig()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        pool.idle_timeout = 3  # type: ignore[misc] # it is frozen
    with pytest.raises(TypeError):
        PoolConfig(1)  # type: ignore[call-arg] # what is tested


@pytest.mark.parametrize("name", TIMES)
def test_times_are_positive_seconds(name: str) -> None:
    for value in (0.5, 3, math.inf):
        assert getattr(configured(**{name: value}), name) == value
    for value in (0, -1, math.nan):
        with pytest.raises(ValueError, match=f"^{name} must be a positive number of seconds, or math.inf, not "):
            configured(**{name: value})
    for wrong in ("3", None, True):
        with pytest.raises(TypeError, match=f"^{name} must be a number, not {wrong!r}$"):
            configured(**{name: wrong})


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_whole_and_positive(name: str) -> None:
    assert getattr(configured(**{name: 1}), name) == 1
    for value in (0, -1):
        with pytest.raises(ValueError, match=f"^{name} must be at least 1, not {value}$"):
            configured(**{name: value})
    for wrong in (1.5, math.inf, "3", None, True):
        with pytest.raises(TypeError, match=f"^{name} must be an int, not {wrong!r}$"):
            configured(**{name: wrong})


@pytest.mark.parametrize("name", COUNTS_OR_NONE)
def test_some_counts_may_be_none(name: str) -> None:
    assert getattr(configured(**{name: 0}), name) == 0
    with pytest.raises(ValueError, match=f"^{name} must be at least 0, not -1$"):
        configured(**{name: -1})
    for value in (1.5, math.inf, "3", None, False):
        with pytest.raises(TypeError, match=f"^{name} must be an int, not {value!r}$"):
            configured(**{name: value})


def test_every_field_is_tested_here() -> None:
    assert {field.name for field in attrs.fields(PoolConfig)} == {
        "max_streams_per_connection",
        *TIMES,
        *COUNTS,
        *COUNTS_OR_NONE,
    }


def test_idle_connections_are_closed_before_servers_in_the_field_do_it() -> None:
    pool = PoolConfig()
    assert pool.idle_timeout + pool.check_interval <= 30


def test_streams_per_connection_suit_the_wire_format_by_default() -> None:
    assert PoolConfig().max_streams_per_connection is None
    assert PoolConfig().streams_per_connection("anytls1") == 100
    assert PoolConfig().streams_per_connection("legacy") == 1
    assert PoolConfig(max_streams_per_connection=7).streams_per_connection("legacy") == 7
    with pytest.raises(ValueError, match=r"^max_streams_per_connection must be at least 1, not 0$"):
        PoolConfig(max_streams_per_connection=0)
    with pytest.raises(TypeError, match=r"^max_streams_per_connection must be an int, not 1\.5$"):
        PoolConfig(max_streams_per_connection=1.5)  # type: ignore[arg-type]  # what is tested

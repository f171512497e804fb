"""The settings of a pool are validated when they are set."""

from __future__ import annotations

import math

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
COUNTS = ["max_streams_per_connection", "max_connections"]
COUNTS_OR_NONE = ["min_idle"]


def test_the_defaults_are_valid_and_frozen() -> None:
    pool = PoolConfig()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        pool.idle_timeout = 3
    with pytest.raises(TypeError):
        PoolConfig(1)


@pytest.mark.parametrize("name", TIMES)
def test_times_are_positive_seconds(name: str) -> None:
    for value in (0.5, 3, math.inf):
        assert getattr(PoolConfig(**{name: value}), name) == value
    for value in (0, -1, math.nan):
        with pytest.raises(ValueError, match=f"^{name} must be a positive number of seconds, or math.inf, not "):
            PoolConfig(**{name: value})
    for value in ("3", None, True):
        with pytest.raises(TypeError, match=f"^{name} must be a number, not {value!r}$"):
            PoolConfig(**{name: value})


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_whole_and_positive(name: str) -> None:
    assert getattr(PoolConfig(**{name: 1}), name) == 1
    for value in (0, -1):
        with pytest.raises(ValueError, match=f"^{name} must be at least 1, not {value}$"):
            PoolConfig(**{name: value})
    for value in (1.5, math.inf, "3", None, True):
        with pytest.raises(TypeError, match=f"^{name} must be an int, not {value!r}$"):
            PoolConfig(**{name: value})


@pytest.mark.parametrize("name", COUNTS_OR_NONE)
def test_some_counts_may_be_none(name: str) -> None:
    assert getattr(PoolConfig(**{name: 0}), name) == 0
    with pytest.raises(ValueError, match=f"^{name} must be at least 0, not -1$"):
        PoolConfig(**{name: -1})
    for value in (1.5, math.inf, "3", None, False):
        with pytest.raises(TypeError, match=f"^{name} must be an int, not {value!r}$"):
            PoolConfig(**{name: value})


def test_every_field_is_tested_here() -> None:
    assert {field.name for field in attrs.fields(PoolConfig)} == {*TIMES, *COUNTS, *COUNTS_OR_NONE}


def test_idle_connections_are_closed_before_servers_in_the_field_do_it() -> None:
    pool = PoolConfig()
    assert pool.idle_timeout + pool.check_interval <= 30

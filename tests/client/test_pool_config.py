"""The settings of a pool are validated when they are set."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest

from trioanytls import PoolConfig
from trioanytls._config import pool_limits

TIMES = [
    "max_lifetime",
    "connect_timeout",
    "open_timeout",
    "acknowledge_timeout",
    "verify_timeout",
    "retry_delay",
    "max_retry_delay",
]
# None stands for the default of the wire format.
TIMES_OR_DEFAULT = ["idle_timeout", "check_interval", "verify_after"]
COUNTS_OR_DEFAULT = ["max_streams_per_connection", "max_connections"]
COUNTS_OR_ZERO_OR_DEFAULT = ["min_idle"]
FLAGS = ["reuse"]


def configured(**fields: Any) -> PoolConfig:
    """Make a `PoolConfig` of fields that a type checker does not know, or would not accept."""
    return PoolConfig(**fields)


def test_the_defaults_are_valid_and_frozen() -> None:
    pool = PoolConfig()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        pool.idle_timeout = 3  # type: ignore[misc] # it is frozen
    with pytest.raises(TypeError):
        PoolConfig(1)  # type: ignore[call-arg] # what is tested


@pytest.mark.parametrize("name", TIMES + TIMES_OR_DEFAULT)
def test_times_are_positive_seconds(name: str) -> None:
    for value in (0.5, 3, math.inf):
        assert getattr(configured(**{name: value}), name) == value
    for value in (0, -1, math.nan):
        with pytest.raises(ValueError, match=f"^{name} must be a positive number of seconds, or math.inf, not "):
            configured(**{name: value})
    for wrong in ("3", True, *([None] if name in TIMES else [])):
        with pytest.raises(TypeError, match=f"^{name} must be a number, not {wrong!r}$"):
            configured(**{name: wrong})


@pytest.mark.parametrize("name", COUNTS_OR_DEFAULT)
def test_counts_are_whole_and_positive(name: str) -> None:
    assert getattr(configured(**{name: 1}), name) == 1
    for value in (0, -1):
        with pytest.raises(ValueError, match=f"^{name} must be at least 1, not {value}$"):
            configured(**{name: value})
    for wrong in (1.5, math.inf, "3", True):
        with pytest.raises(TypeError, match=f"^{name} must be an int, not {wrong!r}$"):
            configured(**{name: wrong})


@pytest.mark.parametrize("name", COUNTS_OR_ZERO_OR_DEFAULT)
def test_some_counts_may_be_zero(name: str) -> None:
    assert getattr(configured(**{name: 0}), name) == 0
    with pytest.raises(ValueError, match=f"^{name} must be at least 0, not -1$"):
        configured(**{name: -1})
    for value in (1.5, math.inf, "3", False):
        with pytest.raises(TypeError, match=f"^{name} must be an int, not {value!r}$"):
            configured(**{name: value})


def test_every_field_is_tested_here() -> None:
    assert {field.name for field in attrs.fields(PoolConfig)} == {
        *TIMES,
        *TIMES_OR_DEFAULT,
        *COUNTS_OR_DEFAULT,
        *COUNTS_OR_ZERO_OR_DEFAULT,
        *FLAGS,
    }


@pytest.mark.parametrize("name", TIMES_OR_DEFAULT + COUNTS_OR_DEFAULT + COUNTS_OR_ZERO_OR_DEFAULT)
def test_none_stands_for_the_default_of_the_wire_format(name: str) -> None:
    assert getattr(PoolConfig(), name) is None
    assert getattr(pool_limits(configured(**{name: None}), "legacy"), name) == getattr(
        pool_limits(PoolConfig(), "legacy"), name
    )
    assert getattr(pool_limits(configured(**{name: 7}), "legacy"), name) == 7
    assert getattr(pool_limits(configured(**{name: 7}), "anytls1"), name) == 7


def test_idle_connections_are_closed_before_servers_in_the_field_do_it() -> None:
    limits = pool_limits(PoolConfig(), "anytls1")
    assert limits.idle_timeout + limits.check_interval <= 30


def test_idle_legacy_connections_live_as_long_as_those_of_other_programs() -> None:
    limits = pool_limits(PoolConfig(), "legacy")
    assert limits.verify_after == 10
    assert (limits.idle_timeout, limits.check_interval, limits.min_idle) == (30, 30, 0)


def test_streams_per_connection_suit_the_wire_format_by_default() -> None:
    assert pool_limits(PoolConfig(), "anytls1").max_streams_per_connection == 100
    assert pool_limits(PoolConfig(), "legacy").max_streams_per_connection == 1


def test_without_reuse_a_connection_carries_one_stream() -> None:
    assert PoolConfig().reuse
    assert pool_limits(PoolConfig(reuse=False), "anytls1").max_streams_per_connection == 1
    assert pool_limits(PoolConfig(reuse=False, max_streams_per_connection=1), "legacy").max_streams_per_connection == 1
    with pytest.raises(ValueError, match=r"^max_streams_per_connection must be None or 1 with reuse=False, not 2$"):
        PoolConfig(reuse=False, max_streams_per_connection=2)
    with pytest.raises(TypeError, match=r"^reuse must be True or False, not 1$"):
        configured(reuse=1)

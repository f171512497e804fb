"""Settings are checked when they are set."""

from __future__ import annotations

import math

import attrs
import pytest

import trioanytls
from trioanytls._protocol.limits import ProtocolLimits

TIMES = [
    "handshake_timeout",
    "auth_timeout",
    "idle_timeout",
    "stream_idle_timeout",
    "keepalive_interval",
    "keepalive_timeout",
    "write_timeout",
    "close_timeout",
    "stall_timeout",
    "drain_timeout",
]
PAYLOADS = ["max_control_payload", "max_auth_padding", "max_scheme_size"]
COUNTS = [
    "max_connections",
    "max_unauthenticated",
    "max_unauthenticated_per_address",
    "max_fallbacks",
    "max_fallbacks_per_address",
    "max_streams",
    "receive_buffer_size",
    "connection_receive_buffer_size",
    "send_buffer_size",
    "max_pending_control",
    "max_idle_frames",
    "max_idle_bytes",
    "max_scheme_stop",
    "max_scheme_deliver",
    "max_scheme_total",
    *PAYLOADS,
]
OTHERS = ["initial_flush_delay", "max_stream_rate", "acknowledge", "shape_server", "on_violation"]


def test_the_defaults_are_valid_and_frozen() -> None:
    config = trioanytls.Config()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config.idle_timeout = 3


@pytest.mark.parametrize("name", TIMES)
def test_times_are_positive_seconds(name: str) -> None:
    for value in (0.5, 3, math.inf):
        assert getattr(trioanytls.Config(**{name: value}), name) == value
    for value in (0, -1, math.nan, "3", None, True):
        with pytest.raises(ValueError, match=name):
            trioanytls.Config(**{name: value})


@pytest.mark.parametrize("name", COUNTS)
def test_counts_and_sizes_are_whole_and_positive(name: str) -> None:
    assert getattr(trioanytls.Config(**{name: 1}), name) == 1
    for value in (0, -1, 1.5, "3", None, True):
        with pytest.raises(ValueError, match=name):
            trioanytls.Config(**{name: value})


def test_the_flush_delay_is_finite_and_may_be_nothing() -> None:
    assert trioanytls.Config(initial_flush_delay=0).initial_flush_delay == 0
    for value in (-1, math.inf, math.nan, "1"):
        with pytest.raises(ValueError, match="initial_flush_delay"):
            trioanytls.Config(initial_flush_delay=value)


def test_choices_and_flags_are_checked() -> None:
    assert trioanytls.Config(acknowledge="manual", shape_server=True).acknowledge == "manual"
    with pytest.raises(ValueError, match="acknowledge"):
        trioanytls.Config(acknowledge="later")
    with pytest.raises(ValueError, match="shape_server"):
        trioanytls.Config(shape_server=1)
    with pytest.raises(ValueError, match="on_violation"):
        trioanytls.Config(on_violation="ignore")


@pytest.mark.parametrize("name", PAYLOADS)
def test_payloads_have_at_most_what_the_protocol_allows(name: str) -> None:
    assert getattr(trioanytls.Config(**{name: 65536}), name) == 65536
    with pytest.raises(ValueError, match=f"{name} is at most 65536"):
        trioanytls.Config(**{name: 65537})


def test_the_stream_rate_is_at_least_one_a_second() -> None:
    for value in (1, 2.5, math.inf):
        assert trioanytls.Config(max_stream_rate=value).max_stream_rate == value
    for value in (0, 0.5, -1, math.nan, "3", None, True):
        with pytest.raises(ValueError, match="max_stream_rate"):
            trioanytls.Config(max_stream_rate=value)


def test_the_protocol_is_given_its_limits() -> None:
    given = {field.name: number for number, field in enumerate(attrs.fields(ProtocolLimits), 1)}
    assert trioanytls.Config(**given).limits == ProtocolLimits(**given)
    assert trioanytls.Config().limits == ProtocolLimits()


def test_every_field_is_tested_here() -> None:
    names = {field.name for field in attrs.fields(trioanytls.Config)}
    assert names == {*TIMES, *COUNTS, *OTHERS}

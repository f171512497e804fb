"""Settings are checked when they are set."""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import trioanytls
from trioanytls._config import Side, check_config, fields_of, offer_of
from trioanytls._protocol.limits import ProtocolLimits
from trioanytls.testing import echo

Use = Callable[[trioanytls.Config], Awaitable[None]]

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
OTHERS = [
    "extensions",
    "stream_window",
    "max_stream_window",
    "client_identifier",
    "initial_flush_delay",
    "max_stream_rate",
    "acknowledge",
    "shape_server",
    "on_violation",
]


def configured(**fields: Any) -> trioanytls.Config:
    """Make a `Config` of fields that a type checker does not know, or would not accept."""
    return trioanytls.Config(**fields)


def test_the_defaults_are_valid_and_frozen() -> None:
    config = trioanytls.Config()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config.idle_timeout = 3  # type: ignore[misc] # it is frozen


@pytest.mark.parametrize("name", TIMES)
def test_times_are_positive_seconds(name: str) -> None:
    for value in (0.5, 3, math.inf):
        assert getattr(configured(**{name: value}), name) == value
    for value in (0, -1, math.nan):
        with pytest.raises(ValueError, match=f"^{name} must be a positive number of seconds"):
            configured(**{name: value})
    for wrong in ("3", None, True):
        with pytest.raises(TypeError, match=f"^{name} must be a number, not {wrong!r}$"):
            configured(**{name: wrong})


@pytest.mark.parametrize("name", COUNTS)
def test_counts_and_sizes_are_whole_and_positive(name: str) -> None:
    assert getattr(configured(**{name: 1}), name) == 1
    for value in (0, -1):
        with pytest.raises(ValueError, match=f"^{name} must be at least 1, not {value}$"):
            configured(**{name: value})
    for wrong in (1.5, "3", None, True):
        with pytest.raises(TypeError, match=f"^{name} must be an int, not {wrong!r}$"):
            configured(**{name: wrong})


def test_the_flush_delay_is_finite_and_may_be_nothing() -> None:
    assert trioanytls.Config(initial_flush_delay=0).initial_flush_delay == 0
    for value in (-1, math.inf, math.nan):
        with pytest.raises(ValueError, match="initial_flush_delay must be a finite number of seconds"):
            trioanytls.Config(initial_flush_delay=value)
    with pytest.raises(TypeError, match="initial_flush_delay must be a number, not '1'"):
        configured(initial_flush_delay="1")


def test_choices_and_flags_are_checked() -> None:
    assert trioanytls.Config(acknowledge="manual", shape_server=True).acknowledge == "manual"
    with pytest.raises(ValueError, match="acknowledge"):
        configured(acknowledge="later")
    with pytest.raises(TypeError, match="shape_server must be True or False, not 1"):
        configured(shape_server=1)
    with pytest.raises(ValueError, match="on_violation"):
        configured(on_violation="ignore")


@pytest.mark.parametrize("name", PAYLOADS)
def test_payloads_have_at_most_what_the_protocol_allows(name: str) -> None:
    assert getattr(configured(**{name: 65536}), name) == 65536
    with pytest.raises(ValueError, match=f"{name} must be at most 65536, not 65537"):
        configured(**{name: 65537})


def test_the_stream_rate_is_at_least_one_a_second() -> None:
    for value in (1, 2.5, math.inf):
        assert trioanytls.Config(max_stream_rate=value).max_stream_rate == value
    for value in (0, 0.5, -1, math.nan):
        with pytest.raises(ValueError, match=r"max_stream_rate must be at least 1, or math\.inf"):
            trioanytls.Config(max_stream_rate=value)
    for wrong in ("3", None, True):
        with pytest.raises(TypeError, match="max_stream_rate must be a number"):
            configured(max_stream_rate=wrong)


def test_the_protocol_is_given_its_limits() -> None:
    given = {field.name: number for number, field in enumerate(attrs.fields(ProtocolLimits), 1)}
    assert configured(**given).limits == ProtocolLimits(**given)
    assert trioanytls.Config().limits == ProtocolLimits()


def test_the_identifier_fits_into_nego_and_settings() -> None:
    for value in ("", "anytls/0.0.13", "a" * 255, "!~"):
        assert trioanytls.Config(client_identifier=value).client_identifier == value
    for value in ("a b", "a\n", "a,b", "a=b", "a" * 256, "\N{LATIN SMALL LETTER A WITH DIAERESIS}", "\0"):
        with pytest.raises(ValueError, match="client_identifier must have at most 255 printable ASCII characters"):
            trioanytls.Config(client_identifier=value)
    with pytest.raises(TypeError, match="client_identifier must be a str, not None"):
        trioanytls.Config(client_identifier=None)  # type: ignore[arg-type]  # what is tested


def test_every_field_is_tested_here() -> None:
    names = {field.name for field in attrs.fields(trioanytls.Config)}
    assert names == {*TIMES, *COUNTS, *OTHERS}


def make(name: str, value: object) -> trioanytls.Config:
    return configured(**{name: value})


OTHER_VALUES: dict[str, object] = {
    "client_identifier": "other/1",
    "acknowledge": "manual",
    "on_violation": "fallback",
    "shape_server": True,
}


def foreign_fields() -> list[tuple[str, str]]:
    return [("client", name) for name in fields_of("server")] + [("server", name) for name in fields_of("client")]


@pytest.mark.parametrize(("side", "name"), foreign_fields())
def test_a_setting_of_the_other_end_is_an_error(side: Side, name: str) -> None:
    config = make(name, OTHER_VALUES.get(name, 7))
    other: Side = "client" if side == "server" else "server"
    check_config(config, other)
    with pytest.raises(ValueError, match=rf"^{name}=.* has no effect on a {side}: it is a setting of the {other}$"):
        check_config(config, side)


def test_a_setting_is_marked_with_its_end_where_it_is_documented() -> None:
    source = (Path(trioanytls.__file__).parent / "_config.py").read_text(encoding="utf-8")
    documented = re.findall(r"#: \((client|server)\) (?:.|\n)*?\n    (\w+): ", source)
    marked = [("client", name) for name in fields_of("client")] + [("server", name) for name in fields_of("server")]
    assert sorted(documented) == sorted(marked)


def test_the_defaults_and_the_settings_of_both_ends_suit_both() -> None:
    both = {*TIMES, *COUNTS} - {*fields_of("client"), *fields_of("server")}
    sides: tuple[Side, ...] = ("client", "server")
    for side in sides:
        check_config(trioanytls.Config(), side)
        check_config(configured(**dict.fromkeys(both, 7)), side)


@pytest.mark.parametrize("value", [None, {}, "default", trioanytls.PoolConfig()])
def test_a_config_of_another_type_is_an_error(value: trioanytls.Config) -> None:
    with pytest.raises(TypeError, match=r"^config must be Config, not "):
        check_config(value, "client")


async def refused_by_open_connection(config: trioanytls.Config) -> None:
    async with trioanytls.open_connection("localhost", 1, password="x", config=config):
        pass  # pragma: no cover - it raises before


async def refused_by_wrap_client(config: trioanytls.Config) -> None:
    transport, _ = trio.testing.memory_stream_pair()
    async with trioanytls.wrap_client(transport, password="x", config=config):
        pass  # pragma: no cover - it raises before


async def refused_by_open_client(config: trioanytls.Config) -> None:
    async with trioanytls.open_client("localhost", 1, password="x", config=config):
        pass  # pragma: no cover - it raises before


async def refused_by_open_client_uri(config: trioanytls.Config) -> None:
    async with trioanytls.open_client_uri("anytls://x@localhost", config=config):
        pass  # pragma: no cover - it raises before


@pytest.mark.parametrize(
    "use", [refused_by_open_connection, refused_by_wrap_client, refused_by_open_client, refused_by_open_client_uri]
)
async def test_each_way_to_be_a_client_refuses_settings_of_the_server(use: Use) -> None:
    with pytest.raises(ValueError, match="max_streams=7 has no effect on a client"):
        await use(trioanytls.Config(max_streams=7))


@pytest.mark.parametrize("use", [refused_by_open_connection, refused_by_wrap_client, refused_by_open_client])
async def test_a_client_of_anytls1_refuses_an_empty_identifier_at_once(use: Use) -> None:
    with pytest.raises(ValueError, match='client_identifier must not be empty with protocol="anytls1"'):
        await use(trioanytls.Config(client_identifier=""))


async def refused_by_serve(config: trioanytls.Config) -> None:
    await trioanytls.serve(echo, 0, ssl_context=ssl.create_default_context(), users={"a": "b"}, config=config)


async def refused_by_serve_connection(config: trioanytls.Config) -> None:
    transport, _ = trio.testing.memory_stream_pair()
    await trioanytls.serve_connection(transport, echo, users={"a": "b"}, config=config)


@pytest.mark.parametrize("use", [refused_by_serve, refused_by_serve_connection])
async def test_each_way_to_be_a_server_refuses_settings_of_the_client(use: Use) -> None:
    with pytest.raises(ValueError, match="max_scheme_size=7 has no effect on a server"):
        await use(trioanytls.Config(max_scheme_size=7))


@pytest.mark.default_extensions
def test_extensions_are_names() -> None:
    assert trioanytls.Config().extensions == {"fin", "goaway", "reset", "window"}
    assert trioanytls.Config(extensions=()).extensions == frozenset()
    assert trioanytls.Config(extensions=["fin", "reset"]).extensions == {"fin", "reset"}
    for wrong in ("fin", b"fin", 3, None):
        with pytest.raises(TypeError, match=r"^extensions must be a collection of names, not "):
            configured(extensions=wrong)
    with pytest.raises(
        ValueError, match=r"^each of extensions must be one of 'fin', 'goaway', 'reset', 'window', not 'eof'$"
    ):
        configured(extensions=["fin", "eof"])


@pytest.mark.parametrize("name", ["stream_window", "max_stream_window"])
def test_windows_are_bytes_in_the_range_of_the_extension(name: str) -> None:
    highest, beginning = 2**31 - 1, f"^{name} must be a number of bytes from 16384 to"
    assert configured(stream_window=16384, max_stream_window=highest).max_stream_window == highest
    for wrong in (16383, 0, -1, highest + 1):
        with pytest.raises(ValueError, match=rf"{beginning} {highest}, not {wrong}$"):
            configured(**{name: wrong})
    with pytest.raises(TypeError, match=f"^{name} must be an int"):
        configured(**{name: 1.5})


def test_a_window_does_not_begin_above_its_maximum() -> None:
    with pytest.raises(ValueError, match=r"^max_stream_window must be at least stream_window \(40000\), not 20000$"):
        trioanytls.Config(stream_window=40_000, max_stream_window=20_000)


@pytest.mark.default_extensions
@pytest.mark.parametrize(
    ("config", "window"),
    [
        (trioanytls.Config(), 64 * 1024),
        (trioanytls.Config(stream_window=1 << 20, max_streams=100), 64 * 1024 * 1024 // 100),
        (trioanytls.Config(stream_window=1 << 17, max_streams=100), 1 << 17),
        (trioanytls.Config(connection_receive_buffer_size=100_000), None),
        (trioanytls.Config(extensions=["fin"]), None),
    ],
)
def test_the_budget_has_room_for_the_first_window_of_each_stream(config: trioanytls.Config, window: int | None) -> None:
    offer = offer_of(config)
    assert ("window" in offer.names) is (window is not None)
    assert offer.names - {"window"} == config.extensions - {"window"}
    if window is not None:
        assert offer.window == window

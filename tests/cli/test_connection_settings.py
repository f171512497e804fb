"""The table `[connection]` of both ends of the relay, and the defaults without it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import trioanytls
from trioanytls.cli.common import toml_lines
from trioanytls.cli.common.connection_settings import RELAY_DEFAULTS, Side, make_config
from trioanytls.testing import echo, memory_connection_pair

CONFIG = Path(trioanytls.__file__).parent / "_config.py"
# RFC 5382, REQ-5, in seconds.
LEAST_LIFETIME = 2 * 3600 + 4 * 60


def document(tmp_path: Path, text: str) -> toml_lines.Document:
    path = tmp_path / "relay.toml"
    path.write_text(text)
    return toml_lines.read(path)


def documented_side(side: str) -> set[str]:
    """Return the fields of `Config` whose description begins with `(side)`."""
    source = CONFIG.read_text(encoding="utf-8").partition("class PoolConfig")[0]
    return set(re.findall(rf"#: \({side}\)[^\n]*\n(?:    #:[^\n]*\n)*    (\w+):", source))


@pytest.mark.parametrize("side", ["client", "server"])
def test_each_end_rejects_the_settings_of_the_other(side: Side, tmp_path: Path) -> None:
    foreign = documented_side("client" if side == "server" else "server") - {"drain_timeout"}
    assert len(foreign) >= 5
    for name in foreign:
        with pytest.raises(toml_lines.ConfigError, match=f"connection.{name}: this setting has no effect on a {side}"):
            make_config(document(tmp_path, f"[connection]\n{name} = 3\n"), side)


@pytest.mark.parametrize(
    ("side", "line", "message"),
    [
        ("client", "max_streams = 3", "max_streams: this setting has no effect on a client"),
        ("server", "initial_flush_delay = 3", "initial_flush_delay: this setting has no effect on a server"),
        ("server", "acknowledge = 'auto'", "acknowledge: unknown connection setting"),
        ("client", "idle_timout = 3", "idle_timout: unknown connection setting; did you mean 'idle_time"),
        ("client", "idle_timeout = -3", "idle_timeout: "),
        ("client", "idle_timeout = '3'", "idle_timeout: "),
    ],
)
def test_errors_name_file_line_and_key(side: Side, line: str, message: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"acknowledge": "manual"} if side == "server" else {}
    with pytest.raises(toml_lines.ConfigError) as caught:
        make_config(document(tmp_path, f"# A comment\n[connection]\n{line}\n"), side, **given)
    assert f"relay.toml, line 3: connection.{message}" in str(caught.value)


@pytest.mark.parametrize("side", ["client", "server"])
def test_file_overrides_the_defaults(side: Side, tmp_path: Path) -> None:
    text = "[connection]\nkeepalive_interval = inf\nstream_idle_timeout = 600\n"
    config = make_config(document(tmp_path, text), side)
    assert (config.keepalive_interval, config.stream_idle_timeout) == (math.inf, 600)
    assert config.keepalive_timeout == make_config(None, side).keepalive_timeout


def test_settings_that_depend_on_each_other_are_checked_together(tmp_path: Path) -> None:
    above_the_default = "[connection]\nstream_window = 33_554_432\nmax_stream_window = 67_108_864\n"
    config = make_config(document(tmp_path, above_the_default), "client")
    assert (config.stream_window, config.max_stream_window) == (32 << 20, 64 << 20)

    contradictory = "[connection]\nidle_timeout = 3\nstream_window = 40_000\nmax_stream_window = 20_000\n"
    with pytest.raises(toml_lines.ConfigError) as caught:
        make_config(document(tmp_path, contradictory), "client")
    assert "line 3: connection.stream_window: max_stream_window must be at least" in str(caught.value)


def test_extensions_can_be_turned_off(tmp_path: Path) -> None:
    assert make_config(document(tmp_path, "[connection]\nextensions = []\n"), "server").extensions == frozenset()
    config = make_config(document(tmp_path, "[connection]\nextensions = ['fin', 'reset']\n"), "client")
    assert config.extensions == {"fin", "reset"}
    with pytest.raises(toml_lines.ConfigError, match=r"line 2: connection\.extensions: each of extensions"):
        make_config(document(tmp_path, "[connection]\nextensions = ['half-close']\n"), "client")


def test_defaults_are_fields_of_config() -> None:
    assert set(RELAY_DEFAULTS) <= {one.name for one in attrs.fields(trioanytls.Config)}


@pytest.mark.parametrize("relayed", [True, False])
async def test_idle_stream_lives_as_long_as_rfc_5382_requires(autojump_clock: MockClock, relayed: bool) -> None:
    configs = [make_config(None, side) if relayed else trioanytls.Config() for side in ("client", "server")]
    async with (
        memory_connection_pair(echo, client_config=configs[0], server_config=configs[1]) as (client, _),
        await client.open_stream() as stream,
    ):
        for _ in range(3):
            await stream.send_all(b"an SSH session")
            assert await stream.receive_some() == b"an SSH session"
            await trio.sleep(LEAST_LIFETIME)
            if not relayed:
                # The library's defaults are for streams that are not idle for hours.
                with pytest.raises(trio.BrokenResourceError):
                    await stream.send_all(b"too late")
                return


@pytest.mark.default_extensions
@pytest.mark.parametrize("side", ["client", "server"])
def test_the_option_overrides_the_extensions_of_the_file(side: Side, tmp_path: Path) -> None:
    file = document(tmp_path, '[connection]\nextensions = ["fin", "reset"]\nidle_timeout = 9\n')
    assert make_config(None, side).extensions == {"fin", "goaway", "reset", "window"}
    assert not make_config(None, side, ()).extensions
    assert make_config(file, side).extensions == {"fin", "reset"}
    overridden = make_config(file, side, ["window"])
    assert overridden.extensions == {"window"}
    assert overridden.idle_timeout == 9


def test_unknown_extensions_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(
        toml_lines.ConfigError, match=r"line 2: connection.extensions: each of extensions must be one of"
    ):
        make_config(document(tmp_path, '[connection]\nextensions = ["fins"]\n'), "client")

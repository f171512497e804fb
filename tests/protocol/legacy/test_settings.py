"""The texts of Settings (legacy: 3, "Settings text")."""

from __future__ import annotations

import itertools

import pytest

from trioanytls._protocol.legacy.settings import format_settings, parse_settings, parse_version

LINES = ("v=2", "client=anytls/0.0.13", "padding-md5=75cff2ad89aadf5e257059ee571ebe11")
SETTINGS = {"v": "2", "client": "anytls/0.0.13", "padding-md5": "75cff2ad89aadf5e257059ee571ebe11"}


@pytest.mark.parametrize("lines", list(itertools.permutations(LINES)))
def test_any_order(lines: tuple[str, ...]) -> None:
    assert parse_settings("\n".join(lines).encode()) == SETTINGS


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        # What sing-box sends.
        (b"client=\nv=2", {"client": "", "v": "2"}),
        (b"", {}),
        (b"\n", {}),
        (b"v=2\n", {"v": "2"}),
        (b"no equals sign\nv=2\n\n", {"v": "2"}),
        (b"v=1\nv=2", {"v": "2"}),
        (b"a=b=c", {"a": "b=c"}),
        (b"v=2\r\nx= y ", {"v": "2\r", "x": " y "}),
        (b"=x", {"": "x"}),
        (b"unknown=1\nv=2", {"unknown": "1", "v": "2"}),
        (b"client=\xff", {"client": "\ufffd"}),
    ],
)
def test_nothing_is_an_error(text: bytes, settings: dict[str, str]) -> None:
    assert parse_settings(text) == settings


def test_a_text_has_no_line_feed_at_its_end() -> None:
    assert format_settings({"v": "2"}) == b"v=2"
    assert parse_settings(format_settings(SETTINGS)) == SETTINGS


@pytest.mark.parametrize(
    ("value", "version"),
    [
        ("2", 2),
        ("3", 3),
        ("1", 1),
        ("0", 1),
        ("", 1),
        ("-2", 1),
        ("two", 1),
        ("2.0", 1),
        (" 2", 1),
        ("258", 2),
        ("²", 1),
    ],
)
def test_a_version_is_a_decimal_number(value: str, version: int) -> None:
    assert parse_version({"v": value}) == version


def test_without_v_a_peer_speaks_version_1() -> None:
    assert parse_version({}) == 1

"""The names and bounds of the extensions (extensions: 1)."""

from __future__ import annotations

from trioanytls._protocol.anytls1.negotiation import format_extensions
from trioanytls._protocol.extensions import EXTENSIONS, MAX_WINDOW, MIN_WINDOW, NO_EXTENSIONS


def test_the_names_and_bounds_are_those_of_the_page() -> None:
    assert EXTENSIONS == ("fin", "goaway", "reset", "window")
    assert (MIN_WINDOW, MAX_WINDOW) == (16384, 2**31 - 1)
    assert not NO_EXTENSIONS.names


def test_nego_lists_the_extensions_in_their_order() -> None:
    assert format_extensions((), 16384) == {}
    assert format_extensions({"window", "fin"}, 20000) == {"ext": ["fin", "window"], "window": ["20000"]}
    assert format_extensions({"goaway", "reset"}, 20000) == {"ext": ["goaway", "reset"]}

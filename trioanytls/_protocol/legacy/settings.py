"""The texts of Settings and ServerSettings (legacy: 3, "Settings text").

Lines are joined by LF, and split at their first `=`. The programs in the field send them in any order, and one of them
sends an empty value, so nothing here is an error.
"""

from __future__ import annotations

from collections.abc import Mapping


def parse_settings(text: bytes) -> dict[str, str]:
    """Parse a text. Ignore lines without `=`; a later line wins over an earlier one with the same key."""
    lines = text.decode("utf-8", "replace").split("\n")
    pairs = (line.partition("=") for line in lines)
    return {key: value for key, equals, value in pairs if equals}


def format_settings(settings: Mapping[str, str]) -> bytes:
    """Format a text, without LF at its end."""
    return "\n".join(f"{key}={value}" for key, value in settings.items()).encode("utf-8")


def parse_version(settings: Mapping[str, str]) -> int:
    """Return the version that a peer announces: 1 unless `v` is a decimal number of at least 2 (legacy: 3)."""
    value = settings.get("v", "")
    if not (value.isascii() and value.isdigit() and len(value) <= 9):
        return 1
    # The programs in the field keep one byte of the number.
    return max(int(value) & 0xFF, 1)

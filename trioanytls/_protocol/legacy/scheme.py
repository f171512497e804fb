"""Padding schemes as the programs in the field read them (legacy: 4).

Only `stop` must be a number. A size that has another form than `min-max` is skipped. The digest is that of the text as
it was received, byte by byte.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Final

from trioanytls._protocol.exceptions import SchemeError
from trioanytls._protocol.padding_scheme import MAX_STOP, Mark, PaddingScheme, SizeRange

from .frames import MAX_DATA
from .settings import parse_settings

_SIZE: Final = re.compile(r"(-?[0-9]{1,9})-(-?[0-9]{1,9})")
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,9}")


def parse_scheme(text: bytes) -> PaddingScheme:
    """Parse a scheme. Its `text` is exactly the given one.

    Raises:
      SchemeError: `stop` is not a number from 0 to 2**30, or a size is larger than a Waste frame can have.
    """
    pairs = parse_settings(text)
    stop = pairs.get("stop", "")
    if not (stop.isascii() and stop.isdigit() and len(stop) <= 10 and int(stop) <= MAX_STOP):
        raise SchemeError(f"invalid stop {stop!r}: expected an integer from 0 to {MAX_STOP}")
    lines = {int(key): _parse_line(value) for key, value in pairs.items() if _INDEX.fullmatch(key)}
    return PaddingScheme(stop=int(stop), lines=MappingProxyType(lines), text=text)


def _parse_line(line: str) -> tuple[SizeRange | Mark, ...]:
    parts = (_parse_size(token) for token in line.split(","))
    return tuple(part for part in parts if part is not None)


def _parse_size(token: str) -> SizeRange | Mark | None:
    """Return the size or mark that a token stands for, None if it is skipped."""
    if token == Mark.CHECK.value:
        return Mark.CHECK
    match = _SIZE.fullmatch(token)
    if match is None:
        return None
    low, high = sorted(map(int, match.groups()))
    if low <= 0:
        return None
    if high > MAX_DATA:
        raise SchemeError(f"invalid size {token!r}: a frame has at most {MAX_DATA} bytes")
    return SizeRange(low, high)

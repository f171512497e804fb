"""Padding schemes: parsing, the digest, and drawing sizes (spec: Legacy Traffic Shaping Scheme v0; protocol: 3 and 6).

A scheme is a key-value block: `stop=N`, and for each index of a deliver a list of sizes `min-max` and check marks `c`.
"""

from __future__ import annotations

import enum
import hashlib
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar, Final

from attrs import field, frozen

from trioanytls._protocol.anytls1.frames import MAX_CONTROL_PAYLOAD

from . import data_blocks
from .exceptions import DataBlockError, SchemeError

#: The largest size in a line, in bytes. It keeps the padding of AUTH within its limit.
MAX_SIZE = MAX_CONTROL_PAYLOAD - 1
#: The largest `stop`. No realistic scheme shapes more delivers.
MAX_STOP = 1 << 30
#: The largest padding that line 0 of a scheme for legacy clients may ask for, in bytes. Go cuts the first TLS record of
#: a connection at 1186 bytes, and the programs in the field read one record.
MAX_LEGACY_PADDING: Final = 1152

# No sign, no leading zero, no space: each number has exactly one spelling.
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")


class Mark(enum.Enum):
    """A mark between the sizes of a line."""

    #: `c`: if no data is left to send, the deliver ends here.
    CHECK = "c"

    def __str__(self) -> str:
        return str(self.value)


@frozen
class SizeRange:
    """The sizes from `low` (included) to `high` (excluded), in bytes. If both are equal, the size is exactly that."""

    low: int
    high: int

    def draw(self, randbelow: Callable[[int], int]) -> int:
        """Draw a size from the range."""
        return self.low if self.low == self.high else self.low + randbelow(self.high - self.low)

    @property
    def largest(self) -> int:
        """The largest size that can be drawn, in bytes."""
        return max(self.low, self.high - 1)

    def __str__(self) -> str:
        return f"{self.low}-{self.high}"


@frozen(eq=False, repr=False)
class PaddingScheme:
    """The sizes of a connection's first Writes. Immutable. Two schemes are equal if their texts are.

    Attributes:
      stop: the number of delivers that are shaped, including deliver 0.
      lines: the index of a deliver -> its sizes and check marks. Line 0 has the length of the padding in AUTH.
    """

    #: The scheme that is built into every implementation. Its digest is 75cff2ad89aadf5e257059ee571ebe11.
    DEFAULT: ClassVar[PaddingScheme]

    stop: int
    lines: Mapping[int, tuple[SizeRange | Mark, ...]]
    _text: bytes = field(alias="text")

    @classmethod
    def parse(cls, block: bytes) -> PaddingScheme:
        """Parse a scheme from its key-value block.

        Raises:
          TypeError: the block is not `bytes`.
          SchemeError: the block is not a scheme. The text names the line and the fault.
        """
        if not isinstance(block, bytes):
            raise TypeError(f"a padding scheme must be bytes, not {type(block).__name__}")
        text = block.removesuffix(b"\n")
        # The length as it is sent, with the last LF.
        if len(text) + 1 > MAX_CONTROL_PAYLOAD:
            raise SchemeError(f"scheme of {len(text) + 1} bytes exceeds the limit of {MAX_CONTROL_PAYLOAD}")
        try:
            pairs = data_blocks.parse_key_values(block)
        except DataBlockError as error:
            # Whole: its `str` is cut, and `protocol` looks for quotes in it.
            raise SchemeError(error.args[0]) from error
        stop = None
        lines: dict[int, tuple[SizeRange | Mark, ...]] = {}
        for number, (key, values) in enumerate(pairs.items(), 1):
            if key == "stop":
                if len(values) != 1:
                    raise SchemeError(f"line {number}: stop must have one value, not {len(values)}")
                stop = _parse_number(number, values[0], MAX_STOP)
            elif _NUMBER.fullmatch(key):
                lines[int(key)] = tuple(_parse_size(number, value) for value in values)
            else:
                raise SchemeError(f"line {number}: invalid key {key!r}: expected 'stop' or the index of a deliver")
        if stop is None:
            raise SchemeError("the key 'stop' is missing")
        return cls(stop=stop, lines=MappingProxyType(lines), text=text)

    @property
    def text(self) -> bytes:
        """The scheme's text without its last LF, of which `digest` is the MD5."""
        return self._text

    def to_bytes(self) -> bytes:
        """Return the scheme's key-value block. Every line ends in LF."""
        return self._text + b"\n"

    @property
    def digest(self) -> str:
        """The MD5 of the text without its last LF, in hex. It is a fingerprint, not for security (protocol: 3)."""
        return hashlib.md5(self._text, usedforsecurity=False).hexdigest()

    @property
    def largest_deliver(self) -> int:
        """The maximum total of the sizes of one deliver, in bytes. Line 0 counts as the padding in AUTH."""
        return max(self._largest(), default=0)

    @property
    def largest_total(self) -> int:
        """The maximum total of the sizes of all delivers, in bytes: of a connection without data."""
        return sum(self._largest())

    def check_for_legacy(self) -> None:
        """Check that a server can send the scheme to clients of the wire format "legacy" (legacy: 2).

        Raises:
          SchemeError: line 0 asks for so much padding that Go spreads the preamble over two TLS records. The servers in
            the field read one.
        """
        line = self.lines.get(0, ())
        first = line[0] if line else None
        if isinstance(first, SizeRange) and first.largest > MAX_LEGACY_PADDING:
            raise SchemeError(
                f"the padding scheme's line 0 asks for up to {first.largest} bytes: "
                f"legacy clients can have at most {MAX_LEGACY_PADDING}"
            )

    def _largest(self) -> Iterator[int]:
        for index, line in self.lines.items():
            # Lines that no deliver reaches are unused. AUTH is padded even if no deliver is shaped.
            if index < self.stop or not index:
                yield sum(part.largest for part in (line if index else line[:1]) if isinstance(part, SizeRange))

    def draw(self, index: int, randbelow: Callable[[int], int] = secrets.randbelow) -> list[int | Mark]:
        """Draw the sizes for deliver `index`. Return an empty list if the scheme has no line for it."""
        return [part if part is Mark.CHECK else part.draw(randbelow) for part in self.lines.get(index, ())]

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, PaddingScheme) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return f"<PaddingScheme {self.digest} stop={self.stop}>"


def _parse_number(number: int, text: str, largest: int) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > largest:
        raise SchemeError(f"line {number}: invalid number {text!r}: expected an integer from 0 to {largest}")
    return int(text)


def _parse_size(number: int, text: str) -> SizeRange | Mark:
    if text == Mark.CHECK.value:
        return Mark.CHECK
    first, dash, second = text.partition("-")
    if not dash:
        raise SchemeError(f"line {number}: invalid size {text!r}: expected 'min-max' or the check mark 'c'")
    # Put swapped bounds in order, as anytls-go does (protocol: 6).
    low, high = sorted(_parse_number(number, end, MAX_SIZE) for end in (first, second))
    return SizeRange(low, high)


_DEFAULT_TEXT: Final = b"""\
stop=8
0=30-30
1=100-400
2=400-500,c,500-1000,c,500-1000,c,500-1000,c,500-1000
3=9-9,500-1000
4=500-1000
5=500-1000
6=500-1000
7=500-1000
"""

PaddingScheme.DEFAULT = PaddingScheme.parse(_DEFAULT_TEXT)

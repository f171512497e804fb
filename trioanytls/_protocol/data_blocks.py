"""Data blocks: key-value (spec: Appendix A) and text (spec: Appendix B).

Both are strict (protocol: 3): whatever the appendices say MUST be rejected is rejected, with an error that names
the line and the rule. The one exception is a last key-value line without its LF, which the schemes in the field have.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from typing import Final

from .exceptions import DataBlockError, SchemeError

_LF = 0x0A
_BOM = b"\xef\xbb\xbf"

# What an error about a data block has taken from the block stands in quotes, as `repr` makes them. So do a few words of
# our own.
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_OUR_OWN: Final = frozenset({"'v'", "'client'", "'padding-md5'", "'stop'", "'c'", "'min-max'"})

#: What a key-value block is parsed to: the value list of each key, in the block's order.
KeyValues = dict[str, tuple[str, ...]]


def parse_key_values(block: bytes) -> KeyValues:
    """Parse a key-value block (spec: Appendix A / Validation Rules).

    Raises:
      DataBlockError: the block breaks a rule.
    """
    if not block:
        raise DataBlockError(0, "the key-value block is empty")
    if block.startswith(_BOM):
        raise DataBlockError(1, "a byte order mark is not allowed")
    parsed: KeyValues = {}
    for number, line in enumerate(block.removesuffix(b"\n").split(b"\n"), 1):
        key, values = _parse_line(number, line)
        if key in parsed:
            raise DataBlockError(number, f"duplicate key {key!r}")
        parsed[key] = values
    return parsed


def _parse_line(number: int, line: bytes) -> tuple[str, tuple[str, ...]]:
    for byte in line:
        if not 0x21 <= byte <= 0x7E:
            raise DataBlockError(number, f"the byte {byte:#04x} is not allowed (expected 0x21 to 0x7e)")
    # Only the first equals sign divides; any other belongs to the value (spec: Appendix A / KV Line Grammar).
    key, equals, value_list = line.decode("ascii").partition("=")
    if not equals:
        raise DataBlockError(number, "the line has no equals sign")
    if not key:
        raise DataBlockError(number, "the key is empty")
    if "," in key:
        raise DataBlockError(number, "a key must not contain a comma")
    values = tuple(value_list.split(","))
    if "" in values:
        raise DataBlockError(number, f"the key {key!r} has an empty value")
    return key, values


def format_key_values(pairs: Mapping[str, Iterable[str]]) -> bytes:
    """Write a key-value block, each line with its LF.

    Raises:
      DataBlockError: the pairs cannot be written so that they would be read back the same.
    """
    wanted = {key: tuple(values) for key, values in pairs.items()}
    text = "".join(f"{key}={','.join(values)}\n" for key, values in wanted.items())
    block = text.encode("utf-8", "surrogatepass")
    if parse_key_values(block) != wanted:
        raise DataBlockError(0, "a key contains an equals sign, or a key or value contains a comma or a line feed")
    return block


def parse_text(block: bytes) -> str:
    """Parse a text block (spec: Appendix B / Validation Rules).

    Raises:
      DataBlockError: the block breaks a rule.
    """
    number = 1
    for position, byte in enumerate(block):
        if byte == _LF:
            number += 1
        elif not 0x20 <= byte <= 0x7E:
            raise DataBlockError(number, _text_rule(block, position, byte))
    return block.decode("ascii")


def _text_rule(block: bytes, position: int, byte: int) -> str:
    if byte < 0x80:
        return f"the control character {byte:#04x} is not allowed"
    if block.startswith(_BOM, position):
        return "a byte order mark is not allowed"
    for length in (2, 3, 4):
        with contextlib.suppress(UnicodeDecodeError):
            block[position : position + length].decode("utf-8")
            return "multi-byte UTF-8 characters are not allowed"
    return "the text is not valid UTF-8"


def format_text(text: str) -> bytes:
    """Write a text block.

    Raises:
      DataBlockError: the text has a character that Appendix B does not allow.
    """
    block = text.encode("utf-8", "surrogatepass")
    parse_text(block)
    return block


def redacted_rule(error: DataBlockError | SchemeError) -> str:
    """Which rule a block breaks, without what it says: that may be long, and anything, and is not for the log."""
    return _QUOTED.sub(lambda quoted: quoted[0] if quoted[0] in _OUR_OWN else "'...'", error.args[0])

"""Data blocks: key-value (spec: Appendix A) and text (spec: Appendix B).

Both parsers are strict (protocol: 3): they reject everything that MUST be rejected according to the appendices. The
error names the line and the rule. The only exception is a last key-value line without LF, since schemes in use have it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from typing import Final

from .exceptions import DataBlockError, SchemeError

_LF = 0x0A
_BOM = b"\xef\xbb\xbf"

# Errors quote text from a data block in the quotes of `repr`. A few words of the errors themselves are quoted as well.
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_OWN_WORDS: Final = frozenset({"'v'", "'client'", "'padding-md5'", "'window'", "'ext'", "'stop'", "'c'", "'min-max'"})

#: A parsed key-value block: the values of each key, in the block's order.
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
    # Only the first equals sign is the separator. All others belong to the value (spec: Appendix A / KV Line Grammar).
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
    """Format a key-value block. Every line ends in LF.

    Raises:
      DataBlockError: parsing the block would not return the same pairs.
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
    """Format a text block.

    Raises:
      DataBlockError: the text contains a character that Appendix B does not allow.
    """
    block = text.encode("utf-8", "surrogatepass")
    parse_text(block)
    return block


def redacted_rule(error: DataBlockError | SchemeError) -> str:
    """Return the rule that a block breaks, without text from the block: the peer controls it, and it can be long."""
    return _QUOTED.sub(lambda quoted: quoted[0] if quoted[0] in _OWN_WORDS else "'...'", error.args[0])

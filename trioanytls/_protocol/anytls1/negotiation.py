"""The negotiation: the supported versions, and the keys of a NEGO frame (spec: Nego Frame)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

from trioanytls._protocol import data_blocks
from trioanytls._protocol.exceptions import DataBlockError, ProtocolViolation
from trioanytls._protocol.extensions import EXTENSIONS, MAX_WINDOW, MIN_WINDOW, Extension
from trioanytls._version import __version__

from .frames import FrameType, describe

#: The supported protocol versions, in order of preference.
VERSIONS: Final = (1,)
#: The value of the `client` key in our NEGO.
IDENTIFIER: Final = f"trioanytls/{__version__}"

_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_NUMBER = re.compile(r"[1-9][0-9]{0,9}")


def format_extensions(names: Collection[Extension], window: int) -> dict[str, list[str]]:
    """Return the keys of NEGO that name these extensions (extensions: 1)."""
    if not names:
        return {}
    keys: dict[str, list[str]] = {"ext": [name for name in EXTENSIONS if name in names]}
    if "window" in names:
        keys["window"] = [str(window)]
    return keys


class NegotiationKeys:
    """The keys of a NEGO frame."""

    def __init__(self, kind: FrameType, stream_id: int, block: bytes) -> None:
        self._kind = kind
        self._stream_id = stream_id
        try:
            self._keys = data_blocks.parse_key_values(block)
        except DataBlockError as error:
            raise self.violation(data_blocks.redacted_rule(error)) from None

    def violation(self, rule: str) -> ProtocolViolation:
        """Return the error for this frame."""
        return ProtocolViolation.of(describe(self._kind), self._stream_id, rule)

    def versions(self) -> list[int]:
        """Return the values of the key `v`."""
        values: Iterable[str] = self._keys.get("v", ("",))
        if not all(_VERSION.fullmatch(value) for value in values):
            raise self.violation("the key 'v' is missing or not a list of version numbers")
        return [int(value) for value in values]

    def extensions(self) -> frozenset[str]:
        """Return the values of the key `ext`, known or not."""
        return frozenset(self._keys.get("ext", ()))

    def window(self) -> int:
        """Return the value of the key `window`, which must be there (extensions: 1)."""
        values = self._keys.get("window", ())
        if len(values) == 1 and _NUMBER.fullmatch(values[0]) and MIN_WINDOW <= int(values[0]) <= MAX_WINDOW:
            return int(values[0])
        raise self.violation(f"the key 'window' is missing or not a number from {MIN_WINDOW} to {MAX_WINDOW}")

    def single(self, key: str) -> str:
        """Return the value of a key that must have exactly one."""
        values = self._keys.get(key, ())
        if len(values) != 1:
            raise self.violation(f"the key {key!r} is missing or has more than one value")
        return values[0]

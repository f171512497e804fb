"""The users of the front ends: who local applications have to be."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from attrs import field, frozen

#: The longest user name and password in SOCKS5, in bytes.
MAX_LENGTH: Final = 255


def _digest(password: bytes) -> bytes:
    # For a comparison that takes the same time for each length. Passwords are not stored anywhere in this form.
    return hashlib.sha256(password).digest()


def _digests(users: Mapping[str, str]) -> dict[bytes, bytes]:
    return {name.encode(): _digest(password.encode()) for name, password in users.items()}


@frozen
class ProxyUsers:
    """Names and passwords that applications can use.

    Args:
      users: name -> password.
    """

    _users: Mapping[bytes, bytes] = field(converter=_digests, repr=False)

    def accept(self, name: bytes, password: bytes) -> bool:
        """Return whether this is the password of that user."""
        expected = self._users.get(name)
        # An unknown name takes as long as a wrong password.
        matches = hmac.compare_digest(_digest(password), expected or _NOBODY)
        return matches and expected is not None


_NOBODY: Final = bytes(32)

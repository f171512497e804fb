"""The users of the front ends, as which local applications authenticate."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from attrs import field, frozen

#: The longest user name and password in SOCKS5, in bytes.
MAX_LENGTH: Final = 255


def _digest(password: bytes) -> bytes:
    # Makes the time of a comparison independent of the length. Passwords are not stored in this form.
    return hashlib.sha256(password).digest()


def _digests(users: Mapping[str, str]) -> dict[bytes, bytes]:
    return {name.encode(): _digest(password.encode()) for name, password in users.items()}


@frozen
class ProxyUsers:
    """The names and passwords of applications.

    Args:
      users: name -> password.
    """

    _users: Mapping[bytes, bytes] = field(converter=_digests, repr=False)

    def accept(self, name: bytes, password: bytes) -> bool:
        """Return whether this is the password of that user."""
        expected = self._users.get(name)
        # An unknown name takes as long as a wrong password.
        matches = hmac.compare_digest(_digest(password), expected or _NO_PASSWORD)
        return matches and expected is not None


_NO_PASSWORD: Final = bytes(32)

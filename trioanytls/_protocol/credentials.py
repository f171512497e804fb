"""Users and passwords: hashed once, compared in constant time (spec: Authentication; protocol: 2 and 4)."""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections.abc import Mapping
from typing import Final

#: AUTH of `anytls1` begins with its frame type and the id of the control stream, each in one byte. The hash follows.
AUTH_BEGINNING: Final = b"\x00\x00"


def hash_password(password: str) -> bytes:
    """Return the SHA-256 of the password in UTF-8, as AUTH carries it (protocol: 2).

    Raises:
      ValueError: the password cannot be encoded.
    """
    try:
        encoded = password.encode("utf-8")
    except UnicodeEncodeError as error:
        # The error contains the whole password, and its `repr` shows it.
        reason = f"{error.reason} (position {error.start})"
    else:
        return hashlib.sha256(encoded).digest()
    raise ValueError(f"the password cannot be encoded as UTF-8: {reason}")


class UserTable:
    """The users of a server.

    Raises:
      ValueError: there is no user, or two users have the same password. Only the password tells users apart.
    """

    __slots__ = ("_hashes", "_names")

    def __init__(self, passwords: Mapping[str, str]) -> None:
        if not passwords:
            raise ValueError("a server needs at least one user")
        names: dict[bytes, str] = {}
        for name, password in passwords.items():
            other = names.setdefault(hash_password(password), name)
            if other != name:
                raise ValueError(f"the users {other!r} and {name!r} have the same password")
        self._hashes = list(names)
        _check_distinguishable(names)
        self._names = list(names.values())

    def find(self, password_hash: bytes) -> str | None:
        """Return the user with this hash. Compare all hashes, so that the time does not reveal which one matched."""
        matches = map(hmac.compare_digest, self._hashes, itertools.repeat(password_hash))
        # Exhaust the iterator, even after a match.
        found = list(itertools.compress(self._names, matches))
        return found[0] if found else None


def _check_distinguishable(names: Mapping[bytes, str]) -> None:
    """Check that the first bytes of a client name one user at most, whichever the wire format (legacy: 9).

    Raises:
      ValueError: one user's AUTH begins like another user's preamble, which no two passwords are known to do.
    """
    beginnings = {password_hash[: -len(AUTH_BEGINNING)]: name for password_hash, name in names.items()}
    for password_hash, name in names.items():
        beginning, rest = password_hash[: len(AUTH_BEGINNING)], password_hash[len(AUTH_BEGINNING) :]
        if beginning == AUTH_BEGINNING and rest in beginnings:
            raise ValueError(f"the passwords of {beginnings[rest]!r} and {name!r} cannot be told apart: change one")

"""Passwords in files. No error and no log line shows a password.

A password on a command line is visible to anyone who can read the process list, so files are preferred.
"""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Final

import click

from trioanytls.relay.proxy_users import MAX_LENGTH

from .errors import InvalidSettings

_log = logging.getLogger("trioanytls.cli")

# The largest file with one password, and with users, in bytes.
_MAX_PASSWORD_FILE: Final = 4096
_MAX_USERS_FILE: Final = 16 << 20


class PasswordError(InvalidSettings):
    """A password is missing or invalid, or its file cannot be read."""


def read_password_file(path: Path) -> str:
    """Read a file whose only line is a password.

    Raises:
      PasswordError: the file cannot be read, or does not contain exactly one password.
    """
    lines = _read(path, _MAX_PASSWORD_FILE).splitlines()
    name = click.format_filename(path)
    if not lines or not lines[0]:
        raise PasswordError(f"the password file {name} is empty: write the password on its first line")
    if any(lines[1:]):
        raise PasswordError(f"the password file {name} has more than one line: use --users-file for several users")
    return lines[0]


def read_users_file(path: Path) -> dict[str, str]:
    """Read a file of users. Empty lines, and lines that begin with `#`, are ignored.

    Raises:
      PasswordError: the file cannot be read, contains no users, or has an invalid line.
    """
    return _read_users(path, "NAME:PASSWORD")


def read_proxy_users_file(path: Path) -> dict[str, str]:
    """Read the users of the client's front ends, from a file like that of `read_users_file`.

    Raises:
      PasswordError: as in `read_users_file`, or a name or a password is longer than SOCKS allows.
    """
    return _read_users(path, "user:password", max_bytes=MAX_LENGTH)


def _read_users(path: Path, form: str, *, max_bytes: int | None = None) -> dict[str, str]:
    users: dict[str, str] = {}
    for number, line in enumerate(_read(path, _MAX_USERS_FILE).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, password = line.partition(":")
        name = name.strip()
        place = f"{click.format_filename(path)}, line {number}"
        if not colon or not name:
            raise PasswordError(f"{place}: expected {form}")
        if not password:
            raise PasswordError(f"{place}: the password of {name!a} is empty: expected {form}")
        if name in users:
            raise PasswordError(f"{place}: duplicate user {name!a}")
        if max_bytes is not None and max(len(name.encode()), len(password.encode())) > max_bytes:
            raise PasswordError(f"{place}: the two parts of {form} must be at most {max_bytes} bytes long each")
        users[name] = password
    if not users:
        raise PasswordError(f"no users in {click.format_filename(path)}: write a line {form} for each user")
    return users


def warn_if_exposed(path: Path) -> None:
    """Log a warning if other users of this machine can read a file that contains a secret."""
    try:
        status = path.stat()
    except OSError:
        return
    # On other systems, the mode does not describe the permissions.
    if os.name == "posix" and stat.S_ISREG(status.st_mode) and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        name = click.format_filename(path)
        _log.warning("%s is accessible to other users of this machine: run chmod 600 %s", name, name)


def _read(path: Path, max_bytes: int) -> str:
    name = click.format_filename(path)
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise PasswordError(f"cannot read the password file {name}: {error.strerror}") from error
    if len(data) > max_bytes:
        raise PasswordError(f"{name} is too large for a password file: the limit is {max_bytes} bytes")
    try:
        # Some editors begin each file with a byte order mark.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PasswordError(f"{name}, line {line}: invalid UTF-8 in a password file") from None
    warn_if_exposed(path)
    return text

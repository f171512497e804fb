"""Passwords out of files: read again when they are asked for again, and never shown.

Whoever may read the list of processes sees what stands on a command line: so a password has better places.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click
from attrs import field, frozen

from trioanytls.cli.common import toml_lines
from trioanytls.cli.common.errors import InvalidSettings
from trioanytls.cli.common.toml_lines import Document
from trioanytls.relay.proxy_users import MAX_LENGTH

_log = logging.getLogger("trioanytls.cli")

#: Where a password is looked for when no option has one.
VARIABLE: Final = "TRIOANYTLS_PASSWORD"
#: What somebody is called who has the only password.
ONLY_USER: Final = "user"

# Longer than any password, or all users together.
_MOST_PASSWORD: Final = 4096
_MOST_USERS: Final = 16 << 20


class PasswordError(InvalidSettings):
    """A password is missing or invalid, or its file cannot be read."""


@frozen
class UserSource:
    """Where the users and their passwords are.

    Attributes:
      password: the only one; then nothing else counts.
      password_file: has a password in it.
      users_file: has a line `NAME:PASSWORD` for each user.
      config: a configuration file, with a key `password`, or a table `users` of names and passwords.
    """

    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None
    users_file: Path | None = None
    config: Path | None = None

    def read(self) -> dict[str, str]:
        """Name -> password; empty where there is none.

        Raises:
          PasswordError, ConfigError: a file cannot be used.
        """
        if self.password is not None:
            return {ONLY_USER: self.password}
        users: dict[str, str] = {}
        if self.password_file is not None:
            users[ONLY_USER] = read_password_file(self.password_file)
        if self.users_file is not None:
            users |= read_users_file(self.users_file)
        if self.config is not None:
            users |= users_of(toml_lines.read(self.config))
        return users


def users_of(document: Document) -> dict[str, str]:
    """The users that a configuration file has in itself.

    Raises:
      ConfigError: they are no users.
    """
    password, table = document.values.get("password"), document.table("users")
    entries: list[tuple[tuple[str, ...], object]] = [(("users", name), value) for name, value in table.items()]
    if password is not None:
        entries.insert(0, (("password",), password))
    users = {}
    for key, value in entries:
        if not isinstance(value, str) or not value:
            raise document.error(key, "this is a password: a string that is not empty")
        users[key[1] if len(key) > 1 else ONLY_USER] = value
    if users:
        warn_if_exposed(document.path)
    return users


def read_password_file(path: Path) -> str:
    """The password in a file, on its only line.

    Raises:
      PasswordError: it cannot be read, or there is not one password in it.
    """
    lines = _read(path, _MOST_PASSWORD).splitlines()
    name = click.format_filename(path)
    if not lines or not lines[0]:
        raise PasswordError(f"the password file {name} is empty: write the password into its first line")
    if any(lines[1:]):
        raise PasswordError(f"the password file {name} has more than one line: several users go into --users-file")
    return lines[0]


def read_users_file(path: Path) -> dict[str, str]:
    """The users in a file. Empty lines, and those that begin with `#`, mean nothing.

    Raises:
      PasswordError: it cannot be read, or a line is something else, or there is none.
    """
    return _read_users(path, "NAME:PASSWORD")


def read_proxy_users_file(path: Path) -> dict[str, str]:
    """Read the users of the client's front ends from a file like that of `read_users_file`.

    Raises:
      PasswordError: as there, or a name or a password is longer than SOCKS allows.
    """
    return _read_users(path, "user:password", most_bytes=MAX_LENGTH)


def _read_users(path: Path, form: str, *, most_bytes: int | None = None) -> dict[str, str]:
    users: dict[str, str] = {}
    for number, line in enumerate(_read(path, _MOST_USERS).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, password = line.partition(":")
        name = name.strip()
        place = f"{click.format_filename(path)}, line {number}"
        if not colon or not name:
            raise PasswordError(f"{place}: a user is written {form}")
        if not password:
            raise PasswordError(f"{place}: the password of {name!a} is empty: a user is written {form}")
        if name in users:
            raise PasswordError(f"{place}: there is a user {name!a} already")
        if most_bytes is not None and max(len(name.encode()), len(password.encode())) > most_bytes:
            raise PasswordError(f"{place}: each of {form} has at most {most_bytes} bytes")
        users[name] = password
    if not users:
        raise PasswordError(f"{click.format_filename(path)} has no users: write a line {form} for each")
    return users


def from_environment(environment: Mapping[str, str] = os.environ) -> str | None:
    """The password in the environment.

    Raises:
      PasswordError: it is empty.
    """
    password = environment.get(VARIABLE)
    if password == "":
        raise PasswordError(f"the password in {VARIABLE} is empty: set it, or unset the variable")
    return password


def warn_if_exposed(path: Path) -> None:
    """Say so, where others can read a file with a secret."""
    try:
        status = path.stat()
    except OSError:
        return
    # What another system calls permissions says nothing about these.
    if os.name == "posix" and stat.S_ISREG(status.st_mode) and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        name = click.format_filename(path)
        _log.warning("%s is open to other users of this machine: chmod 600 %s", name, name)


def _read(path: Path, most: int) -> str:
    name = click.format_filename(path)
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise PasswordError(f"the password file {name} cannot be read: {error.strerror}") from error
    if len(data) > most:
        raise PasswordError(f"{name} is no password file: it has more than {most} bytes")
    try:
        # Some editors begin each file with a byte order mark.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PasswordError(f"{name}, line {line}: this is no password file: it is not UTF-8") from None
    warn_if_exposed(path)
    return text

"""The server's users. They are read at the start, and again after SIGHUP."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attrs import field, frozen

from trioanytls.cli.common import toml_lines
from trioanytls.cli.common.password_files import (
    PasswordError,
    read_password_file,
    read_users_file,
    warn_if_exposed,
)
from trioanytls.cli.common.toml_lines import Document

#: The environment variable with the password, which is used unless an option gives one.
VARIABLE: Final = "TRIOANYTLS_PASSWORD"
#: The name of the user if there is only one password.
ONLY_USER: Final = "user"


@frozen
class UserSource:
    """The places from which users and their passwords are read.

    Attributes:
      password: the only password; if it is set, the other sources are ignored.
      password_file: a file that contains a password.
      users_file: a file with a line `NAME:PASSWORD` for each user.
      config: a configuration file with a key `password`, or a table `users` of names and passwords.
    """

    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None
    users_file: Path | None = None
    config: Path | None = None

    def read(self) -> dict[str, str]:
        """Read all users. Return name -> password, which is empty if no source is set.

        Raises:
          PasswordError, ConfigError: a file cannot be read or is invalid.
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
    """Return the users in a configuration file: name -> password.

    Raises:
      ConfigError: a password is not a non-empty string.
    """
    password, table = document.values.get("password"), document.table("users")
    entries: list[tuple[tuple[str, ...], object]] = [(("users", name), value) for name, value in table.items()]
    if password is not None:
        entries.insert(0, (("password",), password))
    users = {}
    for key, value in entries:
        if not isinstance(value, str) or not value:
            raise document.error(key, "a password must be a non-empty string")
        users[key[1] if len(key) > 1 else ONLY_USER] = value
    if users:
        warn_if_exposed(document.path)
    return users


def from_environment(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the password in the environment, None if the variable is not set.

    Raises:
      PasswordError: it is empty.
    """
    password = environment.get(VARIABLE)
    if password == "":
        raise PasswordError(f"the password in {VARIABLE} is empty: set it, or unset the variable")
    return password

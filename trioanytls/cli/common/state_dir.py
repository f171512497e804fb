"""The directory where a command keeps what it has to know again: this user's alone."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click
from attrs import frozen

from trioanytls.files import replace_file

from .errors import UserError

_DIRECTORY_MODE: Final = 0o700


class StateError(UserError):
    """The directory, or a file in it, cannot be used."""


@frozen
class StateDirectory:
    """A directory whose files nobody else can read. It is made when something is written."""

    path: Path

    def prepare(self) -> None:
        """Make the directory, and see whether files can be written there.

        Raises:
          StateError: they cannot, or others can write there too.
        """
        try:
            self.path.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
            self._check()
            with tempfile.TemporaryFile(dir=self.path) as file:
                file.write(b"0")
        except OSError as error:
            raise self._failed(error) from error

    def read(self, name: str) -> bytes | None:
        """A file; None where there is none.

        Raises:
          StateError: it cannot be read, or others can.
        """
        path = self.path / name
        try:
            self._check()
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if os.name == "posix" and (_is_foreign(status) or stat.S_IMODE(status.st_mode) & 0o077):
                    shown = click.format_filename(path)
                    raise StateError(f"others may know, or have written, {shown}: remove it, and it is made anew")
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed(error) from error

    def write(self, name: str, data: bytes) -> Path:
        """Write a file, or replace it as a whole.

        Raises:
          StateError: it cannot be written.
        """
        path = self.path / name
        try:
            self.path.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
            self._check()
            replace_file(path, data)
        except OSError as error:
            raise self._failed(error) from error
        return path

    def _check(self) -> None:
        """In a directory that is others' to write, they can put files of theirs in the place of ours."""
        status = self.path.stat()
        if os.name == "posix" and (_is_foreign(status) or stat.S_IMODE(status.st_mode) & 0o022):
            shown = click.format_filename(self.path)
            raise StateError(f"others can write into the state directory {shown}: chmod 700 {shown}, or --state-dir")

    def _failed(self, error: OSError) -> StateError:
        shown = click.format_filename(self.path)
        return StateError(
            f"the state directory {shown} cannot be used: {error.strerror}; --state-dir names another one"
        )


def _is_foreign(status: os.stat_result) -> bool:
    return status.st_uid not in (0, os.geteuid())


def default_directory(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Where the system wants such things.

    What systemd has set aside for the service (`StateDirectory=`) comes first.

    Raises:
      StateError: this user has no home.
    """
    if given := environment.get("STATE_DIRECTORY", "").partition(":")[0]:
        return Path(given)
    try:
        home = Path.home()
    except RuntimeError as error:
        raise StateError("this user has no home directory to keep files in: --state-dir names one") from error
    if platform == "win32":
        return Path(environment.get("LOCALAPPDATA") or home / "AppData" / "Local") / "trioanytls"
    if platform == "darwin":
        return home / "Library" / "Application Support" / "trioanytls"
    # Relative ones are to be ignored (XDG Base Directory Specification).
    base = Path(environment.get("XDG_STATE_HOME", ""))
    return (base if base.is_absolute() else home / ".local" / "state") / "trioanytls"

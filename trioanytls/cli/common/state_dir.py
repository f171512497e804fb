"""The directory in which a command keeps its state. Other users cannot access it."""

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
    """The state directory, or a file in it, cannot be used."""


@frozen
class StateDirectory:
    """A directory whose files other users cannot read. It is created by the first write."""

    path: Path

    def prepare(self) -> None:
        """Create the directory, and check that it is writable.

        Raises:
          StateError: it is not, or other users can write to it as well.
        """
        try:
            self.path.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
            self._check()
            with tempfile.TemporaryFile(dir=self.path) as file:
                file.write(b"0")
        except OSError as error:
            raise self._failed(error) from error

    def read(self, name: str) -> bytes | None:
        """Read a file. Return None if it does not exist.

        Raises:
          StateError: it cannot be read, or other users can access it.
        """
        path = self.path / name
        try:
            self._check()
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if os.name == "posix" and (_is_foreign(status) or stat.S_IMODE(status.st_mode) & 0o077):
                    shown = click.format_filename(path)
                    raise StateError(f"{shown} is accessible to other users: delete it to have it regenerated")
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed(error) from error

    def write(self, name: str, data: bytes) -> Path:
        """Write a file, or replace it atomically.

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
        """Reject a directory that other users can write to: they could replace the files."""
        status = self.path.stat()
        if os.name == "posix" and (_is_foreign(status) or stat.S_IMODE(status.st_mode) & 0o022):
            shown = click.format_filename(self.path)
            raise StateError(
                f"other users can write to the state directory {shown}: run chmod 700 {shown}, or choose another one "
                "with --state-dir"
            )

    def _failed(self, error: OSError) -> StateError:
        shown = click.format_filename(self.path)
        return StateError(
            f"cannot use the state directory {shown}: {error.strerror}; choose another one with --state-dir"
        )


def _is_foreign(status: os.stat_result) -> bool:
    return status.st_uid not in (0, os.geteuid())


def default_directory(environment: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Return the directory for state files on this system.

    The directory of a systemd service (`StateDirectory=`) takes precedence.

    Raises:
      StateError: this user has no home directory.
    """
    if given := environment.get("STATE_DIRECTORY", "").partition(":")[0]:
        return Path(given)
    try:
        home = Path.home()
    except RuntimeError as error:
        raise StateError("this user has no home directory: give a state directory with --state-dir") from error
    if platform == "win32":
        return Path(environment.get("LOCALAPPDATA") or home / "AppData" / "Local") / "trioanytls"
    if platform == "darwin":
        return home / "Library" / "Application Support" / "trioanytls"
    # A relative path must be ignored (XDG Base Directory Specification).
    base = Path(environment.get("XDG_STATE_HOME", ""))
    return (base if base.is_absolute() else home / ".local" / "state") / "trioanytls"

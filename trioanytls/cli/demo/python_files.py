"""The files that the demo uploads."""

from __future__ import annotations

import hashlib
import os
import stat
import sysconfig
from pathlib import Path

from attrs import Factory, define, frozen

# Installed packages are not part of the standard library.
_EXCLUDED = ("site-packages", "dist-packages")


def standard_library() -> Path:
    """Return the directory of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


@define
class Found:
    """The files found in a directory.

    Attributes:
      files: the `*.py` files, sorted.
      unreadable: the directories that could not be listed, with the reason.
    """

    files: list[Path] = Factory(list)
    unreadable: list[str] = Factory(list)


def find(directory: Path) -> Found:
    """Find the `*.py` files in a directory and its subdirectories, except those of installed packages."""
    found = Found()

    def failed(error: OSError) -> None:
        found.unreadable.append(f"{error.filename}: {error.strerror}")

    for path, directories, names in os.walk(directory, onerror=failed):
        directories[:] = [name for name in directories if name not in _EXCLUDED]
        found.files.extend(Path(path, name) for name in names if name.endswith(".py"))
    found.files.sort()
    return found


@frozen
class Content:
    """The content of a file.

    Attributes:
      data: the content.
      digest: the SHA-256 of the content.
    """

    data: bytes
    digest: bytes


def read(path: Path) -> Content:
    """Read a file.

    Raises:
      OSError: it cannot be read, or is not a regular file. Reading from a pipe might never end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(None, "not a regular file", str(path))
    data = path.read_bytes()
    return Content(data, hashlib.sha256(data).digest())

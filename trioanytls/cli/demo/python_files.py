"""The files that the demo uploads: finding them, and reading one."""

from __future__ import annotations

import hashlib
import os
import stat
import sysconfig
from pathlib import Path

from attrs import Factory, define, frozen

# What is installed there is not the interpreter's.
_NOT_OURS = ("site-packages", "dist-packages")


def standard_library() -> Path:
    """Where the running interpreter has its standard library."""
    return Path(sysconfig.get_path("stdlib"))


@define
class Found:
    """What is in a directory.

    Attributes:
      files: the `*.py` files, sorted.
      unreadable: directories that could not be listed, with the reason.
    """

    files: list[Path] = Factory(list)
    unreadable: list[str] = Factory(list)


def find(directory: Path) -> Found:
    """Find the `*.py` files of a directory and of all below it; not in those of installed packages."""
    found = Found()

    def failed(error: OSError) -> None:
        found.unreadable.append(f"{error.filename}: {error.strerror}")

    for path, directories, names in os.walk(directory, onerror=failed):
        directories[:] = [name for name in directories if name not in _NOT_OURS]
        found.files.extend(Path(path, name) for name in names if name.endswith(".py"))
    found.files.sort()
    return found


@frozen
class Content:
    """What a file holds.

    Attributes:
      data: all of it.
      digest: its SHA-256.
    """

    data: bytes
    digest: bytes


def read(path: Path) -> Content:
    """Read a file.

    Raises:
      OSError: it cannot be read, or is no regular file: reading from a pipe might never end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(None, "not a regular file", str(path))
    data = path.read_bytes()
    return Content(data, hashlib.sha256(data).digest())

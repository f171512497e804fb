"""Files that are written whole or not at all: for a custom `SchemeStore`, and for other small state of a program."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

__all__ = ["replace_file"]


def replace_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file, or replace it as a whole.

    A reader finds the previous content or the new one, even if the program or the machine crashes meanwhile. Only the
    owner can read the new file. Its directory must exist.

    Args:
      path: the file.
      data: its new content.

    Raises:
      OSError: the file cannot be written. The previous one remains.
    """
    target = Path(path)
    # In the same directory, so that it can be renamed. `mkstemp` never opens a file that exists.
    descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise

"""Where a client keeps the padding schemes that servers have sent it, for its next start (spec: Padding Scheme Update).

The one that is here keeps files. Another one is any object with `load` and `save`.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from trioanytls._checks import check_type
from trioanytls._protocol.exceptions import SchemeError
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls.files import replace_file

_log = logging.getLogger("trioanytls.client")

# More than a scheme can have is not read.
_MAX_FILE = 128 * 1024
# What file systems take for a name is 255 bytes; a long host name would have more, with the port and all.
_MAX_NAME = 200


class SchemeStore(Protocol):
    """What keeps schemes; called in a worker thread, one call at a time for each client."""

    def load(self, key: str) -> PaddingScheme | None:
        """The scheme that was kept for a server, None where there is none; `key` is its "host:port"."""

    def save(self, key: str, scheme: PaddingScheme) -> None:
        """Keep a scheme, in place of the one that was kept before."""


class FileSchemeStore:
    """Schemes in a directory, one file for each server; the directory is made when the first one is saved.

    A file is there whole or not at all, also when the machine fails. One that cannot be read is reported in the log
    (`trioanytls.client`) and ignored.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        check_type("directory", directory, str, os.PathLike)
        self.directory = Path(directory)

    def __repr__(self) -> str:
        return f"FileSchemeStore({str(self.directory)!r})"

    def path(self, key: str) -> Path:
        """The file for a server."""
        check_type("key", key, str)
        name = quote(key, safe="")
        if len(name) > _MAX_NAME:
            name = f"{name[:_MAX_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        return self.directory / f"{name}.scheme"

    def load(self, key: str) -> PaddingScheme | None:
        """See `SchemeStore`."""
        path = self.path(key)
        try:
            with path.open("rb") as file:
                block = file.read(_MAX_FILE)
            return PaddingScheme.parse(block)
        except FileNotFoundError:
            return None
        except (OSError, SchemeError) as error:
            _log.warning("the padding scheme in %s is ignored: %s", path, error)
            return None

    def save(self, key: str, scheme: PaddingScheme) -> None:
        """See `SchemeStore`.

        Raises:
          OSError: it cannot be written.
        """
        check_type("scheme", scheme, PaddingScheme)
        path = self.path(key)
        self.directory.mkdir(parents=True, exist_ok=True)
        replace_file(path, scheme.to_bytes())

"""Stores for the padding schemes that servers send, for the next start of a client (spec: Padding Scheme Update).

`FileSchemeStore` keeps them in files. Any object with `load` and `save` can replace it.
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
from trioanytls._protocol.legacy.scheme import parse_scheme
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls.files import replace_file

_log = logging.getLogger("trioanytls.client")

# The largest number of bytes that is read from a file. No scheme has as many.
_MAX_FILE = 128 * 1024
# The end of a key that stands for the wire format "legacy".
_LEGACY = "/legacy"
# The longest file name without its extension. File systems allow 255 bytes, which a long encoded key exceeds.
_MAX_NAME = 200


class SchemeStore(Protocol):
    """A store of padding schemes. Its methods are called in a worker thread, one call at a time for each client."""

    def load(self, key: str) -> PaddingScheme | None:
        """Return the saved scheme of a server, None if there is none.

        `key` is the server's "host:port", with "/legacy" after it for the wire format "legacy": the schemes of the two
        formats have different rules and digests.
        """

    def save(self, key: str, scheme: PaddingScheme) -> None:
        """Save the scheme of a server, replacing the previous one."""


class FileSchemeStore:
    """A store that keeps one file for each server in a directory. The first `save` creates the directory.

    The scheme of a legacy server is kept byte by byte, and read as the programs in the field read it.

    Files are written whole or not at all, even if the machine crashes. A file that cannot be read is ignored, with a
    warning in the log (`trioanytls.client`).
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        check_type("directory", directory, str, os.PathLike)
        self.directory: Path = Path(directory)

    def __repr__(self) -> str:
        return f"FileSchemeStore({str(self.directory)!r})"

    def path(self, key: str) -> Path:
        """Return the path of the file for a server."""
        check_type("key", key, str)
        name = quote(key, safe="")
        if len(name) > _MAX_NAME:
            name = f"{name[:_MAX_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        return self.directory / f"{name}.scheme"

    def load(self, key: str) -> PaddingScheme | None:
        """Return the saved scheme of a server, see `SchemeStore`."""
        path = self.path(key)
        try:
            with path.open("rb") as file:
                block = file.read(_MAX_FILE)
            # The digest of a legacy scheme is that of its text as it was received, to which `save` has added one LF.
            return parse_scheme(block.removesuffix(b"\n")) if key.endswith(_LEGACY) else PaddingScheme.parse(block)
        except FileNotFoundError:
            return None
        except (OSError, SchemeError) as error:
            _log.warning("ignoring the padding scheme in %s: %s", path, error)
            return None

    def save(self, key: str, scheme: PaddingScheme) -> None:
        """Save the scheme of a server, see `SchemeStore`.

        Raises:
          OSError: the file cannot be written.
        """
        check_type("scheme", scheme, PaddingScheme)
        path = self.path(key)
        self.directory.mkdir(parents=True, exist_ok=True)
        replace_file(path, scheme.to_bytes())

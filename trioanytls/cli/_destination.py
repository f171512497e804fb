"""The public module's names, until all of the command line imports that one itself."""

from __future__ import annotations

from trioanytls.destination import (
    MAX_ENCODED,
    MAX_NAME,
    Destination,
    DestinationDecoder,
    DestinationError,
    encode,
)

__all__ = ["MAX_ENCODED", "MAX_NAME", "Destination", "DestinationDecoder", "DestinationError", "encode"]

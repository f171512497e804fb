"""ANYTLS for Trio: many independent byte streams over one TLS 1.3 connection."""

from __future__ import annotations

from ._broken import ConnectionClosed, StreamRefused, StreamTimeout
from ._client import open_connection, wrap_client
from ._config import Config
from ._connection import Connection
from ._control import ServerControl
from ._errors import (
    AnyTLSError,
    AuthenticationFailed,
    DataBlockError,
    LimitExceeded,
    ProtocolViolation,
    SchemeError,
    VersionNotSupported,
)
from ._fallback import FallbackStream, relay_to
from ._frames import CloseCode
from ._padding import Mark, PaddingScheme, SizeRange
from ._server import serve, serve_connection
from ._shaper import Delivery
from ._stats import ConnectionStats, ServerStats
from ._stream import Stream
from ._tls import TLSError
from ._version import __version__

__all__ = [
    "AnyTLSError",
    "AuthenticationFailed",
    "CloseCode",
    "Config",
    "Connection",
    "ConnectionClosed",
    "ConnectionStats",
    "DataBlockError",
    "Delivery",
    "FallbackStream",
    "LimitExceeded",
    "Mark",
    "PaddingScheme",
    "ProtocolViolation",
    "SchemeError",
    "ServerControl",
    "ServerStats",
    "SizeRange",
    "Stream",
    "StreamRefused",
    "StreamTimeout",
    "TLSError",
    "VersionNotSupported",
    "__version__",
    "open_connection",
    "relay_to",
    "serve",
    "serve_connection",
    "wrap_client",
]

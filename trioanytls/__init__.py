"""ANYTLS for Trio: many independent byte streams over one TLS 1.3 connection."""

from __future__ import annotations

from ._broken import ConnectFailed, ConnectionClosed, StreamRefused, StreamTimeout
from ._client import open_connection, wrap_client
from ._config import Config, PoolConfig
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
from ._events import ClientEvents
from ._fallback import FallbackStream, relay_to
from ._frames import CloseCode
from ._listeners import open_listeners
from ._padding import Mark, PaddingScheme, SizeRange
from ._pool import Client, ClientStats, open_client, open_client_uri
from ._scheme_store import FileSchemeStore, SchemeStore
from ._server import serve, serve_connection
from ._shaper import Delivery
from ._stats import ConnectionStats, ServerStats
from ._stream import Stream
from ._text import one_line
from ._tls import CertificateError, TLSError
from ._uri import ServerURI, URIError, format_uri, parse_uri
from ._version import __version__
from ._workers import WorkersControl, serve_workers

__all__ = [
    "AnyTLSError",
    "AuthenticationFailed",
    "CertificateError",
    "Client",
    "ClientEvents",
    "ClientStats",
    "CloseCode",
    "Config",
    "ConnectFailed",
    "Connection",
    "ConnectionClosed",
    "ConnectionStats",
    "DataBlockError",
    "Delivery",
    "FallbackStream",
    "FileSchemeStore",
    "LimitExceeded",
    "Mark",
    "PaddingScheme",
    "PoolConfig",
    "ProtocolViolation",
    "SchemeError",
    "SchemeStore",
    "ServerControl",
    "ServerStats",
    "ServerURI",
    "SizeRange",
    "Stream",
    "StreamRefused",
    "StreamTimeout",
    "TLSError",
    "URIError",
    "VersionNotSupported",
    "WorkersControl",
    "__version__",
    "format_uri",
    "one_line",
    "open_client",
    "open_client_uri",
    "open_connection",
    "open_listeners",
    "parse_uri",
    "relay_to",
    "serve",
    "serve_connection",
    "serve_workers",
    "wrap_client",
]

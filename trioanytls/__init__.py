"""ANYTLS for Trio: many independent byte streams over one TLS 1.3 connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trioanytls._client.connect import open_connection, wrap_client
from trioanytls._client.events import ClientEvents
from trioanytls._client.pool import Client, open_client, open_client_uri
from trioanytls._client.scheme_store import FileSchemeStore, SchemeStore
from trioanytls._client.stats import ClientStats
from trioanytls._client.uri import ServerURI, URIError, format_uri, parse_uri
from trioanytls._connection.connection import Connection
from trioanytls._connection.copy import HalfClosedCopies, OnBytes, copy_both_ways
from trioanytls._connection.reset import reset_stream
from trioanytls._connection.stats import ConnectionStats
from trioanytls._connection.stream import Stream
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.exceptions import (
    AnyTLSError,
    AuthenticationFailed,
    DataBlockError,
    LimitExceeded,
    NotSupported,
    ProtocolViolation,
    SchemeError,
    VersionNotSupported,
)
from trioanytls._protocol.extensions import Extension
from trioanytls._protocol.interface import WireFormat
from trioanytls._protocol.padding_scheme import Mark, PaddingScheme, SizeRange
from trioanytls._protocol.stream_codes import StreamCode
from trioanytls._protocol.text import one_line
from trioanytls._protocol.traffic_shaper import Delivery
from trioanytls._server.context import Handler
from trioanytls._server.control import Control, NotRunningError, ServerControl
from trioanytls._server.fallback import Fallback, FallbackStream
from trioanytls._server.relay_to import relay_to
from trioanytls._server.serve import serve, serve_connection
from trioanytls._server.stats import ServerStats
from trioanytls._transport.listeners import open_listeners

from ._config import Acknowledge, Config, OnViolation, PoolConfig
from ._exceptions import (
    CertificateError,
    ConnectFailed,
    ConnectionClosed,
    SideBroken,
    StreamRefused,
    StreamReset,
    StreamTimeout,
    TLSError,
)
from ._public import publish
from ._version import __version__

if TYPE_CHECKING:
    from ._workers.child import WorkerFunction
    from ._workers.control import WorkersControl
    from ._workers.serve import serve_workers

__all__ = [
    "Acknowledge",
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
    "Control",
    "DataBlockError",
    "Delivery",
    "Extension",
    "Fallback",
    "FallbackStream",
    "FileSchemeStore",
    "HalfClosedCopies",
    "Handler",
    "LimitExceeded",
    "Mark",
    "NotRunningError",
    "NotSupported",
    "OnBytes",
    "OnViolation",
    "PaddingScheme",
    "PoolConfig",
    "ProtocolViolation",
    "SchemeError",
    "SchemeStore",
    "ServerControl",
    "ServerStats",
    "ServerURI",
    "SideBroken",
    "SizeRange",
    "Stream",
    "StreamCode",
    "StreamRefused",
    "StreamReset",
    "StreamTimeout",
    "TLSError",
    "URIError",
    "VersionNotSupported",
    "WireFormat",
    "WorkerFunction",
    "WorkersControl",
    "__version__",
    "copy_both_ways",
    "format_uri",
    "one_line",
    "open_client",
    "open_client_uri",
    "open_connection",
    "open_listeners",
    "parse_uri",
    "relay_to",
    "reset_stream",
    "serve",
    "serve_connection",
    "serve_workers",
    "wrap_client",
]

publish(__name__, globals(), __all__)

#: The public names that are imported on first use, since they need `multiprocessing` and `pickle`.
_OF_WORKERS = ("WorkerFunction", "WorkersControl", "serve_workers")


def __getattr__(name: str) -> object:
    """Import a name of `_OF_WORKERS`."""
    if name not in _OF_WORKERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ._workers.child import WorkerFunction
    from ._workers.control import WorkersControl
    from ._workers.serve import serve_workers

    names = {"WorkerFunction": WorkerFunction, "WorkersControl": WorkersControl, "serve_workers": serve_workers}
    publish(__name__, names, names)
    return names[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

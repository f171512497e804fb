"""The server's side: listeners, the handshake of each connection, and a handler for each stream."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping

import trio

from . import _tls
from ._config import Config
from ._connection import Connection, Handler
from ._padding import PaddingScheme
from ._protocol import ServerProtocol
from ._users import Users

_log = logging.getLogger("trioanytls.server")


async def serve(
    handler: Handler,
    port: int,
    *,
    host: str | bytes | None = None,
    ssl_context: ssl.SSLContext,
    users: Mapping[str, str],
    padding_scheme: PaddingScheme | None = None,
    config: Config = Config(),
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ANYTLS over TCP until cancelled.

    Each stream that a client opens is handed to `handler(stream)`, in a task and a cancel scope of its own. When it
    returns, the stream is closed; when it raises, the stream is reset, the exception is logged (`trioanytls.server`),
    and connection and server live on. When the stream has been idle for `Config.stream_idle_timeout`, the handler is
    cancelled; where it waits on the stream then, it meets `StreamTimeout` first.

    Args:
      handler: an async callable that takes a `Stream`.
      port: the TCP port; 0 for one that the system chooses.
      host: the address to listen on; default: all.
      ssl_context: with the server's certificate. One that allows less than TLS 1.3 is raised to it, in place.
      users: name -> password. A client authenticates with the password alone.
      padding_scheme: what clients are told to shape with; default: the built-in one.
      config: timeouts and limits.
      handler_nursery: where connections, and so their handlers, run; default: one of `serve`'s own. With one of yours,
        cancelling `serve` ends only the listening.
      task_status: `nursery.start` returns the list of `trio.SocketListener`.

    Raises:
      OSError: the port cannot be listened on.
      ValueError: `ssl_context` forbids TLS 1.3, or `users` is empty or has a password twice.

    Cancellation: CLOSE 6 to every peer, within `Config.close_timeout`.
    """
    context = _tls.require_tls13(ssl_context)
    known = Users(users)
    scheme = padding_scheme or PaddingScheme.DEFAULT

    async def serve_tcp_connection(transport: trio.SocketStream) -> None:
        try:
            secured = await _tls.handshake(transport, context, timeout=config.handshake_timeout, server_side=True)
        except _tls.TLSError as error:
            _log.info("%s", error)
            return
        await _run(secured, handler, known, scheme, config)

    listeners = await trio.open_tcp_listeners(port, host=host)
    await trio.serve_listeners(
        serve_tcp_connection, listeners, handler_nursery=handler_nursery, task_status=task_status
    )


async def serve_connection(
    transport: trio.abc.Stream,
    handler: Handler,
    *,
    users: Mapping[str, str],
    padding_scheme: PaddingScheme | None = None,
    config: Config = Config(),
) -> None:
    """Serve one connection over a transport that is there and secured already; returns when it has ended.

    The transport is closed then, and all handlers have returned. For all else see `serve`.
    """
    await _run(transport, handler, Users(users), padding_scheme or PaddingScheme.DEFAULT, config)


async def _run(
    transport: trio.abc.Stream, handler: Handler, users: Users, scheme: PaddingScheme, config: Config
) -> None:
    await Connection(transport, ServerProtocol(users, scheme), scheme, config, handler)._run()

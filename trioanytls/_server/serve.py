"""The public functions that serve: `serve` on a TCP port, `serve_connection` on one transport."""

from __future__ import annotations

import ssl
from collections.abc import Collection, Mapping, Sequence

import trio

from trioanytls._checks import check_methods, check_type, check_users
from trioanytls._config import Config
from trioanytls._connection.connection import run_connection
from trioanytls._protocol.credentials import UserTable
from trioanytls._protocol.interface import DEFAULT_FORMATS, WireFormat
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._transport.listeners import open_listeners
from trioanytls._transport.proxy_protocol import TrustedProxies
from trioanytls._transport.tls_context import require_tls13

from .connection import ServerConnection
from .context import Handler, ServerContext
from .control import ServerControl, link_of
from .fallback import Fallback
from .server import Server


async def serve(
    handler: Handler,
    port: int,
    *,
    host: str | bytes | None = None,
    ssl_context: ssl.SSLContext,
    users: Mapping[str, str],
    padding_scheme: PaddingScheme | None = None,
    fallback: Fallback | None = None,
    protocols: Collection[WireFormat] = DEFAULT_FORMATS,
    config: Config = Config(),
    control: ServerControl | None = None,
    trusted_proxies: Sequence[str] = (),
    reuse_port: bool = False,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ANYTLS over TCP until cancelled or drained.

    Each stream that a client opens is passed to `handler(stream)`, which runs in its own task and cancel scope. When
    the handler returns, the stream is closed. When it raises, the stream is reset and the exception is logged (logger
    `trioanytls.server`); the connection and the server continue. When the stream has been idle for
    `Config.stream_idle_timeout`, the handler is cancelled, unless it is waiting on the stream: then the stream raises
    `StreamTimeout`.

    Args:
      handler: an async callable that takes a `Stream`.
      port: the TCP port; 0 for one that the system chooses.
      host: the name or address to listen on; default: all addresses. See `open_listeners`.
      ssl_context: a context with the server's certificate. If it allows versions below TLS 1.3, it is changed in place
        to require TLS 1.3.
      users: name -> password. A client authenticates with the password alone.
      padding_scheme: the scheme that clients must use; default: the built-in one.
      fallback: an async callable that takes over connections whose client does not authenticate: `relay_to`, or a
        custom one. It is passed a `FallbackStream` that yields every byte that the client sent. The stream is closed
        when the callable returns. Without a fallback, such a connection is closed without sending anything.
      protocols: the wire formats to accept: "anytls1", that of the specification, and "legacy", that of anytls-go,
        sing-box and mihomo. With both, the client's first 34 bytes decide.
      config: timeouts and limits.
      control: an object to control the running server with.
      trusted_proxies: addresses, and networks like "10.0.0.0/8", of proxies that send a PROXY protocol header (version
        1 or 2) before each connection. The connection then counts as the client's. A connection from one of them must
        begin with the header, within `Config.handshake_timeout`. A header from any other peer fails as invalid TLS.
      reuse_port: whether other processes may listen on the same port, see `serve_workers`.
      handler_nursery: the nursery in which connections, and therefore handlers, run; default: one inside `serve`. With
        a nursery passed here, cancelling `serve` only stops listening.
      task_status: `nursery.start` returns the list of `trio.SocketListener`.

    Raises:
      TypeError: an argument has the wrong type.
      OSError: it is impossible to listen on the port.
      ValueError: `ssl_context` forbids TLS 1.3; `users` is empty or has a password twice; an address in
        `trusted_proxies` is invalid; `Config.on_violation` is "fallback" without a fallback; `protocols` is empty or
        contains something else; with "legacy", line 0 of the scheme asks for more than 1152 bytes.
      RuntimeError: `control` is in use by another server.

    Cancellation: every peer is sent CLOSE 6, within `Config.close_timeout`. Legacy has no CLOSE: TLS ends.
    """
    check_users(users)
    check_type("ssl_context", ssl_context, ssl.SSLContext)
    check_type("control", control, ServerControl, optional=True)
    check_type("handler_nursery", handler_nursery, trio.Nursery, optional=True)
    scheme = PaddingScheme.DEFAULT if padding_scheme is None else padding_scheme
    context = ServerContext(handler, UserTable(users), scheme, config, fallback, protocols)
    server = Server(context, require_tls13(ssl_context), TrustedProxies(trusted_proxies))
    link = link_of(ServerControl() if control is None else control)
    with server.attach_control(link):
        listeners = await open_listeners(port, host, reuse_port=reuse_port)
        link.listening()
        await server.run(listeners, handler_nursery, task_status)


async def serve_connection(
    transport: trio.abc.Stream,
    handler: Handler,
    *,
    users: Mapping[str, str],
    padding_scheme: PaddingScheme | None = None,
    fallback: Fallback | None = None,
    protocols: Collection[WireFormat] = DEFAULT_FORMATS,
    config: Config = Config(),
) -> None:
    """Serve one connection over an established, secure transport. Return when the connection has ended.

    By then, the transport is closed and all handlers have returned. The transport is also closed if an
    argument is invalid. For the arguments, see `serve`.
    """
    check_methods("transport", transport, "send_all", "receive_some", "aclose")
    try:
        check_users(users)
        scheme = PaddingScheme.DEFAULT if padding_scheme is None else padding_scheme
        context = ServerContext(handler, UserTable(users), scheme, config, fallback, protocols)
    except BaseException:
        # An argument is invalid.
        await trio.aclose_forcefully(transport)
        raise
    await run_connection(ServerConnection(transport, context))

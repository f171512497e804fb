"""The front ends as functions: each listens on a port and serves local applications until cancelled.

An error of one connection ends that connection, is logged (logger `trioanytls.relay`), and leaves all others alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import trio

import trioanytls
from trioanytls.destination import Destination

from .front_end import MOST_CONNECTIONS, Serve, serve_front
from .http_proxy import HTTPProxy
from .port_forward import PortForward
from .proxy_users import ProxyUsers
from .socks_proxy import MixedProxy, SOCKSProxy
from .upstream import Upstream

# Only programs of the same machine can connect, unless the caller asks for more: a proxy forwards for all who reach it.
_HOST = "127.0.0.1"


async def serve_socks(
    upstream: Upstream,
    port: int,
    *,
    host: str | bytes | None = _HOST,
    users: Mapping[str, str] | None = None,
    max_connections: int = MOST_CONNECTIONS,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve SOCKS5, SOCKS4 and SOCKS4a until cancelled: CONNECT, and UDP ASSOCIATE of SOCKS5.

    UDP needs a relay that carries it, see `RelayHandler.with_udp`.

    Args:
      upstream: opens the streams.
      port: the TCP port; 0 for one that the system chooses.
      host: the name or address to listen on; by default, only programs of this machine can connect. None for all
        addresses of the machine. See `trioanytls.open_listeners`.
      users: name -> password of the applications; None to accept all that can connect. SOCKS4 has no password, and is
        refused if there are users.
      max_connections: how many connections are served at the same time. Further ones wait in the system's queue.
      task_status: `nursery.start` returns the list of `trio.SocketListener`.

    Raises:
      TypeError: `port` or `host` has the wrong type.
      ValueError: `port` is out of range.
      OSError: the port cannot be listened on.

    Cancellation: the listeners and all connections are closed.
    """
    serve = SOCKSProxy(upstream, _proxy_users(users))
    await _serve("SOCKS5", serve, port, host, max_connections, task_status)


async def serve_http_proxy(
    upstream: Upstream,
    port: int,
    *,
    host: str | bytes | None = _HOST,
    users: Mapping[str, str] | None = None,
    via: str | None = None,
    max_connections: int = MOST_CONNECTIONS,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an HTTP proxy until cancelled: CONNECT, and requests with an absolute `http://` target.

    Args:
      users: name -> password of the applications, for `Proxy-Authorization: Basic`; None to accept all that can
        connect.
      via: the name of the proxy in Via fields; None to send no such field.

    All other arguments are those of `serve_socks`.

    Raises:
      TypeError: `port` or `host` has the wrong type.
      ValueError: `port` is out of range, or `via` is invalid.
      OSError: the port cannot be listened on.

    Cancellation: the listeners and all connections are closed.
    """
    serve = HTTPProxy(upstream, _proxy_users(users), via)
    await _serve("HTTP proxy", serve, port, host, max_connections, task_status)


async def serve_mixed(
    upstream: Upstream,
    port: int,
    *,
    host: str | bytes | None = _HOST,
    users: Mapping[str, str] | None = None,
    via: str | None = None,
    max_connections: int = MOST_CONNECTIONS,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve SOCKS and an HTTP proxy on one port until cancelled. The first byte of a connection tells the protocol.

    The arguments, the errors and cancellation are those of `serve_socks` and `serve_http_proxy`.
    """
    proxy_users = _proxy_users(users)
    serve = MixedProxy(SOCKSProxy(upstream, proxy_users), HTTPProxy(upstream, proxy_users, via))
    await _serve("mixed proxy", serve, port, host, max_connections, task_status)


async def forward_port(
    upstream: Upstream,
    destination: Destination,
    port: int,
    *,
    host: str | bytes | None = _HOST,
    max_connections: int = MOST_CONNECTIONS,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Forward all connections of a TCP port to one destination until cancelled.

    Args:
      destination: the host and port to connect to, as seen from the relay.

    All other arguments, the errors and cancellation are those of `serve_socks`.
    """
    serve = PortForward(upstream, destination)
    await _serve(f"forward to {destination}", serve, port, host, max_connections, task_status)


def _proxy_users(users: Mapping[str, str] | None) -> ProxyUsers | None:
    return None if users is None else ProxyUsers(users)


async def _serve(
    name: str,
    serve: Serve,
    port: int,
    host: str | bytes | None,
    max_connections: int,
    task_status: trio.TaskStatus[list[trio.SocketListener]],
) -> None:
    listeners = await trioanytls.open_listeners(port, host)
    await serve_front(name, serve, listeners, most_connections=max_connections, task_status=task_status)

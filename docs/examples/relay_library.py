"""A relay server, and a client with local proxies, as programs of your own.

python relay_library.py server CERTIFICATE KEY
python relay_library.py client 'anytls://secret@relay.example:8443/?proto=anytls1'
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Awaitable, Callable
from functools import partial

import trio

import trioanytls
from trioanytls.destination import Destination
from trioanytls.relay import (
    AddressPolicy,
    RelayHandler,
    Upstream,
    forward_port,
    parse_network,
    serve_http_proxy,
    serve_mixed,
    serve_socks,
)


async def run_server(
    context: ssl.SSLContext,
    port: int,
    *allowed: str,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Relay to public addresses, and to the networks in `allowed`."""
    policy = AddressPolicy(allow=[parse_network(network) for network in allowed])
    await trioanytls.serve(
        RelayHandler.with_udp(policy),
        port,
        ssl_context=context,
        users={"me": "secret"},
        config=trioanytls.Config(acknowledge="manual"),
        task_status=task_status,
    )


async def run_proxies(
    client: trioanytls.Client,
    database: Destination,
    ports: tuple[int, int, int, int] = (1080, 8080, 8888, 5432),
    *,
    task_status: trio.TaskStatus[list[int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve SOCKS, an HTTP proxy, both on one port, and a forward to a database."""
    upstream = Upstream(client)
    services = (
        partial(serve_socks, upstream, ports[0]),
        partial(serve_http_proxy, upstream, ports[1]),
        partial(serve_mixed, upstream, ports[2], users={"browser": "password"}),
        partial(forward_port, upstream, database, ports[3]),
    )
    async with trio.open_nursery() as nursery:
        listeners = [await nursery.start(serve) for serve in services]
        task_status.started([listener.socket.getsockname()[1] for [listener] in listeners])


async def main_server(certificate: str, key: str) -> None:
    """Serve on port 8443."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    await run_server(context, 8443)


async def main_client(uri: str) -> None:
    """Serve the proxies until Control-C."""
    async with trioanytls.open_client_uri(uri) as client:
        await run_proxies(client, Destination("db.example", 5432))


if __name__ == "__main__":
    commands: dict[str, Callable[..., Awaitable[None]]] = {"server": main_server, "client": main_client}
    trio.run(commands[sys.argv[1]], *sys.argv[2:])

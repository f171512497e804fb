"""The front ends of the client in the process of the test, with a real relay."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import trio

import trioanytls
from trioanytls.cli.client.front_ends import LocalListener, make_front_ends, open_local_listeners
from trioanytls.cli.client.settings import ClientSettings
from trioanytls.cli.common.option_types import ListenAddress
from trioanytls.relay.address_policy import AddressPolicy
from trioanytls.relay.bypass import Bypass
from trioanytls.relay.handler import RelayHandler
from trioanytls.relay.upstream import Upstream

from ..conftest import HOST, USERS

MANUAL = trioanytls.Config(acknowledge="manual")
ANY_PORT = ListenAddress(HOST, 0)
_POLICY = AddressPolicy(allow=[ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1")])


def relay() -> RelayHandler:
    """Return a relay handler that may connect to loopback, for TCP and UDP."""
    return RelayHandler.with_udp(_POLICY, 5)


def settings(**given: Any) -> ClientSettings:
    """Return the settings of a client. The server in them is a dummy."""
    return ClientSettings(server=trioanytls.ServerURI(HOST, USERS["alice"]), **given)


@contextlib.asynccontextmanager
async def offering(client: trioanytls.Client | Upstream, **given: Any) -> AsyncIterator[list[LocalListener]]:
    """Yield the listeners of a client with these settings: SOCKS, HTTP, mixed, forwards, UDP forwards."""
    told = settings(**given)
    upstream = client if isinstance(client, Upstream) else Upstream(client, bypass=Bypass(told.bypass))
    opened = await open_local_listeners(make_front_ends(told, upstream), have_password=told.proxy_users is not None)
    doors = list(opened.values())
    async with trio.open_nursery() as nursery:
        for door in doors:
            nursery.start_soon(door.run)
        yield doors
        nursery.cancel_scope.cancel()


async def connect(door: LocalListener) -> trio.SocketStream:
    return await trio.open_tcp_stream(door.address.host, door.address.port)


async def exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    received = bytearray()
    with trio.fail_after(10):
        while len(received) < size:
            piece = await stream.receive_some(size - len(received))
            assert piece, bytes(received)
            received += piece
    return bytes(received)


async def all_of(stream: trio.abc.ReceiveStream) -> bytes:
    """Receive to the end, orderly or not."""
    received = bytearray()
    with trio.fail_after(10), contextlib.suppress(trio.BrokenResourceError):
        async for piece in stream:
            received += piece
    return bytes(received)


async def ask(door: LocalListener, data: bytes) -> bytes:
    """Send, and receive to the end."""
    async with await connect(door) as stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(data)
        return await all_of(stream)


async def shout(stream: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        async for data in stream:
            await stream.send_all(data.upper())


@contextlib.asynccontextmanager
async def shouting(host: str = HOST) -> AsyncIterator[int]:
    """Serve a destination that answers in capitals, and yield its port."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, shout, 0, host=host))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()

"""UDP sockets on loopback, and the parts of UDP that the machine supports."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Callable

import pytest
import trio

from trioanytls.destination import Destination

from ..conftest import HOST


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
            one.bind(("::1", 0))
    except OSError:
        return False
    return True


linux = pytest.mark.skipif(sys.platform != "linux", reason="needs more addresses of loopback than one")
ipv6 = pytest.mark.skipif(not has_ipv6(), reason="needs IPv6")


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds. Not for use with a clock that jumps."""
    with trio.fail_after(10):
        while not condition():
            await trio.lowlevel.checkpoint()


class Peer:
    """A socket of another program."""

    def __init__(self, one: trio.socket.SocketType) -> None:
        self.socket = one
        self.address = Destination(*one.getsockname()[:2])
        self.port = self.address.port

    async def receive(self) -> tuple[bytes, tuple[object, ...]]:
        with trio.fail_after(10):
            return await self.socket.recvfrom(70_000)

    async def echo(self) -> None:
        while True:
            data, sender = await self.socket.recvfrom(70_000)
            await self.socket.sendto(data.upper(), sender)


@contextlib.asynccontextmanager
async def peer(host: str = HOST) -> AsyncIterator[Peer]:
    with trio.socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as one:
        await one.bind((host, 0))
        yield Peer(one)


@contextlib.asynccontextmanager
async def shouting(host: str = HOST) -> AsyncIterator[Destination]:
    """Yield the address of a socket that answers each datagram in capitals."""
    async with peer(host) as one, trio.open_nursery() as nursery:
        nursery.start_soon(one.echo)
        yield one.address
        nursery.cancel_scope.cancel()

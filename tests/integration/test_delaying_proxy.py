"""Bulk transfers over real sockets, through a proxy that delays: the kernel knows the way to the proxy only."""

from __future__ import annotations

import pytest
import trio

import trioanytls

from ..conftest import Connecting, Serving
from ..helpers.connection_ends import ROLES, Role
from ..helpers.delayed_path import Path, delaying_proxy

#: 200 KB are on the way, and twice as many in the buffers. A window begins with 16 KiB.
PATH = Path(delay=0.05, rate=2e6)
PIECE = bytes(64 * 1024)
SIZE = 80 * len(PIECE)


async def send(stream: trioanytls.Stream) -> None:
    for _ in range(0, SIZE, len(PIECE)):
        await stream.send_all(PIECE)


async def receive(stream: trioanytls.Stream) -> None:
    left = SIZE
    while left:
        data = await stream.receive_some(left)
        assert data
        left -= len(data)


@pytest.mark.parametrize("sender", ROLES)
async def test_a_window_grows_although_the_kernel_does_not_know_the_round_trip(
    sender: Role, serving: Serving, connecting: Connecting
) -> None:
    async def handle(stream: trioanytls.Stream) -> None:
        await stream.receive_some(1)
        await (receive if sender == "client" else send)(stream)
        await stream.send_all(b"!")

    async with serving(handle) as port, delaying_proxy(port, PATH) as proxy, connecting(proxy) as connection:
        begun = trio.current_time()
        async with await connection.open_stream() as stream:
            await stream.send_all(b"x")
            await (send if sender == "client" else receive)(stream)
            assert await stream.receive_some(1) == b"!"
        rate = SIZE / (trio.current_time() - begun)
    # With the first window, it would be 0.08 of it. The machine may be busy.
    assert rate > 0.5 * PATH.rate

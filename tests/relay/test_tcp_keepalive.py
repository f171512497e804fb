"""TCP keep-alive on the connections of applications and to destinations."""

from __future__ import annotations

import socket
from functools import partial

import trio

from trioanytls.destination import Destination
from trioanytls.relay.dial import connect, resolve
from trioanytls.relay.front_end import serve_front
from trioanytls.relay.tcp_keepalive import keep_alive

from ..conftest import HOST


def is_kept_alive(stream: trio.SocketStream) -> bool:
    return stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0


async def test_both_edges_of_the_relay_probe_their_peers() -> None:
    accepted: list[bool] = []

    async def serve(near: trio.SocketStream) -> None:
        accepted.append(is_kept_alive(near))

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        await nursery.start(partial(serve_front, "front", serve, listeners))
        port = listeners[0].socket.getsockname()[1]
        async with await connect(await resolve(Destination(HOST, port))) as stream:
            assert is_kept_alive(stream)
            assert await stream.receive_some() == b""
        nursery.cancel_scope.cancel()
    assert accepted == [True]


async def test_a_socket_of_another_kind_is_left_unchanged() -> None:
    one, other = trio.socket.socketpair()
    async with trio.SocketStream(one) as near, trio.SocketStream(other) as far:
        keep_alive(near)
        await near.send_all(b"x")
        assert await far.receive_some() == b"x"

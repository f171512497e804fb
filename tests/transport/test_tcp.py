"""Connecting with TCP: like Trio, and faster with an IP address."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest
import trio
import trio.testing

from trioanytls._transport.tcp import open_tcp_stream

from ..conftest import HOST


def ipv6_works() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the hosts that Trio connects to itself."""
    hosts: list[str] = []

    async def connect(host: str, port: int) -> trio.SocketStream:
        hosts.append(host)
        return await trios(HOST, port)

    trios = trio.open_tcp_stream
    monkeypatch.setattr(trio, "open_tcp_stream", connect)
    return hosts


@pytest.mark.parametrize(
    "host",
    [HOST, pytest.param("::1", marks=pytest.mark.skipif(not ipv6_works(), reason="this machine has no IPv6"))],
)
async def test_an_address_is_connected_to_without_a_lookup(lookups: list[str], host: str) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host=host)
    async with listener, await open_tcp_stream(host, listener.socket.getsockname()[1]) as near:
        async with await listener.accept() as far:
            await near.send_all(b"x")
            assert await far.receive_some() == b"x"
        # Trio's stream sets it.
        assert near.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert lookups == []


@pytest.mark.parametrize("host", ["localhost", "fe80::1%lo", "127.1", "a:b"])
async def test_everything_else_is_left_to_trio(lookups: list[str], host: str) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host=HOST)
    async with listener, await open_tcp_stream(host, listener.socket.getsockname()[1]):
        pass
    assert lookups == [host]


async def test_a_refused_connection_fails_like_that_of_trio() -> None:
    errors = []
    # It does not listen.
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        port = bound.getsockname()[1]
        for connect in (trio.open_tcp_stream, open_tcp_stream):
            with pytest.raises(OSError, match=rf"^all attempts to connect to {HOST}:{port} failed$") as caught:
                await connect(HOST, port)
            errors.append(caught.value)
    for error in errors:
        assert type(error) is OSError
        assert isinstance(error.__cause__, ExceptionGroup)
        (cause,) = error.__cause__.exceptions
        assert isinstance(cause, ConnectionRefusedError)


async def test_a_system_without_ipv6_fails_like_any_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(*_arguments: object) -> trio.socket.SocketType:
        raise OSError(errno.EAFNOSUPPORT, "no IPv6")

    monkeypatch.setattr(trio.socket, "socket", make)
    with pytest.raises(OSError, match=r"^all attempts to connect to \[::1\]:1 failed$"):
        await open_tcp_stream("::1", 1)


async def test_a_cancelled_attempt_closes_the_socket(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    made: list[Any] = []

    async def never(*_arguments: object) -> None:
        await trio.sleep_forever()

    def make(*arguments: Any) -> trio.socket.SocketType:
        made.append(sock := make_socket(*arguments))
        monkeypatch.setattr(type(sock), "connect", never)
        return sock

    make_socket = trio.socket.socket
    monkeypatch.setattr(trio.socket, "socket", make)
    with trio.move_on_after(1):
        await open_tcp_stream(HOST, 1)
    assert [one.fileno() for one in made] == [-1]

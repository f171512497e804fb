"""Listening on a port, alone and together with other processes."""

from __future__ import annotations

import errno
import functools
import socket
import ssl

import pytest
import trio

import trioanytls
from trioanytls._transport.listeners import open_listeners, reserve_port
from trioanytls.cli.client.front_ends import FrontEnd, open_local_listeners
from trioanytls.cli.common.option_types import ListenAddress
from trioanytls.metrics import serve_metrics
from trioanytls.testing import echo

from ..conftest import HOST, USERS

needs_reuse_port = pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="needs SO_REUSEPORT")


def port_of(some: trio.SocketListener | trio.socket.SocketType) -> int:
    bound = some.socket if isinstance(some, trio.SocketListener) else some
    port: int = bound.getsockname()[1]
    return port


def without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a system without IPv6 whose `getaddrinfo` still returns IPv6 addresses."""
    original = trio.socket.socket

    def make(family: int, *arguments: int) -> trio.socket.SocketType:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return original(family, *arguments)

    monkeypatch.setattr(trio.socket, "socket", make)


def opened(monkeypatch: pytest.MonkeyPatch) -> list[trio.socket.SocketType]:
    """Record the sockets that are opened from now on."""
    original, sockets = trio.socket.socket, []

    def make(*arguments: int) -> trio.socket.SocketType:
        sockets.append(original(*arguments))
        return sockets[-1]

    monkeypatch.setattr(trio.socket, "socket", make)
    return sockets


def two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolve every name to two addresses."""
    resolve_to(monkeypatch, (socket.AF_INET, (HOST, 0)), (socket.AF_INET, ("127.0.0.2", 0)))


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[int, tuple[object, ...]]) -> None:
    """Resolve every name to these addresses, with the requested port."""

    async def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        await trio.lowlevel.checkpoint()
        return [(family, socket.SOCK_STREAM, 6, "", (address[0], port, *address[2:])) for family, address in addresses]

    monkeypatch.setattr(trio.socket, "getaddrinfo", resolve)


@needs_reuse_port
async def test_several_may_listen_on_one_port() -> None:
    first = await open_listeners(0, HOST, reuse_port=True)
    second = await open_listeners(port_of(first[0]), HOST, reuse_port=True)
    for listener in first + second:
        await listener.aclose()


@needs_reuse_port
async def test_not_with_one_that_does_not_share_it() -> None:
    async with (await open_listeners(0, HOST))[0] as alone:
        with pytest.raises(OSError, match="in use"):
            await open_listeners(port_of(alone), HOST, reuse_port=True)


@needs_reuse_port
async def test_a_port_is_held() -> None:
    (held,) = await reserve_port(0, HOST)
    with held:
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream(HOST, port_of(held))
        with pytest.raises(OSError, match="in use"):
            await trio.open_tcp_listeners(port_of(held), host=HOST)
        async with (await open_listeners(port_of(held), HOST, reuse_port=True))[0] as listener:
            # All of them reach the one that listens.
            for _ in range(20):
                async with await trio.open_tcp_stream(HOST, port_of(held)):
                    with trio.fail_after(5):
                        await (await listener.accept()).aclose()


@needs_reuse_port
async def test_a_port_is_held_that_connections_of_an_ended_server_still_have() -> None:
    async with (await trio.open_tcp_listeners(0, host=HOST))[0] as listener:
        port = port_of(listener)
        async with await trio.open_tcp_stream(HOST, port) as client:
            # The side that closes first keeps the address for a while.
            await (await listener.accept()).aclose()
            assert await client.receive_some() == b""
    (held,) = await reserve_port(port, HOST)
    held.close()


@needs_reuse_port
@pytest.mark.parametrize("reuse_port", [False, True])
async def test_a_system_without_ipv6(monkeypatch: pytest.MonkeyPatch, reuse_port: bool) -> None:
    without_ipv6(monkeypatch)
    (listener,) = await open_listeners(0, None, reuse_port=reuse_port)
    async with listener:
        assert listener.socket.family == socket.AF_INET
    with pytest.raises(OSError, match="support") as info:
        await open_listeners(0, "::1", reuse_port=reuse_port)
    assert info.value.errno == errno.EAFNOSUPPORT


def ipv6_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a system with IPv6 sockets but without `::1`: net.ipv6.conf.all.disable_ipv6=1."""
    resolve_to(monkeypatch, (socket.AF_INET6, ("::1", 0, 0, 0)), (socket.AF_INET, (HOST, 0)))
    with trio.socket.socket() as any_socket:
        kind = type(any_socket)
    original = kind.bind

    async def bind(self: trio.socket.SocketType, address: tuple[object, ...]) -> None:
        if self.family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        await original(self, address)

    monkeypatch.setattr(kind, "bind", bind)


@pytest.mark.parametrize("reuse_port", [False, pytest.param(True, marks=needs_reuse_port)])
async def test_an_address_of_several_that_is_not_there(monkeypatch: pytest.MonkeyPatch, reuse_port: bool) -> None:
    ipv6_disabled(monkeypatch)
    sockets = opened(monkeypatch)
    (listener,) = await open_listeners(0, "localhost", reuse_port=reuse_port)
    async with listener, await trio.open_tcp_stream(HOST, port_of(listener)):
        assert listener.socket.getsockname()[0] == HOST
    assert {one.fileno() for one in sockets} == {-1}


@needs_reuse_port
async def test_a_port_is_held_on_the_addresses_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    ipv6_disabled(monkeypatch)
    (held,) = await reserve_port(0, "localhost")
    with held:
        assert held.getsockname()[0] == HOST


async def test_no_address_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    ipv6_disabled(monkeypatch)
    without_ipv6(monkeypatch)
    # 192.0.2.0/24 is reserved for documentation.
    resolve_to(monkeypatch, (socket.AF_INET6, ("::1", 0, 0, 0)), (socket.AF_INET, ("192.0.2.1", 0)))
    with pytest.raises(OSError, match="assign") as info:
        await open_listeners(0, "www.example.com")
    assert info.value.errno == errno.EADDRNOTAVAIL


async def test_a_port_that_is_taken_on_one_address_is_still_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """EADDRINUSE is not a missing address: another process would get a part of the connections."""
    async with (await open_listeners(0, "127.0.0.2"))[0] as other:
        two_addresses(monkeypatch)
        with pytest.raises(OSError, match="in use"):
            await open_listeners(port_of(other), "localhost")


async def test_all_that_listen_skip_an_address_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, server_context: ssl.SSLContext
) -> None:
    ipv6_disabled(monkeypatch)
    starts = [
        functools.partial(trioanytls.serve, echo, 0, host="localhost", ssl_context=server_context, users=USERS),
        functools.partial(serve_metrics, trioanytls.ServerControl(), 0, host="localhost"),
    ]
    for start in starts:
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(start)
            assert listener.socket.getsockname()[0] == HOST
            nursery.cancel_scope.cancel()
    address = ListenAddress("localhost", 0)
    key = ("forward", address, 0)
    front_end = FrontEnd("forward", "--forward", address, trio.aclose_forcefully)
    local_listeners = await open_local_listeners({key: front_end}, have_password=True)
    assert local_listeners[key].address.host == HOST
    local_listeners[key].close()


@pytest.mark.parametrize("reuse_port", [False, pytest.param(True, marks=needs_reuse_port)])
async def test_all_addresses_get_the_same_port(reuse_port: bool) -> None:
    """If the system chooses the port. Binding each address to port 0 would use a different port for each."""
    listeners = await open_listeners(0, None, reuse_port=reuse_port)
    assert len({port_of(listener) for listener in listeners}) == 1
    for listener in listeners:
        await listener.aclose()


@needs_reuse_port
async def test_a_port_that_only_one_address_has_free_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system chooses a port for the first address. If it is in use on another one, it chooses again."""
    two_addresses(monkeypatch)
    taken: list[socket.socket] = []
    with trio.socket.socket() as any_socket:
        kind = type(any_socket)
    bind = kind.bind

    async def choose(self: trio.socket.SocketType, address: tuple[str, int]) -> None:
        await bind(self, address)
        if not taken:
            # Another process is faster. A port that was known before could be in use on the first address, too.
            taken.append(socket.create_server(("127.0.0.2", self.getsockname()[1])))

    monkeypatch.setattr(kind, "bind", choose)
    sockets = opened(monkeypatch)
    bound = await reserve_port(0, "localhost")
    with taken[0]:
        assert len({port_of(one) for one in bound}) == 1
        assert port_of(bound[0]) != taken[0].getsockname()[1]
        for one in bound:
            one.close()
    assert {one.fileno() for one in sockets} == {-1}
    assert len(sockets) == 4


@needs_reuse_port
async def test_nothing_stays_open_when_one_address_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    # Free on the first address, no matter what other processes do.
    (held,) = await reserve_port(0, HOST)
    port = port_of(held)
    with held, socket.create_server(("127.0.0.2", port)):
        two_addresses(monkeypatch)
        sockets = opened(monkeypatch)
        with pytest.raises(OSError, match="in use"):
            await open_listeners(port, "localhost", reuse_port=True)
        assert [one.fileno() for one in sockets] == [-1, -1]


@needs_reuse_port
async def test_nothing_stays_open_if_another_process_listens_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that shares the port may begin to listen between `bind` and `listen`."""
    sockets = opened(monkeypatch)

    def listen(self: trio.socket.SocketType, backlog: int) -> None:
        raise OSError(errno.EADDRINUSE, "Address already in use")

    with trio.socket.socket() as one:
        monkeypatch.setattr(type(one), "listen", listen)
    with pytest.raises(OSError, match="in use"):
        await open_listeners(0, HOST, reuse_port=True)
    assert [one.fileno() for one in sockets] == [-1, -1]


async def test_a_system_without_reuse_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT", raising=False)
    with pytest.raises(OSError, match="SO_REUSEPORT"):
        await open_listeners(0, HOST, reuse_port=True)

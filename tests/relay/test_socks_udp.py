"""UDP ASSOCIATE: datagrams from applications through client and relay to destinations, and back."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import socks  # type: ignore[import-untyped]  # it has no types
import trio
import trio.testing

import trioanytls
from trioanytls import reset_stream
from trioanytls._protocol.interface import WireFormat
from trioanytls.destination import Destination, DestinationDecoder, encode
from trioanytls.relay import socks_udp, udp_over_tcp
from trioanytls.relay.address_policy import AddressPolicy
from trioanytls.relay.handler import RelayHandler
from trioanytls.relay.proxy_users import ProxyUsers
from trioanytls.relay.refusal_reasons import RefusalReasons
from trioanytls.relay.reply_codes import ReplyCode
from trioanytls.relay.socks5 import SOCKS5Negotiation, decode_datagram, encode_datagram
from trioanytls.relay.socks_proxy import SOCKSProxy
from trioanytls.relay.udp_relay import UDPRelay
from trioanytls.relay.upstream import Upstream

from ..conftest import HOST, USERS, Serving
from ..helpers.cli_process import program
from ..helpers.udp_sockets import Peer, ipv6, linux, peer, shouting, until

POLICY = AddressPolicy(allow=[ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1")])
MANUAL = trioanytls.Config(acknowledge="manual")
ANYWHERE = Destination("0.0.0.0", 0)
Handler = Callable[[trioanytls.Stream], Awaitable[object]]


def relay() -> RelayHandler:
    reasons = RefusalReasons()
    return RelayHandler(POLICY, 5, {udp_over_tcp.HOST: UDPRelay(POLICY, 5, reasons)}, reasons)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.DEBUG, "trioanytls.relay")
    return lambda: [
        record.getMessage() for record in caplog.records if record.name == "trioanytls.relay" and "SOCKS" in record.msg
    ]


@pytest.fixture
async def upstream(
    serving: Serving, client_context: ssl.SSLContext, wire_format: WireFormat
) -> AsyncIterator[Upstream]:
    async with (
        serving(relay(), config=MANUAL, protocols=[wire_format]) as port,
        trioanytls.open_client(
            HOST, port, password=USERS["alice"], ssl_context=client_context, protocol=wire_format
        ) as client,
    ):
        yield Upstream(client)


@contextlib.asynccontextmanager
async def in_front_of(
    handler: Handler,
    serving: Serving,
    context: ssl.SSLContext,
    wire_format: WireFormat,
    config: trioanytls.Config = MANUAL,
) -> AsyncIterator[tuple[str, int]]:
    """Serve SOCKS with a relay that has this handler."""
    async with (
        serving(handler, config=config, protocols=[wire_format]) as port,
        trioanytls.open_client(
            HOST, port, password=USERS["alice"], ssl_context=context, protocol=wire_format
        ) as client,
        offering(SOCKSProxy(Upstream(client))) as address,
    ):
        yield address


@contextlib.asynccontextmanager
async def offering(proxy: SOCKSProxy, host: str = HOST) -> AsyncIterator[tuple[str, int]]:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=host)
        nursery.start_soon(trio.serve_listeners, proxy, listeners)
        yield listeners[0].socket.getsockname()[:2]
        nursery.cancel_scope.cancel()


async def receive_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    received = bytearray()
    with trio.fail_after(10):
        while len(received) < size:
            piece = await stream.receive_some(size - len(received))
            assert piece, bytes(received)
            received += piece
    return bytes(received)


async def request(stream: trio.SocketStream, source: Destination = ANYWHERE) -> tuple[int, Destination]:
    """Request UDP. Return the answer."""
    await stream.send_all(b"\x05\x01\x00\x05\x03\x00" + encode(source))
    assert await receive_exactly(stream, 2) == b"\x05\x00"
    _, reply, _ = await receive_exactly(stream, 3)
    decoder = DestinationDecoder()
    while decoder.destination is None:
        decoder.feed(await receive_exactly(stream, decoder.needed))
    return reply, decoder.destination


class Application:
    """An application that uses UDP through SOCKS."""

    def __init__(self, control: trio.SocketStream, bound: Destination, own: Peer) -> None:
        self.control = control
        self.bound = bound
        self.own = own

    async def send(self, destination: Destination, data: bytes) -> None:
        await self.send_raw(encode_datagram(destination, data))

    async def send_raw(self, data: bytes) -> None:
        await self.own.socket.sendto(data, (self.bound.host, self.bound.port))

    async def receive(self) -> tuple[Destination, bytes]:
        data, sender = await self.own.receive()
        assert sender[:2] == (self.bound.host, self.bound.port)
        assert data[:3] == bytes(3)
        return decode_datagram(data)

    async def asks(self, destination: Destination, data: bytes) -> tuple[Destination, bytes]:
        await self.send(destination, data)
        return await self.receive()


@contextlib.asynccontextmanager
async def associated(
    address: tuple[str, int], *, host: str = HOST, name_port: bool = False
) -> AsyncIterator[Application]:
    async with await trio.open_tcp_stream(*address) as control, peer(host) as own:
        reply, bound = await request(control, Destination(host, own.port) if name_port else ANYWHERE)
        assert reply == ReplyCode.SUCCEEDED
        yield Application(control, bound, own)


async def is_closed(stream: trio.SocketStream) -> bool:
    with trio.fail_after(10), contextlib.suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass
    return True


# Relaying


async def test_several_destinations_in_one_association(upstream: Upstream) -> None:
    async with (
        shouting() as one,
        shouting() as other,
        offering(SOCKSProxy(upstream)) as address,
        associated(address) as application,
    ):
        assert application.bound.host == HOST
        for _ in range(2):
            assert await application.asks(one, b"to one") == (one, b"TO ONE")
            assert await application.asks(other, b"to the other") == (other, b"TO THE OTHER")
        assert await application.asks(one, b"") == (one, b"")
        assert upstream.up > 0
        assert upstream.down > 0


async def test_a_name_is_the_relays_to_resolve(upstream: Upstream) -> None:
    async with (
        shouting() as far,
        offering(SOCKSProxy(upstream)) as address,
        associated(address) as application,
    ):
        name = Destination("127.1", far.port)
        source, data = await application.asks(name, b"by another name")
        # Over a legacy connection, a name has a stream of its own, on which answers carry no address.
        expected = name if upstream.client.protocol == "legacy" else far
        assert (source, data) == (expected, b"BY ANOTHER NAME")


async def test_a_question_as_those_of_dns_are(upstream: Upstream) -> None:
    query = bytes.fromhex("1234 0100 0001 0000 0000 0000") + b"\x07example\x03com\x00" + bytes.fromhex("0001 0001")
    answer = (
        query[:2]
        + bytes.fromhex("8180 0001 0001 0000 0000")
        + query[12:]
        + bytes.fromhex("c00c 0001 0001 0000003c 0004 c0000201")
    )

    async with (
        peer() as server,
        offering(SOCKSProxy(upstream)) as address,
        associated(address) as application,
    ):
        await application.send(server.address, query)
        received, sender = await server.receive()
        assert received == query
        await server.socket.sendto(answer, sender)
        assert await application.receive() == (server.address, answer)


@ipv6
async def test_over_ipv6(upstream: Upstream) -> None:
    async with (
        shouting("::1") as one,
        shouting() as other,
        offering(SOCKSProxy(upstream), "::1") as address,
        associated(address, host="::1") as application,
    ):
        assert application.bound.host == "::1"
        assert await application.asks(one, b"six") == (one, b"SIX")
        assert await application.asks(other, b"four") == (other, b"FOUR")


async def test_user_and_password(upstream: Upstream) -> None:
    async with (
        shouting() as far,
        offering(SOCKSProxy(upstream, ProxyUsers({"alice": "secret"}))) as address,
        peer() as own,
    ):
        async with await trio.open_tcp_stream(*address) as control:
            await control.send_all(b"\x05\x01\x02\x01\x05alice\x06secret\x05\x03\x00" + encode(ANYWHERE))
            assert await receive_exactly(control, 4) == b"\x05\x02\x01\x00"
            answer = await receive_exactly(control, 10)
            assert answer[:4] == b"\x05\x00\x00\x01"
            bound = Destination(HOST, int.from_bytes(answer[8:]))
            assert await Application(control, bound, own).asks(far, b"x") == (far, b"X")
        async with await trio.open_tcp_stream(*address) as control:
            await control.send_all(b"\x05\x01\x02\x01\x05alice\x06wrong!\x05\x03\x00" + encode(ANYWHERE))
            assert await receive_exactly(control, 4) == b"\x05\x02\x01\x01"
            assert await is_closed(control)
        async with await trio.open_tcp_stream(*address) as control:
            await control.send_all(b"\x05\x01\x00\x05\x03\x00" + encode(ANYWHERE))
            assert await receive_exactly(control, 2) == b"\x05\xff"
            assert await is_closed(control)


async def test_an_independent_client(upstream: Upstream) -> None:
    def ask(address: tuple[str, int], far: Destination) -> tuple[bytes, tuple[str, int]]:
        with socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.set_proxy(socks.SOCKS5, *address)
            one.settimeout(10)
            one.sendto(b"hello", (far.host, far.port))
            return one.recvfrom(100)  # type: ignore[no-any-return]  # the package has no types

    async with shouting() as far, offering(SOCKSProxy(upstream)) as address:
        data, source = await trio.to_thread.run_sync(ask, address, far)
    assert data == b"HELLO"
    assert source == (far.host, far.port)


async def test_through_both_programs(tmp_path: Path) -> None:
    here = ["--listen", f"{HOST}:0", "--allow", "127.0.0.0/8", "--self-signed", "--state-dir", tmp_path]
    async with shouting() as far, program("server", *here) as server:
        environment = {"TRIOANYTLS_SERVER": await server.out.find("anytls://")}
        async with program("client", "--socks", f"{HOST}:0", environment=environment) as client:
            port = int((await client.out.find("SOCKS5 on ")).rpartition(":")[2])
            async with associated((HOST, port)) as application:
                assert await application.asks(far, b"through all of it") == (far, b"THROUGH ALL OF IT")


# The application's socket


@pytest.mark.parametrize("name_port", [False, True])
async def test_only_one_socket_of_the_application_is_served(upstream: Upstream, name_port: bool) -> None:
    async with (
        peer() as far,
        peer() as other,
        offering(SOCKSProxy(upstream)) as address,
        associated(address, name_port=name_port) as application,
    ):
        address = (application.bound.host, application.bound.port)
        if name_port:
            # The port may differ from that of the first datagram.
            await other.socket.sendto(encode_datagram(far.address, b"from another socket"), address)
        await application.send(far.address, b"first")
        assert (await far.receive())[0] == b"first"
        await other.socket.sendto(encode_datagram(far.address, b"from another socket"), address)
        await application.send(far.address, b"second")
        data, sender = await far.receive()
        assert data == b"second"
        # Only the application receives the answers.
        await far.socket.sendto(b"answer", sender)
        assert await application.receive() == (far.address, b"answer")


@linux
async def test_datagrams_of_another_machine_are_dropped(upstream: Upstream, said: Callable[[], list[str]]) -> None:
    async with (
        peer() as far,
        peer("127.0.0.2") as other,
        offering(SOCKSProxy(upstream)) as address,
        associated(address) as application,
    ):
        address = (application.bound.host, application.bound.port)
        await other.socket.sendto(encode_datagram(far.address, b"from another socket"), address)
        await application.send(far.address, b"first")
        assert (await far.receive())[0] == b"first"
        await application.control.aclose()
        await until(lambda: bool(said()))
    assert said() == ["SOCKS: UDP association ended: closed by the application; 1 datagrams dropped"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x00\x00",
        b"\x00\x00\x01" + encode(Destination(HOST, 9)) + b"a fragment",
        b"\x00\x00\x00\x02",
        b"\x00\x00\x00\x03\x02a",
        b"\x00\x00\x00\x03\x01\x00\x00\x35",
    ],
)
async def test_invalid_datagrams_are_dropped(upstream: Upstream, data: bytes, said: Callable[[], list[str]]) -> None:
    async with (
        shouting() as far,
        peer() as other,
        offering(SOCKSProxy(upstream)) as address,
        associated(address) as application,
    ):
        # An invalid datagram does not make its sender the application.
        await other.socket.sendto(data, (application.bound.host, application.bound.port))
        await application.send_raw(data)
        assert await application.asks(far, b"x") == (far, b"X")
        await application.control.aclose()
        await until(lambda: bool(said()))
    assert said() == ["SOCKS: UDP association ended: closed by the application; 2 datagrams dropped"]


@linux
async def test_the_largest_answer_and_one_that_is_larger(upstream: Upstream) -> None:
    async with (
        peer() as far,
        offering(SOCKSProxy(upstream)) as address,
        associated(address) as application,
    ):
        await application.send(far.address, b"question")
        _, sender = await far.receive()
        # The address needs ten bytes.
        for size in (65_507, 65_498, 65_497):
            await far.socket.sendto(bytes(size), sender)
        assert await application.receive() == (far.address, bytes(65_497))


# The end


async def test_it_ends_with_the_applications_connection(upstream: Upstream) -> None:
    async with (
        peer() as far,
        offering(SOCKSProxy(upstream)) as address,
        associated(address) as application,
    ):
        await application.send(far.address, b"question")
        await far.receive()
        await application.control.aclose()

        def is_gone() -> bool:
            # The port has been released.
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                try:
                    one.bind((application.bound.host, application.bound.port))
                except OSError:
                    return False
            return True

        await until(is_gone)


async def test_data_on_the_connection_is_ignored(upstream: Upstream) -> None:
    async with (
        shouting() as far,
        offering(SOCKSProxy(upstream)) as address,
        associated(address) as application,
    ):
        await application.control.send_all(bytes(100_000))
        assert await application.asks(far, b"x") == (far, b"X")


async def test_an_application_that_breaks_off(upstream: Upstream, said: Callable[[], list[str]]) -> None:
    async with offering(SOCKSProxy(upstream)) as address:
        async with associated(address) as application:
            application.control.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        await until(lambda: bool(said()))
    assert said()[0].startswith("SOCKS: UDP association ended: application disconnected: ")


async def leave(stream: trioanytls.Stream) -> None:
    """Serve as a relay that ends each association at its first datagram."""
    decoder, datagrams = udp_over_tcp.UOTRequestDecoder(), udp_over_tcp.DatagramDecoder()
    destination = DestinationDecoder()
    while destination.destination is None:
        destination.feed(await stream.receive_some(destination.needed))
    while decoder.request is None:
        decoder.feed(await stream.receive_some())
    await stream.acknowledge()
    datagrams.feed(decoder.rest)
    while datagrams.take() is None:
        datagrams.feed(await stream.receive_some())


async def test_it_ends_with_the_relays_stream(
    serving: Serving, client_context: ssl.SSLContext, wire_format: WireFormat, said: Callable[[], list[str]]
) -> None:
    async with in_front_of(leave, serving, client_context, wire_format) as address, associated(address) as application:
        await application.send(Destination(HOST, 9), b"x")
        assert await is_closed(application.control)
    assert said() == ["SOCKS: UDP association ended: closed by the relay; 0 datagrams dropped"]


async def test_a_relay_that_sends_an_invalid_datagram(
    serving: Serving, client_context: ssl.SSLContext, wire_format: WireFormat, said: Callable[[], list[str]]
) -> None:
    async def babble(stream: trioanytls.Stream) -> None:
        await stream.acknowledge()
        # Before the application's socket is known, and then invalid data.
        await stream.send_all(
            udp_over_tcp.encode_datagram(udp_over_tcp.Datagram(Destination(HOST, 9), b"early")) + b"HTTP/1.1"
        )
        await stream.wait_closed()

    async with in_front_of(babble, serving, client_context, wire_format) as address, associated(address) as application:
        assert await is_closed(application.control)
    assert said() == [
        (
            "SOCKS: UDP: invalid datagram from the relay: unknown address type 0x48 in a datagram (expected 0 = IPv4,"
            " 1 = IPv6, 2 = name)"
        ),
        "SOCKS: UDP association ended: invalid datagram from the relay; 1 datagrams dropped",
    ]


# UDP is unavailable


async def refuse(stream: trioanytls.Stream) -> None:
    """Serve as a relay without UDP, which does not know the reserved name."""
    await stream.refuse()


@pytest.mark.parametrize("handler", [RelayHandler(POLICY, 5), refuse], ids=["ours", "others"])
async def test_a_relay_that_does_not_carry_udp(
    serving: Serving,
    client_context: ssl.SSLContext,
    wire_format: WireFormat,
    said: Callable[[], list[str]],
    handler: Handler,
) -> None:
    async with (
        in_front_of(handler, serving, client_context, wire_format) as address,
        await trio.open_tcp_stream(*address) as control,
    ):
        assert (await request(control))[0] == ReplyCode.COMMAND_NOT_SUPPORTED
        assert await is_closed(control)
    assert said() == ["SOCKS: UDP: unsupported command, or the relay does not carry UDP"]


async def test_a_relay_that_cannot_be_reached(client_context: ssl.SSLContext) -> None:
    with socket.socket() as held:
        held.bind((HOST, 0))
        pool = trioanytls.PoolConfig(open_timeout=0.1)
        async with (
            trioanytls.open_client(
                HOST, held.getsockname()[1], password="x", ssl_context=client_context, pool=pool
            ) as client,
            offering(SOCKSProxy(Upstream(client))) as address,
            await trio.open_tcp_stream(*address) as control,
        ):
            assert (await request(control))[0] == ReplyCode.GENERAL_FAILURE
            assert await is_closed(control)


async def test_no_socket_is_available(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(neighbor: object) -> trio.socket.SocketType:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socks_udp, "_open_socket", fail)
    async with offering(SOCKSProxy(upstream)) as address, await trio.open_tcp_stream(*address) as control:
        assert (await request(control))[0] == ReplyCode.GENERAL_FAILURE
        assert await is_closed(control)


async def test_an_application_that_has_disconnected_leaves_no_socket(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application requests UDP and resets the connection, so that its address is unknown."""
    opened: list[trio.socket.SocketType] = []
    opening = socks_udp._open_socket

    def remember(neighbor: tuple[object, ...]) -> trio.socket.SocketType:
        opened.append(opening(neighbor))
        return opened[-1]

    monkeypatch.setattr(socks_udp, "_open_socket", remember)
    [listener] = await trio.open_tcp_listeners(0, host=HOST)
    async with listener, await trio.open_tcp_stream(*listener.socket.getsockname()[:2]) as control:
        await control.send_all(b"\x05\x01\x00\x05\x03\x00" + encode(ANYWHERE))
        near = await listener.accept()
        await reset_stream(control)
        server = SOCKS5Negotiation()
        server.feed(b"\x05\x01\x00\x05\x03\x00" + encode(ANYWHERE))
        async with near:
            # The system has processed the reset.
            with contextlib.suppress(trio.BrokenResourceError):
                while await near.receive_some():
                    pass
            with pytest.raises(trio.BrokenResourceError):
                await socks_udp.associate(near, server, upstream)
    assert [one.fileno() for one in opened if one.fileno() >= 0] == []


# Limits


async def test_a_relay_that_does_not_read_makes_the_client_drop(
    serving: Serving, client_context: ssl.SSLContext, wire_format: WireFormat
) -> None:
    count = 4000
    reads = trio.Event()
    received: list[int] = []
    last = trio.Event()

    async def wait(stream: trioanytls.Stream) -> None:
        await stream.acknowledge()
        await reads.wait()
        destination = DestinationDecoder()
        while destination.destination is None:
            destination.feed(await stream.receive_some(destination.needed))
        decoder = udp_over_tcp.UOTRequestDecoder()
        while decoder.request is None:
            decoder.feed(await stream.receive_some())
        datagrams = udp_over_tcp.DatagramDecoder()
        datagrams.feed(decoder.rest)
        while True:
            while (datagram := datagrams.take()) is not None:
                received.append(int(datagram.data[:5]))
                if received[-1] == 99_999:
                    last.set()
            datagrams.feed(await stream.receive_some())

    config = trioanytls.Config(acknowledge="manual", receive_buffer_size=64 * 1024)
    async with (
        in_front_of(wait, serving, client_context, wire_format, config) as address,
        associated(address) as application,
    ):
        for number in range(count):
            await application.send(Destination(HOST, 9), b"%05d" % number + bytes(8_000))
        reads.set()
        with trio.fail_after(10):
            while not last.is_set():
                await application.send(Destination(HOST, 9), b"99999")
    assert received == sorted(received)
    assert 1 < len([number for number in received if number < count]) < count


@pytest.mark.skipif(sys.platform == "win32", reason="mapped addresses are bound otherwise")
@pytest.mark.parametrize(
    ("neighbor", "expected"),
    [((HOST, 1080), HOST), (("::ffff:127.0.0.1", 1080, 0, 0), HOST), pytest.param(("::1", 1, 0, 0), "::1", marks=ipv6)],
)
async def test_the_socket_is_on_the_address_of_the_connection(neighbor: tuple[object, ...], expected: str) -> None:
    with socks_udp._open_socket(neighbor) as one:
        assert socks_udp._named(one.getsockname())[0] == expected

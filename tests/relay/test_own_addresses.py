"""A relay does not connect to the server's own addresses, including public ones, unless they are allowed."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

import trioanytls
from trioanytls import Config, Connection, StreamRefused
from trioanytls._transport.handshake import handshake
from trioanytls.cli.common.logging import LogSettings
from trioanytls.cli.server.certificate_files import CertificateFiles
from trioanytls.cli.server.settings import WorkerSettings
from trioanytls.destination import Destination, encode
from trioanytls.relay import address_policy, own_addresses, udp_over_tcp
from trioanytls.relay.address_policy import AddressPolicy, parse_network
from trioanytls.relay.dial import Busy, DestinationDialer, Resolved
from trioanytls.relay.handler import RelayHandler
from trioanytls.relay.own_addresses import OwnAddresses, is_local
from trioanytls.relay.refusal_reasons import RefusalReasons
from trioanytls.relay.reply_codes import ReplyCode
from trioanytls.relay.udp_over_tcp import Datagram, UOTRequest, encode_datagram, encode_request
from trioanytls.relay.udp_relay import UDPRelay
from trioanytls.testing import memory_connection_pair

from ..conftest import HOST, USERS, Connecting
from ..conftest import Serving as Start
from ..helpers.refusals import refusal_of
from ..helpers.udp_sockets import ipv6, linux, peer, until

MANUAL = Config(acknowledge="manual")


@pytest.fixture
def everything_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat no address as special, so that those of loopback count as the machine's public ones."""
    monkeypatch.setattr(address_policy, "_REASONS", [])


async def open_to(client: Connection, destination: Destination) -> trioanytls.Stream:
    stream = await client.open_stream()
    await stream.send_all(encode(destination))
    return stream


@contextlib.asynccontextmanager
async def secret(host: str = "0.0.0.0") -> AsyncIterator[int]:
    """Run a service that relies on being unreachable from outside, and yield its port."""
    async with (await trio.open_tcp_listeners(0, host=host))[0] as listener:
        yield listener.socket.getsockname()[1]


@pytest.mark.usefixtures("everything_is_public")
@pytest.mark.parametrize("host", [HOST, pytest.param("127.0.0.2", marks=linux), "::ffff:127.0.0.1", "localhost"])
async def test_a_service_on_all_addresses_is_not_reachable_through_the_relay(
    serving: Start, connecting: Connecting, caplog: pytest.LogCaptureFixture, host: str
) -> None:
    caplog.set_level(logging.INFO, "trioanytls.relay")
    async with (
        secret() as hidden,
        serving(RelayHandler(AddressPolicy()), config=MANUAL) as port,
        connecting(port) as client,
    ):
        stream = await open_to(client, Destination(host, hidden))
        assert await refusal_of(stream) is ReplyCode.NOT_ALLOWED
    assert " is not allowed: " in caplog.messages[-1]
    assert "an address of this server" in caplog.messages[-1]


@pytest.mark.usefixtures("everything_is_public")
async def test_allow_overrides(serving: Start, connecting: Connecting) -> None:
    policy = AddressPolicy([parse_network(HOST)])
    async with secret() as hidden, serving(RelayHandler(policy), config=MANUAL) as port, connecting(port) as client:
        async with await open_to(client, Destination(HOST, hidden)) as stream:
            await stream.wait_acknowledged()
        # Only this address is allowed.
        if is_local(ipaddress.ip_address("127.0.0.2")):
            with pytest.raises(StreamRefused):
                await (await open_to(client, Destination("127.0.0.2", hidden))).wait_acknowledged()


@pytest.mark.usefixtures("everything_is_public")
async def test_the_address_of_a_load_balancer(
    serving: Start, client_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    """No interface has the address. The PROXY header says that clients connect to it."""
    caplog.set_level(logging.INFO, "trioanytls.relay")
    header = b"PROXY TCP4 198.51.100.7 203.0.113.1 56324 443\r\n"
    seen = []
    relay = RelayHandler(AddressPolicy())

    async def handler(stream: trioanytls.Stream) -> None:
        seen.append(stream.connection.local_address)
        await relay(stream)

    async with serving(handler, config=MANUAL, trusted_proxies=[HOST]) as port:
        transport = await trio.open_tcp_stream(HOST, port)
        await transport.send_all(header)
        secured = await handshake(transport, client_context, timeout=10, server_hostname=HOST)
        async with trioanytls.wrap_client(secured, password=USERS["alice"]) as client:
            with pytest.raises(StreamRefused):
                await (await open_to(client, Destination("203.0.113.1", 80))).wait_acknowledged()
    assert seen == [("203.0.113.1", 443)]
    assert "203.0.113.1 is an address of this server" in caplog.messages[-1]
    # This holds for clients of other addresses, too.
    assert ipaddress.ip_address("203.0.113.1") in relay.dialer.own
    assert ipaddress.ip_address("203.0.113.2") not in relay.dialer.own


@pytest.mark.usefixtures("everything_is_public")
async def test_datagrams_to_own_addresses_are_dropped(
    serving: Start, connecting: Connecting, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trioanytls.relay")
    reasons = RefusalReasons()
    policy = AddressPolicy()
    relay = RelayHandler(policy, 10, {udp_over_tcp.HOST: UDPRelay(policy, 10, reasons)}, reasons)
    async with peer() as hidden, serving(relay, config=MANUAL) as port, connecting(port) as client:
        stream = await client.open_stream()
        await stream.send_all(
            encode(Destination(udp_over_tcp.HOST, 0)) + encode_request(UOTRequest(False, hidden.address))
        )
        await stream.send_all(encode_datagram(Datagram(hidden.address, b"x")))
        await until(lambda: "is an address of this server" in caplog.text)
        one = await client.open_stream()
        await one.send_all(encode(Destination(udp_over_tcp.HOST, 0)) + encode_request(UOTRequest(True, hidden.address)))
        assert await refusal_of(one) is ReplyCode.NOT_ALLOWED


async def test_the_address_that_a_client_has_connected_to(serving: Start, connecting: Connecting) -> None:
    seen = []

    async def handler(stream: trioanytls.Stream) -> None:
        seen.append(stream.connection.local_address)

    async with serving(handler) as port, connecting(port) as client:
        await (await client.open_stream()).receive_some()
        assert client.local_address is None
    assert seen == [(HOST, port)]


def test_the_machines_addresses() -> None:
    assert is_local(ipaddress.ip_address(HOST))
    # The machine has none of them.
    for address in ("192.0.2.7", "203.0.113.1", "2001:db8::7", "8.8.8.8", "2606:4700::1111"):
        assert not is_local(ipaddress.ip_address(address))


@ipv6
def test_the_machines_addresses_of_ipv6() -> None:
    assert is_local(ipaddress.ip_address("::1"))


def test_a_system_that_binds_to_any_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """With net.ipv4.ip_nonlocal_bind, as in clusters, every address can be bound. Not all may count as local."""
    monkeypatch.setattr(own_addresses, "_can_be_bound", lambda _address: True)
    assert is_local(ipaddress.ip_address(HOST))
    assert not is_local(ipaddress.ip_address("192.0.2.7"))
    assert not is_local(ipaddress.ip_address("2001:db8::7"))


async def test_without_a_socket_for_the_test_nothing_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, clients could use up the file descriptors to bypass the check."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    found = [Resolved(socket.AF_INET, ("8.8.8.8", 80))]
    async with memory_connection_pair() as (_, connection):
        dialer = DestinationDialer(AddressPolicy())
        assert dialer.permitted(found, connection) == found
        monkeypatch.setattr(socket, "socket", refuse)
        with pytest.raises(Busy, match="cannot check the addresses: Too many open files"):
            dialer.permitted(found, connection)


def test_a_system_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", refuse)
    assert not is_local(ipaddress.ip_address("::1"))


@pytest.mark.parametrize(
    ("noted", "address"),
    [
        ("203.0.113.1", "203.0.113.1"),
        # In the form of a dual-stack socket, and with a zone.
        ("::ffff:203.0.113.1", "203.0.113.1"),
        ("2001:db8::7", "2001:db8::7"),
        ("fe80::7%eth0", "fe80::7"),
    ],
)
def test_addresses_are_remembered(noted: str, address: str) -> None:
    own = OwnAddresses()
    own.note((noted, 443))
    assert ipaddress.ip_address(address) in own


def test_invalid_addresses_are_not_remembered() -> None:
    own = OwnAddresses()
    own.note(None)
    own.note(("/run/socket", 0))
    assert not own._seen
    assert "203.0.113.1" not in own


def test_remembered_addresses_are_bounded() -> None:
    """The number of remembered addresses is limited: a client can choose among all addresses of the machine."""
    own = OwnAddresses()
    own.note(("2001:db8::7", 443))
    for number in range(3000):
        own.note((str(ipaddress.IPv6Address((0x20010DB8 << 96) + 0x10000 + number)), 443))
        own.note(("2001:db8::7", 443))
    assert len(own._seen) == own_addresses._MOST_SEEN
    assert ipaddress.ip_address("2001:db8::7") in own


def test_deny_and_the_reasons_of_special_addresses_come_first() -> None:
    own = {ipaddress.ip_address(one) for one in ("127.0.0.1", "8.8.8.8", "2606:4700::1")}
    policy = AddressPolicy(deny=[parse_network("8.8.8.8")])
    assert policy.refusal(ipaddress.ip_address("8.8.8.8"), own) == "is denied"
    assert policy.refusal(ipaddress.ip_address("127.0.0.1"), own) == "is a loopback address"
    assert policy.refusal(ipaddress.ip_address("2606:4700::1"), own) == "is an address of this server"
    for form in ("::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"):
        leads = AddressPolicy().refusal(ipaddress.ip_address(form), own)
        assert leads == "leads to 8.8.8.8, an address of this server"
        assert AddressPolicy([parse_network("8.8.8.8")]).refusal(ipaddress.ip_address(form), own) is None


async def test_tcp_and_udp_of_a_server_share_addresses_and_limits(
    monkeypatch: pytest.MonkeyPatch, certificate: Path
) -> None:
    handlers = []

    async def serve(handler: RelayHandler, *_: object, **__: object) -> None:
        handlers.append(handler)

    monkeypatch.setattr(trioanytls, "serve", serve)
    serving = WorkerSettings(
        host=HOST,
        users=USERS,
        certificate=CertificateFiles(certificate, None),
        fallback=None,
        scheme=None,
        policy=AddressPolicy(),
        proxies=(),
        connect_timeout=10,
        config=MANUAL,
        log=LogSettings(logging.INFO, "text", show_process=False),
    )
    await serving.serve(0, trioanytls.ServerControl())
    (relay,) = handlers
    assert relay.special_hosts[udp_over_tcp.HOST].dialer is relay.dialer  # type: ignore[attr-defined]  # of the class that the test uses

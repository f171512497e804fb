"""UDP relaying: destinations of datagrams, answers, and dropped datagrams."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls.destination import Destination, encode
from trioanytls.relay import refusals, udp_hosts, udp_over_tcp, udp_relay
from trioanytls.relay.address_policy import AddressPolicy, parse_network
from trioanytls.relay.dial import DestinationDialer
from trioanytls.relay.handler import RelayHandler
from trioanytls.relay.lookups import Lookups
from trioanytls.relay.refusal_reasons import RefusalReasons
from trioanytls.relay.reply_codes import ReplyCode
from trioanytls.relay.udp_over_tcp import Datagram, DatagramDecoder, UOTRequest, encode_datagram, encode_request
from trioanytls.relay.udp_relay import UDPRelay
from trioanytls.testing import memory_connection_pair

from ..conftest import HOST
from ..helpers.refusals import refusal_of
from ..helpers.udp_sockets import ipv6, linux, peer, shouting, until

HERE = AddressPolicy([parse_network("127.0.0.0/8"), parse_network("::1")], [parse_network("127.0.0.66")])
ANY = UOTRequest(False, Destination("0.0.0.0", 0))

Clock = trio.testing.MockClock
Said = Callable[..., list[str]]


class Names:
    """A resolver with a few names, which records the lookups."""

    def __init__(self) -> None:
        self.names = {
            "here.example": [HOST],
            "both.example": ["::1", HOST],
            "inside.example": ["10.0.0.1", "169.254.169.254"],
            "partly.example": ["10.0.0.1", HOST],
        }
        self.asked: list[str] = []
        self.answering = trio.Event()
        self.answering.set()

    async def getaddrinfo(self, host: bytes, port: int) -> list[tuple[Any, ...]]:
        name = host.decode("ascii").lower()
        self.asked.append(name)
        if name.startswith("never"):
            await trio.sleep_forever()
        await self.answering.wait()
        if name not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in self.names[name]
        ]


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    resolver = Names()

    async def look_up(
        _self: Lookups, _connection: trioanytls.Connection, _function: object, host: bytes, port: int
    ) -> list[tuple[Any, ...]]:
        return await resolver.getaddrinfo(host, port)

    # Without threads, since a mock clock does not wait for them.
    monkeypatch.setattr(Lookups, "run", look_up)
    return resolver


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Said:
    """Return a function that returns the relay's log messages, from a level on."""
    caplog.set_level(logging.DEBUG, "trioanytls.relay")

    def get(level: int = logging.DEBUG) -> list[str]:
        return [
            record.getMessage()
            for record in caplog.records
            if record.name == "trioanytls.relay" and record.levelno >= level
        ]

    return get


async def ended(said: Said) -> None:
    """Wait until the relay has logged the end of an association."""
    await until(lambda: any("UDP association ended: " in line for line in said()))


@contextlib.asynccontextmanager
async def relaying(policy: AddressPolicy = HERE, **options: Any) -> AsyncIterator[trioanytls.Connection]:
    reasons = RefusalReasons()
    relay = RelayHandler(policy, 10, {udp_over_tcp.HOST: UDPRelay(policy, 10, reasons)}, reasons)
    config = trioanytls.Config(acknowledge="manual")
    async with memory_connection_pair(relay, server_config=config, **options) as (client, _):
        yield client


class Association:
    """The client's end of an association."""

    def __init__(self, stream: trioanytls.Stream, request: UOTRequest) -> None:
        self.stream = stream
        self.connected = request.destination if request.connected else None
        self._decoder = DatagramDecoder(self.connected)

    async def send(self, destination: Destination, data: bytes) -> None:
        frame = encode_datagram(Datagram(destination, data), connected=self.connected is not None)
        await self.stream.send_all(frame)

    async def receive(self) -> Datagram | None:
        """Return the next datagram, None at the end of the stream."""
        with trio.fail_after(10):
            while (datagram := self._decoder.take()) is None:
                data = await self.stream.receive_some()
                if not data:
                    return None
                self._decoder.feed(data)
        return datagram

    async def asks(self, destination: Destination, data: bytes) -> Datagram | None:
        await self.send(destination, data)
        return await self.receive()


@contextlib.asynccontextmanager
async def associated(client: trioanytls.Connection, request: UOTRequest = ANY) -> AsyncIterator[Association]:
    async with await client.open_stream() as stream:
        await stream.send_all(encode(udp_over_tcp.DESTINATION) + encode_request(request))
        await stream.wait_acknowledged()
        yield Association(stream, request)


# Relaying


async def test_several_destinations_in_one_association(said: Said) -> None:
    async with shouting() as one, shouting() as other, relaying() as client:
        async with associated(client) as association:
            for _ in range(2):
                assert await association.asks(one, b"to one") == Datagram(one, b"TO ONE")
                assert await association.asks(other, b"to the other") == Datagram(other, b"TO THE OTHER")
            # All datagrams come from the same socket.
            assert await association.asks(one, b"") == Datagram(one, b"")
        await ended(said)
    assert "UDP association ended: closed; 5 datagrams up, 5 down, 0 dropped" in said()[-1]
    # Destinations of users are logged at DEBUG only.
    assert said(logging.INFO) == []


@pytest.mark.parametrize("size", [1, 5, 1000])
async def test_all_of_it_may_come_in_pieces(size: int) -> None:
    async with shouting() as far, relaying() as client, await client.open_stream() as stream:
        data = encode(udp_over_tcp.DESTINATION) + encode_request(ANY) + encode_datagram(Datagram(far, b"a")) * 2
        for start in range(0, len(data), size):
            await stream.send_all(data[start : start + size])
            await trio.testing.wait_all_tasks_blocked()
        association = Association(stream, ANY)
        assert await association.receive() == Datagram(far, b"A")
        assert await association.receive() == Datagram(far, b"A")


async def test_a_name_is_resolved_once(names: Names) -> None:
    async with shouting() as far, relaying() as client, associated(client) as association:
        name = Destination("Here.example", far.port)
        names.answering = trio.Event()
        for number in range(3):
            await association.send(name, b"%d" % number)
        await trio.testing.wait_all_tasks_blocked()
        names.answering.set()
        # In order, and from the right address.
        assert [await association.receive() for _ in range(3)] == [Datagram(far, b"%d" % number) for number in range(3)]
        assert await association.asks(Destination("here.example", far.port), b"x") == Datagram(far, b"X")
    assert names.asked == ["here.example"]


async def test_a_name_is_resolved_again_after_a_while(names: Names, autojump_clock: Clock) -> None:
    async with shouting() as one, relaying() as client, associated(client) as association:
        name = Destination("late.example", one.port)
        await association.send(name, b"lost")
        await trio.sleep(1)
        names.names["late.example"] = [HOST]
        await trio.sleep(udp_hosts._NAME_LIFETIME + 1)
        assert await association.asks(name, b"found") == Datagram(one, b"FOUND")
    assert names.asked == ["late.example"] * 2


async def test_a_client_may_leave_at_once_after_sending_to_a_name(names: Names) -> None:
    async with peer() as far, relaying() as client:
        names.answering = trio.Event()
        async with associated(client) as association:
            await association.send(Destination("here.example", far.port), b"this was all")
        await trio.testing.wait_all_tasks_blocked()
        names.answering.set()
        assert (await far.receive())[0] == b"this was all"


@ipv6
async def test_both_families_in_one_association(names: Names) -> None:
    async with shouting() as one, shouting("::1") as other, relaying() as client, associated(client) as association:
        assert await association.asks(one, b"four") == Datagram(one, b"FOUR")
        assert await association.asks(other, b"six") == Datagram(other, b"SIX")
        # The first address of the name.
        assert await association.asks(Destination("both.example", other.port), b"name") == Datagram(other, b"NAME")


async def test_an_address_that_cannot_be_sent_to_makes_room_for_the_next(
    names: Names, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_socket = udp_relay._open_socket

    def only_ipv4(family: int) -> trio.socket.SocketType:
        if family == socket.AF_INET6:
            raise OSError("there is no IPv6")
        return open_socket(family)

    monkeypatch.setattr(udp_relay, "_open_socket", only_ipv4)
    async with shouting() as far, relaying() as client:
        name = Destination("both.example", far.port)
        async with associated(client) as association:
            await association.send(Destination("::1", far.port), b"none")
            assert await association.asks(name, b"any") == Datagram(far, b"ANY")
        async with associated(client, UOTRequest(True, name)) as association:
            assert await association.asks(name, b"one") == Datagram(name, b"ONE")
    (line,) = said(logging.INFO)
    assert f"dropped a datagram to [::1]:{far.port}: no UDP socket available" in line


async def test_the_address_that_could_be_sent_to_remains(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late:
        """A socket without a route at first."""

        def __init__(self, family: int) -> None:
            self._socket = open_socket(family)
            self._failures = 1

        def __getattr__(self, name: str) -> object:
            return getattr(self._socket, name)

        async def sendto(self, data: bytes, address: object) -> object:
            if self._failures:
                self._failures -= 1
                raise OSError(101, "Network is unreachable")
            return await self._socket.sendto(data, address)  # type: ignore[call-overload]  # any address

    open_socket = udp_relay._open_socket
    monkeypatch.setattr(udp_relay, "_open_socket", Late)
    names.names["two.example"] = ["127.0.0.2", HOST]
    async with shouting() as far, relaying() as client, associated(client) as association:
        for data in (b"A", b"B"):
            assert await association.asks(Destination("two.example", far.port), data) == Datagram(far, data)


@linux
async def test_the_largest_datagram_and_one_that_is_larger(said: Said) -> None:
    async with peer() as far, relaying() as client, associated(client) as association:
        await association.send(far.address, bytes(65_508))
        await association.send(far.address, bytes(65_507))
        data, sender = await far.receive()
        assert len(data) == 65_507
        await far.socket.sendto(data, sender)
        assert await association.receive() == Datagram(far.address, data)
    assert f"dropped a datagram to {far.address}: Message too long" in said(logging.INFO)[-1]


async def test_a_socket_continues_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reporting:
        """A socket that raises as on Windows after a datagram to a closed port."""

        def __init__(self, family: int) -> None:
            self._socket = open_socket(family)
            self._reports = 1

        def __getattr__(self, name: str) -> object:
            return getattr(self._socket, name)

        async def recvfrom(self, size: int) -> object:
            received = await self._socket.recvfrom(size)
            if self._reports:
                self._reports -= 1
                raise ConnectionResetError
            return received

    open_socket = udp_relay._open_socket
    monkeypatch.setattr(udp_relay, "_open_socket", Reporting)
    async with shouting() as far, relaying() as client, associated(client) as association:
        await association.send(far, b"lost")
        assert await association.asks(far, b"there") == Datagram(far, b"THERE")


# All datagrams for one address


@pytest.mark.parametrize("host", [HOST, "here.example", "partly.example"])
async def test_all_datagrams_for_one_address(names: Names, host: str) -> None:
    async with shouting() as far, relaying() as client:
        destination = Destination(host, far.port)
        async with associated(client, UOTRequest(True, destination)) as association:
            assert await association.asks(destination, b"a") == Datagram(destination, b"A")
            assert await association.asks(destination, b"b") == Datagram(destination, b"B")
    assert names.asked == [host] * (host != HOST)


async def test_one_address_remains_the_same(names: Names, autojump_clock: Clock) -> None:
    async with shouting() as far, relaying() as client:
        destination = Destination("here.example", far.port)
        async with associated(client, UOTRequest(True, destination)) as association:
            names.names["here.example"] = ["127.0.0.2"]
            await trio.sleep(udp_hosts._NAME_LIFETIME + 1)
            assert await association.asks(destination, b"a") == Datagram(destination, b"A")


@pytest.mark.parametrize(
    ("destination", "reply", "reason"),
    [
        (Destination("10.0.0.1", 53), ReplyCode.NOT_ALLOWED, "10.0.0.1 is a private address"),
        (Destination("127.0.0.66", 53), ReplyCode.NOT_ALLOWED, "is denied"),
        (Destination("inside.example", 53), ReplyCode.NOT_ALLOWED, "169.254.169.254 is the metadata service"),
        (Destination("no.example", 53), ReplyCode.HOST_UNREACHABLE, "Name or service not known"),
        (Destination("a..b", 53), ReplyCode.HOST_UNREACHABLE, "the name cannot be resolved"),
        (Destination(HOST, 0), ReplyCode.HOST_UNREACHABLE, "port 0 is invalid"),
        (Destination("never.example", 53), ReplyCode.TIMED_OUT, "the name was not resolved within 10 s"),
    ],
)
async def test_one_address_that_cannot_be_sent_to(
    names: Names, said: Said, autojump_clock: Clock, destination: Destination, reply: ReplyCode, reason: str
) -> None:
    async with relaying() as client, await client.open_stream() as stream:
        await stream.send_all(encode(udp_over_tcp.DESTINATION) + encode_request(UOTRequest(True, destination)))
        assert await refusal_of(stream) is reply
    assert f"refused: cannot send to {destination}: " in said(logging.INFO)[-1]
    assert reason in said(logging.INFO)[-1]


# Embedded addresses


@linux
@ipv6
async def test_a_mapped_address_is_sent_to_by_ipv4(said: Said) -> None:
    async with shouting() as far, relaying() as client, associated(client) as association:
        await association.send(Destination("::ffff:127.0.0.1", far.port), b"x")
        assert await association.asks(far, b"y") == Datagram(far, b"Y")
    (line,) = said(logging.INFO)
    assert ": Network is unreachable" in line


# Answers


async def test_another_port_of_an_address_that_was_sent_to_may_answer() -> None:
    async with peer() as far, peer() as other, relaying() as client, associated(client) as association:
        await association.send(far.address, b"question")
        _, sender = await far.receive()
        await other.socket.sendto(b"answer", sender)
        assert await association.receive() == Datagram(other.address, b"answer")


async def test_another_port_may_not_answer_if_all_datagrams_are_for_one(said: Said) -> None:
    async with peer() as far, peer() as other, relaying() as client:
        async with associated(client, UOTRequest(True, far.address)) as association:
            await association.send(far.address, b"question")
            _, sender = await far.receive()
            await other.socket.sendto(b"not asked for", sender)
            await far.socket.sendto(b"answer", sender)
            assert await association.receive() == Datagram(far.address, b"answer")
        await ended(said)
    assert "1 datagrams up, 1 down, 1 dropped" in said()[-1]


@linux
async def test_senders_that_were_not_sent_to_are_dropped(said: Said) -> None:
    async with peer() as far, peer("127.0.0.2") as other, relaying() as client:
        async with associated(client) as association:
            await association.send(far.address, b"question")
            _, (_, port) = await far.receive()
            await other.socket.sendto(b"not asked for", (HOST, port))
            await far.socket.sendto(b"answer", (HOST, port))
            assert await association.receive() == Datagram(far.address, b"answer")
        await ended(said)
    assert "1 datagrams up, 1 down, 1 dropped" in said()[-1]


@linux
async def test_the_least_recent_addresses_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_relay, "_MOST_SENT_TO", 2)
    async with (
        peer() as one,
        peer("127.0.0.2") as two,
        peer("127.0.0.3") as three,
        relaying() as client,
        associated(client) as association,
    ):
        for far in (one, two, one, three):
            await association.send(far.address, b"question")
            _, (_, port) = await far.receive()
        for far in (two, one, three):
            await far.socket.sendto(b"answer", (HOST, port))  # type: ignore[possibly-undefined]  # the loop runs
        assert await association.receive() == Datagram(one.address, b"answer")
        assert await association.receive() == Datagram(three.address, b"answer")


# Forbidden destinations


@pytest.mark.parametrize(
    ("destination", "reason"),
    [
        (Destination("10.0.0.1", 53), "10.0.0.1 is a private address"),
        (Destination("127.0.0.66", 53), "127.0.0.66 is denied"),
        (Destination("::ffff:169.254.169.254", 80), "leads to 169.254.169.254, the metadata service of a cloud"),
        (Destination("255.255.255.255", 9), "is a broadcast address"),
        (Destination("224.0.0.251", 5353), "is a multicast address"),
        (Destination("inside.example", 53), "10.0.0.1 is a private address; 169.254.169.254 is the metadata"),
        (Destination("no.example", 53), "the name cannot be resolved: Name or service not known"),
        (Destination("a..b", 53), "the name cannot be resolved: "),
        (Destination("fe80::1%1", 53), "is a link-local address"),
        (Destination(HOST, 0), "port 0 is invalid"),
    ],
)
async def test_datagrams_to_forbidden_destinations_are_dropped(
    names: Names, said: Said, destination: Destination, reason: str
) -> None:
    async with shouting() as far, relaying() as client:
        async with associated(client) as association:
            frame = encode_datagram(Datagram(Destination("x", destination.port), b"secret"))
            # Encoded as a name, the only way to send a zone.
            host = destination.host.encode()
            if ":" not in destination.host or "%" in destination.host:
                frame = b"\x02" + bytes([len(host)]) + host + frame[3:]
            else:
                frame = encode_datagram(Datagram(destination, b"secret"))
            for _ in range(3):
                await association.stream.send_all(frame)
                await trio.testing.wait_all_tasks_blocked()
            # The association continues.
            assert await association.asks(far, b"x") == Datagram(far, b"X")
        await ended(said)
    # Logged once.
    (line,) = said(logging.INFO)
    assert "a datagram to " in line
    assert reason in line
    assert "secret" not in line
    assert "1 datagrams up, 1 down, 3 dropped" in said()[-1]


async def test_a_name_that_resolves_to_another_address_is_checked_again(names: Names, autojump_clock: Clock) -> None:
    async with shouting() as far, relaying() as client, associated(client) as association:
        name = Destination("here.example", far.port)
        assert await association.asks(name, b"a") == Datagram(far, b"A")
        names.names["here.example"] = ["127.0.0.66"]
        await trio.sleep(udp_hosts._NAME_LIFETIME + 1)
        await association.send(name, b"b")
        await trio.sleep(1)
        assert await association.asks(far, b"c") == Datagram(far, b"C")


async def test_the_log_names_a_few_of_many_hosts(said: Said) -> None:
    async with relaying() as client:
        async with associated(client) as association:
            for number in range(100):
                await association.send(Destination(f"10.0.0.{number}", 53), b"x")
        await ended(said)
    assert len(said(logging.INFO)) == udp_relay._MOST_LOGGED
    assert "0 datagrams up, 0 down, 100 dropped" in said()[-1]


# Limits


def test_the_page_has_what_the_code_has() -> None:
    page = Path(__file__).parent.parent.parent / "docs" / "limits.md"
    section = page.read_text(encoding="utf-8").split("\n## UDP of a relay\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    assert [row[1] for row in rows[3:]] == [
        f"{udp_relay._IDLE_TIMEOUT:g} s",
        f'{refusals.REQUEST_TIMEOUT:g} s ({udp_relay._IDLE_TIMEOUT:g} s with the format "legacy")',
        "none: while it does not read, the sockets are not read",
        f"{udp_relay._MOST_RESOLVING}",
        f"{udp_relay._MOST_WAITING // 1024} KiB, with {udp_relay._OVERHEAD} bytes more for each",
        f"{udp_hosts._MOST_HOSTS}",
        f"{udp_relay._MOST_SENT_TO:,}",
        f"{udp_relay._MOST_LOGGED}",
    ]
    assert f"with {udp_hosts._MOST_TARGETS} addresses each; names for {udp_hosts._NAME_LIFETIME:g} s" in section


async def test_slow_names_do_not_delay_other_datagrams(names: Names, said: Said, autojump_clock: Clock) -> None:
    async with shouting() as far, relaying() as client:
        async with associated(client) as association:
            for number in range(10):
                await association.send(Destination(f"never{number}.example", 53), b"x")
            assert await association.asks(far, b"x") == Datagram(far, b"X")
            assert len(names.asked) == udp_relay._MOST_RESOLVING
            await trio.sleep(10.5)
            # There is room for further names.
            assert await association.asks(Destination("here.example", far.port), b"y") == Datagram(far, b"Y")
        await trio.sleep(1)
    assert "2 datagrams up, 2 down, 10 dropped" in said()[-1]
    assert sum("was not resolved within 10 s" in line for line in said(logging.INFO)) == udp_relay._MOST_RESOLVING


async def test_datagrams_that_wait_for_a_name_are_bounded(names: Names, said: Said) -> None:
    async with peer() as far, relaying() as client:
        async with associated(client) as association:
            for name in ("here.example", "partly.example"):
                names.answering = trio.Event()
                for _ in range(100):
                    await association.send(Destination(name, far.port), bytes(8_000))
                await association.send(far.address, b"this one need not wait")
                assert (await far.receive())[0] == b"this one need not wait"
                names.answering.set()
                for _ in range(7):
                    assert len((await far.receive())[0]) == 8_000
        await ended(said)
    assert "16 datagrams up, 0 down, 186 dropped" in said()[-1]


def test_remembered_hosts_are_bounded() -> None:
    async def main() -> None:
        async with memory_connection_pair() as (_, connection):
            hosts = udp_hosts.UDPHosts(DestinationDialer(HERE), connection, 10)
            first = hosts.get("127.0.1.1")
            for number in range(1000):
                hosts.get(f"127.1.{number // 256}.{number % 256}")
                assert hosts.get("127.0.1.1") is first
            assert len(hosts._known) == udp_hosts._MOST_HOSTS

    trio.run(main)


async def test_a_client_that_does_not_read_makes_the_relay_drop(said: Said) -> None:
    count = 4000
    received: list[int] = []

    async def read(association: Association) -> None:
        while (datagram := await association.receive()) is not None:
            received.append(int(datagram.data[:5]))

    async with (
        peer() as far,
        relaying(transports=trio.testing.lockstep_stream_pair()) as client,
        associated(client) as association,
        trio.open_nursery() as nursery,
    ):
        await association.send(far.address, b"question")
        _, sender = await far.receive()
        for number in range(count):
            await far.socket.sendto(b"%05d" % number + bytes(8_000), sender)
        # Nothing is in progress, and the data that does not fit was not read.
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(read, association)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(10):
            while 99999 not in received:
                await far.socket.sendto(b"99999", sender)
        nursery.cancel_scope.cancel()
    # In order, complete, and not all of them.
    assert received == sorted(received)
    assert 1 < len(received) < count / 2


@ipv6
async def test_both_sockets_wait_for_a_client_that_does_not_read() -> None:
    last: set[Destination] = set()

    async def read(association: Association) -> None:
        while (datagram := await association.receive()) is not None:
            if datagram.data == b"last":
                last.add(datagram.address)

    async with (
        peer() as one,
        peer("::1") as other,
        relaying(transports=trio.testing.lockstep_stream_pair()) as client,
        associated(client) as association,
        trio.open_nursery() as nursery,
    ):
        senders = []
        for far in (one, other):
            await association.send(far.address, b"question")
            senders.append((far, (await far.receive())[1]))
        for _ in range(500):
            for far, sender in senders:
                await far.socket.sendto(bytes(8_000), sender)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(read, association)
        with trio.fail_after(10):
            while len(last) < 2:
                for far, sender in senders:
                    await far.socket.sendto(b"last", sender)
        nursery.cancel_scope.cancel()


# Errors


@pytest.mark.parametrize(
    "data", [b"\x02", b"GET / HTTP/1.1\r\n\r\n", b"\x00\x02", b"\x01\x03\x00", b"\x00\x03\x02a\x00"]
)
async def test_invalid_requests(said: Said, data: bytes) -> None:
    async with relaying() as client, await client.open_stream() as stream:
        await stream.send_all(encode(udp_over_tcp.DESTINATION) + data)
        assert await refusal_of(stream) is ReplyCode.GENERAL_FAILURE
    assert "refused: " in said(logging.INFO)[-1]


@pytest.mark.parametrize("data", [b"\x03", b"\x02\x00", b"\x02\x02a\x00"])
async def test_an_invalid_datagram_ends_the_association(said: Said, data: bytes) -> None:
    async with shouting() as far, relaying() as client, associated(client) as association:
        await association.stream.send_all(encode_datagram(Datagram(far, b"x")) + data)
        while await association.receive() is not None:
            pass
    assert any("closing the UDP association: " in line for line in said(logging.INFO))
    assert "UDP association ended: invalid datagram from the client; 1 datagrams up" in said()[-1]


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x01\x7f"])
async def test_a_stream_that_ends_within_its_request(said: Said, data: bytes) -> None:
    async with relaying() as client:
        async with await client.open_stream() as stream:
            await stream.send_all(encode(udp_over_tcp.DESTINATION) + data)
            await trio.testing.wait_all_tasks_blocked()
        await until(lambda: len(said()) == 1)
        async with await client.open_stream() as stream:
            await stream.send_all(encode(udp_over_tcp.DESTINATION) + data)
            await trio.testing.wait_all_tasks_blocked()
            await client.aclose()
            await until(lambda: len(said()) == 2)
    assert "stream closed before the destination was received" in said()[0]
    assert "stream broke before the destination was received" in said()[1]
    assert said(logging.INFO) == []


async def test_a_request_that_does_not_come(said: Said, autojump_clock: Clock) -> None:
    async with relaying() as client, await client.open_stream() as stream:
        start = trio.current_time()
        await stream.send_all(encode(udp_over_tcp.DESTINATION) + b"\x00")
        with pytest.raises(trioanytls.StreamRefused):
            await stream.wait_acknowledged()
        assert trio.current_time() - start == pytest.approx(10, abs=0.1)
    assert "no destination received within 10 s" in said(logging.INFO)[-1]


@pytest.mark.parametrize("request_", [ANY, UOTRequest(True, Destination(HOST, 9))])
async def test_no_socket_is_available(said: Said, monkeypatch: pytest.MonkeyPatch, request_: UOTRequest) -> None:
    def fail(family: int) -> trio.socket.SocketType:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(udp_relay, "_open_socket", fail)
    async with relaying() as client, await client.open_stream() as stream:
        await stream.send_all(encode(udp_over_tcp.DESTINATION) + encode_request(request_))
        assert await refusal_of(stream) is ReplyCode.GENERAL_FAILURE
    assert "refused: no UDP socket available: Too many open files" in said(logging.INFO)[-1]


# The end


async def test_an_association_that_is_not_used(said: Said, autojump_clock: Clock) -> None:
    async with peer() as far, relaying() as client, associated(client) as association:
        await trio.sleep(udp_relay._IDLE_TIMEOUT - 1)
        # Datagrams in either direction restart the timeout.
        await association.send(far.address, b"x")
        _, sender = await far.receive()
        await trio.sleep(udp_relay._IDLE_TIMEOUT - 1)
        await far.socket.sendto(b"y", sender)
        assert await association.receive() == Datagram(far.address, b"y")
        await trio.sleep(udp_relay._IDLE_TIMEOUT - 1)
        assert not association.stream.closed
        # Dropped datagrams do not.
        await association.send(Destination("10.0.0.1", 1), b"x")
        await trio.sleep(2)
        assert await association.receive() is None
    assert "UDP association ended: idle for 300 s; 1 datagrams up, 1 down, 1 dropped, 898" in said()[-1]


async def test_a_client_that_breaks_off(said: Said) -> None:
    async with peer() as far, relaying() as client, associated(client) as association:
        await association.send(far.address, b"x")
        await far.receive()
        await client.aclose()
        await ended(said)
    assert "UDP association ended: client disconnected: " in said()[-1]


async def test_an_association_that_is_cut_off(said: Said) -> None:
    scope = trio.CancelScope()
    relay = UDPRelay(HERE, 10, RefusalReasons())

    async def serve(stream: trioanytls.Stream) -> None:
        with scope:
            await RelayHandler(HERE, 10, {udp_over_tcp.HOST: relay})(stream)

    config = trioanytls.Config(acknowledge="manual")
    async with (
        peer() as far,
        memory_connection_pair(serve, server_config=config) as (client, _),
        associated(client) as association,
    ):
        await association.send(far.address, b"x")
        await far.receive()
        scope.cancel()
        assert await association.receive() is None
    assert "UDP association ended: cancelled; 1 datagrams up" in said()[-1]


@linux
async def test_nothing_is_left_open() -> None:
    async with shouting() as far, relaying() as client:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - it only counts
        async with trio.open_nursery() as nursery:
            for request in (ANY, UOTRequest(True, far)) * 10:

                async def use(request: UOTRequest) -> None:
                    async with associated(client, request) as association:
                        await association.asks(far, b"x")

                nursery.start_soon(partial(use, request))
        await until(lambda: len(os.listdir("/proc/self/fd")) == before)  # noqa: PTH208

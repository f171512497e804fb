"""`--forward-udp`: datagrams from local senders to one destination, and its answers back."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls._protocol.interface import WireFormat
from trioanytls.cli.client.front_ends import LocalListener
from trioanytls.cli.client.settings import Forwarding
from trioanytls.cli.common.errors import ClientError
from trioanytls.cli.common.option_types import ListenAddress
from trioanytls.destination import Destination
from trioanytls.relay import udp_forward
from trioanytls.relay.bypass import Bypass, BypassRule
from trioanytls.relay.reply_codes import ReplyCode
from trioanytls.relay.udp_forward import UDPForward
from trioanytls.relay.upstream import Unreachable, Upstream

from ..conftest import HOST, USERS, Serving
from ..helpers.front_ends import ANY_PORT, MANUAL, offering, relay
from ..helpers.udp_sockets import Peer, ipv6, peer, shouting, until

Handler = Callable[[trioanytls.Stream], Awaitable[object]]


@contextlib.asynccontextmanager
async def in_front_of(
    handler: Handler, serving: Serving, context: ssl.SSLContext, wire_format: WireFormat
) -> AsyncIterator[trioanytls.Client]:
    async with (
        serving(handler, config=MANUAL, protocols=[wire_format]) as port,
        trioanytls.open_client(
            HOST, port, password=USERS["alice"], ssl_context=context, protocol=wire_format
        ) as client,
    ):
        yield client


@pytest.fixture
async def client(
    serving: Serving, client_context: ssl.SSLContext, wire_format: WireFormat
) -> AsyncIterator[trioanytls.Client]:
    async with in_front_of(relay(), serving, client_context, wire_format) as one:
        yield one


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.DEBUG, "trioanytls.relay")
    return lambda: [text for text in (record.getMessage() for record in caplog.records) if text.startswith("UDP forw")]


async def send(one: Peer, door: LocalListener, data: bytes) -> None:
    await one.socket.sendto(data, (door.address.host, door.address.port))


async def receive(one: Peer, door: LocalListener) -> bytes:
    data, sender = await one.receive()
    assert sender[:2] == (door.address.host, door.address.port)
    return data


@pytest.mark.parametrize("data", [b"hello", b"", b"x" * 65507], ids=len)
async def test_a_datagram_goes_and_its_answer_comes_whole(client: trioanytls.Client, data: bytes) -> None:
    async with (
        shouting() as far,
        offering(client, udp_forwards=[Forwarding(ANY_PORT, far)]) as [door],
        peer() as one,
    ):
        for _ in range(3):
            await send(one, door, data)
            assert await receive(one, door) == data.upper()
    # There is one association.
    assert client.stats.streams_opened == 1


async def test_a_name_is_the_servers_to_resolve(client: trioanytls.Client) -> None:
    async with (
        shouting() as far,
        offering(client, udp_forwards=[Forwarding(ANY_PORT, Destination("localhost", far.port))]) as [door],
        peer() as one,
    ):
        await send(one, door, b"hello")
        assert await receive(one, door) == b"HELLO"


async def test_each_sender_gets_its_own_answers(client: trioanytls.Client) -> None:
    async with (
        shouting() as far,
        offering(client, udp_forwards=[Forwarding(ANY_PORT, far)]) as [door],
        contextlib.AsyncExitStack() as stack,
    ):
        senders = [await stack.enter_async_context(peer()) for _ in range(10)]
        for _ in range(2):
            for number, one in enumerate(senders):
                await send(one, door, b"from %d" % number)
            for number, one in enumerate(senders):
                assert await receive(one, door) == b"FROM %d" % number
    assert client.stats.streams_opened == 10


async def test_datagrams_during_opening_are_kept_up_to_a_limit(
    client: trioanytls.Client, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    go = trio.Event()
    opening = Upstream.open_stream

    async def wait(self: Upstream, to: Destination, request: bytes = b"") -> trioanytls.Stream:
        await go.wait()
        return await opening(self, to, request)

    monkeypatch.setattr(Upstream, "open_stream", wait)
    async with (
        shouting() as far,
        offering(client, udp_forwards=[Forwarding(ANY_PORT, far)]) as [door],
        peer() as one,
    ):
        for number in range(20):
            await send(one, door, b"%d" % number)
            # Wait for each one, so that the system drops none.
            await trio.testing.wait_all_tasks_blocked(0.001)
        go.set()
        assert [await receive(one, door) for _ in range(16)] == [b"%d" % number for number in range(16)]
        await send(one, door, b"after")
        assert await receive(one, door) == b"AFTER"
    assert said()[-1].endswith("cancelled; 4 datagrams dropped")


async def test_the_one_not_used_for_longest_makes_room(
    client: trioanytls.Client, said: Callable[[], list[str]]
) -> None:
    async with (
        shouting() as far,
        _running(UDPForward(Upstream(client), far, most_associations=2)) as address,
        peer() as first,
        peer() as second,
        peer() as third,
    ):

        async def ask(one: Peer) -> None:
            await one.socket.sendto(b"hello", address)
            assert (await one.receive())[0] == b"HELLO"

        for one in (first, second, first, third):
            await ask(one)
        assert client.stats.streams_opened == 3
        await until(lambda: client.stats.streams == 2)
        # The second sender's association ended. The first one still has its association, and the second gets a new one.
        await ask(first)
        assert client.stats.streams_opened == 3
        await ask(second)
        assert client.stats.streams_opened == 4
    assert len([text for text in said() if "closed to make room for another sender" in text]) == 2


async def test_any_number_of_senders_is_no_more_than_so_many_associations(client: trioanytls.Client) -> None:
    async with shouting() as far, _running(UDPForward(Upstream(client), far, most_associations=4)) as address:
        for number in range(30):
            async with peer() as one:
                await one.socket.sendto(b"%d" % number, address)
                assert (await one.receive())[0] == b"%d" % number
        await until(lambda: client.stats.streams <= 4)


@contextlib.asynccontextmanager
async def _running(forward: UDPForward) -> AsyncIterator[tuple[str, int]]:
    local = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await local.bind((HOST, 0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(forward, local)
        yield local.getsockname()
        nursery.cancel_scope.cancel()


async def test_an_idle_association_ends_and_the_next_datagram_opens_another(
    client: trioanytls.Client,
    monkeypatch: pytest.MonkeyPatch,
    said: Callable[[], list[str]],
) -> None:
    ended = trio.Event()
    running = udp_forward._ForwardAssociation.run

    async def run(self: object) -> None:
        await running(self)  # type: ignore[arg-type]  # a stand-in, or what is tested
        ended.set()

    monkeypatch.setattr(udp_forward._ForwardAssociation, "run", run)
    async with (
        shouting() as far,
        offering(client, udp_forwards=[Forwarding(ANY_PORT, far)]) as [door],
        peer() as one,
    ):
        await send(one, door, b"hello")
        assert await receive(one, door) == b"HELLO"
        # As if this much time had passed at once.
        monkeypatch.setattr(udp_forward, "IDLE_TIMEOUT", 0.0)
        await send(one, door, b"last")
        with trio.fail_after(10):
            await ended.wait()
        assert any("idle for" in text for text in said())
        monkeypatch.setattr(udp_forward, "IDLE_TIMEOUT", 300.0)
        await until(lambda: client.stats.streams == 0)
        await send(one, door, b"again")
        while (answer := await receive(one, door)) != b"AGAIN":
            assert answer == b"LAST"
    assert client.stats.streams_opened == 2


async def test_after_a_refusal_the_next_attempt_waits(
    said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    asked = 0

    async def refuse(self: Upstream, to: Destination, request: bytes = b"") -> trioanytls.Stream:
        nonlocal asked
        asked += 1
        await trio.lowlevel.checkpoint()
        raise Unreachable(ReplyCode.HOST_UNREACHABLE)

    monkeypatch.setattr(Upstream, "open_stream", refuse)
    async with _running(UDPForward(Upstream(None), Destination("192.0.2.1", 53))) as address, peer() as one:  # type: ignore[arg-type]  # a stand-in, or what is tested
        for number in (1, 2):
            for _ in range(10):
                await one.socket.sendto(b"hello", address)
                await trio.sleep(0.1)
            assert asked == number
            await trio.sleep(2)
    assert len([text for text in said() if "or the relay does not carry UDP" in text]) == 2
    assert [text.rpartition(": ")[2] for text in said() if "ended" in text] == ["not opened; 0 datagrams dropped"] * 2


async def test_a_server_that_goes_and_comes_back(
    serving: Serving, client_context: ssl.SSLContext, wire_format: WireFormat, said: Callable[[], list[str]]
) -> None:
    """The sender notices nothing: its next datagrams use a new association."""
    streams: list[trioanytls.Stream] = []
    serve = relay()

    async def remember(stream: trioanytls.Stream) -> None:
        streams.append(stream)
        await serve(stream)

    async with (
        in_front_of(remember, serving, client_context, wire_format) as client,
        shouting() as far,
        offering(client, udp_forwards=[Forwarding(ANY_PORT, far)]) as [door],
        peer() as one,
    ):
        for number in range(3):
            await send(one, door, b"hello %d" % number)
            assert await receive(one, door) == b"HELLO %d" % number
            await trio.aclose_forcefully(streams[-1].connection)  # type: ignore[arg-type]  # a stand-in, or what is tested
            await until(lambda number=number: len(said()) == number + 1)  # type: ignore[misc]  # its default binds the loop's variable
    assert len(streams) == 3


async def test_an_invalid_datagram_of_the_relay_ends_the_association(
    serving: Serving, client_context: ssl.SSLContext, wire_format: WireFormat, said: Callable[[], list[str]]
) -> None:
    """Any data from the relay is a length and as many bytes. A datagram that ends too early is invalid."""

    async def cut(stream: trioanytls.Stream) -> None:
        await stream.acknowledge()
        received = b""
        while not received.endswith(b"hello"):
            received += await stream.receive_some()
        await stream.send_all(b"\x00\x02ok\x00\xffcut")

    async with (
        in_front_of(cut, serving, client_context, wire_format) as client,
        offering(client, udp_forwards=[Forwarding(ANY_PORT, Destination("192.0.2.1", 53))]) as [door],
        peer() as one,
    ):
        await send(one, door, b"hello")
        assert await receive(one, door) == b"ok"
        await until(lambda: bool(said()))
    assert "closed by the relay" in said()[0] or "relay disconnected" in said()[0]


async def test_a_sender_that_has_gone_does_not_affect_others(client: trioanytls.Client) -> None:
    async with (
        shouting() as far,
        offering(client, udp_forwards=[Forwarding(ANY_PORT, far)]) as [door],
        peer() as stays,
    ):
        for _ in range(5):
            async with peer() as goes:
                await send(goes, door, b"hello")
            await send(stays, door, b"hello")
            assert await receive(stays, door) == b"HELLO"


@ipv6
async def test_all_addresses(client: trioanytls.Client) -> None:
    async with (
        shouting() as far,
        offering(client, udp_forwards=[Forwarding(ListenAddress(None, 0), far)]) as [door],
        peer() as one,
        peer("::1") as other,
    ):
        await one.socket.sendto(b"four", (HOST, door.address.port))
        assert (await one.receive())[0] == b"FOUR"
        await other.socket.sendto(b"six", ("::1", door.address.port))
        assert (await other.receive())[0] == b"SIX"


async def test_a_port_in_use(client: trioanytls.Client) -> None:
    async with peer() as one:
        taken = Forwarding(ListenAddress(HOST, one.port), Destination("x", 1))
        with pytest.raises(ClientError, match="choose another port"):
            async with offering(client, forwards=[Forwarding(ANY_PORT, taken.destination)], udp_forwards=[taken]):
                pass


async def test_bypass_rules_do_not_apply_to_udp_forwards(client: trioanytls.Client) -> None:
    upstream = Upstream(client, bypass=Bypass([BypassRule.parse("127.0.0.0/8")]))
    async with (
        shouting() as far,
        offering(upstream, udp_forwards=[Forwarding(ANY_PORT, far)]) as [door],
        peer() as one,
    ):
        await send(one, door, b"hello")
        assert await receive(one, door) == b"HELLO"
    assert client.stats.streams_opened == 1

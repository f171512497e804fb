"""The relay's answer to streams of the legacy format: in time, with a reason, and never before the address."""

from __future__ import annotations

import contextlib
import logging
import math
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import StreamRefused
from trioanytls.destination import Destination, encode
from trioanytls.relay import dial, udp_over_tcp, udp_relay
from trioanytls.relay.address_policy import AddressPolicy, parse_network
from trioanytls.relay.dial import Resolved
from trioanytls.relay.handler import RelayHandler
from trioanytls.relay.late_acknowledgement import ACKNOWLEDGE_DELAY, acknowledged_late
from trioanytls.relay.udp_over_tcp import Datagram, encode_datagram
from trioanytls.testing import memory_connection_pair

from ..conftest import HOST
from ..helpers.udp_sockets import shouting

Clock = trio.testing.MockClock
Said = Callable[..., list[str]]

HERE = AddressPolicy([parse_network("127.0.0.0/8")])
THERE = Destination(HOST, 80)
# What sing-box and anytls-go send for UDP, after the address: any address, with a dummy, and the first datagram.
UDP = encode(udp_over_tcp.DESTINATION)
ANY = bytes.fromhex("00 01 00000000 0000")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Said:
    caplog.set_level(logging.INFO, "trioanytls.relay")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "trioanytls.relay"]


@contextlib.asynccontextmanager
async def relaying(**options: Any) -> AsyncIterator[trioanytls.Connection]:
    relay = RelayHandler.with_udp(HERE, **{"connect_timeout": 7, **options})
    config = trioanytls.Config(idle_timeout=math.inf, stream_idle_timeout=math.inf)
    manual = attrs.evolve(config, acknowledge="manual")
    pair = memory_connection_pair(relay, client_config=config, server_config=manual, protocol="legacy")
    async with pair as (client, _):
        yield client


@contextlib.asynccontextmanager
async def opened(client: trioanytls.Connection, data: bytes) -> AsyncIterator[trioanytls.Stream]:
    async with await client.open_stream() as stream:
        await stream.send_all(data)
        yield stream


def destinations(monkeypatch: pytest.MonkeyPatch, seconds: float, error: OSError | None = None) -> None:
    """Make each attempt to connect fail, or end in a connection, after a time."""

    async def connect(_target: Resolved) -> trio.socket.SocketType:
        await trio.sleep(seconds)
        if error is not None:
            raise error
        # Connected without waiting, since a mock clock does not wait for sockets.
        with socket.create_server((HOST, 0)) as listener:
            near = socket.create_connection(listener.getsockname())
            far, _ = listener.accept()
        with far:
            far.sendall(b"hello")
        return trio.socket.from_stdlib_socket(near)

    monkeypatch.setattr(dial, "_connect", connect)


REFUSED = ConnectionRefusedError(111, "Connection refused")


async def test_a_fast_destination_is_acknowledged_when_it_is_connected(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    destinations(monkeypatch, 1.5)
    async with relaying() as client, opened(client, encode(THERE)) as stream:
        start = trio.current_time()
        await stream.wait_acknowledged()
        assert trio.current_time() - start == pytest.approx(1.5, abs=0.1)
        assert b"".join([data async for data in stream]) == b"hello"


async def test_a_slow_destination_is_acknowledged_before_it_is_connected(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    destinations(monkeypatch, 6)
    async with relaying() as client, opened(client, encode(THERE)) as stream:
        start = trio.current_time()
        await stream.wait_acknowledged()
        assert trio.current_time() - start == pytest.approx(ACKNOWLEDGE_DELAY, abs=0.1)
        # Clients close the session after 3 s.
        assert ACKNOWLEDGE_DELAY <= 2
        assert b"".join([data async for data in stream]) == b"hello"
        assert trio.current_time() - start == pytest.approx(6, abs=0.1)


@pytest.mark.parametrize(
    ("seconds", "error", "log"),
    [
        (4, REFUSED, "closed after it was acknowledged: cannot connect to 127.0.0.1:80: 127.0.0.1: Connection refused"),
        (9, None, "closed after it was acknowledged: 127.0.0.1:80 did not answer within 7 s"),
    ],
)
async def test_a_destination_that_fails_later_ends_the_stream(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, said: Said, seconds: float, error: OSError | None, log: str
) -> None:
    destinations(monkeypatch, seconds, error)
    async with relaying() as client, opened(client, encode(THERE)) as stream:
        start = trio.current_time()
        await stream.wait_acknowledged()
        assert await stream.receive_some() == b""
        assert trio.current_time() - start == pytest.approx(min(seconds, 7), abs=0.1)
        assert client.stats.frames_received["SYNACK"] == client.stats.frames_received["FIN"] == 1
    assert said()[-1].endswith(f": {log}")


async def test_a_destination_that_fails_in_time_is_refused_with_a_text(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    destinations(monkeypatch, 1, REFUSED)
    async with relaying() as client, opened(client, encode(THERE)) as stream:
        with pytest.raises(StreamRefused) as caught:
            await stream.wait_acknowledged()
        assert caught.value.reason == "the destination refused the connection"
        await trio.testing.wait_all_tasks_blocked()
        assert client.stats.frames_received["SYNACK"] == client.stats.frames_received["FIN"] == 1
    assert said()[-1].endswith(": refused: cannot connect to 127.0.0.1:80: 127.0.0.1: Connection refused")


async def test_a_forbidden_destination_is_refused_with_a_text() -> None:
    async with relaying() as client, opened(client, encode(Destination("10.0.0.1", 80))) as stream:
        with pytest.raises(StreamRefused, match=r"refused the stream: the relay's policy forbids this destination$"):
            await stream.wait_acknowledged()


async def test_the_delay_can_be_set(autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    destinations(monkeypatch, math.inf)
    async with relaying(acknowledge_delay=0.5) as client, opened(client, encode(THERE)) as stream:
        start = trio.current_time()
        await stream.wait_acknowledged()
        assert trio.current_time() - start == pytest.approx(0.5, abs=0.1)
    async with relaying(acknowledge_delay=math.inf) as client, opened(client, encode(THERE)) as stream:
        with pytest.raises(StreamRefused, match="the destination did not answer in time"):
            await stream.wait_acknowledged()
        assert trio.current_time() - start == pytest.approx(7.5, abs=0.1)


@pytest.mark.parametrize("data", [b"", b"\x03", encode(THERE)[:-1]])
async def test_never_before_the_address_is_complete(autojump_clock: Clock, said: Said, data: bytes) -> None:
    async with relaying() as client, opened(client, data) as stream:
        start = trio.current_time()
        with pytest.raises(StreamRefused) as caught:
            await stream.wait_acknowledged()
        assert trio.current_time() - start == pytest.approx(10, abs=0.1)
        assert caught.value.reason is None
        assert "SYNACK" not in client.stats.frames_received
    assert said()[-1].endswith(": refused: no destination received within 10 s")


@pytest.mark.parametrize("data", [b"\x02", b"\0", b"GET / HTTP/1.1\r\n\r\n", b"\x03\0\0\0\0"])
async def test_an_invalid_address_is_answered_by_fin_alone(data: bytes) -> None:
    # As anytls-go does; the session of sing-box 1.14.4 hangs.
    async with relaying() as client:
        async with opened(client, data) as stream:
            with pytest.raises(StreamRefused) as caught:
                await stream.wait_acknowledged()
            assert caught.value.reason is None
        assert "SYNACK" not in client.stats.frames_received
        # The session continues.
        async with opened(client, encode(Destination("10.0.0.1", 80))) as stream:
            with pytest.raises(StreamRefused, match="policy"):
                await stream.wait_acknowledged()


async def test_a_client_that_closes_the_stream_while_it_is_connected(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    destinations(monkeypatch, 4, REFUSED)
    async with relaying() as client:
        async with opened(client, encode(THERE)):
            await trio.sleep(1)
        await trio.sleep(5)
        # SYNACK was not sent for a closed stream.
        assert client.stats.frames_received == {"ServerSettings": 1}
    assert said()[-1].endswith("Connection refused")


async def test_a_relay_that_is_cut_off_while_it_connects(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    destinations(monkeypatch, math.inf)
    scope = trio.CancelScope()

    async def serve(stream: trioanytls.Stream) -> None:
        with scope:
            await RelayHandler(HERE)(stream)

    pair = memory_connection_pair(serve, server_config=trioanytls.Config(acknowledge="manual"), protocol="legacy")
    async with pair as (client, _), opened(client, encode(THERE)) as stream:
        await trio.sleep(1)
        scope.cancel()
        with pytest.raises(StreamRefused):
            await stream.wait_acknowledged()


async def test_an_error_of_the_block_is_raised_alone() -> None:
    async def serve(stream: trioanytls.Stream) -> None:
        with pytest.raises(ZeroDivisionError):
            async with acknowledged_late(stream, 10):
                raise ZeroDivisionError
        await stream.send_all(b"yes")

    async with memory_connection_pair(serve, protocol="legacy") as (client, _), opened(client, b"x") as stream:
        assert await stream.receive_some() == b"yes"


# UDP


async def test_udp_as_sing_box_and_anytls_go_send_it() -> None:
    # The address alone, then the request in one PSH with the first datagram (legacy: 10).
    async with shouting() as far, relaying() as client, opened(client, UDP) as stream:
        await trio.testing.wait_all_tasks_blocked()
        assert not stream.is_acknowledged
        head = b"\0\x7f\0\0\x01" + far.port.to_bytes(2)
        await stream.send_all(ANY + head + b"\0\x08ping-one")
        await stream.wait_acknowledged()
        expected = head + b"\0\x08PING-ONE"
        with trio.fail_after(10):
            received = b""
            while len(received) < len(expected):
                received += await stream.receive_some()
        assert received == expected


async def test_udp_to_one_address() -> None:
    async with shouting() as far, relaying() as client:
        request = b"\1" + encode(far) + b"\0\x03one"
        async with opened(client, UDP + request) as stream:
            with trio.fail_after(10):
                received = b""
                while len(received) < 5:
                    received += await stream.receive_some()
            assert received == b"\0\x03ONE"


async def test_udp_is_acknowledged_in_time_and_waits_for_the_first_datagram(autojump_clock: Clock) -> None:
    # The client sends the request with the application's first datagram, which may take long.
    async with relaying() as client, opened(client, UDP) as stream:
        start = trio.current_time()
        await stream.wait_acknowledged()
        assert trio.current_time() - start == pytest.approx(ACKNOWLEDGE_DELAY, abs=0.1)
        await trio.sleep(200)
        await stream.send_all(ANY)
        await trio.sleep(200)
        assert not stream.closed
        assert await stream.receive_some() == b""
        assert trio.current_time() - start == pytest.approx(ACKNOWLEDGE_DELAY + 200 + udp_relay._IDLE_TIMEOUT, abs=0.1)


async def test_udp_without_a_request_ends(autojump_clock: Clock, said: Said) -> None:
    async with relaying() as client, opened(client, UDP) as stream:
        start = trio.current_time()
        assert await stream.receive_some() == b""
        assert trio.current_time() - start == pytest.approx(udp_relay._IDLE_TIMEOUT, abs=0.1)
    assert said()[-1].endswith(": closed after it was acknowledged: no destination received within 300 s")


@pytest.mark.parametrize("request_", [b"\x02", b"\1\x02", b"\0\x03\0"])
async def test_an_invalid_request_for_udp_is_answered_by_fin_alone(request_: bytes) -> None:
    async with relaying() as client, opened(client, UDP + request_) as stream:
        with pytest.raises(StreamRefused) as caught:
            await stream.wait_acknowledged()
        assert caught.value.reason is None


async def test_udp_to_one_forbidden_address_is_refused_with_a_text() -> None:
    async with relaying() as client, opened(client, UDP + b"\1" + encode(Destination("10.0.0.1", 53))) as stream:
        with pytest.raises(StreamRefused, match="policy"):
            await stream.wait_acknowledged()


@pytest.mark.parametrize(
    "name", ["sp.udp-over-tcp.arpa", "udp-over-tcp.arpa", "x.sp.v2.udp-over-tcp.arpa", "sp.v3.udp-over-tcp.arpa"]
)
async def test_other_names_are_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Version 1 has no request. anytls-go takes any of these for version 2.
    asked = []

    async def resolve(_self: object, destination: Destination, _connection: object) -> list[Resolved]:
        asked.append(destination.host)
        raise dial.DialError("the name cannot be resolved")

    monkeypatch.setattr(dial.DestinationDialer, "resolve", resolve)
    async with relaying() as client, opened(client, encode(Destination(name, 80))) as stream:
        with pytest.raises(StreamRefused, match="the host is unreachable, or has no address"):
            await stream.wait_acknowledged()
    assert asked == [name]


async def test_the_name_in_capitals_and_with_a_port() -> None:
    async with shouting() as far, relaying() as client:
        name = encode(Destination("SP.v2.UDP-over-TCP.arpa", 443))
        async with opened(client, name + ANY + encode_datagram(Datagram(far, b"x"))) as stream:
            with trio.fail_after(10):
                assert (await stream.receive_some())[-1:] == b"X"

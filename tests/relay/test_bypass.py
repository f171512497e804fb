"""Bypass rules: the destinations that they apply to, and connecting to these without the relay."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import trioanytls
from trioanytls.cli.client.front_ends import LocalListener
from trioanytls.cli.client.settings import Forwarding
from trioanytls.destination import Destination, encode
from trioanytls.relay import upstream
from trioanytls.relay.bypass import Bypass, BypassRule
from trioanytls.relay.reply_codes import ReplyCode

from ..conftest import HOST, USERS, Serving
from ..helpers.front_ends import ANY_PORT, MANUAL, all_of, connect, exactly, offering, relay, shouting

RULES = ["10.0.0.0/8", "192.0.2.1", "fd00::/8", "[2001:db8::1]", "host.example", ".lan", "*.Corp.Example", "localhost"]


def bypass(*rules: str) -> Bypass:
    return Bypass(BypassRule.parse(rule) for rule in rules)


@pytest.mark.parametrize(
    "host",
    [
        "10.1.2.3",
        "::ffff:10.1.2.3",
        "192.0.2.1",
        "fd12::1",
        "2001:db8::1",
        "2001:DB8:0::1",
        "host.example",
        "HOST.example",
        "host.example.",
        "printer.lan",
        "a.b.LAN.",
        "x.corp.example",
        "localhost",
    ],
)
def test_destinations_that_rules_apply_to(host: str) -> None:
    assert bypass(*RULES).applies_to(Destination(host, 80))
    assert not bypass().applies_to(Destination(host, 80))


@pytest.mark.parametrize(
    "host",
    [
        "11.1.2.3",
        "192.0.2.2",
        "::ffff:11.1.2.3",
        "fe00::1",
        "2001:db8::2",
        # A name matches only itself, a suffix only the names under it.
        "a.host.example",
        "nothost.example",
        "lan",
        "printerlan",
        "corp.example",
        "evil-corp.example",
        "localhost.evil.example",
        "printer.lan.evil.example",
        # Text that is not an address for `ipaddress` is a name, and is not resolved.
        "10.1",
        "0x0a.1.2.3",
        "167838211",
        # No rule applies to names that cannot be encoded.
        "fe80::1%eth0",
        "x" * 300,
        "x" * 300 + ".lan",
        ".",
        "..",
    ],
)
def test_destinations_that_rules_do_not_apply_to(host: str) -> None:
    assert not bypass(*RULES).applies_to(Destination(host, 80))


def test_names_in_other_scripts() -> None:
    rules = bypass("b\u00fccher.example", ".m\u00fcller.lan")
    for host in ("b\u00fccher.example", "xn--bcher-kva.example", "B\u00dcCHER.example", "a.xn--mller-kva.lan"):
        assert rules.applies_to(Destination(host, 1))
    assert not rules.applies_to(Destination("bucher.example", 1))
    assert bypass("xn--bcher-kva.example").applies_to(Destination("b\u00fccher.example", 1))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.0.2.1", "192.0.2.1/32"),
        ("[::1]", "::1/128"),
        (".LAN", ".lan"),
        ("*.lan", ".lan"),
        ("Host.Example.", "host.example"),
        ("_sip.example", "_sip.example"),
    ],
)
def test_rules(text: str, shown: str) -> None:
    assert str(BypassRule.parse(text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "|",
        "*",
        ".",
        "*.",
        "..lan",
        "*lan",
        "a..b",
        "-a",
        "a-",
        "a*.lan",
        "10.0.0.1/8",
        "10.0.0",
        "1.2.3.4.5",
        "host:80",
        "http://host/",
        "host/24",
        "10.0.0.0/33",
        "a.123",
    ],
)
def test_invalid_rules(text: str) -> None:
    with pytest.raises(ValueError, match=r"rule|network|address"):
        BypassRule.parse(text)


@pytest.mark.parametrize("text", ["", "a b", "\u2603\u0000", "x" * 300])
def test_invalid_hosts(text: str) -> None:
    with pytest.raises(ValueError, match="invalid rule"):
        BypassRule.parse(text)


@given(st.text(max_size=40), st.text(min_size=1, max_size=40))
def test_any_destination_has_an_answer(rule: str, host: str) -> None:
    try:
        rules = bypass(rule)
    except ValueError:
        rules = bypass(*RULES)
    try:
        destination = Destination(host, 1)
    except ValueError:
        return
    assert rules.applies_to(destination) in (True, False)


# Connections


@pytest.fixture
async def client(serving: Serving, client_context: ssl.SSLContext) -> AsyncIterator[trioanytls.Client]:
    async with (
        serving(relay(), config=MANUAL) as port,
        trioanytls.open_client(HOST, port, password=USERS["alice"], ssl_context=client_context) as one,
    ):
        yield one


async def reach(door: LocalListener, kind: str, destination: Destination, *, half_close: bool = False) -> str:
    """Connect to a service that answers in capitals. Return "connected", or the answer received instead."""
    async with await connect(door) as stream:
        if kind == "connect":
            await stream.send_all(f"CONNECT {destination} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            status = (await exactly(stream, 12))[9:].decode()
            if status != "200":
                return status
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += await exactly(stream, 1)
        elif kind == "socks":
            await stream.send_all(b"\x05\x01\x00\x05\x01\x00" + encode(destination))
            answer = await exactly(stream, 12)
            if answer[3]:
                return str(answer[3])
        await stream.send_all(b"hello")
        assert await exactly(stream, 5) == b"HELLO"
        if half_close:
            # Over TCP on both sides, the end of one direction is passed on.
            await stream.send_eof()
            assert await all_of(stream) == b""
    return "connected"


@pytest.mark.parametrize("kind", ["connect", "socks", "forward"])
@pytest.mark.parametrize(("rule", "host"), [("127.0.0.0/8", HOST), ("localhost", "localhost"), (".lan", HOST)])
async def test_it_goes_without_the_relay(client: trioanytls.Client, kind: str, rule: str, host: str) -> None:
    async with shouting() as far:
        destination = Destination(host, far)
        rules = (BypassRule.parse(rule),)
        forwards = [Forwarding(ANY_PORT, destination)]
        async with offering(client, mixed=[ANY_PORT], forwards=forwards, bypass=rules) as [mixed, forward]:
            door = forward if kind == "forward" else mixed
            assert await reach(door, kind, destination, half_close=rule != ".lan") == "connected"
    assert client.stats.streams_opened == (1 if rule == ".lan" else 0)


async def test_a_request_in_absolute_form_goes_without_the_relay(client: trioanytls.Client) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        web = listeners[0].socket.getsockname()[1]
        rules = (BypassRule.parse("127.0.0.1"),)
        async with offering(client, http=[ANY_PORT], bypass=rules) as [door], await connect(door) as stream:
            request = b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % web
            await stream.send_all(request)
            answer = b"".join([bytes(piece) async for piece in stream])
            assert answer.startswith(b"HTTP/1.1 200")
            assert answer.endswith(b"hello")
        nursery.cancel_scope.cancel()
    assert client.stats.streams_opened == 0


@pytest.mark.parametrize(
    ("destination", "socks", "http"),
    [
        (Destination(HOST, 1), "5", "502"),
        (Destination("name.invalid", 80), "4", "502"),
        (Destination("a." * 100 + "invalid", 80), "4", "502"),
    ],
    ids=["refused", "unknown", "long"],
)
async def test_why_it_cannot_be_reached(
    client: trioanytls.Client, destination: Destination, socks: str, http: str
) -> None:
    rules = tuple(BypassRule.parse(rule) for rule in ("127.0.0.0/8", ".invalid"))
    async with offering(client, mixed=[ANY_PORT], bypass=rules) as [door]:
        assert await reach(door, "socks", destination) == socks
        assert await reach(door, "connect", destination) == http
    assert client.stats.streams_opened == 0


async def test_port_0_is_invalid(client: trioanytls.Client) -> None:
    direct = upstream.Upstream(client, bypass=bypass("127.0.0.0/8"))
    with pytest.raises(upstream.Unreachable, match="port 0 is invalid"):
        await direct.open(Destination(HOST, 0))


async def test_one_that_does_not_answer(
    client: trioanytls.Client, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def stands_still(_destination: object) -> object:
        await trio.sleep_forever()

    monkeypatch.setattr(upstream, "resolve", stands_still)
    direct = upstream.Upstream(client, bypass=bypass(".lan"))
    with pytest.raises(upstream.Unreachable) as caught:
        await direct.open(Destination("printer.lan", 631))
    assert caught.value.reply is ReplyCode.TIMED_OUT


async def test_udp_is_relayed_all_the_same(client: trioanytls.Client) -> None:
    """The reserved name for UDP to the relay is exempt from the rules."""
    direct = upstream.Upstream(client, bypass=bypass(".arpa"))
    async with offering(direct, socks=[ANY_PORT]) as [door], await connect(door) as stream:
        await stream.send_all(b"\x05\x01\x00\x05\x03\x00\x01" + bytes(6))
        assert (await exactly(stream, 12))[3] == 0
        assert client.stats.streams_opened == 1

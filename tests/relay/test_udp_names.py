"""Datagrams to names over a legacy connection: each name has a stream of its own."""

from __future__ import annotations

import ipaddress
import logging
import ssl
from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio

import trioanytls
from trioanytls.destination import Destination
from trioanytls.relay import AddressPolicy, RelayHandler, Upstream, serve_socks, udp_names

from ..conftest import HOST, USERS, Serving
from ..helpers.udp_sockets import peer, shouting, until
from .test_socks_udp import Application, associated

POLICY = AddressPolicy(allow=[ipaddress.ip_network("127.0.0.0/8")])


@pytest.fixture
async def client(serving: Serving, client_context: ssl.SSLContext) -> AsyncIterator[trioanytls.Client]:
    """Return a client of a relay, over the legacy format."""
    options = {"config": trioanytls.Config(acknowledge="manual"), "protocols": ("legacy",)}
    async with (
        serving(RelayHandler.with_udp(POLICY), **options) as port,
        trioanytls.open_client(
            HOST, port, password=USERS["alice"], ssl_context=client_context, protocol="legacy"
        ) as client,
    ):
        yield client


@pytest.fixture
async def application(client: trioanytls.Client) -> AsyncIterator[Application]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(serve_socks, Upstream(client), 0))
        async with associated(listeners[0].socket.getsockname()) as one:
            yield one
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("host", "expected"), [("localhost", True), ("127.1", True), ("127.0.0.1", False), ("::1", False)]
)
def test_is_name(host: str, expected: bool) -> None:
    assert udp_names.is_name(Destination(host, 53)) is expected


async def test_names_and_addresses_in_one_association(client: trioanytls.Client, application: Application) -> None:
    async with shouting() as far, shouting("127.0.0.2") as other:
        one, two = Destination("127.1", far.port), Destination("127.2", other.port)
        for _ in range(3):
            for destination in (one, two, far):
                assert await application.asks(destination, b"question") == (destination, b"QUESTION")
        # One for all addresses, and one for each name.
        assert client.stats.streams == 3


def _logged(caplog: pytest.LogCaptureFixture, count: int) -> bool:
    return caplog.text.count("UDP to nothing.invalid:53 ended") == count


async def test_a_name_that_is_refused_leaves_the_others(
    application: Application, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trioanytls.relay")
    async with shouting() as far:
        for count in (1, 2):
            # It is tried again.
            await application.send(Destination("nothing.invalid", 53), b"question")
            await until(partial(_logged, caplog, count))
        assert await application.asks(far, b"question") == (far, b"QUESTION")


async def test_nothing_is_queued_while_a_stream_is_opened(application: Application) -> None:
    async with peer() as far:
        name = Destination("127.1", far.port)
        for number in range(10):
            await application.send(name, b"%d" % number)
        data, sender = await far.receive()
        assert data == b"0"
        await far.socket.sendto(b"answer", sender)
        assert await application.receive() == (name, b"answer")
        await application.send(name, b"last")
        # The system may have kept some of the others for the client.
        with trio.fail_after(10):
            while data != b"last":
                data, _sender = await far.receive()


async def test_further_names_are_dropped(
    client: trioanytls.Client, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp_names, "MOST_NAMES", 2)
    async with shouting("127.0.0.1") as far, shouting("127.0.0.2") as other:
        for destination in (Destination("127.1", far.port), Destination("127.2", other.port)):
            assert await application.asks(destination, b"question") == (destination, b"QUESTION")
        await application.send(Destination("localhost", far.port), b"dropped")
        assert await application.asks(far, b"question") == (far, b"QUESTION")
        assert client.stats.streams == 3

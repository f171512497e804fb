"""What the relay does for the other programs: SYNACK in time, reasons, half-close, and both forms of UDP."""

from __future__ import annotations

import logging
from functools import partial

import pytest
import trio

import trioanytls
from trioanytls.destination import Destination
from trioanytls.relay import Upstream, dial, forward_port, udp_relay
from trioanytls.relay.dial import Resolved
from trioanytls.relay.reply_codes import ReplyCode
from trioanytls.relay.udp_forward import UDPForward
from trioanytls.relay.udp_over_tcp import UOTRequest

from ..conftest import HOST, USERS
from ..helpers.udp_sockets import Peer, peer, shouting
from ._applications import Refused, connect, exactly
from ._destinations import ask_number, echoing, serving_numbers
from ._ends import Files, our_client, our_server, sing_box_client, sing_box_server
from ._sing_box import client_configuration, sing_box


async def test_sing_box_keeps_its_session_while_we_connect(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """It closes a session after 3 s without SYNACK, except for the first stream."""
    connect_at_once, slow = dial._connect, False

    async def connect_late(target: Resolved) -> trio.socket.SocketType:
        if slow:
            await trio.sleep(4.5)
        return await connect_at_once(target)

    monkeypatch.setattr(dial, "_connect", connect_late)
    async with (
        our_server(files, 0) as server,
        sing_box_client(files, server) as socks,
        serving_numbers() as port,
    ):
        await ask_number(socks, port, 1)
        slow = True
        await ask_number(socks, port, 2)


async def test_the_reason_of_sing_box(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trioanytls.relay")
    async with sing_box_server(files, 0) as server, our_client(files, server) as socks:
        with pytest.raises(Refused) as caught:
            await connect(socks, Destination(HOST, 1))
    assert caught.value.reply == ReplyCode.GENERAL_FAILURE
    [text] = [record.getMessage() for record in caplog.records if record.name == "trioanytls.relay"]
    assert text.startswith("SOCKS: 127.0.0.1:1: ")
    assert "connection refused" in text


async def test_an_application_that_ends_its_sending_gets_its_answer(files: Files) -> None:
    """The server is not told, since FIN would end both directions."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await trio.sleep(0.3)
        await stream.send_all(bytes(6000))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        far = Destination(HOST, listeners[0].socket.getsockname()[1])
        async with (
            sing_box_server(files, 0) as server,
            our_client(files, server) as socks,
            await connect(socks, far) as stream,
        ):
            await stream.send_all(b"request")
            await stream.send_eof()
            assert await exactly(stream, 6000) == bytes(6000)
            assert await stream.receive_some() == b""
        nursery.cancel_scope.cancel()


async def test_sing_box_sends_datagrams_to_one_address(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does for its own DNS queries."""
    asked = trio.Event()
    requests = []
    open_association = udp_relay._open

    async def note(association: udp_relay._RelayAssociation, request: UOTRequest) -> None:
        requests.append(request)
        await open_association(association, request)

    monkeypatch.setattr(udp_relay, "_open", note)

    async def answer(one: Peer) -> None:
        query, sender = await one.receive()
        asked.set()
        # The same question, and one answer of type A for its name: loopback.
        question = query[12 : query.index(b"\0", 12) + 5]
        head = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0"
        record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\x04\x7f\0\0\1"
        await one.socket.sendto(head + question + record, sender)

    async with our_server(files, 0) as server, peer() as dns, echoing() as port, trio.open_nursery() as nursery:
        nursery.start_soon(answer, dns)
        configuration = client_configuration(server, files.authority)
        configuration["outbounds"][0]["tag"] = "relay"
        resolver = {"type": "udp", "server": HOST, "server_port": dns.port, "detour": "relay", "tag": "dns"}
        configuration["dns"] = {"servers": [resolver], "strategy": "ipv4_only"}
        configuration["route"] = {"rules": [{"action": "resolve", "strategy": "ipv4_only"}]}
        async with (
            sing_box(configuration, files.directory) as running,
            await connect(running.port, Destination("name.example", port)) as stream,
        ):
            await stream.send_all(b"hello")
            assert await exactly(stream, 5) == b"hello"
        assert asked.is_set()
        assert requests == [UOTRequest(connected=True, destination=dns.address)]
        nursery.cancel_scope.cancel()


async def test_forwards_of_tcp_and_udp(files: Files) -> None:
    """A forward of UDP uses the form with one address."""
    async with (
        sing_box_server(files, 0) as server,
        trioanytls.open_client(
            HOST, server, password=USERS["alice"], ssl_context=files.client_context(), protocol="legacy"
        ) as client,
        echoing() as port,
        shouting() as far,
        peer() as local,
        peer() as application,
        trio.open_nursery() as nursery,
    ):
        upstream = Upstream(client)
        [listener] = await nursery.start(partial(forward_port, upstream, Destination(HOST, port), 0))
        async with await trio.open_tcp_stream(*listener.socket.getsockname()) as stream:
            await stream.send_all(b"hello")
            assert await exactly(stream, 5) == b"hello"
        nursery.start_soon(UDPForward(upstream, far), local.socket)
        for number in range(20):
            await application.socket.sendto(b"hello %d" % number, (HOST, local.port))
            assert (await application.receive())[0] == b"HELLO %d" % number
        nursery.cancel_scope.cancel()

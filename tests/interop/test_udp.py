"""UDP through both ends, by UDP ASSOCIATE of SOCKS5 and UDP over TCP."""

from __future__ import annotations

import os

import trio

from trioanytls.destination import Destination

from ..conftest import HOST
from ..helpers.udp_sockets import peer, shouting
from ._applications import associated
from ._ends import Files, Running, our_client, our_server


async def test_many_small_questions(ends: Running) -> None:
    """As for DNS: each is answered, one after the other, and from one association each."""
    async with shouting() as destination:
        async with associated(ends.socks) as datagrams:
            for number in range(100):
                assert await datagrams.ask(destination, b"name-%d" % number) == b"NAME-%d" % number
        for number in range(20):
            async with associated(ends.socks) as datagrams:
                assert await datagrams.ask(destination, b"name-%d" % number) == b"NAME-%d" % number


async def test_questions_at_once(ends: Running) -> None:
    async def ask(number: int) -> None:
        async with associated(ends.socks) as datagrams:
            assert await datagrams.ask(destination, b"name-%d" % number) == b"NAME-%d" % number

    async with shouting() as destination, trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(ask, number)


async def test_datagrams_of_16_000_bytes(ends: Running) -> None:
    async with shouting() as destination, associated(ends.socks) as datagrams:
        for _ in range(10):
            data = os.urandom(8000).hex().encode()
            assert await datagrams.ask(destination, data) == data.upper()


async def test_sing_box_carries_no_datagrams_of_60_kilobytes(ends: Running) -> None:
    """Its buffers have 16 KiB. As a client, it cuts a longer datagram; as a server, it ends the association.

    The next association works.
    """
    async with peer() as one, associated(ends.socks) as datagrams:
        await datagrams.send(one.address, bytes(60_000))
        if ends.pair.sing_box == "client":
            data, _sender = await one.receive()
            assert 16_000 < len(data) < 16_384
        else:
            assert await datagrams.ended()
    async with shouting() as destination, associated(ends.socks) as datagrams:
        assert await datagrams.ask(destination, b"question") == b"QUESTION"


async def test_our_ends_carry_datagrams_of_60_kilobytes(files: Files) -> None:
    """In the same wire format."""
    async with (
        our_server(files, 0) as server,
        our_client(files, server) as socks,
        shouting() as destination,
        associated(socks) as datagrams,
    ):
        for _ in range(10):
            data = os.urandom(30_000).hex().encode()
            assert await datagrams.ask(destination, data) == data.upper()


async def test_two_destinations_in_one_association(ends: Running) -> None:
    async with shouting() as one, shouting() as other, associated(ends.socks) as datagrams:
        for number in range(10):
            assert await datagrams.ask(one, b"one-%d" % number) == b"ONE-%d" % number
            assert await datagrams.ask(other, b"other-%d" % number) == b"OTHER-%d" % number


async def test_a_server_that_speaks_later(ends: Running) -> None:
    """Several answers to one datagram, the last one after a pause."""
    async with peer() as one, associated(ends.socks) as datagrams:
        await datagrams.send(Destination(HOST, one.port), b"question")
        _data, sender = await one.receive()
        for answer in (b"one", b"two"):
            await one.socket.sendto(answer, sender)
            assert await datagrams.receive() == (Destination(HOST, one.port), answer)
        await trio.sleep(1)
        await one.socket.sendto(b"three", sender)
        assert await datagrams.receive() == (Destination(HOST, one.port), b"three")


async def test_a_name_and_an_address_in_one_association(ends: Running) -> None:
    """As a server, sing-box loses datagrams to names on a stream for several addresses."""
    async with shouting() as far, associated(ends.socks) as datagrams:
        for _ in range(3):
            for host in (HOST, "localhost"):
                await datagrams.send(Destination(host, far.port), b"question")
                sender, answer = await datagrams.receive()
                assert (sender.port, answer) == (far.port, b"QUESTION")

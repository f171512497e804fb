"""Clients that reset TCP, after any byte of their data."""

from __future__ import annotations

import ssl

import trio

from ..helpers import wire_bytes
from ..helpers.raw_peer import AUTH, NEGO, PINGPONG
from ._harness import IDLE_CONNECTION, SLACK, TIMEOUT, Attack, client_hello, dial, in_parallel, reset

AT_ONCE = 16
BOUND = AT_ONCE * IDLE_CONNECTION + SLACK

#: Short data from a client with all types of frames.
FRAMES = [
    AUTH,
    NEGO,
    wire_bytes.OPEN_1,
    wire_bytes.HELLO_1,
    PINGPONG,
    wire_bytes.frame(0x05, 0, bytes(3)),
    wire_bytes.frame(0x0F, 2, b"all at once"),
    wire_bytes.RST_1,
    wire_bytes.frame(0x02, 0) + wire_bytes.number(0),
]
CONVERSATION = b"".join(FRAMES)


async def test_at_every_byte_of_a_conversation(attack: Attack) -> None:
    async with attack.on_server(bound=BOUND) as target:

        async def one(length: int) -> None:
            async with attack.connected(target, hello=CONVERSATION[:length]) as peer:
                reset(peer.transport.transport)

        await in_parallel(one, len(CONVERSATION) + 1, AT_ONCE)
        report = await target.until_alone()
        assert sum(report["stats"]["connections_closed"].values()) == len(CONVERSATION) + 1


async def test_at_every_frame_when_all_before_it_was_done(attack: Attack) -> None:
    async with attack.on_server(bound=BOUND) as target:

        async def one(count: int) -> None:
            async with attack.connected(target, hello=b"".join(FRAMES[: count + 2])) as peer:
                # The server that answers this has processed everything before it, and continues to echo.
                await peer.send(PINGPONG)
                with trio.fail_after(TIMEOUT):
                    while await peer.receive() != (0x07, 0, None):
                        pass
                reset(peer.transport.transport)

        await in_parallel(one, len(FRAMES) - 2, AT_ONCE)
        report = await target.until_alone()
        assert report["stats"]["connections_closed"] == {"LOST": len(FRAMES) - 2}


async def test_at_every_byte_of_a_record(attack: Attack) -> None:
    """TLS has begun to receive a record then, but ANYTLS has received nothing."""
    size = 5 + len(wire_bytes.HELLO_1) + 17
    async with attack.on_server(bound=BOUND) as target:

        async def one(length: int) -> None:
            async with attack.connected(target, hello=AUTH + NEGO + wire_bytes.OPEN_1) as peer:
                transport = peer.transport
                # A record as it would have been sent.
                transport._encrypt(wire_bytes.HELLO_1)
                record = transport._take_outgoing()
                assert len(record) == size
                await transport.transport.send_all(record[:length])
                reset(transport.transport)

        await in_parallel(one, size + 1, AT_ONCE)
        report = await target.until_alone()
        assert report["stats"]["connections_closed"] == {"LOST": size + 1}


async def test_at_every_byte_of_the_handshake(attack: Attack) -> None:
    hello = client_hello(attack.context)
    async with attack.on_server(bound=BOUND) as target:

        async def first_flight(length: int) -> None:
            transport = await dial(target.port)
            await transport.send_all(hello[:length])
            reset(transport)

        async def second_flight(length: int) -> None:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = attack.context.wrap_bio(incoming, outgoing)
            transport = await dial(target.port)
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await transport.send_all(outgoing.read())
                    incoming.write(await transport.receive_some())
            flight = outgoing.read()
            assert len(flight) > most
            await transport.send_all(flight[:length])
            reset(transport)

        # ChangeCipherSpec, and an incomplete record of Finished.
        most = 6 + 5 + 4 + 32 + 17 - 1
        await in_parallel(first_flight, len(hello) + 1, AT_ONCE)
        await in_parallel(second_flight, most + 1, AT_ONCE)
        resets = len(hello) + 1 + most + 1
        report = await target.until_alone(resets)
        assert report["stats"]["handshakes_failed"] == resets

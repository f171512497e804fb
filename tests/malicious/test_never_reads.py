"""Clients that send data to an echo handler, and never read."""

from __future__ import annotations

import trio

from ..helpers import wire_bytes
from ._harness import CONNECTION, MIB, SLACK, Attack, pour

PEERS = 4
# Each holds queued data, received data that could not be echoed, and the data between these and the socket.
BOUND = PEERS * CONNECTION + SLACK


async def test_64_mib_are_echoed_and_not_read(attack: Attack) -> None:
    async with attack.on_server(bound=BOUND, write_timeout=0.5) as target:

        async def never_read() -> None:
            async with attack.connected(target) as peer:
                await peer.send(wire_bytes.OPEN_1)
                # TCP accepts some of it, and then nothing more until the server abandons the connection.
                assert await pour(peer, wire_bytes.frame(0x0A, 1, bytes(MIB)), 64) < 64

        async with trio.open_nursery() as nursery:
            for _ in range(PEERS):
                nursery.start_soon(never_read)
            await target.until(lambda report: report["handlers_started"] == PEERS)
            await target.still_answers()
        report = await target.until_alone()
        assert report["stats"]["connections_closed"] == {"LOST": PEERS}

"""Clients that send much, leave, and come again: what has ended is not to be kept."""

from __future__ import annotations

from ..helpers import wire_bytes
from ._harness import CONNECTION, KIB, SLACK, Attack, in_parallel

CASES = 250
AT_ONCE = 4
# Those that are there. Of those that have gone, OpenSSL's memory has gone as well: the collector, which may come late,
# knows nothing of it.
BOUND = AT_ONCE * CONNECTION + SLACK


async def test_connections_take_their_memory_with_them(attack: Attack) -> None:
    async with attack.on_server(bound=BOUND, handler="sink", objects=300_000) as target:

        async def one(number: int) -> None:
            async with attack.connected(target) as peer:
                await peer.send(wire_bytes.OPEN_1, wire_bytes.frame(0x0A, 1, bytes(256 * KIB)))
                # Answered when all of it has been read.
                await peer.send(wire_bytes.PINGPONG)
                while await peer.receive() != (0x07, 0, None):
                    pass

        await in_parallel(one, CASES, AT_ONCE)
        await target.until_alone()

"""Clients that send much data, disconnect, and connect again: ended connections must not keep memory."""

from __future__ import annotations

from ..helpers import wire_bytes
from ._harness import CONNECTION, KIB, SLACK, Attack, in_parallel

CASES = 250
AT_ONCE = 4
# The current connections. The OpenSSL memory of ended connections must be free as well: the garbage collector does not
# know about it and may run late.
BOUND = AT_ONCE * CONNECTION + SLACK


async def test_connections_take_their_memory_with_them(attack: Attack) -> None:
    async with attack.on_server(bound=BOUND, handler="sink", objects=300_000) as target:

        async def one(number: int) -> None:
            async with attack.connected(target) as peer:
                await peer.send(wire_bytes.OPEN_1, wire_bytes.frame(0x0A, 1, bytes(256 * KIB)))
                # The answer arrives after everything has been read.
                await peer.send(wire_bytes.PINGPONG)
                while await peer.receive() != (0x07, 0, None):
                    pass

        await in_parallel(one, CASES, AT_ONCE)
        await target.until_alone()

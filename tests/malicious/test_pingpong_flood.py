"""A client that requests a hundred thousand answers, and reads none."""

from __future__ import annotations

from ..helpers.raw_peer import PINGPONG
from ._harness import CONNECTION, KIB, READ, SLACK, Attack, pour

TIMES = 100_000
# The number of queued answers is checked after each read, so that one read can add as many as it has requests. Each
# answer is a bytes object of 40 bytes, rounded up, and its slot in a queue.
BOUND = READ // len(PINGPONG) * (48 + 16) + CONNECTION + SLACK


async def test_unread_answers_end_the_connection(attack: Attack) -> None:
    # With the kernel's smallest buffers, the answers remain in the server.
    async with (
        attack.on_server(bound=BOUND, send_buffer=4 * KIB, close_timeout=0.2) as target,
        attack.connected(target, receive_buffer=4 * KIB) as peer,
    ):
        await pour(peer, PINGPONG * (TIMES // 10), 10)
        await target.still_answers()
        # The last of them may have arrived in one read. The next request exceeds the limit.
        await pour(peer, PINGPONG, 1)
        report = await target.until_alone()
        assert report["stats"]["connections_closed"] == {"LIMIT_EXCEEDED": 1}


async def test_answers_that_are_read_come_all(attack: Attack) -> None:
    async with attack.on_server(bound=BOUND) as target, attack.connected(target) as peer:
        assert (await peer.receive() or [None])[0] == 0x04
        for _ in range(20):
            await peer.send(PINGPONG * (TIMES // 20))
            for _ in range(TIMES // 20):
                assert (await peer.receive() or [None])[0] == 0x07

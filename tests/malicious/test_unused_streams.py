"""Clients that open streams and send their handlers no data, or more than these read."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from ..helpers import wire_bytes
from ._harness import CONNECTION, KIB, MIB, READ, SLACK, Attack, pour, reset

STREAMS = 1000
MORE = 9000
# The memory of a stream: its task with the handler's coroutines, and its cancel scope.
STREAM = 8 * KIB
# Each run of ids is two numbers in lists. There are at most 1,024 runs.
RUNS = 1024 * 2 * (32 + 8)

RECEIVE_BUFFERS = 4 * MIB


async def test_streams_that_are_never_used_with_gaps_between_them(attack: Attack) -> None:
    bound = STREAMS * STREAM + RUNS + CONNECTION + SLACK
    async with attack.on_server(bound=bound, handler="deaf", max_streams=STREAMS) as target:
        async with attack.connected(target) as peer:
            await peer.send(b"".join(wire_bytes.frame(0x0C, 2 * number) for number in range(1, STREAMS + MORE + 1)))
            await target.until(lambda report: report["stats"]["streams_opened"] > STREAMS + MORE)
            # The handlers start a pass of the event loop after the frames that open their streams.
            await target.still_answers()
            report = await target.report()
            assert report["handlers_running"] == STREAMS
            assert sum(report["stats"]["streams_refused"].values()) == MORE
        report = await target.until_alone()
        assert report["handlers_running"] == 0


@pytest.mark.parametrize("size", [64 * KIB, 1])
async def test_data_for_all_streams_that_is_not_read(attack: Attack, size: int) -> None:
    # Together they hold the allowed amount and one read more. The smallest frames are objects of 34 bytes each, and
    # four bytes on the wire.
    bound = STREAMS * STREAM + RECEIVE_BUFFERS + READ // 4 * (48 + 8) + CONNECTION + SLACK
    limits: dict[str, Any] = {"connection_receive_buffer_size": RECEIVE_BUFFERS, "stall_timeout": 0.05}
    async with attack.on_server(bound=bound, handler="deaf", **limits) as target:
        async with attack.connected(target) as peer, trio.open_nursery() as nursery:
            numbers = range(1, STREAMS + 1)
            await peer.send(b"".join(wire_bytes.frame(0x0C, number) for number in numbers))
            frames = b"".join(wire_bytes.frame(0x0A, number, bytes(size)) for number in numbers)
            nursery.start_soon(pour, peer, frames, 64 * MIB // len(frames))
            # The reader waits for applications that never read, and closes one stream after another to free buffers.
            await target.until(lambda report: report["stats"]["streams_timed_out"].get("STALLED", 0) >= 5)
            await target.still_answers()
            nursery.cancel_scope.cancel()
            reset(peer.transport.transport)
        report = await target.until_alone()
        assert report["handlers_running"] == 0

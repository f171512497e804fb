"""A client that opens streams and resets them at once (rapid reset)."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from trioanytls import CloseCode
from trioanytls._protocol.anytls1.frames import FrameType

from ..helpers import wire_bytes
from ._harness import CONNECTION, KIB, READ, SLACK, TIMEOUT, Attack, Target, provoke

TIMES = 50_000
MAX_STREAMS = 1024
# The streams opened by one read exist at the same time, with their tasks: as many as are allowed. They and their tasks
# refer to each other, so that some more wait for the garbage collector. Refused streams of one read cost one answer for
# every four bytes of it.
BOUND = 2 * MAX_STREAMS * 8 * KIB + READ // 4 * (48 + 16) + CONNECTION + SLACK

HELLO = wire_bytes.number(5) + b"hello"


def opened_and_reset(first: int, count: int, data: bytes) -> bytes:
    """Encode frames that open streams, send data on them if there is any, and reset them."""
    return b"".join(
        wire_bytes.frame(0x0C, number)
        + (wire_bytes.frame(0x0A, number) + data if data else b"")
        + wire_bytes.frame(0x09, number)
        for number in range(first, first + count)
    )


@pytest.mark.parametrize("data", [b"", HELLO], ids=["nothing", "data"])
async def test_as_fast_as_possible(attack: Attack, data: bytes) -> None:
    async with attack.on_server(bound=BOUND) as target:
        async with attack.connected(target) as peer:
            # Nearly all of them are refused, faster than the answers can be sent.
            last = await provoke(peer, opened_and_reset(1, TIMES, data), 1)
            assert last == (FrameType.CLOSE, 0, CloseCode.LIMIT_EXCEEDED)
        check_bounds(target, await target.until_alone())


async def test_as_fast_as_is_tolerated(attack: Attack) -> None:
    at_once = 1000
    async with attack.on_server(bound=BOUND, max_stream_rate=1000) as target:
        async with attack.connected(target) as peer:
            for first in range(1, TIMES + 1, at_once):
                await peer.send(opened_and_reset(first, at_once, HELLO), wire_bytes.PINGPONG)
                with trio.fail_after(TIMEOUT):
                    while await peer.receive() != (FrameType.PINGPONG, 0, None):
                        pass
            await target.still_answers()
            # All streams have ended, except for that of the well-behaved client.
            report = await target.until(lambda report: report["stats"]["streams"] == 1)
        refused = sum(report["stats"]["streams_refused"].values())
        assert report["stats"]["streams_opened"] == TIMES + 2
        # The accepted ones carried data, and so had a handler.
        assert report["handlers_started"] == TIMES - refused
        check_bounds(target, await target.until_alone())


def check_bounds(target: Target, report: dict[str, Any]) -> None:
    assert report["most_handlers"] <= MAX_STREAMS
    # One task for each, and the few of the connection.
    assert report["most_tasks"] <= target.tasks + MAX_STREAMS + 10

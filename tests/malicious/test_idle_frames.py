"""A client that sends endless frames that carry nothing."""

from __future__ import annotations

import pytest

from trioanytls import CloseCode
from trioanytls._protocol.anytls1.frames import FrameType

from ..helpers import wire_bytes
from ._harness import READ, SLACK, Attack, provoke

# Nothing is kept. The memory is one read, as ciphertext and decrypted. Its frames are one Python object at a time.
BOUND = 4 * READ + SLACK

TIMES = 1_000_000


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(wire_bytes.frame(0x0A, 1, b""), id="DATA"),
        pytest.param(wire_bytes.frame(0x08, 1), id="STREAM"),
        pytest.param(wire_bytes.frame(0x05, 0, b""), id="PADDING"),
    ],
)
async def test_a_million_frames_that_carry_nothing(attack: Attack, frame: bytes) -> None:
    block = frame * 100_000
    async with attack.on_server(bound=BOUND) as target:
        async with attack.connected(target) as peer:
            await peer.send(wire_bytes.OPEN_1)
            assert await provoke(peer, block, TIMES // 100_000) == (FrameType.CLOSE, 0, CloseCode.LIMIT_EXCEEDED)
            await target.still_answers()
        report = await target.until_alone()
        assert report["stats"]["violations"] == 1

"""A client that sends endless frames that carry nothing."""

from __future__ import annotations

import pytest

from trioanytls import CloseCode
from trioanytls._protocol.anytls1.frames import FrameType

from ..helpers import wire_bytes
from ..helpers.raw_peer import AUTH
from ._harness import READ, SLACK, Attack, provoke

# Nothing is kept. The memory is one read, as ciphertext and decrypted. Its frames are one Python object at a time.
BOUND = 4 * READ + SLACK

TIMES = 1_000_000


@pytest.mark.parametrize(
    ("frame", "first"),
    [
        pytest.param(wire_bytes.frame(0x0A, 1, b""), b"", id="DATA"),
        pytest.param(wire_bytes.frame(0x08, 1), b"", id="STREAM"),
        pytest.param(wire_bytes.frame(0x05, 0, b""), b"", id="PADDING"),
        # With extensions: grants of one byte, and late frames of a stream that is closed.
        pytest.param(wire_bytes.frame(0x11, 1) + b"\x01", b"", id="STREAM_WINDOW"),
        pytest.param(wire_bytes.FIN_1, wire_bytes.RST_1, id="STREAM_FIN"),
        pytest.param(wire_bytes.RESET_1, wire_bytes.RST_1, id="STREAM_RESET"),
    ],
)
async def test_a_million_frames_that_carry_nothing(attack: Attack, frame: bytes, first: bytes) -> None:
    block = frame * 100_000
    hello = AUTH + wire_bytes.client_nego(("fin", "reset", "window"))
    async with attack.on_server(bound=BOUND) as target:
        async with attack.connected(target, hello=hello) as peer:
            await peer.send(wire_bytes.OPEN_1 + first)
            assert await provoke(peer, block, TIMES // 100_000) == (FrameType.CLOSE, 0, CloseCode.LIMIT_EXCEEDED)
            await target.still_answers()
        report = await target.until_alone()
        assert report["stats"]["violations"] == 1

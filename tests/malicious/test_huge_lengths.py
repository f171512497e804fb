"""A client that announces 2^62-1 bytes of payload, and begins to send them."""

from __future__ import annotations

import pytest

from trioanytls import CloseCode
from trioanytls._protocol.anytls1.frames import FrameType

from ..helpers import wire_bytes
from ..helpers.raw_peer import AUTH, HELLO
from ._harness import CONNECTION, MIB, SLACK, Attack, pour, provoke

HUGE = 2**62 - 1
# The payload is never collected. The memory is one read and the buffer of one stream.
BOUND = CONNECTION + SLACK


async def test_data(attack: Attack) -> None:
    async with attack.on_server(bound=BOUND, handler="sink") as target:
        async with attack.connected(target) as peer:
            await peer.send(wire_bytes.OPEN_1, wire_bytes.frame(0x0A, 1), wire_bytes.number(HUGE))
            # It is legal, so it may continue without end.
            assert await pour(peer, bytes(MIB), 64) == 64
            await target.still_answers()
        report = await target.until_alone()
        assert report["stats"]["bytes_received"] > 64 * MIB
        assert report["stats"]["violations"] == 0


async def test_padding(attack: Attack) -> None:
    async with attack.on_server(bound=BOUND) as target:
        async with attack.connected(target) as peer:
            await peer.send(wire_bytes.frame(0x05, 0), wire_bytes.number(HUGE))
            # This is more than max_idle_bytes.
            assert await provoke(peer, bytes(MIB), 66) == (FrameType.CLOSE, 0, CloseCode.LIMIT_EXCEEDED)
            await target.still_answers()
        await target.until_alone()


@pytest.mark.parametrize(
    ("hello", "kind", "name"),
    [
        pytest.param(HELLO, 0x01, b"ALERT", id="ALERT"),
        pytest.param(AUTH, 0x03, b"CLIENT_NEGO", id="NEGO"),
        pytest.param(HELLO, 0x03, b"CLIENT_NEGO", id="second NEGO"),
    ],
)
async def test_what_is_collected_is_refused_at_its_length(attack: Attack, hello: bytes, kind: int, name: bytes) -> None:
    async with attack.on_server(bound=BOUND) as target:
        async with attack.connected(target, hello=hello) as peer:
            await peer.send(wire_bytes.frame(kind, 0), wire_bytes.number(HUGE))
            reason = name + b" on stream 0: payload of 4611686018427387903 bytes exceeds the limit of 65536"
            # Before any byte of the payload has arrived. At most 1 MiB is then read and discarded.
            assert await provoke(peer, b"", 0) == (FrameType.ALERT, 0, reason)
            assert 1 <= await pour(peer, bytes(MIB), 32) < 32
            await target.still_answers()
        await target.until_alone()


async def test_the_padding_of_auth(attack: Attack) -> None:
    async with attack.on_server(bound=BOUND) as target:
        async with attack.connected(target, hello=AUTH[:34] + wire_bytes.number(HUGE)) as peer:
            # The server ends TLS and TCP at once. Further data is not read.
            assert await peer.receive() is None
            assert await pour(peer, bytes(MIB), 32) < 32
            report = await target.until_alone()
        assert report["stats"]["authentications_failed"] == 1

"""A client that tries to forge lines in the server's log."""

from __future__ import annotations

import pytest

from ..helpers import wire_bytes
from ._harness import CONNECTION, KIB, SLACK, Attack

STREAMS = 100
BOUND = STREAMS * 8 * KIB + CONNECTION + SLACK


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"bye\nERROR trioanytls.server: all is lost", id="a line of its own"),
        # The handler of each stream raises the error, and each is logged.
        pytest.param(b"x" * 65536, id="64 KiB"),
    ],
)
async def test_an_alert_is_one_short_line(attack: Attack, text: bytes) -> None:
    # The target checks all lines, see `_target.Log`.
    async with attack.on_server(bound=BOUND) as target, attack.connected(target) as peer:
        await peer.send(b"".join(wire_bytes.frame(0x0C, number) for number in range(1, STREAMS + 1)))
        await target.until(lambda report: report["handlers_running"] == STREAMS)
        await peer.send(wire_bytes.frame(0x01, 0, text))
        # The server closes its side at once, and then waits for the client.
        await peer.receive_all()
        await peer.transport.aclose()
        report = await target.until_alone()
        assert report["stats"]["connections_closed"] == {"PROTOCOL_ERROR": 1}

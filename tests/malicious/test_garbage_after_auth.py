"""A client that authenticates, and then sends garbage."""

from __future__ import annotations

import contextlib

import trio

from trioanytls._protocol.anytls1.frames import FrameType

from ..helpers.raw_peer import AUTH
from ._garbage import CONVERSATION, EXTENDED_CONVERSATION, garbage
from ._harness import IDLE_CONNECTION, SLACK, Attack, in_parallel, leave

CASES = 1000
AT_ONCE = 32
# The maximum number of concurrent connections. The garbage is short.
BOUND = AT_ONCE * IDLE_CONNECTION + SLACK


async def test_a_thousand_sorts_of_garbage_after_auth(attack: Attack) -> None:
    alerts = 0
    async with attack.on_server(bound=BOUND) as target:

        async def one(number: int) -> None:
            nonlocal alerts
            async with attack.connected(target, hello=AUTH) as peer:
                with contextlib.suppress(trio.BrokenResourceError):
                    await peer.send(garbage(number, CONVERSATION if number % 2 else EXTENDED_CONVERSATION))
                # However the server interprets the garbage, its frames are valid, and end with its final frame.
                frames = await leave(peer)
                kinds = [frame[0] for frame in frames]
                assert not {FrameType.ALERT, FrameType.CLOSE} & set(kinds[:-1])
                alerts += kinds[-1:] == [FrameType.ALERT]

        await in_parallel(one, CASES, AT_ONCE)
        report = await target.until_alone()
        assert report["stats"]["authentications"] == CASES + 1
        assert report["stats"]["authentications_failed"] == 0
        # Only a part of the garbage is a violation. The rest is incomplete but valid.
        assert CASES / 2 < alerts <= report["stats"]["violations"] < CASES

"""A client that sends garbage instead of AUTH, or instead of TLS."""

from __future__ import annotations

import contextlib
import random

import trio

from ..helpers.raw_peer import AUTH, NEGO
from ._garbage import mutated
from ._harness import IDLE_CONNECTION, SLACK, TIMEOUT, Attack, dial, in_parallel

CASES = 1000
AT_ONCE = 32
# The maximum number of concurrent connections. The garbage is short.
BOUND = AT_ONCE * IDLE_CONNECTION + SLACK

# Type, stream id and hash: mistakes after them do not change the user.
_HEAD = 34


def no_auth(number: int) -> bytes:
    """Return one of three kinds in turn: random bytes, an AUTH with mistakes, or an incomplete one."""
    draw = random.Random(number)
    if number % 3 == 0:
        return draw.randbytes(draw.choice([1, 3, 34, 500, 100_000]))
    if number % 3 == 1:
        head = AUTH[:_HEAD]
        while head[:_HEAD] == AUTH[:_HEAD]:
            head = mutated(AUTH[:_HEAD], draw)
        return head + AUTH[_HEAD:] + NEGO
    return AUTH[: draw.randrange(len(AUTH))]


async def test_a_thousand_sorts_of_garbage_instead_of_auth(attack: Attack) -> None:
    async with attack.on_server(bound=BOUND) as target:

        async def one(number: int) -> None:
            async with attack.connected(target, hello=b"") as peer:
                with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(TIMEOUT):
                    await peer.send(no_auth(number))
                    await peer.transport.send_eof()
                    # The server never sends a byte of ANYTLS (protocol: 4).
                    assert await peer.transport.receive_some() == b""

        await in_parallel(one, CASES, AT_ONCE)
        report = await target.until_alone()
        assert report["stats"]["authentications"] == 1
        assert report["stats"]["authentications_failed"] == CASES


async def test_garbage_instead_of_tls(attack: Attack) -> None:
    async with attack.on_server(bound=BOUND) as target:

        async def one(number: int) -> None:
            draw = random.Random(number)
            # Every second one begins like a handshake record, with its actual length.
            start = b"\x16\x03\x01" if number % 2 else b""
            async with await dial(target.port) as transport:
                with contextlib.suppress(trio.BrokenResourceError):
                    await transport.send_all(start + draw.randbytes(draw.choice([1, 5, 300, 70_000])))
                    await transport.send_eof()
                    while await transport.receive_some():
                        pass

        await in_parallel(one, 300, AT_ONCE)
        report = await target.until_alone(300)
        assert report["stats"]["handshakes_failed"] == 300

"""A client that knows no password, and one that does not even know TLS."""

from __future__ import annotations

import contextlib
import random

import trio

from ..helpers.raw_peer import AUTH, NEGO
from ._garbage import mutated
from ._harness import IDLE_CONNECTION, PATIENCE, SLACK, Attack, dial, in_parallel

CASES = 1000
AT_ONCE = 32
# There are never more connections than this, and none of the garbage is long.
BOUND = AT_ONCE * IDLE_CONNECTION + SLACK

# Type, stream id and hash: mistakes behind them do not make another user of anybody.
_HEAD = 34


def no_auth(number: int) -> bytes:
    """One of three sorts in turn: nothing but chance, an AUTH with mistakes, one that breaks off."""
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
                with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(PATIENCE):
                    await peer.send(no_auth(number))
                    await peer.transport.send_eof()
                    # Not a byte of ANYTLS, whatever the server made of it (protocol: 4).
                    assert await peer.transport.receive_some() == b""

        await in_parallel(one, CASES, AT_ONCE)
        report = await target.until_alone()
        assert report["stats"]["authentications"] == 1
        assert report["stats"]["authentications_failed"] == CASES


async def test_garbage_instead_of_tls(attack: Attack) -> None:
    async with attack.on_server(bound=BOUND) as target:

        async def one(number: int) -> None:
            draw = random.Random(number)
            # Every other one begins like a record of the handshake, with the length that it happens to have.
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

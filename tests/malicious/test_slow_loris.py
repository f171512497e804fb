"""Many clients that send slowly, at the same time (Slowloris)."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio

from trioanytls._protocol.anytls1.frames import FrameType

from ..helpers.raw_peer import AUTH, HELLO
from ._harness import IDLE_CONNECTION, KIB, SLACK, TIMEOUT, Attack, client_hello, dial, final_frame

PEERS = 200
BOUND = PEERS * IDLE_CONNECTION + SLACK

# The interval between two bytes of a client, and the server's timeout for all of them, in seconds.
_PAUSE = 0.1
_TIMEOUT = 1.0


async def dribble(transport: trio.abc.SendStream, data: bytes) -> None:
    """Send byte by byte, and then nothing more."""
    with contextlib.suppress(trio.BrokenResourceError):
        for position in range(len(data)):
            await transport.send_all(data[position : position + 1])
            await trio.sleep(_PAUSE)


async def test_in_the_tls_handshake(attack: Attack) -> None:
    hello = client_hello(attack.context)
    limits: dict[str, Any] = {"handshake_timeout": _TIMEOUT, "max_unauthenticated_per_address": PEERS}
    async with attack.on_server(bound=BOUND, **limits) as target:

        async def one() -> None:
            async with await dial(target.port) as transport, trio.open_nursery() as nursery:
                nursery.start_soon(dribble, transport, hello)
                with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(TIMEOUT):
                    assert await transport.receive_some() == b""
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(PEERS):
                nursery.start_soon(one)
            await target.still_answers()
        report = await target.until_alone(PEERS)
        assert report["stats"]["handshakes_failed"] == PEERS


async def test_with_client_hellos_that_are_huge(attack: Attack) -> None:
    # OpenSSL allocates 128 KiB for one, and collects them.
    peers, message = 50, b"\x01\x02\x00\x00" + bytes(120_000)
    records = b"".join(
        b"\x16\x03\x01" + len(part).to_bytes(2) + part
        for part in (message[start : start + 16_000] for start in range(0, len(message), 16_000))
    )
    # The records, and the same amount of ciphertext.
    bound = peers * (IDLE_CONNECTION + 2 * 128 * KIB * 4 // 3) + SLACK
    async with attack.on_server(bound=bound, handshake_timeout=_TIMEOUT) as target:

        async def one() -> None:
            async with await dial(target.port) as transport:
                with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(TIMEOUT):
                    await transport.send_all(records)
                    while await transport.receive_some():
                        pass

        async with trio.open_nursery() as nursery:
            for _ in range(peers):
                nursery.start_soon(one)
            await target.still_answers()
        report = await target.until_alone(peers)
        assert report["stats"]["handshakes_failed"] == peers


@pytest.mark.parametrize("done", [0, len(AUTH)], ids=["AUTH", "NEGO"])
async def test_in_the_introduction(attack: Attack, done: int) -> None:
    limits: dict[str, Any] = {"auth_timeout": _TIMEOUT, "max_unauthenticated_per_address": PEERS}
    # Each client sends its data in time, even on a slow machine.
    few = trio.CapacityLimiter(8)
    async with attack.on_server(bound=BOUND, **limits) as target:

        async def one() -> None:
            async with contextlib.AsyncExitStack() as stack:
                async with few:
                    peer = await stack.enter_async_context(attack.connected(target, hello=HELLO[:done]))
                nursery = await stack.enter_async_context(trio.open_nursery())
                nursery.start_soon(dribble, peer.transport, HELLO[done:])
                # The server sends nothing to unauthenticated clients.
                assert (await final_frame(peer) or (None,))[0] == (FrameType.ALERT if done else None)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(PEERS):
                nursery.start_soon(one)
            await target.still_answers()
        report = await target.until_alone()
        assert report["stats"]["violations" if done else "authentications_failed"] == PEERS


async def test_more_of_them_than_one_address_may_have(attack: Attack) -> None:
    async with attack.on_server(bound=BOUND) as target, contextlib.AsyncExitStack() as stack:
        for _ in range(PEERS):
            await stack.enter_async_context(await dial(target.port))
        report = await target.until(lambda report: report["stats"]["connections_accepted"] > PEERS)
        await target.still_answers()
        assert report["stats"]["connections_refused"] == {"max_unauthenticated_per_address": PEERS - 100}
        assert report["stats"]["connections"] == 100 + 1
        await stack.aclose()
        await target.until_alone()

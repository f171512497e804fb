"""Malicious clients of the legacy format, on a port that accepts both formats."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from ..helpers import legacy_bytes, wire_bytes
from ..helpers.legacy_bytes import HELLO, PREAMBLE, VERSION_1, fin, frame, psh, syn, waste
from ..helpers.legacy_peer import LegacyPeer
from ._garbage import garbage, mutated
from ._harness import (
    CONNECTION,
    IDLE_CONNECTION,
    KIB,
    MIB,
    READ,
    SLACK,
    TIMEOUT,
    Attack,
    Target,
    in_parallel,
    pour,
    reset,
)

AT_ONCE = 16
GARBAGE = 500
MAX_STREAMS = 1024
#: Both are accepted: the attacker speaks the legacy format, the well-behaved client the other one.
BOTH = ("anytls1", "legacy")
HEARTBEAT = frame(legacy_bytes.HEART_REQUEST)

#: Short data from a client with all types of frames.
FRAMES = [
    PREAMBLE,
    legacy_bytes.CLIENT_SETTINGS,
    syn(1),
    psh(1, b"hello"),
    HEARTBEAT,
    waste(3),
    syn(2) + psh(2, b"all at once") + fin(2),
    frame(200, 1),
    fin(1),
]
CONVERSATION = b"".join(FRAMES)


@contextlib.asynccontextmanager
async def connected(attack: Attack, target: Target, hello: bytes = HELLO, **options: Any) -> AsyncIterator[LegacyPeer]:
    async with attack.connected(target, hello=hello, **options) as peer:
        yield LegacyPeer(peer.transport)


async def final_frames(peer: LegacyPeer) -> list[tuple[int, int, bytes]]:
    """Return all frames up to the end, however the server ends it."""
    received = []
    with trio.fail_after(TIMEOUT), contextlib.suppress(trio.BrokenResourceError):
        while (one := await peer.receive()) is not None:
            received.append(one)
    return received


async def provoke(attack: Attack, peer: LegacyPeer, block: bytes, times: int) -> None:
    """Send `block` repeatedly while reading, until the server ends the connection."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pour, peer, block, times)
        await final_frames(peer)


async def test_connections_take_their_memory_with_them(attack: Attack) -> None:
    at_once, cases = 4, 150
    bound = at_once * CONNECTION + SLACK
    async with attack.on_server(bound=bound, handler="sink", objects=300_000, protocols=BOTH) as target:

        async def one(number: int) -> None:
            async with connected(attack, target) as peer:
                await peer.send(syn(1), psh(1, bytes(65_535)) * 4, HEARTBEAT)
                while await peer.receive() != (legacy_bytes.HEART_RESPONSE, 0, b""):
                    pass

        await in_parallel(one, cases, at_once)
        await target.until_alone()


@pytest.mark.parametrize(
    "text", [b"bye\nERROR trioanytls.server: all is lost", b"x" * 65_535], ids=["a line", "64 KiB"]
)
async def test_an_alert_is_one_short_line(attack: Attack, text: bytes) -> None:
    streams = 100
    bound = streams * 8 * KIB + CONNECTION + SLACK
    async with attack.on_server(bound=bound, protocols=BOTH) as target, connected(attack, target) as peer:
        await peer.send(b"".join(map(syn, range(1, streams + 1))))
        await target.until(lambda report: report["handlers_running"] == streams)
        await peer.send(frame(legacy_bytes.ALERT, 0, text))
        await peer.receive_all()
        await peer.transport.aclose()
        report = await target.until_alone()
        assert report["stats"]["connections_closed"] == {"PROTOCOL_ERROR": 1}


async def test_garbage_after_the_preamble(attack: Attack) -> None:
    async with attack.on_server(bound=AT_ONCE * IDLE_CONNECTION + SLACK, protocols=BOTH) as target:

        async def one(number: int) -> None:
            async with connected(attack, target, PREAMBLE) as peer:
                with contextlib.suppress(trio.BrokenResourceError):
                    await peer.send(garbage(number, b"".join(FRAMES[1:])))
                    await peer.transport.send_eof()
                kinds = [kind for kind, _, _ in await final_frames(peer)]
                assert legacy_bytes.ALERT not in kinds[:-1]

        await in_parallel(one, GARBAGE, AT_ONCE)
        report = await target.until_alone()
        assert report["stats"]["authentications"] == GARBAGE + 1


async def test_garbage_instead_of_the_preamble(attack: Attack) -> None:
    def no_preamble(number: int) -> bytes:
        draw = random.Random(number)
        if number % 2:
            return draw.randbytes(draw.choice([1, 3, 34, 500, 100_000]))
        head = PREAMBLE[:32]
        while head[:32] == PREAMBLE[:32] or head[2:34] == PREAMBLE[:32]:
            head = mutated(PREAMBLE[:32], draw)
        return head + PREAMBLE[32:] + legacy_bytes.CLIENT_SETTINGS

    async with attack.on_server(bound=AT_ONCE * IDLE_CONNECTION + SLACK, protocols=BOTH) as target:

        async def one(number: int) -> None:
            async with connected(attack, target, b"") as peer:
                with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(TIMEOUT):
                    await peer.send(no_preamble(number))
                    await peer.transport.send_eof()
                    assert await peer.transport.receive_some() == b""

        await in_parallel(one, GARBAGE, AT_ONCE)
        report = await target.until_alone()
        assert report["stats"]["authentications"] == 1
        assert report["stats"]["authentications_failed"] == GARBAGE


async def test_64_mib_of_the_largest_frames(attack: Attack) -> None:
    async with attack.on_server(bound=CONNECTION + SLACK, handler="sink", protocols=BOTH) as target:
        async with connected(attack, target) as peer:
            await peer.send(syn(1))
            # Data, Waste and the data of an unknown command, which is skipped.
            block = psh(1, bytes(65_535)) + frame(77, 1, bytes(65_535)) + waste(65_535)
            assert await pour(peer, block * 5, 64) == 64
            await target.still_answers()
        report = await target.until_alone()
        assert report["stats"]["bytes_received"] > 60 * MIB
        assert report["stats"]["violations"] == 0


@pytest.mark.parametrize("kind", [legacy_bytes.SETTINGS, legacy_bytes.ALERT, legacy_bytes.UPDATE, legacy_bytes.SYNACK])
async def test_a_text_that_is_too_long_is_refused_at_its_length(attack: Attack, kind: int) -> None:
    async with attack.on_server(bound=CONNECTION + SLACK, protocols=BOTH, max_control_payload=1000) as target:
        async with connected(attack, target) as peer:
            await peer.send(frame(kind, 0, bytes(1001))[:7])
            await final_frames(peer)
            assert await pour(peer, bytes(MIB), 32) < 32
            await target.still_answers()
        report = await target.until_alone()
        assert report["stats"]["connections_closed"] == {"LIMIT_EXCEEDED": 1}


@pytest.mark.parametrize(
    "idle",
    [
        pytest.param(waste(0), id="Waste"),
        pytest.param(psh(1, b""), id="empty PSH"),
        pytest.param(psh(9, b""), id="PSH of nothing"),
        pytest.param(fin(9), id="FIN of nothing"),
        pytest.param(syn(1), id="SYN of an open stream"),
        pytest.param(frame(0x40, 9), id="unknown"),
        pytest.param(frame(legacy_bytes.HEART_RESPONSE), id="HeartResponse"),
        pytest.param(frame(legacy_bytes.SYNACK, 1), id="SYNACK"),
        pytest.param(frame(legacy_bytes.SETTINGS), id="empty Settings"),
        pytest.param(VERSION_1, id="Settings"),
        pytest.param(waste(65_535), id="much Waste"),
    ],
)
async def test_frames_that_carry_nothing_without_end(attack: Attack, idle: bytes) -> None:
    block = idle * max(1, MIB // len(idle))
    async with attack.on_server(bound=4 * READ + SLACK, protocols=BOTH) as target:
        async with connected(attack, target) as peer:
            await peer.send(syn(1))
            await provoke(attack, peer, block, 80)
            await target.still_answers()
        report = await target.until_alone()
        assert report["stats"]["connections_closed"] == {"LIMIT_EXCEEDED": 1}


async def test_64_mib_are_echoed_and_not_read(attack: Attack) -> None:
    peers = 4
    bound = peers * CONNECTION + SLACK
    async with attack.on_server(bound=bound, protocols=BOTH, write_timeout=0.5) as target:

        async def never_read() -> None:
            async with connected(attack, target) as peer:
                await peer.send(syn(1))
                assert await pour(peer, psh(1, bytes(65_535)) * 16, 64) < 64

        async with trio.open_nursery() as nursery:
            for _ in range(peers):
                nursery.start_soon(never_read)
            await target.until(lambda report: report["handlers_started"] == peers)
            await target.still_answers()
        report = await target.until_alone()
        assert report["stats"]["connections_closed"] == {"LOST": peers}


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(HEARTBEAT, id="HeartRequest"),
        # Each is answered by the scheme and ServerSettings.
        pytest.param(legacy_bytes.settings("v=2"), id="Settings"),
    ],
)
async def test_unread_answers_end_the_connection(attack: Attack, request_: bytes) -> None:
    # As in `test_pingpong_flood`: all requests of one read are answered before the answers are counted. Each answer
    # costs its bytes object, and its places in a queue and in a list.
    bound = 2 * READ // len(request_) * (48 + 32) + CONNECTION + SLACK
    async with (
        attack.on_server(bound=bound, protocols=BOTH, send_buffer=4 * KIB, close_timeout=0.2) as target,
        connected(attack, target, receive_buffer=4 * KIB) as peer,
    ):
        await pour(peer, request_ * 10_000, 10)
        await target.still_answers()
        await pour(peer, request_, 1)
        report = await target.until_alone()
        assert report["stats"]["connections_closed"] == {"LIMIT_EXCEEDED": 1}


@pytest.mark.parametrize("data", [b"", b"hello"], ids=["nothing", "data"])
async def test_rapid_reset(attack: Attack, data: bytes) -> None:
    times = 50_000
    bound = 2 * MAX_STREAMS * 8 * KIB + READ // 14 * 2 * (48 + 32) + CONNECTION + SLACK
    async with attack.on_server(bound=bound, protocols=BOTH) as target:
        async with connected(attack, target) as peer:
            # The same id is used again and again, which this format allows.
            await provoke(attack, peer, (syn(1) + (psh(1, data) if data else b"") + fin(1)) * times, 1)
            await target.still_answers()
            with contextlib.suppress(trio.BrokenResourceError):
                await peer.transport.send_eof()
        report = await target.until_alone()
        assert report["most_handlers"] <= MAX_STREAMS
        assert report["most_tasks"] <= target.tasks + MAX_STREAMS + 10


async def test_resets_at_every_byte_of_a_conversation(attack: Attack) -> None:
    async with attack.on_server(bound=AT_ONCE * IDLE_CONNECTION + SLACK, protocols=BOTH) as target:

        async def one(length: int) -> None:
            async with connected(attack, target, CONVERSATION[:length]) as peer:
                reset(peer.transport.transport)

        await in_parallel(one, len(CONVERSATION) + 1, AT_ONCE)
        report = await target.until_alone()
        assert sum(report["stats"]["connections_closed"].values()) == len(CONVERSATION) + 1


# Where the client stops in time: in the padding of the preamble, and in Settings.
@pytest.mark.parametrize(("done", "failure"), [(40, "authentications_failed"), (len(PREAMBLE) + 5, "violations")])
async def test_slow_loris(attack: Attack, done: int, failure: str) -> None:
    peers = 100
    limits: dict[str, Any] = {"auth_timeout": 1.0, "max_unauthenticated_per_address": peers}
    few = trio.CapacityLimiter(8)
    async with attack.on_server(bound=peers * IDLE_CONNECTION + SLACK, protocols=BOTH, **limits) as target:

        async def one() -> None:
            async with contextlib.AsyncExitStack() as stack:
                async with few:
                    peer = await stack.enter_async_context(connected(attack, target, HELLO[:done]))
                nursery = await stack.enter_async_context(trio.open_nursery())
                nursery.start_soon(dribble, peer, HELLO[done:-1])
                await final_frames(peer)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(peers):
                nursery.start_soon(one)
            await target.still_answers()
        report = await target.until_alone()
        assert report["stats"][failure] == peers


async def dribble(peer: LegacyPeer, data: bytes) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        for position in range(len(data)):
            await peer.send(data[position : position + 1])
            await trio.sleep(0.1)


async def test_streams_that_are_never_used(attack: Attack) -> None:
    # More refusals at once would be unread answers.
    streams, more = 1000, 2000
    bound = streams * 8 * KIB + CONNECTION + SLACK
    async with attack.on_server(bound=bound, handler="deaf", protocols=BOTH, max_streams=streams) as target:
        async with connected(attack, target) as peer:
            # Ids in any order: nothing is kept of those that are closed.
            await peer.send(b"".join(syn(7 * number % 2**32) for number in range(streams + more, 0, -1)))
            await target.until(lambda report: report["stats"]["streams_opened"] > streams + more)
            # The handlers start a pass of the event loop after the frames that open their streams.
            await target.still_answers()
            report = await target.report()
            assert report["handlers_running"] == streams
            assert sum(report["stats"]["streams_refused"].values()) == more
        report = await target.until_alone()
        assert report["handlers_running"] == 0


@pytest.mark.parametrize("size", [65_535, 1])
async def test_data_for_all_streams_that_is_not_read(attack: Attack, size: int) -> None:
    streams, buffers = 1000, 4 * MIB
    bound = streams * 8 * KIB + buffers + READ // 8 * (48 + 8) + CONNECTION + SLACK
    limits: dict[str, Any] = {"connection_receive_buffer_size": buffers, "stall_timeout": 0.05}
    async with attack.on_server(bound=bound, handler="deaf", protocols=BOTH, **limits) as target:
        async with connected(attack, target) as peer, trio.open_nursery() as nursery:
            numbers = range(1, streams + 1)
            await peer.send(b"".join(map(syn, numbers)))
            frames = b"".join(psh(number, bytes(size)) for number in numbers)
            nursery.start_soon(pour, peer, frames, 64 * MIB // len(frames))
            await target.until(lambda report: report["stats"]["streams_timed_out"].get("STALLED", 0) >= 5)
            await target.still_answers()
            nursery.cancel_scope.cancel()
            reset(peer.transport.transport)
        report = await target.until_alone()
        assert report["handlers_running"] == 0


async def test_a_client_that_changes_its_format_breaks_the_protocol_of_its_own_connection(attack: Attack) -> None:
    async with attack.on_server(bound=CONNECTION + SLACK, protocols=BOTH) as target:
        # AUTH of one format, then frames of the other: NEGO is missing.
        async with connected(attack, target, wire_bytes.AUTH + legacy_bytes.CLIENT_SETTINGS) as peer:
            assert (await peer.transport.receive_some())[:2] == b"\x01\x00"
        # The preamble, then NEGO, which is a FIN of nothing: nothing is authenticated twice.
        async with connected(attack, target, PREAMBLE + wire_bytes.CLIENT_NEGO + bytes(200)) as peer:
            await peer.send(HELLO)
            await peer.transport.send_eof()
            await final_frames(peer)
        report = await target.until_alone()
        assert report["stats"]["violations"] >= 1

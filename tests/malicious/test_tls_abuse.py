"""Clients that abuse TLS with records of their own, or TCP below it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from trioanytls._protocol.anytls1.frames import FrameType

from ..helpers import wire_bytes
from ..helpers.raw_peer import HELLO, PINGPONG, RawPeer
from ._harness import CONNECTION, MIB, SLACK, TIMEOUT, Attack, Target, client_hello, dial, final_frame, pour
from ._records import ALERT, HANDSHAKE, Records, handshake_message, recording_context

# OpenSSL rejects everything, or it is one small record after another.
BOUND = CONNECTION + SLACK


class Forger:
    """A client that creates its own records, and reads like any other client."""

    def __init__(self, peer: RawPeer, records: Records) -> None:
        self.records = records
        self._peer = peer
        self._socket: trio.abc.SendStream = peer.transport.transport

    async def send(self, *records: bytes) -> bool:
        """Return whether the other side accepts the bytes."""
        with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(TIMEOUT):
            await self._socket.send_all(b"".join(records))
            return True
        return False

    async def is_answered(self) -> bool:
        """Return whether the server still answers this client."""
        await self.send(self.records.seal(PINGPONG))
        with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(TIMEOUT):
            while (frame := await self._peer.receive()) is not None:
                if frame[0] == FrameType.PINGPONG:
                    return True
        return False


#: `async with forging(target) as forger:`
Forging = Callable[[Target], AbstractAsyncContextManager[Forger]]


@pytest.fixture
def forging(attack: Attack, tmp_path: Path) -> Forging:
    """Connect as the attacker. The connection is valid so far."""

    @contextlib.asynccontextmanager
    async def forge(target: Target) -> AsyncIterator[Forger]:
        path = tmp_path / "secrets"
        async with attack.connected(target, hello=b"", context=recording_context(path)) as peer:
            forger = Forger(peer, Records(path, peer.transport._ssl.cipher()[0]))
            await forger.send(forger.records.seal(HELLO))
            assert await forger.is_answered()
            yield forger

    return forge


async def test_keys_that_change_all_the_time(attack: Attack, forging: Forging) -> None:
    async with attack.on_server(bound=BOUND) as target, forging(target) as forger:
        for _ in range(10):
            assert await forger.send(*(forger.records.update_keys(requested=False) for _ in range(1000)))
        await target.still_answers()
        # Each one is legal.
        assert await forger.is_answered()


async def test_key_updates_that_ask_for_key_updates(attack: Attack, forging: Forging) -> None:
    async with attack.on_server(bound=BOUND) as target, forging(target) as forger:
        for _ in range(10):
            await forger.send(*(forger.records.update_keys(requested=True) for _ in range(1000)))
        await target.still_answers()
        # The server does not queue that many answers.
        assert not await forger.is_answered()
        await target.until_alone()


@pytest.mark.parametrize(
    ("kind", "content", "times"),
    [
        pytest.param(HANDSHAKE, None, 1, id="renegotiation"),
        pytest.param(HANDSHAKE, handshake_message(0, b""), 1, id="HelloRequest"),
        pytest.param(HANDSHAKE, handshake_message(11, bytes(3 * MIB))[:16_000], 100, id="message of 3 MiB"),
        pytest.param(ALERT, b"\x01\x5a", 1000, id="warnings"),
        pytest.param(23, b"", 10_000, id="empty records"),
    ],
)
async def test_what_tls_does_not_allow(
    attack: Attack, forging: Forging, kind: int, content: bytes | None, times: int
) -> None:
    if content is None:
        # The content of a record without its header.
        content = client_hello(attack.context)[5:]
    async with attack.on_server(bound=BOUND) as target, forging(target) as forger:
        await forger.send(*(forger.records.seal(content, kind) for _ in range(times)))
        await target.still_answers()
        assert not await forger.is_answered()
        report = await target.until_alone()
        assert report["stats"]["connections_closed"] == {"LOST": 1}


async def test_records_that_are_padded_with_16_kib(attack: Attack, forging: Forging) -> None:
    async with attack.on_server(bound=BOUND) as target, forging(target) as forger:
        for _ in range(1000):
            assert await forger.send(forger.records.seal(PINGPONG, padding=16_000))
        await target.still_answers()
        # 16 MB carry little data, and are legal.
        assert await forger.is_answered()


async def test_data_after_close_notify(attack: Attack, forging: Forging) -> None:
    async with attack.on_server(bound=BOUND) as target, forging(target) as forger:
        before = await target.report()
        await forger.send(forger.records.seal(b"\x01\x00", ALERT))
        data = wire_bytes.OPEN_1 + wire_bytes.HELLO_1
        await forger.send(*(forger.records.seal(data) for _ in range(1000)))
        await target.still_answers()
        assert not await forger.is_answered()
        report = await target.until_alone()
        assert report["stats"]["streams_opened"] == before["stats"]["streams_opened"]


async def test_change_cipher_spec_without_end_in_the_handshake(attack: Attack) -> None:
    async with attack.on_server(bound=BOUND) as target, await dial(target.port) as transport:
        await transport.send_all(client_hello(attack.context))
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(TIMEOUT):
            for _ in range(1000):
                await transport.send_all(b"\x14\x03\x03\x00\x01\x01" * 10_000)
        await target.still_answers()
        report = await target.until_alone()
        assert report["stats"]["handshakes_failed"] == 1


async def test_tcp_is_half_closed_in_the_middle(attack: Attack) -> None:
    async with attack.on_server(bound=BOUND) as target, attack.connected(target) as peer:
        await peer.send(wire_bytes.OPEN_1, wire_bytes.frame(0x0A, 1), wire_bytes.number(MIB), bytes(1000))
        await peer.transport.transport.send_eof()
        # The server continues to read, but does not answer any more.
        assert await final_frame(peer) is None
        await target.until_alone()


async def test_tcp_is_shut_for_what_comes_and_goes_on_sending(attack: Attack) -> None:
    async with attack.on_server(bound=BOUND, write_timeout=0.5) as target, attack.connected(target) as peer:
        peer.transport.transport.socket.shutdown(socket.SHUT_RD)
        await peer.send(wire_bytes.OPEN_1)
        assert await pour(peer, wire_bytes.frame(0x0A, 1, bytes(MIB)), 64) < 64
        await target.until_alone()


@pytest.mark.parametrize(
    "last", [b"\x3f\x3f", wire_bytes.frame(0x02, 0) + wire_bytes.number(0)], ids=["violation", "CLOSE"]
)
async def test_a_client_that_does_not_close_its_side_is_disconnected(attack: Attack, last: bytes) -> None:
    async with attack.on_server(bound=BOUND, close_timeout=0.2) as target, attack.connected(target) as peer:
        await peer.send(last)
        # The server waits for the client to close its side as well, but not forever.
        assert await pour(peer, bytes(MIB), 10_000) < 10_000
        await target.until_alone()

"""A client of a malicious server of the legacy format: as in `test_malicious_server`."""

from __future__ import annotations

import contextlib
import functools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio

from trioanytls import CloseCode, StreamCode
from trioanytls._transport.tls_stream import TLSStream

from ..conftest import Serving
from ..helpers import legacy_bytes
from ..helpers.legacy_bytes import fin, frame, psh, syn, synack, waste
from ..helpers.legacy_peer import LegacyPeer
from ._garbage import garbage
from ._harness import KIB, MIB, READ, TIMEOUT, USERS, Attack
from ._servers import BOUND, LIMIT, Case, close_notify, closing, eof, listening, opened_streams, rst

GARBAGE = 100
HEARTBEAT = frame(legacy_bytes.HEART_REQUEST)
SETTINGS = legacy_bytes.SERVER_SETTINGS_2
#: Valid data from a server.
ANSWERS = b"".join(
    [
        SETTINGS,
        synack(1),
        psh(1, b"hello"),
        HEARTBEAT,
        waste(100),
        frame(legacy_bytes.UPDATE, 0, b"stop=3\n0=30-30\n1=100-400,c,9-9\n"),
        frame(99, 3),
        synack(1, "no route"),
        frame(legacy_bytes.ALERT, 0, b"good bye"),
    ]
)


@contextlib.asynccontextmanager
async def secured(transport: trio.SocketStream, context: ssl.SSLContext, streams: int = 1) -> AsyncIterator[LegacyPeer]:
    """Do the TLS handshake, and read the client's first frames until it has opened this many streams."""
    tls = TLSStream(transport, context, server_side=True)
    await tls.do_handshake()
    peer = LegacyPeer(tls)
    await peer.receive_preamble()
    await opened_streams(peer, legacy_bytes.SYN, streams)
    async with closing(tls, peer):
        yield peer


async def read_to_the_end(peer: LegacyPeer) -> None:
    with trio.fail_after(TIMEOUT), contextlib.suppress(trio.BrokenResourceError):
        await peer.receive_all()


def without_end(name: str, sent: bytes, **more: Any) -> Case:
    """Return a case of a frame that carries nothing, again and again."""
    block = sent * max(1, MIB // len(sent))
    return Case(name=f"{name} without end", block=block, times=80, code=CloseCode.LIMIT_EXCEEDED, **more)


CASES = [
    without_end("empty Waste", waste(0)),
    without_end("much Waste", waste(65_535)),
    without_end("an unknown command", frame(0x41, 1)),
    without_end("empty PSH", psh(1, b"")),
    without_end("empty PSH of nothing", psh(9, b"")),
    without_end("FIN of nothing", fin(9)),
    without_end("SYNACK", SETTINGS + synack(1) + synack(1)),
    without_end("SYNACK of nothing", synack(9)),
    without_end("ServerSettings", SETTINGS),
    without_end("a new scheme", frame(legacy_bytes.UPDATE, 0, b"stop=1")),
    without_end("SYN", syn(9)),
    without_end("FIN", fin(1), application="wait"),
    Case(name="FIN", start=fin(1), error="StreamRefused", code=StreamCode.NOT_GIVEN),
    Case(
        name="SYNACK with a text",
        start=synack(1, "no route\x1b[2J\nto host"),
        error="StreamRefused",
        code=StreamCode.NOT_GIVEN,
        text="no route",
    ),
    Case(name="an Alert with control characters", start=frame(5, 0, b"\x1b[2J\r\x00bad"), text="bad"),
    Case(name="an Alert of 64 KiB", start=frame(5, 0, b"x" * 65_535), text="xxxxx"),
    Case(
        name="an Alert that is too long", start=frame(5, 0, bytes(2000)), config={"max_control_payload": 1000}, **LIMIT
    ),
    Case(
        name="a large scheme",
        start=frame(legacy_bytes.UPDATE, 0, b"stop=9\n" * 200),
        config={"max_scheme_size": 1000},
        **LIMIT,
    ),
    Case(
        name="a scheme that asks for 341 MiB",
        start=frame(legacy_bytes.UPDATE, 0, b"stop=2\n1=" + b",".join([b"65535-65535"] * 5458)),
        **LIMIT,
    ),
    Case(name="a scheme with a large stop", start=frame(legacy_bytes.UPDATE, 0, b"stop=1001\n"), **LIMIT),
    Case(
        name="HeartRequest without end, and never reads",
        block=HEARTBEAT * 100_000,
        times=20,
        reads=False,
        config={"close_timeout": 0.2},
        more=READ // len(HEARTBEAT) * (48 + 32),
        **LIMIT,
    ),
    Case(
        name="never reads what is sent",
        reads=False,
        application="pour",
        config={"write_timeout": 0.3, "close_timeout": 0.2},
        code=None,
        text="write_timeout",
    ),
    Case(
        name="PSH that is not read",
        block=b"".join(psh(number, bytes(65_535)) for number in range(1, 21)),
        times=100,
        streams=20,
        application="ignore",
        config={"stall_timeout": 0.02},
        error="StreamTimeout",
        code=None,
        text="stall_timeout",
        more=20 * 256 * KIB,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_what_an_application_meets(
    attack: Attack, serving: Serving, server_context: ssl.SSLContext, case: Case
) -> None:
    connected = functools.partial(secured, context=server_context)
    await case.check(attack, serving, connected, read_to_the_end, protocol="legacy")


async def half_a_frame(peer: LegacyPeer) -> None:
    await peer.send(SETTINGS, synack(1), psh(1, b"hello")[:-1])
    await peer.transport.aclose()


@pytest.mark.parametrize("end", [eof, rst, close_notify, half_a_frame])
async def test_the_end_of_a_session(
    attack: Attack, serving: Serving, server_context: ssl.SSLContext, end: Callable[[LegacyPeer], Awaitable[None]]
) -> None:
    async def behave(transport: trio.SocketStream) -> None:
        async with secured(transport, server_context) as peer:
            await end(peer)
            await read_to_the_end(peer)

    async with serving(users=USERS) as good_port, listening(behave) as port:
        (report,) = await attack.lure(port, good_port, bound=BOUND, protocol="legacy")
    assert report["error"][0] == "ConnectionClosed"
    assert report["code"] is None


async def test_garbage(attack: Attack, serving: Serving, server_context: ssl.SSLContext) -> None:
    numbers = iter(range(GARBAGE))

    async def behave(transport: trio.SocketStream) -> None:
        async with secured(transport, server_context) as peer:
            await peer.send(garbage(next(numbers), ANSWERS))
            with contextlib.suppress(trio.BrokenResourceError):
                await peer.transport.send_eof()
            await read_to_the_end(peer)

    async with serving(users=USERS) as good_port, listening(behave) as port:
        reports = await attack.lure(port, good_port, bound=BOUND, times=GARBAGE, protocol="legacy", close_timeout=0.5)
    for report in reports:
        # A mistake may be harmless. Then the stream can end normally.
        assert "AnyTLSError" in report["error"] or report["error"][0] == "NoneType"

"""A client of a malicious server: its application gets an error, and its other connection continues to work."""

from __future__ import annotations

import contextlib
import functools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio

from trioanytls import StreamCode
from trioanytls._transport.tls_stream import TLSStream

from ..conftest import Serving
from ..helpers import wire_bytes
from ..helpers.raw_peer import PINGPONG, RawPeer
from ._garbage import ANSWERS, EXTENDED_ANSWERS, garbage
from ._harness import EXTENSION_FRAMES, KIB, MIB, READ, USERS, Attack, final_frame, leave, reset
from ._servers import BOUND, LIMIT, Behaviour, Case, close_notify, closing, eof, listening, opened_streams, rst

HUGE = 2**62 - 1

GARBAGE = 200


@contextlib.asynccontextmanager
async def secured(transport: trio.SocketStream, context: ssl.SSLContext, streams: int = 1) -> AsyncIterator[RawPeer]:
    """Do the TLS handshake, and read the client's first frames until it has opened this many streams."""
    tls = TLSStream(transport, context, server_side=True)
    await tls.do_handshake()
    peer = RawPeer(tls)
    peer.know(*EXTENSION_FRAMES)
    await peer.receive_auth()
    await opened_streams(peer, 0x0C, streams)
    async with closing(tls, peer):
        yield peer


#: All extensions, and the first stream.
AGREED = wire_bytes.server_nego(("fin", "goaway", "reset", "window")) + wire_bytes.ACK_1
ONE_BYTE = wire_bytes.frame(0x11, 1) + wire_bytes.number(1)


def refusal(stream_id: int, code: int, text: bytes) -> bytes:
    return wire_bytes.frame(0x13, stream_id) + wire_bytes.number(code) + wire_bytes.number(len(text)) + text


CASES = [
    Case(name="an unknown frame", start=b"\x3f\x3f", text="0x3f"),
    Case(name="empty PADDING without end", block=wire_bytes.frame(0x05, 0, b"") * 100_000, times=10, **LIMIT),
    Case(
        name="PADDING of 2^62-1",
        start=wire_bytes.frame(5) + wire_bytes.number(HUGE),
        block=bytes(MIB),
        times=66,
        **LIMIT,
    ),
    Case(name="empty DATA without end", block=wire_bytes.frame(0x0A, 1, b"") * 100_000, times=10, **LIMIT),
    Case(name="STREAM_ACK without end", block=wire_bytes.ACK_1 * 100_000, times=10, **LIMIT),
    Case(name="RST without end", block=wire_bytes.RST_1 * 100_000, times=10, application="wait", **LIMIT),
    Case(name="STREAM_ACK of nothing", start=wire_bytes.frame(0x10, 9), text="never opened"),
    Case(name="DATA of nothing", start=wire_bytes.frame(0x0A, 9, b"hello"), text="never opened"),
    Case(name="RST of nothing", start=wire_bytes.frame(0x09, 9), text="never opened"),
    Case(name="OPEN", start=wire_bytes.frame(0x0C, 9), text="only a client may open streams"),
    Case(name="RST", start=wire_bytes.RST_1, error="StreamRefused", code=StreamCode.NOT_GIVEN),
    Case(
        name="an ALERT with control characters",
        start=wire_bytes.frame(1, 0, b"\x1b[2J\r\x00"),
        text="control character",
    ),
    Case(name="an ALERT of several lines", start=wire_bytes.frame(1, 0, b"one\nand another"), text="and another"),
    Case(name="an ALERT of 64 KiB", start=wire_bytes.frame(1, 0, b"x" * 65536), text="xxxxx"),
    Case(
        name="an ALERT of 2^62-1",
        start=wire_bytes.frame(1) + wire_bytes.number(HUGE),
        block=bytes(MIB),
        times=16,
        text="65536",
    ),
    Case(name="a scheme of 2^62-1", start=wire_bytes.frame(6) + wire_bytes.number(HUGE), block=bytes(MIB), times=16),
    Case(
        name="a large scheme",
        start=wire_bytes.frame(6, 0, b"stop=9\n" * 200),
        config={"max_scheme_size": 1000},
        **LIMIT,
    ),
    Case(
        name="a scheme that asks for 341 MiB",
        start=wire_bytes.frame(6, 0, b"stop=2\n1=" + b",".join([b"65535-65535"] * 5458) + b"\n"),
        **LIMIT,
    ),
    Case(name="a scheme with a large stop", start=wire_bytes.frame(6, 0, b"stop=1001\n"), **LIMIT),
    Case(name="an invalid scheme", start=wire_bytes.frame(6, 0, b"stop=eight\n"), text="invalid number"),
    Case(name="a NEGO of 2^62-1", start=wire_bytes.frame(4, 6) + wire_bytes.number(HUGE), block=bytes(MIB), times=16),
    Case(name="a second NEGO", start=wire_bytes.SERVER_NEGO * 2, text="must not be sent twice"),
    Case(name="a version that was not offered", start=wire_bytes.frame(4, 6, b"v=2\n"), text="not offered"),
    Case(name="an AUTH", start=wire_bytes.AUTH, text="only a client may send this frame"),
    Case(name="a client's NEGO", start=wire_bytes.CLIENT_NEGO, text="only a client may send this frame"),
    Case(name="an unknown CLOSE", start=wire_bytes.frame(2) + wire_bytes.number(HUGE), text="the peer closed"),
    Case(
        name="PINGPONG without end, and never reads",
        block=PINGPONG * 100_000,
        times=20,
        reads=False,
        config={"close_timeout": 0.2},
        # All data of one read is answered before the answers are counted: see `test_pingpong_flood`.
        more=READ // len(PINGPONG) * (48 + 16),
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
        name="DATA that is not read",
        block=b"".join(wire_bytes.frame(0x0A, number, bytes(64 * KIB)) for number in range(1, 21)),
        times=100,
        streams=20,
        application="ignore",
        config={"stall_timeout": 0.02},
        error="StreamTimeout",
        code=None,
        text="stall_timeout",
        more=20 * 256 * KIB,
    ),
    # With extensions.
    Case(name="grants of one byte without end", start=AGREED, block=ONE_BYTE * 100_000, times=10, **LIMIT),
    Case(
        name="grants for a closed stream without end",
        start=AGREED + wire_bytes.RST_1,
        block=ONE_BYTE * 100_000,
        times=10,
        application="wait",
        **LIMIT,
    ),
    Case(name="GOAWAY without end", start=AGREED, block=wire_bytes.GOAWAY_5 * 100_000, times=10, **LIMIT),
    Case(name="a grant of 0", start=AGREED + wire_bytes.frame(0x11, 1) + b"\x00", text="must not be 0"),
    Case(
        name="a grant of 2^62-1",
        start=AGREED + wire_bytes.frame(0x11, 1) + wire_bytes.number(HUGE),
        text="takes the credit above",
    ),
    Case(name="a grant for nothing", start=AGREED + wire_bytes.frame(0x11, 9) + b"\x01", text="never opened"),
    Case(
        name="DATA after STREAM_FIN",
        start=AGREED + wire_bytes.FIN_1 + wire_bytes.HELLO_1,
        application="wait",
        text="sent STREAM_FIN",
    ),
    Case(name="a GOAWAY that goes back", start=AGREED + wire_bytes.GOAWAY_5 + b"\x14\x00\x06", text="higher than 5"),
    Case(
        name="a reason of 2^62-1",
        start=AGREED + wire_bytes.frame(0x13, 1) + b"\x03" + wire_bytes.number(HUGE),
        block=bytes(MIB),
        times=16,
        text="512",
    ),
    Case(
        name="a reason with control characters",
        start=AGREED + refusal(1, 3, b"\x1b[2J"),
        text="control character",
    ),
    Case(
        name="a reason of several lines",
        start=AGREED + refusal(1, 3, b"one\nand another"),
        error="StreamReset",
        code=StreamCode.CONNECTION_REFUSED,
        text="one\\nand another",
    ),
    Case(
        name="a refusal with an unknown code",
        start=AGREED[:-2] + refusal(1, HUGE, b"x" * 512),
        error="StreamRefused",
        code=StreamCode.GENERAL_FAILURE,
        text="xxx",
    ),
    Case(
        name="GOAWAY below the stream",
        start=AGREED + b"\x14\x00\x00",
        error="StreamRefused",
        code=StreamCode.SHUTTING_DOWN,
        text="shutting down",
    ),
    Case(
        name="DATA beyond the credit that is not read",
        start=AGREED,
        block=b"".join(wire_bytes.frame(0x0A, number, bytes(64 * KIB)) for number in range(1, 21)),
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
    await case.check(attack, serving, functools.partial(secured, context=server_context), final_frame)


async def half_a_frame(peer: RawPeer) -> None:
    await peer.send(wire_bytes.ACK_1, wire_bytes.frame(0x0A, 1), wire_bytes.number(HUGE), b"hello")
    await peer.transport.aclose()


@pytest.mark.parametrize("end", [eof, rst, close_notify, half_a_frame])
async def test_a_connection_that_ends_without_close(
    attack: Attack, serving: Serving, server_context: ssl.SSLContext, end: Callable[[RawPeer], Awaitable[None]]
) -> None:
    async def behave(transport: trio.SocketStream) -> None:
        async with secured(transport, server_context) as peer:
            await end(peer)
            # The client closes the connection, unless the server has done so.
            await leave(peer)

    async with serving(users=USERS) as good_port, listening(behave) as port:
        (report,) = await attack.lure(port, good_port, bound=BOUND)
    assert report["error"][0] == "ConnectionClosed"
    assert report["code"] is None


async def test_a_nego_that_never_ends(attack: Attack, serving: Serving, server_context: ssl.SSLContext) -> None:
    async def behave(transport: trio.SocketStream) -> None:
        async with secured(transport, server_context) as peer:
            await peer.send(wire_bytes.frame(4, 6), wire_bytes.number(65536))
            for _ in range(65536):
                await peer.send(b"x")
                await trio.sleep(0.005)

    async with serving(users=USERS) as good_port, listening(behave) as port:
        # The client does not wait for it, and its streams receive nothing.
        (report,) = await attack.lure(port, good_port, bound=BOUND, stream_idle_timeout=0.3, close_timeout=0.2)
    assert report["error"][0] == "StreamTimeout"


async def test_garbage(attack: Attack, serving: Serving, server_context: ssl.SSLContext) -> None:
    numbers = iter(range(GARBAGE))

    async def behave(transport: trio.SocketStream) -> None:
        async with secured(transport, server_context) as peer:
            number = next(numbers)
            await peer.send(garbage(number, ANSWERS if number % 2 else EXTENDED_ANSWERS))
            await leave(peer)

    async with serving(users=USERS) as good_port, listening(behave) as port:
        reports = await attack.lure(port, good_port, bound=BOUND, times=GARBAGE, close_timeout=0.5)
    for report in reports:
        # A mistake may be harmless. Then the stream can end normally.
        assert "AnyTLSError" in report["error"] or report["error"][0] == "NoneType"
    # But rarely.
    assert sum("AnyTLSError" in report["error"] for report in reports) > GARBAGE * 0.8


async def silence(transport: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def noise(transport: trio.SocketStream) -> None:
    for _ in range(100):
        await transport.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 100)


async def one_byte(transport: trio.SocketStream) -> None:
    await transport.receive_some()
    for byte in b"\x16\x03\x03\x40\x00" + bytes(100):
        await transport.send_all(bytes([byte]))
        await trio.sleep(0.05)


async def rst_at_once(transport: trio.SocketStream) -> None:
    await transport.receive_some()
    reset(transport)


async def eof_at_once(transport: trio.SocketStream) -> None:
    """Do nothing: the block closes the connection."""


async def hello_without_end(transport: trio.SocketStream) -> None:
    for _ in range(1000):
        # A ServerHello of 16 MiB.
        await transport.send_all(b"\x16\x03\x03\x40\x00\x02\xff\xff\xff" + bytes(16 * KIB - 4))


@pytest.mark.parametrize("behave", [silence, noise, one_byte, rst_at_once, eof_at_once, hello_without_end])
async def test_the_tls_handshake(attack: Attack, serving: Serving, behave: Behaviour) -> None:
    async with serving(users=USERS) as good_port, listening(behave) as port:
        (report,) = await attack.lure(port, good_port, bound=BOUND, handshake_timeout=0.3)
    assert report["error"][0] == "TLSError"

"""Frames, and the payload of DATA and PADDING, show that a peer is alive. Single bytes of a control frame that is never
complete do not (protocol: 4).
"""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import trioanytls
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.frame_decoder import FrameDecoder
from trioanytls._protocol.anytls1.frames import FrameType

from ..helpers.connection_ends import AUTH, NEGO, ROLES, End, Role, end_of, server_that_heard
from ..helpers.raw_peer import PINGPONG, data

Clock = trio.testing.MockClock

#: Frames whose last byte never arrives.
INCOMPLETE = {
    "an ALERT": frames.encode_alert(b"x" * 100)[:-1],
    "the header of an ALERT": b"\x01\x00\x40",
    "an integer in its longest form": b"\xc0\x00\x00\x00\x00\x00\x00",
    "a stream id": b"\x0a\xc0\x00\x00\x00\x00\x00\x00",
    "the length of DATA": b"\x0a\x01\xc0\x00\x00\x00\x00\x00\x00",
}
EACH_ROLE = pytest.mark.parametrize("role", ROLES)


async def drip(end: End, received: bytes, pause: float) -> float:
    """Let the peer send a byte at a time as long as the connection is open. Return how long that was."""
    start = trio.current_time()
    for byte in received:
        await end.peer.send(bytes([byte]))
        await trio.sleep(pause)
        if end.connection.closed:
            break
    while not end.connection.closed:  # noqa: ASYNC110 - `wait_closed` comes later, when the transport is closed
        await trio.sleep(1)
    return trio.current_time() - start


@EACH_ROLE
@pytest.mark.parametrize("frame", INCOMPLETE.values(), ids=INCOMPLETE)
async def test_bytes_of_a_frame_that_is_never_complete_do_not_keep_a_connection_alive(
    autojump_clock: Clock, role: Role, frame: bytes
) -> None:
    async with end_of(role, trioanytls.Config(idle_timeout=40), streams=1) as end:
        # At the end of a second, so that the byte does not arrive in the pass that closes the connection.
        assert await drip(end, frame, 15) == pytest.approx(40, abs=5)
        assert end.connection.close_reason.code is trioanytls.CloseCode.IDLE_TIMEOUT


@pytest.mark.parametrize(
    ("hello", "rest"), [(b"", AUTH), (AUTH, NEGO), (AUTH + NEGO[:2], NEGO[2:])], ids=["AUTH", "NEGO", "half of NEGO"]
)
async def test_the_first_frames_are_no_exception(autojump_clock: Clock, hello: bytes, rest: bytes) -> None:
    config = trioanytls.Config(idle_timeout=40, auth_timeout=1000)
    async with server_that_heard(hello, config) as end:
        assert await drip(end, rest[:-1], 2) == pytest.approx(40, abs=3)


async def test_auth_counts_though_what_follows_is_not_complete(autojump_clock: Clock) -> None:
    async with server_that_heard(AUTH[:-1], trioanytls.Config(idle_timeout=40, auth_timeout=1000)) as end:
        await trio.sleep(30)
        await end.peer.send(AUTH[-1:] + NEGO[:3])
        await trio.sleep(39)
        assert not end.connection.closed
        await trio.sleep(2)
        assert end.connection.closed


@EACH_ROLE
@pytest.mark.parametrize("kind", ["DATA", "DATA and RST", "DATA of a closed stream", "PADDING"])
async def test_payload_that_is_passed_on_counts_as_it_comes(autojump_clock: Clock, role: Role, kind: str) -> None:
    headers = {
        "DATA": frames.data_prefix(1) + frames.encode_length(100),
        "DATA and RST": b"\x0b\x01\x40\x64",
        "DATA of a closed stream": frames.data_prefix(1) + frames.encode_length(100),
        "PADDING": b"\x05\x00\x40\x64",
    }
    async with end_of(role, trioanytls.Config(idle_timeout=40), streams=1) as end:
        if "closed" in kind:
            await end.streams[0].aclose()
        await end.peer.send(headers[kind])
        for _ in range(20):
            await trio.sleep(30)
            assert not end.connection.closed
            await end.peer.send(b"x")


@EACH_ROLE
async def test_a_control_frame_counts_when_it_is_complete(autojump_clock: Clock, role: Role) -> None:
    # Its last byte comes with the first one of the next frame, so that a byte is left each time.
    pingpongs = PINGPONG * 20
    async with end_of(role, trioanytls.Config(idle_timeout=40)) as end:
        await end.peer.send(pingpongs[:1])
        for index in range(1, len(pingpongs) - 2, 2):
            await trio.sleep(30)
            assert not end.connection.closed
            await end.peer.send(pingpongs[index : index + 2])


@EACH_ROLE
async def test_keepalive_asks_a_peer_that_sends_nothing_whole(autojump_clock: Clock, role: Role) -> None:
    config = trioanytls.Config(keepalive_interval=20, keepalive_timeout=10)
    async with end_of(role, config) as end:
        await trio.testing.wait_all_tasks_blocked()
        await end.peer.pending()
        lived = await drip(end, frames.encode_alert(b"x" * 100)[:-1], 6)
        assert lived == pytest.approx(30, abs=6)
        received = await end.peer.pending()
        assert received == [(FrameType.PINGPONG, 0, None), (FrameType.CLOSE, 0, 3)]


FRAMES = st.lists(
    st.one_of(
        st.just(PINGPONG),
        st.binary(max_size=70).map(lambda payload: data(1, payload)),
        st.integers(0, 70).map(frames.encode_padding),
        st.binary(max_size=70).map(frames.encode_alert),
        st.integers(1, 2**40).map(frames.encode_open),
    ),
    max_size=6,
).map(b"".join)


@given(FRAMES, st.data())
def test_progress_is_whatever_is_not_kept(encoded: bytes, choice: st.DataObject) -> None:
    """Feed a frame whole, byte by byte and in other pieces: a piece is progress unless all of it is kept."""
    decoder = FrameDecoder()
    while encoded:
        size = choice.draw(st.integers(1, len(encoded)))
        piece, encoded = encoded[:size], encoded[size:]
        kept = decoder.incomplete
        list(decoder.decode(piece))
        assert decoder.progressed == (decoder.incomplete != kept + piece)


def test_only_the_last_byte_of_a_control_frame_is_progress() -> None:
    decoder = FrameDecoder()
    assert not decoder.progressed
    for byte in NEGO[:-1]:
        list(decoder.decode(bytes([byte])))
        assert not decoder.progressed
    list(decoder.decode(NEGO[-1:]))
    assert decoder.progressed

"""Frames of extensions count as frames of their stream (extensions: 1)."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from ..helpers.connection_ends import ROLES, Role, extended_end
from ..helpers.extensions import ALL, extending
from ..helpers.raw_peer import PINGPONG
from ..helpers.wire_bytes import FIN_1, RESET_1, RST_1, WINDOW_1

Clock = trio.testing.MockClock

in_both_roles = pytest.mark.parametrize("role", ROLES)


@in_both_roles
@pytest.mark.parametrize("frame", [WINDOW_1, FIN_1], ids=["STREAM_WINDOW", "STREAM_FIN"])
async def test_a_frame_of_the_peer_restarts_the_idle_timer(role: Role, frame: bytes, autojump_clock: Clock) -> None:
    config = extending(ALL, stream_idle_timeout=10, idle_timeout=math.inf)
    async with extended_end(role, config, streams=1) as end:
        (stream,) = end.streams
        await trio.sleep(7)
        await end.peer.send(frame)
        await trio.sleep(7)
        assert not stream.closed
        await trio.sleep(4)
        assert stream.closed


@in_both_roles
@pytest.mark.parametrize("closing", [RST_1, RESET_1, b""], ids=["RST", "STREAM_RESET", "closed here"])
async def test_frames_of_a_closed_stream_are_dropped(role: Role, closing: bytes, autojump_clock: Clock) -> None:
    async with extended_end(role, streams=1) as end:
        if closing:
            await end.peer.send(closing)
        else:
            await end.streams[0].aclose()
        await end.peer.pending()
        await end.peer.send(WINDOW_1, FIN_1, FIN_1, WINDOW_1, RESET_1, RST_1, PINGPONG)
        # They are neither answered nor a violation.
        assert await end.peer.pending() == [(7, 0, None)]
        assert not end.connection.closed

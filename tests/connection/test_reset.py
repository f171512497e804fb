"""The reason with which one side of a copy is reset if the other one breaks, and resets of streams of any kind."""

from __future__ import annotations

import errno

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import SideBroken, StreamCode, StreamRefused, StreamReset, StreamTimeout, copy_both_ways
from trioanytls._connection.reset import reason_of
from trioanytls.testing import memory_stream_pair

from ..helpers.extensions import ALL, extending
from ..helpers.losing_stream import LosingStream


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [
        (errno.ETIMEDOUT, StreamCode.TIMED_OUT, "the connection timed out"),
        (errno.EHOSTUNREACH, StreamCode.HOST_UNREACHABLE, "the host is unreachable"),
        (errno.ENETUNREACH, StreamCode.NETWORK_UNREACHABLE, "the network is unreachable"),
        (errno.ECONNRESET, StreamCode.GENERAL_FAILURE, None),
        (errno.EPIPE, StreamCode.GENERAL_FAILURE, None),
    ],
)
async def test_the_code_tells_how_a_destination_broke(number: int, code: StreamCode, text: str | None) -> None:
    async with memory_stream_pair(client_config=extending(ALL), server_config=extending(ALL)) as (client, near):
        far, server = trio.testing.memory_stream_pair()
        lost = LosingStream(far, number)
        async with trio.open_nursery() as nursery:

            async def copy() -> None:
                with pytest.raises(SideBroken) as broken:
                    await copy_both_ways(near, lost)
                assert broken.value.side == "far"

            nursery.start_soon(copy)
            await client.send_all(b"q")
            assert await server.receive_some() == b"q"
            await server.send_all(b"half an ans")
            await trio.testing.wait_all_tasks_blocked()
            lost.lose()
            await server.send_all(b"wer")
        assert await client.receive_some() == b"half an ans"
        with pytest.raises(StreamReset) as raised:
            await client.receive_some()
        assert raised.value.code is code
        assert raised.value.reason == text


@pytest.mark.parametrize("near_resets", [False, True])
async def test_the_code_of_a_reset_is_passed_on_without_its_text(near_resets: bool) -> None:
    settings = extending(ALL)
    async with (
        memory_stream_pair(client_config=settings, server_config=settings) as (client, near),
        memory_stream_pair(client_config=settings, server_config=settings) as (far, server),
    ):
        resetting, told = (client, server) if near_resets else (server, client)
        await client.send_all(b"q")
        async with trio.open_nursery() as nursery:

            async def copy() -> None:
                with pytest.raises(SideBroken):
                    await copy_both_ways(near, far)

            nursery.start_soon(copy)
            assert await server.receive_some() == b"q"
            await resetting.reset(StreamCode.LIMIT, "host 10.0.0.7 is full")
            with pytest.raises(StreamReset) as raised:
                await told.receive_some()
        assert raised.value.code is StreamCode.LIMIT
        assert raised.value.reason is None


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (StreamTimeout("idle"), StreamCode.TIMED_OUT),
        (StreamRefused("refused", code=StreamCode.NOT_ALLOWED), StreamCode.NOT_ALLOWED),
        (StreamReset("reset"), StreamCode.GENERAL_FAILURE),
        (trioanytls.ConnectionClosed(None, "lost"), StreamCode.GENERAL_FAILURE),
        (trio.ClosedResourceError(), StreamCode.GENERAL_FAILURE),
    ],
)
def test_the_code_of_other_errors(cause: Exception, code: StreamCode) -> None:
    error = SideBroken("far", cause)
    error.__cause__ = cause
    assert reason_of(error).code is code


def test_an_error_that_is_no_broken_side_has_the_general_code() -> None:
    error = ValueError("a mistake of a callback")
    error.__cause__ = StreamReset("reset", code=StreamCode.LIMIT)
    assert reason_of(error).code is StreamCode.GENERAL_FAILURE

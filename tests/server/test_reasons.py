"""Why a server refuses and resets streams, as its clients are told (extensions: 4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import CloseCode, Config, StreamCode
from trioanytls._protocol import data_blocks
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.frames import FrameType
from trioanytls._protocol.extensions import EXTENSIONS
from trioanytls.testing import StreamQueue

from ..helpers.raw_peer import AUTH, SCHEME
from ..helpers.server_harness import Start, eventually

Clock = trio.testing.MockClock
Handler = Callable[[trioanytls.Stream], Awaitable[object]]

HELLO_RESET = AUTH + frames.encode_client_nego(
    data_blocks.format_key_values({"v": ["1"], "client": ["raw/1"], "padding-md5": [SCHEME.digest], "ext": ["reset"]})
)
WITHOUT_RESET = frozenset(EXTENSIONS) - {"reset"}


@pytest.mark.parametrize(
    ("limit", "reason"),
    [("max_streams", "too many streams are open"), ("max_stream_rate", "too many streams were opened")],
)
@pytest.mark.parametrize("has_reset", [True, False])
async def test_a_stream_beyond_a_limit(
    start: Start, mock_clock: Clock, limit: str, reason: str, has_reset: bool
) -> None:
    server_config = Config(**dict[str, Any]({limit: 2}), extensions=EXTENSIONS)
    client_config = Config(extensions=frozenset(EXTENSIONS) if has_reset else WITHOUT_RESET)
    async with (
        start(StreamQueue(), config=server_config) as server,
        server.connect(config=client_config) as connection,
    ):
        held = [await connection.open_stream() for _ in range(2)]
        refused = await connection.open_stream()
        with pytest.raises(trioanytls.StreamRefused) as caught:
            await refused.wait_acknowledged()
        assert caught.value.code is (StreamCode.LIMIT if has_reset else StreamCode.NOT_GIVEN)
        assert caught.value.reason == (reason if has_reset else None)
        # It may open it again itself, but the server has not said that.
        assert not caught.value.retryable
        assert not any(stream.closed for stream in held)


async def test_a_refusal_comes_after_nego(start: Start) -> None:
    """The client sends its NEGO and opens streams in one write. Extensions are in force after the answer."""
    async with start(StreamQueue(), config=Config(max_streams=1, extensions=EXTENSIONS)) as server:
        peer = await server.raw(HELLO_RESET + frames.encode_open(1) + frames.encode_open(2))
        peer._decoder.extension_frames = frozenset({FrameType.STREAM_RESET})
        received = [frame[0] for frame in await peer.pending()]
        assert sorted(received) == [FrameType.SERVER_NEGO, FrameType.STREAM_ACK, FrameType.STREAM_RESET]
        assert received[0] == FrameType.SERVER_NEGO


async def fails(stream: trioanytls.Stream) -> None:
    await stream.receive_some()
    raise ZeroDivisionError("a secret of the server")


async def fails_halfway(stream: trioanytls.Stream) -> None:
    await stream.send_all(b"the first half")
    await fails(stream)


@pytest.mark.parametrize("extensions", [EXTENSIONS, WITHOUT_RESET, ()], ids=["all", "without reset", "none"])
async def test_a_handler_that_fails_before_it_has_accepted_the_stream(start: Start, extensions: Any) -> None:
    config = Config(acknowledge="manual", extensions=extensions)
    async with (
        start(fails, config=config) as server,
        server.connect(config=Config(extensions=extensions)) as connection,
        await connection.open_stream() as stream,
    ):
        await stream.send_all(b"x")
        with pytest.raises(trioanytls.StreamRefused) as caught:
            await stream.receive_some()
        assert caught.value.code is (StreamCode.INTERNAL_ERROR if "reset" in extensions else StreamCode.NOT_GIVEN)
        # The client is told no more than the code.
        assert caught.value.reason is None
        assert "secret" not in str(caught.value)
        assert server.stats.handlers_failed == 1


async def loses_its_destination(stream: trioanytls.Stream) -> None:
    await stream.send_all(b"the first half")
    await stream.receive_some()
    raise trio.BrokenResourceError("the destination is gone")


async def test_a_handler_that_lets_the_error_of_another_connection_pass(start: Start) -> None:
    async with (
        start(loses_its_destination, config=Config(extensions=EXTENSIONS)) as server,
        server.connect(config=Config(extensions=EXTENSIONS)) as connection,
        await connection.open_stream() as stream,
    ):
        assert await stream.receive_some() == b"the first half"
        await stream.send_all(b"x")
        with pytest.raises(trioanytls.StreamReset) as caught:
            await stream.receive_some()
        assert caught.value.code is StreamCode.GENERAL_FAILURE


@pytest.mark.parametrize("extensions", [EXTENSIONS, WITHOUT_RESET], ids=["all", "without reset"])
async def test_a_handler_that_fails_halfway(start: Start, extensions: Any) -> None:
    config = Config(extensions=extensions)
    async with (
        start(fails_halfway, config=config) as server,
        server.connect(config=config) as connection,
        await connection.open_stream() as stream,
    ):
        assert await stream.receive_some() == b"the first half"
        await stream.send_all(b"x")
        # Data that was cut off does not look complete.
        with pytest.raises(trioanytls.StreamReset) as caught:
            await stream.receive_some()
        assert caught.value.code is (StreamCode.INTERNAL_ERROR if "reset" in extensions else StreamCode.NOT_GIVEN)
        assert caught.value.reason is None


async def test_without_extensions_a_handler_that_fails_looks_like_one_that_returns(start: Start) -> None:
    config = Config(extensions=())
    async with (
        start(fails_halfway, config=config) as server,
        server.connect(config=config) as connection,
        await connection.open_stream() as stream,
    ):
        assert await stream.receive_some() == b"the first half"
        await stream.send_all(b"x")
        assert await stream.receive_some() == b""


async def test_a_handler_that_refuses_with_a_reason(start: Start) -> None:
    async def handler(stream: trioanytls.Stream) -> None:
        await stream.refuse(StreamCode.NOT_SUPPORTED, "no UDP here")

    config = Config(acknowledge="manual", extensions=EXTENSIONS)
    async with (
        start(handler, config=config) as server,
        server.connect(config=Config(extensions=EXTENSIONS)) as connection,
        await connection.open_stream() as stream,
    ):
        with pytest.raises(trioanytls.StreamRefused, match="no UDP here") as caught:
            await stream.receive_some()
        assert (caught.value.code, caught.value.reason) == (StreamCode.NOT_SUPPORTED, "no UDP here")
        await eventually(lambda: server.stats.streams == 0)
        assert server.stats.handlers_failed == 0


async def test_a_stream_that_is_idle_for_too_long(start: Start, mock_clock: Clock) -> None:
    config = Config(stream_idle_timeout=20, extensions=EXTENSIONS)
    async with (
        start(StreamQueue(), config=config) as server,
        server.connect(config=Config(extensions=EXTENSIONS)) as connection,
        await connection.open_stream() as stream,
    ):
        await stream.wait_acknowledged()
        mock_clock.jump(21)
        with pytest.raises(trioanytls.StreamReset) as caught:
            await stream.receive_some()
        assert caught.value.code is StreamCode.IDLE
        assert server.stats.streams_timed_out == {"IDLE": 1}


async def test_a_handler_that_the_drain_timeout_cancels(start: Start) -> None:
    async def handler(stream: trioanytls.Stream) -> None:
        await stream.send_all(b"the first half")
        await trio.sleep_forever()

    config = Config(extensions=EXTENSIONS)
    async with (
        start(handler, config=config) as server,
        server.connect(config=config) as connection,
        await connection.open_stream() as stream,
    ):
        assert await stream.receive_some() == b"the first half"
        await server.control.drain(0.05)
        # The end of the connection, rather than that of the stream.
        with pytest.raises(trioanytls.ConnectionClosed) as caught:
            await stream.receive_some()
        assert caught.value.code is CloseCode.SHUTTING_DOWN
        assert server.stats.handlers_failed == 0

"""The program on half-close in the manual."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls.testing import memory_connection_pair

EXAMPLE = Path(__file__).parent.parent.parent / "docs" / "examples" / "half_close.py"
#: More than the window of a stream, and not a multiple of the size of a piece.
PIECES = [bytes([number]) * 30_001 for number in range(10)]


def load_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("half_close", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def whole_upload() -> AsyncIterator[bytes]:
    for piece in PIECES:
        yield piece


async def failing_upload() -> AsyncIterator[bytes]:
    yield PIECES[0]
    raise OSError("the disk is gone")


@pytest.mark.default_extensions
async def test_the_answer_is_the_digest_of_the_whole_upload() -> None:
    example = load_example()
    async with memory_connection_pair(example.handle) as (client, _), await client.open_stream() as stream:
        assert await example.ask(stream, whole_upload()) == hashlib.sha256(b"".join(PIECES)).digest()


@pytest.mark.default_extensions
async def test_an_upload_that_fails_gets_no_answer(autojump_clock: trio.testing.MockClock) -> None:
    example = load_example()
    errors: list[BaseException] = []

    async def handle(stream: trioanytls.Stream) -> None:
        try:
            await example.handle(stream)
        except trioanytls.StreamReset as error:
            errors.append(error)
            raise

    async with memory_connection_pair(handle) as (client, _):
        async with await client.open_stream() as stream:
            # A stream that is reset before its handler starts has none.
            await stream.wait_acknowledged()
            with pytest.raises(OSError, match=r"^the disk is gone$"):
                await example.ask(stream, failing_upload())
        await trio.sleep(1)
    assert [type(error) for error in errors] == [trioanytls.StreamReset]


async def test_without_half_close_there_is_an_error() -> None:
    example, config = load_example(), trioanytls.Config(extensions=())
    pair = memory_connection_pair(example.handle, server_config=config)
    async with pair as (client, _), await client.open_stream() as stream:
        with pytest.raises(trioanytls.NotSupported):
            await example.ask(stream, whole_upload())

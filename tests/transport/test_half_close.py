"""Ending one direction of a transport."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from trioanytls import NotSupported
from trioanytls._transport.half_close import send_eof


class Whole(trio.abc.Stream):
    """A stream that ends in both directions only."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        raise NotImplementedError

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


class WithPeerThatCannot(Whole):
    """A stream whose peer does not support half-close."""

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        raise NotSupported("the peer does not support half-close")


async def test_a_half_closeable_stream_is_ended_in_one_direction() -> None:
    near, far = trio.testing.memory_stream_pair()
    assert await send_eof(near)
    assert await far.receive_some() == b""
    await far.send_all(b"x")
    assert await near.receive_some() == b"x"


@pytest.mark.parametrize("kind", [Whole, WithPeerThatCannot])
async def test_another_stream_stays_as_it_was(kind: type[Whole]) -> None:
    assert not await send_eof(kind())


async def test_errors_of_the_stream_are_raised() -> None:
    with pytest.raises(trio.ClosedResourceError):
        await send_eof(Closed())


class Closed(Whole):
    """A stream that was closed on this side."""

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        raise trio.ClosedResourceError

"""A stream that the system gives up, for tests of errors that loopback does not have."""

from __future__ import annotations

import os

import trio


class LosingStream(trio.abc.HalfCloseableStream):
    """A stream that is lost, by the error of the system with this number, at the next data after `lose`."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, number: int) -> None:
        self._stream = stream
        self._error = OSError(number, os.strerror(number))
        self._lost = False

    def lose(self) -> None:
        self._lost = True

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        if self._lost:
            # As `trio.SocketStream` raises it.
            raise trio.BrokenResourceError(f"socket connection broken: {self._error}") from self._error
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

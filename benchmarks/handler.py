"""The server's side of every measurement, and the commands of the client.

A client sends one command after another on a stream. A header has nine bytes: the command and a count. The server
answers `READY` at once. A command that transfers bytes ends with `DONE` from the server after all of them have arrived.
The client does not pipeline, so a read never reaches into the next command.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import struct
from pathlib import Path

import trio

READY = b"+"
DONE = b"="

HELLO = b"H"
"""Send `READY`, nothing else."""

SINK = b"S"
"""Read ``count`` bytes, then send `DONE`."""

ECHO = b"E"
"""Send back the next ``count`` bytes, each as soon as it arrives."""

DUPLEX = b"D"
"""Read ``count`` bytes. From the first byte on, send the same number at the same time, then `DONE`."""

SOURCE = b"G"
"""Send ``count`` bytes."""

MEMORY = b"M"
"""Send the resident size of the server's process, eight bytes."""

_HEADER = struct.Struct("!cQ")
_SIZE = struct.Struct("!Q")
_BLOCK = bytes(65536)
_LARGE_BLOCK = memoryview(bytes(1024 * 1024))
_EVER = 1 << 62


def resident_bytes() -> int:
    """Return the resident size of this process, after collecting garbage and returning free pages to the system.

    Resident size is the cost for an operator, of C as of Python. The difference of two readings is the cost of the
    objects made in between, if these are thousands. It includes the slack of the allocator, as the cost does.
    """
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def receive_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    """Read `size` bytes, or fewer at the end of the stream."""
    data = bytes(await stream.receive_some(size))
    while 0 < len(data) < size:
        more = await stream.receive_some(size - len(data))
        if not more:
            break
        data += more
    return data


async def command(stream: trio.abc.Stream, word: bytes, count: int = _EVER) -> None:
    """Send a command and wait until the server is ready for it. For the client."""
    await stream.send_all(_HEADER.pack(word, count))
    await expect(stream, READY)


async def expect(stream: trio.abc.Stream, answer: bytes) -> None:
    """Wait for the one byte that must come next. For the client."""
    received = await stream.receive_some(1)
    if received != answer:
        raise RuntimeError(f"expected {answer!r} and received {bytes(received)!r}")


async def server_memory(stream: trio.abc.Stream) -> int:
    """Return the resident size of the server's process. For the client."""
    await command(stream, MEMORY)
    return int(_SIZE.unpack(await receive_exactly(stream, _SIZE.size))[0])


async def swallow(stream: trio.abc.ReceiveStream, count: int, *, exactly: bool = False) -> None:
    """Read `count` bytes and discard them. If more may come after them, read `exactly` so many."""
    while count > 0:
        data = await stream.receive_some(min(count, len(_BLOCK)) if exactly else None)
        if not data:
            return
        count -= len(data)


async def _duplex(stream: trio.abc.Stream, count: int) -> None:
    first = await stream.receive_some()  # the client starts to read when it starts to write, not before
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swallow, stream, count - len(first))
        for start in range(0, count, len(_BLOCK)):
            await stream.send_all(_BLOCK[: count - start])


async def _serve(stream: trio.abc.Stream) -> None:
    # An incomplete header is an end too: the client closed the stream while sending it.
    while len(header := await receive_exactly(stream, _HEADER.size)) == _HEADER.size:
        word, count = _HEADER.unpack(header)
        await stream.send_all(READY)
        if word == SINK:
            await swallow(stream, count)
            await stream.send_all(DONE)
        elif word == ECHO:
            while count > 0 and (data := await stream.receive_some()):
                await stream.send_all(data)
                count -= len(data)
        elif word == DUPLEX:
            await _duplex(stream, count)
            await stream.send_all(DONE)
        elif word == SOURCE:
            for start in range(0, count, len(_LARGE_BLOCK)):
                await stream.send_all(_LARGE_BLOCK[: count - start])
        elif word == MEMORY:
            await stream.send_all(_SIZE.pack(resident_bytes()))


async def handle(stream: trio.abc.Stream) -> None:
    """Serve one stream until the client closes it."""
    try:
        await _serve(stream)
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        pass

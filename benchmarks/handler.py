"""The server's side of every measurement, and the few words that the client says to it.

A client asks for one thing after another on a stream. It sends a header of nine bytes, a command and a count, and the
server says `READY` at once; what follows is the command's business, and a command that moves bytes ends with one
`DONE` from the server when all of them have arrived. Nothing is sent ahead, so a read never reaches into the next
command.
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
"""Say `READY`, nothing else."""

SINK = b"S"
"""Read ``count`` bytes, then say `DONE`."""

ECHO = b"E"
"""Send back the ``count`` bytes which are coming, each as soon as it is there."""

DUPLEX = b"D"
"""Read ``count`` bytes and, from the first of them on, send as many at the same time, `DONE` after them."""

MEMORY = b"M"
"""Send the resident size of the server's process, eight bytes."""

_HEADER = struct.Struct("!cQ")
_SIZE = struct.Struct("!Q")
_BLOCK = bytes(65536)
_EVER = 1 << 62


def resident_bytes() -> int:
    """The resident size of this process, when garbage has been collected and free pages have been given back.

    Resident size is what an operator pays for, in C as in Python; a difference of two readings tells what lies between
    them, as long as that is thousands of things. The allocator's slack is in it, and rightly.
    """
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def receive_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    """Read `size` bytes; fewer only at the end of the stream."""
    data = bytes(await stream.receive_some(size))
    while 0 < len(data) < size:
        more = await stream.receive_some(size - len(data))
        if not more:
            break
        data += more
    return data


async def command(stream: trio.abc.Stream, word: bytes, count: int = _EVER) -> None:
    """The client's: give a command and wait until the server is ready for it."""
    await stream.send_all(_HEADER.pack(word, count))
    await expect(stream, READY)


async def expect(stream: trio.abc.Stream, answer: bytes) -> None:
    """The client's: wait for the one byte that has to come now."""
    received = await stream.receive_some(1)
    if received != answer:
        raise RuntimeError(f"expected {answer!r} and received {bytes(received)!r}")


async def server_memory(stream: trio.abc.Stream) -> int:
    """The client's: ask for the resident size of the server's process."""
    await command(stream, MEMORY)
    return int(_SIZE.unpack(await receive_exactly(stream, _SIZE.size))[0])


async def swallow(stream: trio.abc.ReceiveStream, count: int, *, exactly: bool = False) -> None:
    """Read `count` bytes and forget them; `exactly` where something may come behind them."""
    while count > 0:
        data = await stream.receive_some(min(count, len(_BLOCK)) if exactly else None)
        if not data:
            return
        count -= len(data)


async def _duplex(stream: trio.abc.Stream, count: int) -> None:
    first = await stream.receive_some()  # the client reads as soon as it writes, not before
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swallow, stream, count - len(first))
        for start in range(0, count, len(_BLOCK)):
            await stream.send_all(_BLOCK[: count - start])


async def _serve(stream: trio.abc.Stream) -> None:
    # A piece of a header is an end as well: the client has left while it was sending.
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
        elif word == MEMORY:
            await stream.send_all(_SIZE.pack(resident_bytes()))


async def handle(stream: trio.abc.Stream) -> None:
    """Serve one stream until the client is done with it."""
    try:
        await _serve(stream)
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        pass

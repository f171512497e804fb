"""A special host for measuring the link to the relay, without another server.

The name is one that no resolver has (RFC 6761, section 6.4). The port selects the service, by the port numbers of the
classic small services. The destination is followed by a count of 8 bytes.
"""

from __future__ import annotations

from typing import Final

import trio

from trioanytls import Stream, StreamCode
from trioanytls.destination import Destination

#: The name.
HOST: Final = "speed.trioanytls.invalid"
#: The ports: send all data back (RFC 862); read `count` bytes, then send one (RFC 863); send `count` bytes (RFC 864).
ECHO: Final = 7
DISCARD: Final = 9
GENERATE: Final = 19

COUNT_SIZE: Final = 8
# The most data of a frame of the wire format "legacy", which would send a larger block as two frames.
_BLOCK: Final = bytes(65535)
# A measurement must not occupy a relay for long; in seconds.
_TIMEOUT: Final = 60.0


async def serve(stream: Stream, destination: Destination) -> None:
    """Serve one stream; see `RelayHandler.special_hosts`."""
    work = {ECHO: _echo, DISCARD: _discard, GENERATE: _generate}.get(destination.port)
    if work is None:
        await stream.refuse(StreamCode.NOT_SUPPORTED)
        return
    await stream.acknowledge()
    with trio.move_on_after(_TIMEOUT):
        count = b""
        while len(count) < COUNT_SIZE:
            data = await stream.receive_some(COUNT_SIZE - len(count))
            if not data:
                return
            count += data
        await work(stream, int.from_bytes(count))


async def _echo(stream: Stream, _count: int) -> None:
    async for data in stream:
        await stream.send_all(data)


async def _discard(stream: Stream, count: int) -> None:
    while count > 0:
        data = await stream.receive_some()
        if not data:
            return
        count -= len(data)
    await stream.send_all(b"\0")


async def _generate(stream: Stream, count: int) -> None:
    while count > 0:
        await stream.send_all(_BLOCK[:count])
        count -= len(_BLOCK)

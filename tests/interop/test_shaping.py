"""A server's padding scheme is used by the other program's client, as the sizes of TLS records show."""

from __future__ import annotations

import pytest
import trio

from trioanytls.destination import Destination

from ..conftest import HOST
from ._applications import connect, exactly
from ._destinations import echoing
from ._ends import PAIRS, Files
from ._records import observing

SCHEME = [
    "stop=7",
    "0=50-50",
    "1=300-310",
    "2=210-220",
    "3=40-50,620-630",
    "4=410-420,c,510-520",
    "5=60-70,c,800-810",
    "6=700-710",
]
#: Each question is one PSH of 107 bytes.
QUESTION = bytes(100)
#: The records of a connection that begins with the scheme and sends seven questions: the least and the greatest size of
#: each, in bytes. The upper end of a range of the scheme is excluded.
RECORDS = [
    # Packet 0, the preamble: hash, length, 50 bytes.
    (84, 84),
    # Packet 1, Settings, SYN and the address, which are shorter.
    (300, 309),
    (210, 219),
    # Packet 3: its beginning; its rest, with padding.
    (40, 49),
    (620, 629),
    # Packet 4: the mark ends it.
    (410, 419),
    # Packet 5: its beginning; its rest, which the mark does not stop.
    (60, 69),
    (800, 809),
    (700, 709),
    # From `stop` on, a frame is a record.
    (107, 107),
    (107, 107),
]


def within(sizes: list[int], ranges: list[tuple[int, int]]) -> bool:
    """Return whether each size is in its range."""
    if len(sizes) != len(ranges):
        return False
    return all(low <= size <= high for size, (low, high) in zip(sizes, ranges, strict=True))


async def ask(stream: trio.SocketStream, times: int) -> None:
    """Send questions, each after the answer to the one before."""
    with trio.fail_after(30):
        for _ in range(times):
            await stream.send_all(QUESTION)
            assert await exactly(stream, len(QUESTION)) == QUESTION


# The command of the client opens its first connection before there is a stream, to check the password.
@pytest.mark.parametrize("name", [name for name in PAIRS if not name.startswith("our client command")])
async def test_a_scheme_of_the_server_is_used_at_once(name: str, files: Files) -> None:
    pair = PAIRS[name]
    async with (
        pair.server(files, 0, padding_scheme=SCHEME) as server,
        observing(server) as observer,
        pair.client(files, observer.port) as socks,
        echoing() as port,
    ):
        destination = Destination(HOST, port)
        async with await connect(socks, destination) as first, await connect(socks, destination) as second:
            # Packets 0 and 1, at least, are shaped with the built-in scheme: the first answer brings the server's.
            await ask(first, 1)
            running = observer.connections[0]
            before = len(running)
            # Packets 3 to 5.
            await ask(first, 3)
            assert within(running[before:], RECORDS[3:8]), running
            # The client has the scheme now, so that a new connection uses it from its first byte on.
            async with await connect(socks, destination) as third:
                await ask(third, 7)
            assert within(observer.connections[-1][: len(RECORDS)], RECORDS), observer.connections[-1]
            await ask(second, 1)


@pytest.mark.parametrize("name", PAIRS)
async def test_the_longest_padding_of_the_preamble(name: str, files: Files) -> None:
    """1,152 bytes: Go cuts the first record of a connection at 1,186 bytes, and its servers read one record."""
    pair = PAIRS[name]
    async with (
        pair.server(files, 0, padding_scheme=["stop=1", "0=1152-1152"]) as server,
        observing(server) as observer,
        pair.client(files, observer.port) as socks,
        echoing() as port,
    ):
        destination = Destination(HOST, port)
        async with await connect(socks, destination) as first:
            await ask(first, 1)
            # The first connection is in use, so that this makes another one.
            async with await connect(socks, destination) as second:
                await ask(second, 1)
        assert observer.connections[-1][0] == 1186

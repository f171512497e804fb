"""All pairs are silent for 100 seconds, and then work: `python -m tests.interop.idle`.

It is a program of its own, so that it waits while other tests run. It ends with an error as soon as a pair fails.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import trio
import trustme

from trioanytls.destination import Destination

from ..conftest import HOST
from ._applications import connect, exactly
from ._destinations import ask_number, echoing, serving_numbers
from ._ends import PAIRS, Files, Pair, running

#: The time without traffic, in seconds: longer than the idle timeouts of either client's pool.
SILENCE = 100
#: The time for all of it, in seconds.
TIMEOUT = 3 * SILENCE


async def be_silent(name: str, pair: Pair, files: Files) -> None:
    """Use a pair, wait, and use it again: a connection that stays open, and new ones."""
    async with echoing() as echo, serving_numbers() as numbers, running(pair, files) as ends:
        await ask_number(ends.socks, numbers, 1)
        async with await connect(ends.socks, Destination(HOST, echo)) as stream:
            await stream.send_all(b"before")
            assert await exactly(stream, 6) == b"before"
            await trio.sleep(SILENCE)
            await ask_number(ends.socks, numbers, 2)
            await stream.send_all(b"after")
            assert await exactly(stream, 5) == b"after"
    print(f"{name}: works after {SILENCE} s of silence", flush=True)


async def main() -> None:
    """Run all pairs at once."""
    authority = trustme.CA()
    with tempfile.TemporaryDirectory() as root, trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            for index, (name, pair) in enumerate(PAIRS.items()):
                directory = Path(root) / str(index)
                directory.mkdir()
                nursery.start_soon(be_silent, name, pair, Files.make(directory, authority))


if __name__ == "__main__":
    trio.run(main)

"""Compare the record sizes of our client with those of sing-box: `python -m tests.interop.record_sizes`.

Both clients make the same requests to the same server, each in a connection of its own. A proxy reads the sizes of the
TLS records that they send. For each of the first records, the two distributions are compared by the test of Kolmogorov
and Smirnov: a small p means that an observer could tell the clients apart by this size.

The times between the records are another matter, and not compared: Go and Python do not take equally long. Neither are
the ends of connections: the destinations close first here. An application that closes first makes sing-box send FIN at
once; our relay cannot know then that the application will not read, and sends FIN when the destination has ended too.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Protocol

import trio
import trustme
from attrs import frozen

from trioanytls.destination import Destination

from ..conftest import HOST
from ._applications import connect, exactly
from ._ends import Files, our_client, our_server, sing_box_client
from ._kolmogorov_smirnov import p_value
from ._records import Observer, observing

#: How many of a connection's first records are compared.
RECORDS = 10
SESSIONS = 300
#: Below it, the clients are told apart.
LEAST_P = 0.01
#: How many connections are open at once. The client of either kind then cannot reuse one.
_AT_ONCE = 25
_LENGTH = 4


class RunClient(Protocol):
    """Run a client of the server on a port. Yield its own port, for SOCKS5."""

    def __call__(self, files: Files, server: int) -> AbstractAsyncContextManager[int]: ...


#: The clients by name.
CLIENTS: dict[str, RunClient] = {"trioanytls": our_client, "sing-box": sing_box_client}


@frozen
class Session:
    """The traffic of one application: the sizes of its requests, and of the answers.

    Attributes:
      exchanges: the size of each request and of its answer, in bytes.
    """

    exchanges: Sequence[tuple[int, int]]


def draw_sessions(count: int, seed: int) -> list[Session]:
    """Draw the traffic of sessions that are like those of HTTPS.

    The first message is a ClientHello, some more follow, the last of which may be long.
    """
    draw = random.Random(seed)

    def one() -> Session:
        exchanges = [(draw.randint(200, 700), draw.randint(1000, 4000))]
        exchanges += [(draw.randint(60, 900), draw.randint(100, 3000)) for _ in range(draw.randint(1, 6))]
        if draw.random() < 0.2:
            exchanges.append((draw.randint(2000, 12_000), 500))
        return Session(exchanges)

    return [one() for _ in range(count)]


async def _answer(stream: trio.SocketStream) -> None:
    """Answer requests, which begin with their size and that of the answer. Close after a request of size 0."""
    async with stream:
        while True:
            head = await exactly(stream, 2 * _LENGTH)
            size, answer = int.from_bytes(head[:_LENGTH], "big"), int.from_bytes(head[_LENGTH:], "big")
            if not size:
                return
            await exactly(stream, size - len(head))
            await stream.send_all(bytes(answer))


async def _run_session(stream: trio.SocketStream, session: Session) -> None:
    for size, answer in session.exchanges:
        head = size.to_bytes(_LENGTH, "big") + answer.to_bytes(_LENGTH, "big")
        await stream.send_all(head + bytes(size - len(head)))
        await exactly(stream, answer)


async def _run_batch(socks: int, port: int, observer: Observer, sessions: Sequence[Session]) -> None:
    """Run sessions at once, so that each is a connection of its own, and then cut all connections."""
    destination = Destination(HOST, port)
    streams: list[trio.SocketStream] = []

    async def run(session: Session) -> None:
        stream = await connect(socks, destination)
        streams.append(stream)
        await _run_session(stream, session)

    async with trio.open_nursery() as nursery:
        for session in sessions:
            nursery.start_soon(run, session)
    # By now, all have connections, and none has ended.
    for stream in streams:
        async with stream:
            await stream.send_all(bytes(2 * _LENGTH))
            while await stream.receive_some():
                pass
    await observer.cut()


async def measure(run_client: RunClient, files: Files, server: int, sessions: Sequence[Session]) -> list[list[int]]:
    """Return the sizes of the records of each connection."""
    async with (
        observing(server) as observer,
        run_client(files, observer.port) as socks,
        trio.open_nursery() as nursery,
    ):
        listeners = await nursery.start(partial(trio.serve_tcp, _answer, 0, host=HOST))
        port = listeners[0].socket.getsockname()[1]
        for start in range(0, len(sessions), _AT_ONCE):
            await _run_batch(socks, port, observer, sessions[start : start + _AT_ONCE])
        nursery.cancel_scope.cancel()
    return observer.connections


@frozen
class Row:
    """The comparison of one record.

    Attributes:
      samples: the sizes of the records of each client.
      p: the probability of such a difference if there is none.
    """

    samples: tuple[list[int], list[int]]
    p: float


def compare(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> list[Row]:
    """Compare the first records of the connections of two clients, by their index."""
    rows = []
    for index in range(RECORDS):
        one, other = ([sizes[index] for sizes in each if len(sizes) > index] for each in (ours, theirs))
        rows.append(Row((one, other), p_value(one, other)))
    return rows


async def run(count: int, seed: int) -> list[Row]:
    """Measure both clients with these sessions, and compare them."""
    sessions = draw_sessions(count, seed)
    with tempfile.TemporaryDirectory() as directory:
        files = Files.make(Path(directory), trustme.CA())
        async with our_server(files, 0) as server:
            ours, theirs = [await measure(run_client, files, server, sessions) for run_client in CLIENTS.values()]
    assert len(ours) == len(theirs) == count, (len(ours), len(theirs))
    return compare(ours, theirs)


def _describe(sample: list[int]) -> str:
    ordered = sorted(sample)
    quarters = [ordered[(len(ordered) - 1) * k // 4] for k in range(5)]
    return f"{len(ordered):5d}" + "".join(f"{value:6d}" for value in quarters)


def format_table(rows: Sequence[Row]) -> str:
    """Return the table: for each record, number, quartiles of both clients, and p."""
    names = "".join(f"   {name:<35}" for name in CLIENTS)
    columns = "    " + 2 * "      n   min   25%   50%   75%   max   " + "p"
    lines = [f"{'':6}{names}".rstrip(), columns]
    for index, row in enumerate(rows):
        samples = "   ".join(_describe(sample) for sample in row.samples)
        lines.append(f"{index:4d}  {samples}   {row.p:.3f}")
    return "\n".join(lines)


def main() -> int:
    """Print the table. Return 1 if a record tells the clients apart."""
    parser = argparse.ArgumentParser(description="Compare the record sizes of both clients.")
    parser.add_argument("--sessions", type=int, default=SESSIONS, help="connections of each client")
    parser.add_argument("--seed", type=int, default=1, help="of the traffic")
    arguments = parser.parse_args()
    rows = trio.run(run, arguments.sessions, arguments.seed)
    print(format_table(rows))
    print("sizes only: the times between records are another matter, and not compared")
    least = min(row.p for row in rows)
    print(f"least p: {least:.3f}; the clients are {'not ' if least > LEAST_P else ''}told apart at {LEAST_P}")
    return int(least <= LEAST_P)


if __name__ == "__main__":
    sys.exit(main())

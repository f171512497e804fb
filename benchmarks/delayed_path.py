"""Measure streams over a path with a delay and a rate, with and without the extensions of the protocol.

    python -m benchmarks.delayed_path [--delay SECONDS] [--rate BYTES] [--seconds N] [--streams N] [--netem] [--json]

Client and server are two processes on loopback, over TLS 1.3. A proxy in a third process delays each direction by
SECONDS (0.05) and limits it to BYTES per second (25e6). With --netem, `tc netem` does so, in a network namespace: this
needs root, and a kernel with sch_netem.

One stream transfers as many bytes as the path can in N seconds (10), in each direction. Then N streams (16) transfer
for as long, and the output has the smallest and the largest share, as multiples of the mean.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path as FilePath

import trio
from attrs import asdict, define, evolve, frozen
from rich.console import Console
from rich.table import Table

import trioanytls
from tests.helpers.delayed_path import Path, delaying_proxy

from .environment import make_credentials
from .handler import DONE, SINK, SOURCE, command, expect, swallow
from .peer import HOST, SERVER_NAME, Credentials
from .peers.trioanytls_peer import CONFIG, PASSWORD

PIECE = bytes(64 * 1024)
EVER = 1 << 62
#: How much longer than the path needs a transfer may take.
PATIENCE = 20


@frozen
class Settings:
    """The settings of a run, see the module."""

    delay: float = 0.05
    rate: float = 25e6
    seconds: float = 10.0
    streams: int = 16
    direct: bool = False

    @property
    def path(self) -> Path:
        """The path through the proxy."""
        return Path(self.delay, self.rate)


@define
class Figures:
    """The figures of one direction.

    Attributes:
      extensions: whether the client offers extensions.
      rate: the rate of one stream, from its start, in bytes per second.
      total: the rate of all streams together.
      least, most: the smallest and the largest share of these, as multiples of the mean.
    """

    direction: str
    extensions: bool
    rate: float
    total: float
    least: float
    most: float


async def transfer(stream: trio.abc.Stream, upload: bool, size: int) -> None:
    """Transfer this many bytes. Return when the receiver has them."""
    await command(stream, SINK if upload else SOURCE, size)
    if not upload:
        await swallow(stream, size, exactly=True)
        return
    for start in range(0, size, len(PIECE)):
        await stream.send_all(PIECE[: size - start])
    await expect(stream, DONE)


async def rate_of_one(connection: trioanytls.Connection, upload: bool, settings: Settings) -> float:
    """Return the rate of one stream, in bytes per second."""
    async with await connection.open_stream() as stream:
        size, begun = round(settings.rate * settings.seconds), trio.current_time()
        await transfer(stream, upload, size)
        return size / (trio.current_time() - begun)


async def shares(connection: trioanytls.Connection, upload: bool, settings: Settings) -> list[int]:
    """Return how many bytes each of several streams transfers in the same time."""
    counts = [0] * settings.streams

    async def use(number: int, stream: trioanytls.Stream) -> None:
        await command(stream, SINK if upload else SOURCE, EVER)
        while True:
            if upload:
                await stream.send_all(PIECE)
                counts[number] += len(PIECE)
            else:
                counts[number] += len(await stream.receive_some())

    streams = [await connection.open_stream() for _ in counts]
    with trio.move_on_after(settings.seconds):
        async with trio.open_nursery() as nursery:
            for number, stream in enumerate(streams):
                nursery.start_soon(use, number, stream)
    return counts


async def measure(port: int, credentials: Credentials, settings: Settings) -> list[Figures]:
    """Measure both directions, with and without extensions, each on new connections."""
    figures = []
    for upload in (False, True):
        for extensions in (False, True):
            config = CONFIG if extensions else evolve(CONFIG, extensions=())
            connect = partial(
                trioanytls.open_connection,
                HOST,
                port,
                password=PASSWORD,
                ssl_context=credentials.client_context(),
                server_hostname=SERVER_NAME,
                config=config,
            )
            async with connect() as connection:
                rate = await rate_of_one(connection, upload, settings)
            async with connect() as connection:
                counts = await shares(connection, upload, settings)
            mean = sum(counts) / len(counts)
            direction = "upload" if upload else "download"
            total = sum(counts) / settings.seconds
            figures.append(Figures(direction, extensions, rate, total, min(counts) / mean, max(counts) / mean))
    return figures


@contextlib.asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[int]:
    """Run a module of this package that prints its port, and ends with its standard input. Yield the port."""
    run = partial(
        trio.run_process,
        [sys.executable, "-m", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=FilePath(__file__).parent.parent,
    )
    async with trio.open_nursery() as nursery:
        started = await nursery.start(run)
        line = b""
        with trio.fail_after(PATIENCE):
            while not line.endswith(b"\n"):
                data = await started.stdout.receive_some()
                if not data:
                    raise RuntimeError(f"{arguments[0]} has exited")
                line += data
        yield json.loads(line)["port"]
        await started.stdin.aclose()
        await started.stdout.aclose()


async def run(settings: Settings) -> list[Figures]:
    """Start the processes and measure."""
    async with contextlib.AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        credentials = make_credentials(FilePath(directory))
        files = ["--authority", credentials.authority, "--certificate", credentials.certificate]
        files += ["--key", credentials.key]
        port = await stack.enter_async_context(process("benchmarks.worker", "serve", "trioanytls", *files))
        if not settings.direct:
            options = ["--delay", str(settings.delay), "--rate", str(settings.rate), "--proxy", str(port)]
            port = await stack.enter_async_context(process("benchmarks.delayed_path", *options))
        return await measure(port, credentials, settings)


async def run_proxy(port: int, settings: Settings) -> None:
    """Run the proxy until its standard input ends."""
    async with delaying_proxy(port, settings.path) as own:
        print(json.dumps({"port": own}), flush=True)
        async with trio.lowlevel.FdStream(sys.stdin.fileno()) as orders:
            async for _ in orders:
                pass


def netem_command(settings: Settings, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs this program in a network namespace with `tc netem`."""
    # All packets that are on the way, and those of the acknowledgements, wait in the queue of the interface.
    netem = f"netem delay {settings.delay * 1000:g}ms rate {settings.rate * 8:.0f}bit limit 1000000"
    script = f'ip link set lo up && tc qdisc add dev lo root {netem} && exec "$@"'
    program = [sys.executable, "-m", "benchmarks.delayed_path", "--direct", *arguments]
    return ["unshare", "--net", "sh", "-c", script, "sh", *program]


def show(figures: Sequence[Figures], settings: Settings) -> None:
    """Print the table."""
    console = Console()
    round_trip = 2000 * settings.delay
    table = Table(title=f"a path with {round_trip:g} ms and {settings.rate / 1e6:g} MB/s")
    for column in ("direction", "extensions", "1 stream, MB/s", f"{settings.streams} streams, MB/s", "shares"):
        table.add_column(column, justify="left" if column in ("direction", "extensions") else "right")
    for one in figures:
        cells = [one.direction, "yes" if one.extensions else "no", f"{one.rate / 1e6:.1f}", f"{one.total / 1e6:.1f}"]
        table.add_row(*cells, f"{one.least:.2f} to {one.most:.2f}")
    console.print(table)


def main(given: Sequence[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="benchmarks.delayed_path", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--delay", type=float, default=Settings().delay, help="of one direction, in seconds")
    parser.add_argument("--rate", type=float, default=Settings().rate, help="of one direction, in bytes per second")
    parser.add_argument("--seconds", type=float, default=Settings().seconds, help="of each measurement")
    parser.add_argument("--streams", type=int, default=Settings().streams, help="that share the path")
    parser.add_argument("--netem", action="store_true", help="delay by tc netem in a network namespace")
    parser.add_argument("--direct", action="store_true", help="do not delay: the network does")
    parser.add_argument("--proxy", type=int, metavar="PORT", help="only run the proxy for a server on this port")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args(given)
    settings = Settings(arguments.delay, arguments.rate, arguments.seconds, arguments.streams, arguments.direct)
    if arguments.proxy is not None:
        trio.run(run_proxy, arguments.proxy, settings)
        return 0
    if arguments.netem:
        rest = [one for one in (sys.argv[1:] if given is None else given) if one != "--netem"]
        return subprocess.run(netem_command(settings, rest)).returncode
    figures = trio.run(run, settings)
    if arguments.json:
        print(json.dumps([asdict(one) for one in figures]))
    else:
        show(figures, settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())

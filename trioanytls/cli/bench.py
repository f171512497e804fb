"""`trioanytls bench`: how fast the line to a server is, and what a stream costs on it."""

from __future__ import annotations

import functools
import json
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import click
import trio
from attrs import frozen
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import trioanytls
from trioanytls.cli.client.connectivity_check import ConnectFailures, check
from trioanytls.cli.common import runner
from trioanytls.cli.common.certificates import make_certificate
from trioanytls.cli.common.errors import ClientError
from trioanytls.destination import Destination, encode
from trioanytls.relay import speed_test
from trioanytls.relay.address_policy import AddressPolicy
from trioanytls.relay.handler import RelayHandler

_BLOCK: Final = bytes(64 * 1024)
# How much a bulk transfer moves before it looks at the time, in bytes.
_PIECE: Final = 4 * 1024 * 1024
_PARALLEL: Final = 8
_CONNECTIONS: Final = 5
_HOST: Final = "127.0.0.1"


@frozen
class Figure:
    """What was measured.

    Attributes:
      value: in `unit`: "s", the median of many; or "B/s".
      text: for people.
    """

    value: float
    unit: str
    text: str


def run(server: trioanytls.ServerURI | None, seconds: float, *, as_json: bool) -> int:
    """Measure the line to a server, or to one of our own on this machine, for about `seconds`; the exit code."""
    figures = runner.run(functools.partial(measure, server, seconds, Console(stderr=True)))
    if as_json:
        click.echo(json.dumps({name: {"value": figure.value, "unit": figure.unit} for name, figure in figures.items()}))
        return 0
    title = "A server in this process" if server is None else f"{server.host}:{server.port}"
    # Not markup: an IPv6 address has brackets.
    table = Table(title=Text(title), show_header=False)
    for name, figure in figures.items():
        table.add_row(Text(name), Text(figure.text))
    Console().print(table)
    return 0


async def measure(server: trioanytls.ServerURI | None, seconds: float, console: Console) -> dict[str, Figure]:
    """All figures, by their names.

    Raises:
      Failed: the server cannot be used.
    """
    async with _own_server() if server is None else _other_server(server) as uri:
        # All on one connection: that is what is measured.
        pool = trioanytls.PoolConfig(max_connections=1)
        failures = ConnectFailures()
        async with trioanytls.open_client_uri(uri, pool=pool, events=failures) as client:
            await check(client, Destination(uri.host, uri.port), failures)
            line = _Line(uri, client)
            steps: dict[str, Callable[[float], Awaitable[Figure]]] = {
                "connect, first byte back": line.connect,
                "round trip": line.round_trip,
                "open a stream, first byte back": line.open,
                "64 bytes there and back": line.ping_pong,
                "download, 1 stream": functools.partial(line.bulk, speed_test.GENERATE, 1),
                f"download, {_PARALLEL} streams": functools.partial(line.bulk, speed_test.GENERATE, _PARALLEL),
                "upload, 1 stream": functools.partial(line.bulk, speed_test.DISCARD, 1),
                f"upload, {_PARALLEL} streams": functools.partial(line.bulk, speed_test.DISCARD, _PARALLEL),
            }
            figures: dict[str, Figure] = {}
            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            with Progress(*columns, console=console, transient=True) as progress:
                task = progress.add_task("", total=len(steps))
                for name, step in steps.items():
                    progress.update(task, description=name)
                    figures[name] = await step(seconds / len(steps))
                    progress.advance(task)
    return figures


@asynccontextmanager
async def _other_server(server: trioanytls.ServerURI) -> AsyncIterator[trioanytls.ServerURI]:
    yield server


@asynccontextmanager
async def _own_server() -> AsyncIterator[trioanytls.ServerURI]:
    """A server in this process, which shares its processor with the client: so it is a lower bound."""
    password = secrets.token_urlsafe(16)
    certificate = make_certificate(_HOST)
    async with trio.open_nursery() as nursery:
        serve = functools.partial(
            trioanytls.serve,
            RelayHandler(AddressPolicy(), special_hosts={speed_test.HOST: speed_test.serve}),
            0,
            host=_HOST,
            ssl_context=certificate.server_context(),
            users={"bench": password},
            config=trioanytls.Config(acknowledge="manual"),
        )
        listeners = await nursery.start(serve)
        yield trioanytls.ServerURI(_HOST, password, listeners[0].socket.getsockname()[1], pin=certificate.pin)
        nursery.cancel_scope.cancel()


@frozen
class _Line:
    """The line to a server."""

    uri: trioanytls.ServerURI
    client: trioanytls.Client

    async def connect(self, _seconds: float) -> Figure:
        times = []
        for _ in range(_CONNECTIONS):
            start = time.perf_counter()
            async with trioanytls.open_client_uri(self.uri) as client:
                await _first_byte(client)
                times.append(time.perf_counter() - start)
        return _time(times)

    async def round_trip(self, seconds: float) -> Figure:
        async with await self._open(speed_test.ECHO) as stream:
            return _time(await _repeat(stream.connection.ping, seconds))

    async def open(self, seconds: float) -> Figure:
        async def once() -> float:
            start = time.perf_counter()
            await _first_byte(self.client)
            return time.perf_counter() - start

        return _time(await _repeat(once, seconds))

    async def ping_pong(self, seconds: float) -> Figure:
        async with await self._open(speed_test.ECHO) as stream:

            async def once() -> float:
                start = time.perf_counter()
                await stream.send_all(_BLOCK[:64])
                await _receive(stream, 64)
                return time.perf_counter() - start

            return _time(await _repeat(once, seconds))

    async def bulk(self, port: int, streams: int, seconds: float) -> Figure:
        moved = 0
        start = time.perf_counter()

        async def move() -> None:
            nonlocal moved
            while time.perf_counter() < start + seconds:
                async with await self._open(port, _PIECE) as stream:
                    if port == speed_test.GENERATE:
                        await _receive(stream, _PIECE)
                    else:
                        for _ in range(_PIECE // len(_BLOCK)):
                            await stream.send_all(_BLOCK)
                        await _receive(stream, 1)
                moved += _PIECE

        async with trio.open_nursery() as nursery:
            for _ in range(streams):
                nursery.start_soon(move)
        rate = moved / (time.perf_counter() - start)
        return Figure(rate, "B/s", f"{decimal(int(rate))}/s")

    async def _open(self, port: int, count: int = 0) -> trioanytls.Stream:
        return await _open(self.client, port, count)


async def _open(client: trioanytls.Client, port: int, count: int = 0) -> trioanytls.Stream:
    stream = await client.open_stream()
    await stream.send_all(encode(Destination(speed_test.HOST, port)) + count.to_bytes(speed_test.COUNT_SIZE))
    return stream


async def _first_byte(client: trioanytls.Client) -> None:
    async with await _open(client, speed_test.ECHO) as stream:
        await stream.send_all(b"x")
        await _receive(stream, 1)


async def _receive(stream: trioanytls.Stream, size: int) -> None:
    try:
        while size > 0:
            data = await stream.receive_some()
            if not data:
                raise ClientError("the server ended a measurement early")
            size -= len(data)
    except trioanytls.StreamRefused as error:
        raise ClientError(
            "the server does not offer to be measured: it is no `trioanytls server`, or an older one"
        ) from error


async def _repeat(once: Callable[[], Awaitable[float]], seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < _CONNECTIONS:
        times.append(await once())
    return times


def _time(times: list[float]) -> Figure:
    times = sorted(times)
    median, slow = statistics.median(times), times[len(times) * 99 // 100]
    return Figure(median, "s", f"{_duration(median)} (99 %: {_duration(slow)})")


def _duration(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us" if seconds < 0.001 else f"{seconds * 1e3:.1f} ms"

"""Measure the latency and throughput of one connection to a server, and the cost of a stream on it."""

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
from trioanytls.cli.common.exit_codes import ExitCode
from trioanytls.destination import Destination, encode
from trioanytls.relay import AddressPolicy, RelayHandler, speed_test

# A block of data is one frame in either wire format.
_BLOCK: Final = bytes(65535)
# How much a bulk transfer moves before it checks the time, in bytes.
_PIECE: Final = 64 * len(_BLOCK)
_PARALLEL: Final = 8
_CONNECTIONS: Final = 5
_HOST: Final = "127.0.0.1"


@frozen
class Figure:
    """A measured value.

    Attributes:
      value: the value in `unit`: the median of many times in "s", or a rate in "B/s".
      text: the value for people.
    """

    value: float
    unit: str
    text: str


def run(
    server: trioanytls.ServerURI | None, seconds: float, *, protocol: trioanytls.WireFormat = "anytls1", as_json: bool
) -> int:
    """Measure a server for about `seconds`, print the figures, and return the exit code.

    Args:
      server: the server; None for a server in this process.
      protocol: the wire format of a server in this process.
      as_json: whether to print JSON.
    """
    figures = runner.run(functools.partial(measure, server, seconds, Console(stderr=True), protocol=protocol))
    if as_json:
        click.echo(json.dumps({name: {"value": figure.value, "unit": figure.unit} for name, figure in figures.items()}))
        return ExitCode.SUCCESS
    title = "A server in this process" if server is None else f"{server.host}:{server.port}"
    # `Text` is not parsed as markup: an IPv6 address has brackets.
    table = Table(title=Text(title), show_header=False)
    table.add_row("protocol", protocol if server is None else server.protocol)
    for name, figure in figures.items():
        table.add_row(Text(name), Text(figure.text))
    Console().print(table)
    return ExitCode.SUCCESS


async def measure(
    server: trioanytls.ServerURI | None,
    seconds: float,
    console: Console,
    *,
    protocol: trioanytls.WireFormat = "anytls1",
) -> dict[str, Figure]:
    """Measure all figures. Return name -> figure.

    Raises:
      ClientError: the server cannot be reached, or does not support measurement.
    """
    async with _local_server(protocol) if server is None else _given_server(server) as uri:
        # All streams use one connection, since that is what is measured. With "legacy", the default is one at a time.
        pool = trioanytls.PoolConfig(max_connections=1, max_streams_per_connection=_PARALLEL)
        failures = ConnectFailures()
        async with trioanytls.open_client_uri(uri, pool=pool, events=failures) as client:
            await check(client, Destination(uri.host, uri.port), failures)
            measurements = _Measurements(uri, client)
            steps: dict[str, Callable[[float], Awaitable[Figure]]] = {
                "connect, first byte back": measurements.connect,
                "round trip": measurements.round_trip,
                "open a stream, first byte back": measurements.open,
                "64 bytes there and back": measurements.ping_pong,
                "download, 1 stream": functools.partial(measurements.bulk, speed_test.GENERATE, 1),
                f"download, {_PARALLEL} streams": functools.partial(measurements.bulk, speed_test.GENERATE, _PARALLEL),
                "upload, 1 stream": functools.partial(measurements.bulk, speed_test.DISCARD, 1),
                f"upload, {_PARALLEL} streams": functools.partial(measurements.bulk, speed_test.DISCARD, _PARALLEL),
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
async def _given_server(server: trioanytls.ServerURI) -> AsyncIterator[trioanytls.ServerURI]:
    yield server


@asynccontextmanager
async def _local_server(protocol: trioanytls.WireFormat) -> AsyncIterator[trioanytls.ServerURI]:
    """Run a server in this process. It shares a processor with the client, so the figures are a lower bound."""
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
            protocols=(protocol,),
            config=trioanytls.Config(acknowledge="manual"),
        )
        listeners = await nursery.start(serve)
        yield trioanytls.ServerURI(
            _HOST, password, listeners[0].socket.getsockname()[1], pin=certificate.pin, protocol=protocol
        )
        nursery.cancel_scope.cancel()


@frozen
class _Measurements:
    """The measurements of a connection to a server."""

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
            await stream.send_all(b"x")
            await _receive(stream, 1)
            try:
                return _time(await _repeat(stream.connection.ping, seconds))
            except trioanytls.NotSupported as error:
                raise _not_supported() from error

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
                raise ClientError("the server closed a stream in the middle of a measurement")
            size -= len(data)
    except trioanytls.StreamRefused as error:
        raise _not_supported() from error


def _not_supported() -> ClientError:
    return ClientError(
        "the server does not support measurement: it is not `trioanytls server`, or an older version of it"
    )


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

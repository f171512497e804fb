"""Much data, many streams, slow readers: nothing is lost, nothing grows without bound, nothing deadlocks."""

from __future__ import annotations

import functools
import hashlib
import random
import ssl
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

import trioanytls
from trioanytls._protocol.anytls1 import frames
from trioanytls.testing import StreamQueue, echo, memory_connection_pair

from ..conftest import HOST, Connecting, Serving
from ..helpers.programs import bulk_server as bulk_server
from ..helpers.programs.bulk_server import exchange
from ..helpers.raw_peer import raw_client

MIB = 1024 * 1024


async def test_a_thousand_streams_echo_distinct_data_over_tls(serving: Serving, connecting: Connecting) -> None:
    sizes = [1, MIB, 16_384, 65_536, 65_537]
    draw = random.Random(1)
    # Evenly distributed on a logarithmic scale: about 70 MiB in all.
    sizes += [int(2 ** draw.uniform(0, 20)) for _ in range(1000 - len(sizes))]
    intact = 0

    async def one(connection: trioanytls.Connection, number: int, size: int) -> None:
        nonlocal intact
        data = random.Random(number).randbytes(size)
        async with await connection.open_stream() as stream, trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, data)
            digest, received = hashlib.sha256(), 0
            while received < size:
                piece = await stream.receive_some()
                assert piece
                digest.update(piece)
                received += len(piece)
        assert digest.digest() == hashlib.sha256(data).digest()
        intact += 1

    async with serving(echo) as port, connecting(port) as connection:
        async with trio.open_nursery() as nursery:
            for number, size in enumerate(sizes):
                nursery.start_soon(one, connection, number, size)
        assert connection.stats.streams_opened == 1000
    assert intact == 1000


async def test_one_huge_data_frame_passes_through_in_pieces() -> None:
    size = 256 * MIB
    received = 0

    async def handler(stream: trioanytls.Stream) -> None:
        nonlocal received
        async for piece in stream:
            received += len(piece)

    async with raw_client(handler) as (peer, server):
        await peer.send(frames.encode_open(1), frames.data_prefix(1) + frames.encode_length(size))
        piece = bytes(64 * 1024)
        tracemalloc.start()
        try:
            for _ in range(size // len(piece)):
                await peer.send(piece)
                # The memory transport itself is unbounded.
                await trio.testing.wait_all_tasks_blocked()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        await peer.send(frames.encode_rst(1))
        await trio.testing.wait_all_tasks_blocked()
        assert received == size
        assert peak < 32 * MIB
        assert server.stats.frames_received["STREAM[DATA]"] == 1


async def slowly(stream: trioanytls.Stream, size: int, draw: random.Random) -> None:
    """Send `size` bytes while receiving as many, in small pieces, and yield to all other tasks now and then."""

    async def send() -> None:
        left = size
        while left:
            piece = min(left, draw.randint(1, 100_000))
            await stream.send_all(bytes(piece))
            left -= piece

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        received = 0
        while received < size:
            if draw.random() < 0.3:
                for _ in range(draw.randint(1, 50)):
                    await trio.lowlevel.checkpoint()
            piece = await stream.receive_some(draw.randint(1, 60_000))
            assert piece
            received += len(piece)


async def test_both_ends_write_at_once_with_slow_readers_and_never_stand_still(
    serving: Serving, connecting: Connecting
) -> None:
    streams = 32
    each = 64 * MIB // streams
    queue = StreamQueue()
    config = trioanytls.Config(receive_buffer_size=20_000, send_buffer_size=20_000)
    draw = random.Random(2)
    async with serving(queue, config=config) as port, connecting(port, config=config) as connection:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(streams):
                    nursery.start_soon(slowly, await connection.open_stream(), each, draw)
                    nursery.start_soon(slowly, await queue.get(), each, draw)
        assert connection.stats.data_bytes_sent == connection.stats.data_bytes_received == streams * each


async def test_the_reader_does_not_wait_for_the_writer() -> None:
    # Unbuffered transports: a write ends when the peer has read it.
    queue = StreamQueue()
    config = trioanytls.Config(receive_buffer_size=1000, send_buffer_size=1000)
    async with memory_connection_pair(
        queue, client_config=config, server_config=config, transports=trio.testing.lockstep_stream_pair()
    ) as (client, server):
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(exchange, await client.open_stream(), 300_000, 700)
                    nursery.start_soon(exchange, await queue.get(), 300_000, 700)
                for connection in (client, server):
                    for _ in range(5):
                        nursery.start_soon(connection.ping)


@pytest.mark.parametrize("streams", [4, 16, 300])
async def test_bulk_in_both_directions_between_two_processes(
    streams: int, authority: trustme.CA, client_context: ssl.SSLContext, connecting: Connecting, tmp_path: Path
) -> None:
    each = 48 * MIB // streams
    issued = authority.issue_cert("localhost", HOST)
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    command = [sys.executable, str(Path(bulk_server.__file__)), str(certificate), str(key), str(each)]
    async with trio.open_nursery() as nursery:
        run = functools.partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process = await nursery.start(run)
        port = int(await process.stdout.receive_some())
        with trio.fail_after(90):
            async with connecting(port) as connection, trio.open_nursery() as exchanges:
                for _ in range(streams):
                    exchanges.start_soon(exchange, await connection.open_stream(), each)
        await process.stdin.aclose()

"""The servers of an HAProxy are drained and replaced in turn, under load. No caller notices."""

from __future__ import annotations

import contextlib
import hashlib
import random
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from functools import partial
from typing import Any

import pytest
import trio
from attrs import define, field

import trioanytls
from trioanytls.destination import Destination, encode

from ..conftest import HOST, USERS
from ..helpers.cli_process import program
from ..helpers.extensions import ALL, extending
from ..helpers.haproxy import HAPROXY
from ..helpers.relay_processes import port_of
from ._applications import Refused, connect, exactly
from ._ends import Files
from ._fleet import LOOPBACK, Fleet, Network, fleet, namespaces

pytestmark = HAPROXY

CALLERS = 100
APPLICATIONS = 50
ROUNDS = 3
#: How long a request or a download may take, in seconds. The slowest download takes little more than a second.
TIMEOUT = 20
#: The maximum time between two requests of a caller, and between two downloads of an application, in seconds.
PAUSE = 1.0
#: The maximum size of a request, in bytes.
REQUEST = 4000
#: The size of a download in bytes, and the number of pieces in which it is sent.
DOWNLOAD, PIECES = 320_000, 10


# The destinations


async def answer(stream: trio.SocketStream) -> None:
    """Answer a request, which begins with its size, with its digest: within a second."""
    async with tolerating(stream):
        size = int.from_bytes(await exactly(stream, 2), "big")
        digest = hashlib.sha256(await exactly(stream, size)).digest()
        await trio.sleep(digest[0] / 256)
        await stream.send_all(digest)


async def send_download(stream: trio.SocketStream) -> None:
    """Send a download in pieces, with pauses: it takes up to a second."""
    async with tolerating(stream):
        seed = await exactly(stream, 4)
        data, size = download(seed), DOWNLOAD // PIECES
        pause = random.Random(seed).random() / PIECES
        for start in range(0, DOWNLOAD, size):
            await stream.send_all(data[start : start + size])
            await trio.sleep(pause)


@contextlib.asynccontextmanager
async def tolerating(stream: trio.SocketStream) -> AsyncIterator[None]:
    """Close a stream at the end, and tolerate one that a server has cut. The other end of it counts that."""
    async with stream:
        with contextlib.suppress(trio.BrokenResourceError, EOFError):
            yield


def download(seed: bytes) -> bytes:
    """Return the content of a download."""
    return hashlib.sha256(seed).digest() * (DOWNLOAD // 32)


# The load


@define(eq=False)
class Load:
    """Callers and applications, which work until they are told to stop.

    Attributes:
      works: how many calls have succeeded, by kind.
      failures: how many have failed, by kind and error.
    """

    works: Counter[str] = field(factory=Counter)
    failures: Counter[str] = field(factory=Counter)
    stopped: bool = False

    async def call(self, client: Any, destination: Destination, number: int) -> None:
        """Open streams of a pool, and send a request on each."""
        draw = random.Random(number)
        while not self.stopped:
            await trio.sleep(draw.uniform(0, PAUSE))
            request = draw.randbytes(draw.randint(1, REQUEST))
            stream: trioanytls.Stream | None = None
            with self._counting("open_stream"):
                stream = await client.open_stream()
            if stream is None:
                continue
            with self._counting("request"):
                async with stream:
                    await stream.send_all(encode(destination) + len(request).to_bytes(2, "big") + request)
                    assert await exactly(stream, 32) == hashlib.sha256(request).digest()

    async def download(self, socks: int, destination: Destination, number: int) -> None:
        """Download through a SOCKS proxy, as an application."""
        draw = random.Random(number)
        while not self.stopped:
            await trio.sleep(draw.uniform(0, PAUSE))
            seed = draw.randbytes(4)
            with self._counting("download"):
                async with await connect(socks, destination) as stream:
                    await stream.send_all(seed)
                    assert await exactly(stream, DOWNLOAD) == download(seed)
                    assert await stream.receive_some() == b""

    @contextlib.contextmanager
    def _counting(self, kind: str) -> Iterator[None]:
        try:
            with trio.fail_after(TIMEOUT):
                yield
        except (trioanytls.AnyTLSError, trio.BrokenResourceError, trio.TooSlowError, Refused, EOFError) as error:
            self.failures[f"{kind}: {type(error).__name__}: {error}"] += 1
        else:
            self.works[kind] += 1


@contextlib.asynccontextmanager
async def load(running: Fleet, files: Files, network: Network, extensions: Collection[str]) -> AsyncIterator[Load]:
    """Run the callers, and the applications with the relay's client. All clients offer these extensions."""
    password = USERS["alice"]
    config = extending(extensions)
    settings = files.directory / "client.toml"
    settings.write_text(f"[connection]\nextensions = {sorted(extensions)}\n", encoding="utf-8")
    options = ["--config", settings, "--socks", f"{HOST}:0", "--streams", 8]
    environment = {
        "TRIOANYTLS_SERVER": f"anytls://{password}@{HOST}:{running.port}/?sni=localhost&proto=anytls1",
        # The authority takes the place of the system's.
        "SSL_CERT_FILE": str(files.authority),
    }
    made = Load()
    async with (
        trioanytls.open_client(
            HOST,
            running.port,
            password=password,
            ssl_context=files.client_context(),
            config=config,
            pool=trioanytls.PoolConfig(max_streams_per_connection=8),
        ) as client,
        program("client", *options, environment=environment) as relay,
        listening(answer, network.gateway) as answers,
        listening(send_download, network.gateway) as downloads,
    ):
        socks = port_of(await relay.out.find("SOCKS5 on "))
        async with trio.open_nursery() as nursery:
            for number in range(CALLERS):
                nursery.start_soon(made.call, client, Destination(network.gateway, answers), number)
            for number in range(APPLICATIONS):
                nursery.start_soon(made.download, socks, Destination(network.gateway, downloads), number)
            yield made
            made.stopped = True


@contextlib.asynccontextmanager
async def listening(serve: Callable[[trio.SocketStream], Awaitable[None]], host: str) -> AsyncIterator[int]:
    """Serve on this address, and yield the port."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host=host))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def restart_all(
    files: Files, network: Network, extensions: Collection[str], *, rounds: int = ROUNDS, announced: bool = True
) -> Load:
    """Replace each server in turn, so many times, under load."""
    async with fleet(files, network) as running:
        begun = trio.current_time()
        async with load(running, files, network, extensions) as made:
            for _ in range(rounds):
                for server in running.servers:
                    await running.replace(server, announced)
        taken = trio.current_time() - begun
    assert [server.starts for server in running.servers] == [1 + rounds] * 3
    drained = ", ".join(f"{seconds:.1f}" for seconds in running.drained)
    print(f"{taken:.0f} s; drained within {drained} s; {dict(made.works)}; {dict(made.failures)}")
    return made


@pytest.fixture(params=["loopback", "namespaces"])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    """Make the network of the servers: the usual one, or three hosts."""
    if request.param == "loopback":
        yield LOOPBACK
        return
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(namespaces())
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces need root and iproute2: {error}")
        yield made


async def test_no_caller_notices_a_rolling_restart(files: Files, network: Network) -> None:
    made = await restart_all(files, network, ALL)
    assert not made.failures


async def test_calls_fail_without_goaway(files: Files, network: Network) -> None:
    # Each restart shows it.
    made = await restart_all(files, network, ALL - {"goaway"}, rounds=1)
    assert made.failures


async def test_no_caller_notices_a_restart_that_was_not_announced_to_haproxy(files: Files) -> None:
    made = await restart_all(files, LOOPBACK, ALL, rounds=1, announced=False)
    assert not made.failures

"""The second part of `trioanytls demo`: files fetched through the relay, by curl if it is installed.

A web server, the relay's server and its client run in this process. curl is another process.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import ipaddress
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import trio
from attrs import frozen

import trioanytls
from trioanytls.cli.common.certificates import make_certificate
from trioanytls.relay import AddressPolicy, RelayHandler, Upstream, serve_http_proxy, serve_socks

from .results import Fetched

_HOST: Final = "127.0.0.1"
_PIECE: Final = 64 * 1024
#: The files that are fetched each time: one large file, and many small ones concurrently. Sizes are in bytes.
LARGE: Final = 200 * 1000 * 1000
SMALL: Final = 10_000
SMALL_FILES: Final = 200
_AT_ONCE: Final = 50
# The timeout of one fetch, in seconds.
_TIMEOUT: Final = 120


@frozen
class Sizes:
    """The sizes and the number of the files to fetch."""

    large: int = LARGE
    small: int = SMALL
    small_files: int = SMALL_FILES


async def fetch_all(sizes: Sizes) -> list[Fetched]:
    """Fetch all files, once through each front end."""
    curl = shutil.which("curl")
    outcomes = []
    async with _relayed(sizes) as (web, socks, proxy):
        ways = {
            "SOCKS5": ["--socks5-hostname", f"{_HOST}:{socks}"],
            "HTTP proxy": ["--proxy", f"http://{_HOST}:{proxy}"],
        }
        if curl is None:
            ways = {"HTTP proxy": []}
        for name, options in ways.items():
            outcome = Fetched(f"{'curl' if curl else 'Python'} through {name}")
            fetch = functools.partial(_by_curl, curl, options) if curl else functools.partial(_by_python, proxy)
            started = trio.current_time()
            with tempfile.TemporaryDirectory(prefix="trioanytls-") as directory:
                await trio.to_thread.run_sync(fetch, web, Path(directory), sizes, outcome)
                outcome.seconds = trio.current_time() - started
                await trio.to_thread.run_sync(_compare, Path(directory), sizes, outcome)
            outcomes.append(outcome)
    return outcomes


def _by_curl(curl: str, options: list[str], web: int, directory: Path, sizes: Sizes, outcome: Fetched) -> None:
    common = [curl, "--silent", "--show-error", "--fail", "--max-time", str(_TIMEOUT), "--noproxy", "", *options]
    last = sizes.small_files - 1
    parallel = ["--parallel", "--parallel-max", str(_AT_ONCE)]
    for arguments in (
        ["--output", str(directory / "large"), f"http://{_HOST}:{web}/large"],
        [*parallel, "--output", str(directory / "small-#1"), f"http://{_HOST}:{web}/small-[0-{last}]"],
    ):
        done = subprocess.run([*common, *arguments], capture_output=True, text=True, check=False)  # noqa: S603 - curl
        if done.returncode:
            outcome.failed.append(f"curl: {done.stderr.strip() or done.returncode}")


def _by_python(proxy: int, web: int, directory: Path, sizes: Sizes, outcome: Fetched) -> None:
    for name in _names(sizes):
        connection = http.client.HTTPConnection(_HOST, proxy, timeout=_TIMEOUT)
        try:
            connection.set_tunnel(_HOST, web)
            connection.request("GET", f"/{name}")
            with (directory / name).open("wb") as file:
                shutil.copyfileobj(connection.getresponse(), file, _PIECE)
        except (OSError, http.client.HTTPException) as error:
            outcome.failed.append(f"{name}: {error}")
        finally:
            connection.close()


def _compare(directory: Path, sizes: Sizes, outcome: Fetched) -> None:
    for name in _names(sizes):
        expected = hashlib.sha256()
        for piece in _content(name, sizes):
            expected.update(piece)
        try:
            with (directory / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256")
        except OSError as error:
            outcome.failed.append(f"{name}: {error.strerror}")
            continue
        if found.digest() == expected.digest():
            outcome.files += 1
            outcome.size += _size(name, sizes)
        else:
            outcome.failed.append(f"{name}: the digest differs")


def _names(sizes: Sizes) -> list[str]:
    return ["large", *(f"small-{number}" for number in range(sizes.small_files))]


def _size(name: str, sizes: Sizes) -> int:
    return sizes.large if name == "large" else sizes.small


def _content(name: str, sizes: Sizes) -> Iterator[bytes]:
    """Yield the content of a file. All pieces differ, so that a piece in the wrong position is detected."""
    left, number = _size(name, sizes), 0
    filler = hashlib.shake_128(name.encode()).digest(_PIECE - 8)
    while left > 0:
        piece = (number.to_bytes(8) + filler)[:left]
        yield piece
        left -= len(piece)
        number += 1


@contextlib.asynccontextmanager
async def _relayed(sizes: Sizes) -> AsyncIterator[tuple[int, int, int]]:
    """Run a web server and a relay. Yield the ports of the web server, of SOCKS5, and of the HTTP proxy."""
    certificate = await trio.to_thread.run_sync(make_certificate, _HOST)
    password = secrets.token_urlsafe()
    # The web server is on this machine, to which a relay does not connect by default.
    policy = AddressPolicy(allow=[ipaddress.ip_network(f"{_HOST}/32")])
    async with trio.open_nursery() as nursery:
        serve = functools.partial(
            trioanytls.serve,
            RelayHandler(policy),
            0,
            host=_HOST,
            ssl_context=certificate.server_context(),
            users={"demo": password},
            config=trioanytls.Config(acknowledge="manual"),
        )
        listeners: list[trio.SocketListener] = await nursery.start(serve)
        uri = trioanytls.ServerURI(_HOST, password, _port(listeners), pin=certificate.pin, protocol="anytls1")
        async with trioanytls.open_client_uri(uri) as client:
            upstream = Upstream(client)
            services: Sequence[Callable[..., Awaitable[object]]] = (
                functools.partial(trio.serve_tcp, functools.partial(_serve_web, sizes), 0, host=_HOST),
                functools.partial(serve_socks, upstream, 0, host=_HOST),
                functools.partial(serve_http_proxy, upstream, 0, host=_HOST),
            )
            web, socks, proxy = [_port(await nursery.start(serve)) for serve in services]
            yield web, socks, proxy
        nursery.cancel_scope.cancel()


async def _serve_web(sizes: Sizes, stream: trio.SocketStream) -> None:
    """Serve one file for a GET request over HTTP, then close the connection."""
    request = b""
    with contextlib.suppress(trio.BrokenResourceError):
        while b"\r\n\r\n" not in request and len(request) < _PIECE:
            data = await stream.receive_some()
            if not data:
                return
            request += data
        name = request.partition(b" /")[2].partition(b" ")[0].decode("ascii", "replace")
        if name not in _names(sizes):
            await stream.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        size = _size(name, sizes)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % size)
        for piece in _content(name, sizes):
            await stream.send_all(piece)


def _port(listeners: list[trio.SocketListener]) -> int:
    port: int = listeners[0].socket.getsockname()[1]
    return port

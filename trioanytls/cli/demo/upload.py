"""The first part of `trioanytls demo`: files uploaded over one connection, with one stream per file.

An upload begins with its length, so it does not need half-close.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

import click
import trio
from attrs import define

from trioanytls import Connection, ConnectionClosed, Stream, open_connection, serve
from trioanytls.cli.common import certificates, runner
from trioanytls.cli.common.exit_codes import ExitCode

from . import fetch, progress, python_files, report
from .results import Fetched, Outcome

Handler = Callable[[Stream], Awaitable[object]]

#: The number of concurrent uploads.
AT_ONCE = 100
# The length before an upload, in bytes, big-endian.
_LENGTH = 8
_DIGEST = hashlib.sha256().digest_size
# How much is hashed at once, in bytes: little enough not to delay other tasks.
_PIECE = 64 * 1024

_HOST = "127.0.0.1"
# The certificate contains this name, and not the address that the client connects to, so that the name is verified.
_NAME = "localhost"


async def answer_with_digest(stream: Stream) -> None:
    """Read a length and as many bytes, and answer with their SHA-256. This is the server's handler."""
    header = await _receive_exactly(stream, _LENGTH)
    left = int.from_bytes(header, "big")
    digest = hashlib.sha256()
    while left and (piece := await stream.receive_some(min(left, _PIECE))):
        digest.update(piece)
        left -= len(piece)
    # A client that closed the stream early waits for no answer.
    if len(header) == _LENGTH and not left:
        await stream.send_all(digest.digest())


def run(
    directory: Path | None = None,
    handler: Handler = answer_with_digest,
    sizes: fetch.Sizes | None = None,
) -> int:
    """Upload and fetch, print the results, and return the exit code.

    Args:
      directory: the directory with the `*.py` files to upload; default: the standard library.
      handler: the server's handler of a stream.
      sizes: the files to fetch through the relay; None for no files.

    Raises:
      click.ClickException: the upload or the fetch failed as a whole. The message says why.
    """
    directory = directory or python_files.standard_library()
    outcome = runner.run(functools.partial(_upload_all, directory, handler))
    report.show(outcome)
    fetched = [] if sizes is None else runner.run(functools.partial(_fetch_all, sizes))
    report.show_fetched(fetched)
    failed = outcome.failed or any(way.failed for way in fetched)
    return ExitCode.SUCCESS if outcome.files and not failed else ExitCode.FAILURE


async def _fetch_all(sizes: fetch.Sizes) -> list[Fetched]:
    click.echo("fetching through the relay", err=True)
    return await fetch.fetch_all(sizes)


async def _upload_all(directory: Path, handler: Handler) -> Outcome:
    found = await trio.to_thread.run_sync(python_files.find, directory)
    outcome = Outcome(unreadable=found.unreadable)
    if not found.files:
        raise OSError(f"no *.py files in {click.format_filename(directory)}")
    certificate = await trio.to_thread.run_sync(certificates.make_certificate, _NAME)
    password = secrets.token_urlsafe()
    async with trio.open_nursery() as nursery:
        serve_demo = functools.partial(
            serve, handler, 0, host=_HOST, ssl_context=certificate.server_context(), users={"demo": password}
        )
        listeners: list[trio.SocketListener] = await nursery.start(serve_demo)
        started = trio.current_time()
        async with open_connection(
            _HOST,
            listeners[0].socket.getsockname()[1],
            password=password,
            ssl_context=certificate.client_context(),
            server_hostname=_NAME,
        ) as connection:
            with progress.progress("uploading", len(found.files)) as advance:
                await _Uploads(connection, directory, outcome, advance).upload(found.files)
            outcome.seconds = trio.current_time() - started
        # The close handshake is complete, so the statistics include all frames.
        outcome.stats = connection.stats
        nursery.cancel_scope.cancel()
    return outcome


@define
class _Uploads:
    """The uploads over one connection."""

    connection: Connection
    directory: Path
    outcome: Outcome
    advance: progress.Advance

    async def upload(self, files: list[Path]) -> None:
        limiter = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            for path in files:
                nursery.start_soon(self._upload_one, path, limiter)

    async def _upload_one(self, path: Path, limiter: trio.CapacityLimiter) -> None:
        async with limiter:
            name = click.format_filename(path.relative_to(self.directory))
            size = 0
            try:
                content = await trio.to_thread.run_sync(python_files.read, path)
                size = len(content.data)
                if await self._ask(content.data) == content.digest:
                    self.outcome.files += 1
                    self.outcome.size += size
                else:
                    self.outcome.failed.append(f"{name}: the digest differs")
            except ConnectionClosed:
                # The connection failed, so no other file can be uploaded either.
                raise
            except trio.BrokenResourceError as error:
                self.outcome.failed.append(f"{name}: {error}")
            except OSError as error:
                self.outcome.unreadable.append(f"{name}: {error.strerror}")
            self.advance(size)

    async def _ask(self, data: bytes) -> bytes:
        """Upload `data` over a new stream, and return the answer."""
        async with await self.connection.open_stream() as stream:
            await stream.send_all(len(data).to_bytes(_LENGTH, "big") + data)
            return await _receive_exactly(stream, _DIGEST)


async def _receive_exactly(stream: Stream, size: int) -> bytes:
    """Receive `size` bytes, or fewer if the peer closes the stream before."""
    received = b""
    while len(received) < size and (piece := await stream.receive_some(size - len(received))):
        received += piece
    return received

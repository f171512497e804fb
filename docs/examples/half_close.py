"""Compute the SHA-256 of standard input on a server. The client need not know the length beforehand.

    python half_close.py serve CERTIFICATE KEY
    some-command | python half_close.py digest 'anytls://secret@localhost:8443/?proto=anytls1'

The client ends its direction of the stream, and still receives the answer.
"""

from __future__ import annotations

import hashlib
import ssl
import sys
from collections.abc import AsyncIterable, Awaitable, Callable

import trio

import trioanytls


async def handle(stream: trioanytls.Stream) -> None:
    """Send the digest of all data that the client sends."""
    digest = hashlib.sha256()
    async for data in stream:  # raises `StreamReset` if the upload is cut off
        digest.update(data)
    await stream.send_all(digest.digest())


async def ask(stream: trioanytls.Stream, upload: AsyncIterable[bytes | bytearray]) -> bytes:
    """Send the whole upload, and return its digest."""
    try:
        async for data in upload:
            await stream.send_all(data)
    except Exception:
        # Closing the stream would look like the end of the upload.
        await stream.reset()
        raise
    await stream.send_eof()
    return b"".join([data async for data in stream])


async def main_serve(certificate: str, key: str) -> None:
    """Serve on port 8443."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    await trioanytls.serve(handle, 8443, ssl_context=context, users={"me": "secret"})


async def main_digest(uri: str) -> None:
    """Print the digest of standard input."""
    async with trioanytls.open_client_uri(uri) as client, await client.open_stream() as stream:
        print((await ask(stream, trio.wrap_file(sys.stdin.buffer))).hex())


if __name__ == "__main__":
    commands: dict[str, Callable[..., Awaitable[None]]] = {"serve": main_serve, "digest": main_digest}
    trio.run(commands[sys.argv[1]], *sys.argv[2:])

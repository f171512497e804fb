"""A process that serves streams which send and receive in bulk at the same time. Run by `test_load`."""

from __future__ import annotations

import functools
import ssl
import sys

import trio

import trioanytls


async def exchange(stream: trio.abc.Stream, size: int, piece: int = 50_000) -> None:
    """Send `size` bytes and receive as many, at the same time."""

    async def send() -> None:
        left = size
        while left:
            await stream.send_all(bytes(min(left, piece)))
            left -= min(left, piece)

    received = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while received < size:
            data = await stream.receive_some()
            if not data:
                raise EOFError(f"{received} of {size} bytes")
            received += len(data)


async def handler(size: int, stream: trioanytls.Stream) -> None:
    await exchange(stream, size)
    # The last byte of the other direction has been received when the client closes.
    await stream.wait_closed()


async def main(certificate: str, key: str, size: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            functools.partial(
                trioanytls.serve,
                functools.partial(handler, size),
                0,
                host="127.0.0.1",
                ssl_context=context,
                users={"alice": "password"},
            )
        )
        print(listeners[0].socket.getsockname()[1], flush=True)
        # It ends when the parent closes the pipe.
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))

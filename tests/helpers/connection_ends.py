"""One end of a connection, in either role, whose peer sends raw bytes: for tests of what a peer can do to it.

Both roles look the same from here, so that a test can be about both.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Literal

import trio
import trio.testing
from attrs import define

import trioanytls
from trioanytls._connection.connection import Connection
from trioanytls._protocol import data_blocks
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.credentials import UserTable, hash_password
from trioanytls._server.connection import ServerConnection
from trioanytls._server.context import Handler, ServerContext
from trioanytls.testing import StreamQueue

from .extensions import ALL, extending
from .raw_peer import SCHEME, SERVER_NEGO, RawPeer

Role = Literal["client", "server"]
ROLES: tuple[Role, Role] = ("client", "server")

#: A text that occurs nowhere else, so that tests can search for it in all output.
PASSWORD = "open sesame"
USER = "ali"
PEER_ADDRESS = ("192.0.2.7", 4711)

AUTH = frames.encode_auth(hash_password(PASSWORD), 0)
NEGO = frames.encode_client_nego(
    data_blocks.format_key_values({"v": ["1"], "client": ["raw/1"], "padding-md5": [SCHEME.digest]})
)
HELLO = AUTH + NEGO


@define
class End:
    """One end of a connection.

    Attributes:
      connection: the end itself; `streams` are open on it, with the ids 1, 2, ...
      peer: the other end.
      transport: the connection's transport, in memory unless another was given.
      service: the context of a server's connection.
    """

    connection: Connection
    streams: list[trioanytls.Stream]
    peer: RawPeer
    transport: trio.abc.Stream
    service: ServerContext | None = None

    def block(self) -> trio.Event:
        """Block the transport: the current or next write does not end until the event is set."""
        event = trio.Event()
        assert isinstance(self.transport, trio.StapledStream)
        send_stream = self.transport.send_stream
        assert isinstance(send_stream, trio.testing.MemorySendStream)
        deliver: Callable[[], Awaitable[object]] | None = send_stream.send_all_hook

        async def wait_and_deliver() -> None:
            await event.wait()
            if deliver is not None:
                await deliver()

        send_stream.send_all_hook = wait_and_deliver
        return event

    @property
    def charged(self) -> int:
        """The bytes that the connection has accepted for sending and still holds."""
        return self.connection._multiplexer.send_queue.charged


#: Two transports that are connected to each other.
Pair = tuple[trio.abc.Stream, trio.abc.Stream]


def end_of(
    role: Role, config: trioanytls.Config | None = None, streams: int = 0, pair: Pair | None = None
) -> AbstractAsyncContextManager[End]:
    """Give an established end with this many streams, which no task reads."""
    return (
        client_that_heard(SERVER_NEGO, config, streams, pair)
        if role == "client"
        else server_that_heard(HELLO, config, streams, pair=pair)
    )


@contextlib.asynccontextmanager
async def extended_end(
    role: Role,
    config: trioanytls.Config | None = None,
    streams: int = 0,
    names: Collection[str] = ALL,
    window: int = 16384,
) -> AsyncIterator[End]:
    """Give an established end whose peer has these extensions, and begins with this window."""
    config = config or extending(ALL, stream_window=16384)
    keys = {"ext": sorted(names), "window": [str(window)]} if names else {}
    if role == "client":
        nego = frames.encode_server_nego(data_blocks.format_key_values({"v": ["1"], **keys}))
        made = client_that_heard(nego, config, streams)
    else:
        block = {"v": ["1"], "client": ["raw/1"], "padding-md5": [SCHEME.digest], **keys}
        nego = frames.encode_client_nego(data_blocks.format_key_values(block))
        made = server_that_heard(AUTH + nego, config, streams)
    async with made as end:
        end.peer.know(*(kind for kind in frames.FrameType if kind >= frames.FrameType.STREAM_WINDOW))
        yield end


@contextlib.asynccontextmanager
async def server_that_heard(
    hello: bytes,
    config: trioanytls.Config | None = None,
    streams: int = 0,
    handler: Handler | None = None,
    pair: Pair | None = None,
) -> AsyncIterator[End]:
    """Give a server's end whose client has sent `hello` and opened streams, which no task reads.

    With a `handler`, there must be no streams.
    """
    config = config or trioanytls.Config()
    queue = StreamQueue()
    near, far = pair or trio.testing.memory_stream_pair()
    service = ServerContext(handler or queue, UserTable({USER: PASSWORD}), SCHEME, config)
    connection = ServerConnection(far, service, peer_address=PEER_ADDRESS)
    peer = RawPeer(near)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection._run)
        ids = range(1, streams + 1)
        await peer.send(hello, *map(frames.encode_open, ids))
        # The handlers start in any order.
        opened = sorted([await queue.get() for _ in ids], key=lambda stream: stream.stream_id)
        if streams:
            # NEGO, and the acknowledgements of the streams.
            await peer.pending()
        try:
            yield End(connection, opened, peer, far, service)
        finally:
            # Otherwise the server would wait for the client to close.
            await near.aclose()
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def client_that_heard(
    hello: bytes, config: trioanytls.Config | None = None, streams: int = 0, pair: Pair | None = None
) -> AsyncIterator[End]:
    """Give a client's end whose server has sent `hello`, and accepted the streams unless `hello` is empty."""
    near, far = pair or trio.testing.memory_stream_pair()
    peer = RawPeer(far)
    async with trioanytls.wrap_client(near, password=PASSWORD, config=config or trioanytls.Config()) as client:
        opened = [await client.open_stream() for _ in range(streams)]
        await peer.receive_auth()
        await peer.pending()
        if hello:
            await peer.send(hello, *(frames.encode_ack(stream.stream_id) for stream in opened))
            await trio.testing.wait_all_tasks_blocked()
        try:
            yield End(client, opened, peer, near)
        finally:
            # Otherwise the client would wait for the server to close.
            await far.aclose()

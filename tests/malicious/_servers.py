"""Malicious servers, of any wire format: what they do to a client, and what its application meets."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import trio
from attrs import field, frozen

from trioanytls import CloseCode, StreamCode
from trioanytls._transport.tls_stream import TLSStream

from ..conftest import HOST, Serving
from ..helpers.legacy_peer import LegacyPeer
from ..helpers.raw_peer import RawPeer
from ._harness import CONNECTION, KIB, SLACK, USERS, Attack, pour, reset

BOUND = CONNECTION + SLACK
LIMIT: dict[str, Any] = {"code": CloseCode.LIMIT_EXCEEDED}

Behaviour = Callable[[trio.SocketStream], Awaitable[object]]
Peer = TypeVar("Peer", RawPeer, LegacyPeer)


@contextlib.asynccontextmanager
async def listening(behaviour: Behaviour) -> AsyncIterator[int]:
    """Run a server that attacks every client. Return the port."""

    async def meet(transport: trio.SocketStream) -> None:
        async with transport:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await behaviour(transport)

    (listener,) = await trio.open_tcp_listeners(0, host=HOST)
    # Small, so that little unread data fits into it.
    listener.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4 * KIB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, meet, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def opened_streams(peer: RawPeer | LegacyPeer, kind: int, streams: int) -> None:
    """Read a client's first frames until it has opened this many streams, by frames of this kind."""
    while streams:
        streams -= (await peer.receive() or [None])[0] == kind


@contextlib.asynccontextmanager
async def closing(tls: TLSStream, peer: Peer) -> AsyncIterator[Peer]:
    """Yield the peer, and close its transport."""
    try:
        yield peer
    finally:
        await trio.aclose_forcefully(tls)


@frozen(kw_only=True)
class Case:
    """The data that a server sends after a client's first stream, and the result for the client's application."""

    name: str
    #: Sent once. Then `block` is sent repeatedly.
    start: bytes = b""
    block: bytes = b""
    times: int = 0
    #: The number of streams to wait for.
    streams: int = 1
    #: Whether the server reads meanwhile.
    reads: bool = True
    application: str = "talk"
    config: dict[str, Any] = field(factory=dict)
    error: str = "ConnectionClosed"
    code: CloseCode | StreamCode | None = CloseCode.PROTOCOL_ERROR
    text: str = ""
    #: The memory that the client may use in addition to `BOUND`, in bytes.
    more: int = 0

    async def check(
        self,
        attack: Attack,
        serving: Serving,
        secured: Callable[..., AbstractAsyncContextManager[Peer]],
        read: Callable[[Peer], Awaitable[object]],
        **options: Any,
    ) -> None:
        """Lure a client to this server, and check the error that its application meets.

        `secured(transport, streams=1)` does the handshake and waits for streams. `read` reads to the end.
        """

        async def behave(transport: trio.SocketStream) -> None:
            async with secured(transport, streams=self.streams) as peer, trio.open_nursery() as nursery:
                if self.reads:
                    nursery.start_soon(read, peer)
                await peer.send(self.start)
                await pour(peer, self.block, self.times)
                if not self.reads:
                    await trio.sleep_forever()

        async with serving(users=USERS) as good_port, listening(behave) as port:
            options = {"bound": BOUND + self.more, "application": self.application, **options, **self.config}
            (report,) = await attack.lure(port, good_port, **options)
        assert report["error"][0] == self.error
        assert "AnyTLSError" in report["error"]
        assert "BrokenResourceError" in report["error"]
        assert report["code"] == self.code
        assert self.text in report["text"]


# The ends of a connection without a frame that says so.


async def eof(peer: RawPeer | LegacyPeer) -> None:
    await peer.transport.transport.send_eof()


async def rst(peer: RawPeer | LegacyPeer) -> None:
    reset(peer.transport.transport)


async def close_notify(peer: RawPeer | LegacyPeer) -> None:
    await peer.transport.aclose()

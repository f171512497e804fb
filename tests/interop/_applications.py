"""Local applications, which use either client through SOCKS5."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import trio
from attrs import define

from trioanytls.destination import Destination, encode
from trioanytls.relay.socks5 import decode_datagram, encode_datagram

from ..conftest import HOST

#: How long an application waits for each step, in seconds.
TIMEOUT = 30

_CONNECT = 1
_UDP_ASSOCIATE = 3


class Refused(Exception):
    """The client has answered with an error.

    Attributes:
      reply: the reply code of SOCKS.
    """

    def __init__(self, reply: int) -> None:
        super().__init__(f"SOCKS reply {reply}")
        self.reply = reply


async def exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    """Receive this many bytes.

    Raises:
      EOFError: the stream has ended before.
    """
    received = bytearray()
    while len(received) < size:
        piece = await stream.receive_some(size - len(received))
        if not piece:
            raise EOFError(f"{len(received)} of {size} bytes")
        received += piece
    return bytes(received)


async def connect(socks: int, destination: Destination) -> trio.SocketStream:
    """Connect to a destination through the client on this port.

    Raises:
      Refused: the client has answered with an error.
    """
    stream, _bound = await _request(socks, _CONNECT, destination)
    return stream


async def _request(socks: int, command: int, destination: Destination) -> tuple[trio.SocketStream, int]:
    stream = await trio.open_tcp_stream(HOST, socks)
    try:
        with trio.fail_after(TIMEOUT):
            await stream.send_all(b"\x05\x01\x00")
            assert await exactly(stream, 2) == b"\x05\x00"
            await stream.send_all(bytes([5, command, 0]) + encode(destination))
            _version, reply, _reserved, kind = await exactly(stream, 4)
            if reply:
                raise Refused(reply)
            bound = await exactly(stream, {1: 6, 4: 18}[kind])
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream, int.from_bytes(bound[-2:], "big")


async def fails(socks: int, destination: Destination) -> str:
    """Connect to a destination that cannot be reached. Return how that shows: "refused", or "ended without a byte"."""
    try:
        stream = await connect(socks, destination)
    except Refused:
        return "refused"
    async with stream:
        with trio.fail_after(TIMEOUT), contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(b"question")
            assert await stream.receive_some() == b""
    return "ended without a byte"


@define(eq=False)
class Datagrams:
    """A UDP association: an application's socket, which sends and receives through the client."""

    _control: trio.SocketStream
    _socket: trio.socket.SocketType
    _port: int

    async def send(self, destination: Destination, data: bytes) -> None:
        """Send a datagram."""
        await self._socket.sendto(encode_datagram(destination, data), (HOST, self._port))

    async def receive(self) -> tuple[Destination, bytes]:
        """Receive a datagram. Return its sender, too."""
        with trio.fail_after(TIMEOUT):
            return decode_datagram(await self._socket.recv(70_000))

    async def ask(self, destination: Destination, data: bytes) -> bytes:
        """Send a datagram, and return the next one, which must come from the same address."""
        await self.send(destination, data)
        sender, answer = await self.receive()
        assert sender == destination
        return answer

    async def ended(self) -> bool:
        """Wait until the client ends the association."""
        with trio.fail_after(TIMEOUT), contextlib.suppress(trio.BrokenResourceError):
            return await self._control.receive_some() == b""
        return True


@contextlib.asynccontextmanager
async def associated(socks: int) -> AsyncIterator[Datagrams]:
    """Ask the client on this port for UDP."""
    stream, port = await _request(socks, _UDP_ASSOCIATE, Destination("0.0.0.0", 0))
    async with stream:
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as one:
            await one.bind((HOST, 0))
            yield Datagrams(stream, one, port)

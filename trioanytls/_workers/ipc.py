"""Messages between `serve_workers` and its workers, over a socket pair.

All but the first message are JSON, so that a compromised worker cannot make the parent execute code.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

import trio
from attrs import asdict, define, field

from trioanytls._server.stats import COUNTERS, ServerStats

#: A message.
Message = dict[str, Any]

_LENGTH = struct.Struct("!Q")
_READ = 64 * 1024


class ChannelClosed(Exception):
    """The other process has exited or has closed its end."""


class BadMessage(Exception):
    """The other process has sent an invalid message."""


@define(eq=False)
class Channel:
    """One end of the socket pair. One task may receive, and several tasks may send.

    A `send` that is cancelled halfway corrupts all later messages.

    Attributes:
      max_size: the maximum size of a message that is received, in bytes.
    """

    _stream: trio.SocketStream
    max_size: float
    # Messages contain the passwords of users.
    _buffer: bytearray = field(init=False, factory=bytearray, repr=False)
    _sending: trio.Lock = field(init=False, factory=trio.Lock)

    @classmethod
    def over(cls, end: socket.socket, max_size: float) -> Channel:
        """Take over one of the two sockets of `socket.socketpair`."""
        end.setblocking(False)
        return cls(trio.SocketStream(trio.socket.from_stdlib_socket(end)), max_size)

    async def send(self, message: Message) -> None:
        """Send a message.

        Raises:
          ChannelClosed: the other process has exited or has closed its end.
        """
        await self.send_bytes(json.dumps(message).encode("ascii"))

    async def send_bytes(self, data: bytes) -> None:
        """Send a message that is not JSON; see `send`."""
        async with self._sending:
            try:
                await self._stream.send_all(_LENGTH.pack(len(data)) + data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ChannelClosed from error

    async def receive(self) -> Message:
        """Receive a message.

        Raises:
          ChannelClosed: see `send`.
          BadMessage: the message is too long, or is not a JSON object.
        """
        data = await self.receive_bytes()
        try:
            message = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BadMessage("not JSON") from error
        if not isinstance(message, dict):
            raise BadMessage("not a JSON object")
        return message

    async def receive_bytes(self) -> bytes:
        """Receive a message that is not JSON; see `receive`."""
        (size,) = _LENGTH.unpack(await self._receive_exactly(_LENGTH.size))
        if size > self.max_size:
            raise BadMessage(f"message of {size} bytes, more than {self.max_size:g}")
        return await self._receive_exactly(size)

    async def _receive_exactly(self, size: int) -> bytes:
        buffer = self._buffer
        while len(buffer) < size:
            try:
                data = await self._stream.receive_some(_READ)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ChannelClosed from error
            if not data:
                raise ChannelClosed
            buffer += data
        received = bytes(buffer[:size])
        del buffer[:size]
        return received

    def close(self) -> None:
        """Close this end."""
        self._stream.socket.close()


def pack_stats(stats: ServerStats) -> Message:
    """Convert counters for a message."""
    return asdict(stats)


def unpack_stats(value: object) -> ServerStats:
    """Convert counters from a message. Unknown counters, from a newer version in the other process, are ignored.

    Raises:
      BadMessage: the value is invalid.
    """
    if not isinstance(value, dict):
        raise BadMessage("counters are missing")
    known: dict[str, Any] = {}
    for name in COUNTERS.keys() & value.keys():
        known[name] = count = value[name]
        default = getattr(_ZERO, name)
        # Not `isinstance`: True and False are integers to Python.
        numbers = count.values() if isinstance(count, dict) else (count,)
        kind = dict if isinstance(default, Mapping) else type(default)
        if type(count) is not kind or not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise BadMessage(f"invalid value for counter {name}")
    return ServerStats(**known)


_ZERO = ServerStats()

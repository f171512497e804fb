"""What `serve_workers` and its workers say to each other: messages over a socket that only the two of them have.

All but the first one are JSON: the processes that strangers talk to cannot make the one that starts them run anything.
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
    """The other process has gone, or does not want to talk any more."""


class BadMessage(Exception):
    """What the other process has said makes no sense: it is not what it was."""


@define(eq=False)
class Channel:
    """One end. One task may receive, and any number may send, each one message after the other.

    A `send` that is cancelled halfway spoils what comes after it.

    Attributes:
      max_size: how many bytes a message may have that comes in.
    """

    _stream: trio.SocketStream
    max_size: float
    # Messages carry the passwords of users.
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
          ChannelClosed: the other process is not there any more.
        """
        await self.send_bytes(json.dumps(message).encode("ascii"))

    async def send_bytes(self, data: bytes) -> None:
        """Send a message that is no JSON; see `send`."""
        async with self._sending:
            try:
                await self._stream.send_all(_LENGTH.pack(len(data)) + data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ChannelClosed from error

    async def receive(self) -> Message:
        """Receive a message.

        Raises:
          ChannelClosed: see `send`.
          BadMessage: it is none.
        """
        data = await self.receive_bytes()
        try:
            message = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BadMessage("it is not JSON") from error
        if not isinstance(message, dict):
            raise BadMessage("it is not a JSON object")
        return message

    async def receive_bytes(self) -> bytes:
        """Receive a message that is no JSON; see `receive`."""
        (size,) = _LENGTH.unpack(await self._receive_exactly(_LENGTH.size))
        if size > self.max_size:
            raise BadMessage(f"it has {size} bytes")
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
    """The counters, for a message."""
    return asdict(stats)


def unpack_stats(value: object) -> ServerStats:
    """The counters from a message. What the other process counts beyond what is known here is left out.

    Raises:
      BadMessage: they are none.
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

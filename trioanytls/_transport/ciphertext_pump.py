"""Moving ciphertext between a transport and a `TLSStream`."""

from __future__ import annotations

import os
from typing import Final, Protocol

import trio

#: The number of bytes to request from a transport at once.
READ_SIZE: Final = 256 * 1024


class CiphertextPump(Protocol):
    """Moves ciphertext between a transport and its owner."""

    async def receive(self, buffer: memoryview) -> memoryview | bytes | bytearray:
        """Wait for ciphertext, at most the size of `buffer`, and return it. It is empty at the end of the transport.

        It may be a part of `buffer`.

        Cancellation: no data is lost.
        """

    async def send(self, data: bytes) -> None:
        """Send all of the ciphertext."""

    def send_nowait(self, data: bytes) -> bytes | memoryview:
        """Send as much as possible without waiting. Return the rest. Errors are left to the next `send`."""


class StreamPump:
    """A pump for any stream."""

    def __init__(self, transport: trio.abc.Stream) -> None:
        self._transport = transport

    async def receive(self, buffer: memoryview) -> bytes | bytearray:
        return await self._transport.receive_some(len(buffer))

    async def send(self, data: bytes) -> None:
        await self._transport.send_all(data)

    def send_nowait(self, data: bytes) -> bytes:
        return data


class SocketPump:
    """A pump for a socket: reads into a shared buffer, without a checkpoint between the read and its use.

    It reads and writes the file descriptor directly. Trio still owns the descriptor and closes it.
    """

    def __init__(self, transport: trio.SocketStream) -> None:
        self._socket = transport.socket
        # Asked each time: Trio closes the descriptor, and the system gives its number to another file.
        self._fileno = transport.socket.fileno
        # Whether the last read emptied the socket's buffer, as far as is known.
        self._empty = True

    async def receive(self, buffer: memoryview) -> memoryview:
        if not self._empty:
            # The checkpoint precedes the read: the data must be decrypted before another task runs.
            await trio.lowlevel.checkpoint()
        while True:
            descriptor = self._fileno()
            if self._empty and descriptor >= 0:
                await trio.lowlevel.wait_readable(descriptor)
                # Another task may have closed the socket meanwhile.
                descriptor = self._fileno()
            try:
                # The number of a closed socket is -1.
                size = os.readv(descriptor, (buffer,))
            except BlockingIOError:
                self._empty = True
                continue
            except OSError as error:
                self._descriptor()
                raise _broken(error) from error
            self._empty = size < len(buffer)
            return buffer[:size]

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        waited = False
        while view:
            try:
                view = view[os.write(self._descriptor(), view) :]
            except BlockingIOError:
                waited = True
                await trio.lowlevel.wait_writable(self._descriptor())
            except OSError as error:
                raise _broken(error) from error
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()

    def send_nowait(self, data: bytes) -> bytes | memoryview:
        try:
            # The number is -1 if the socket is closed.
            sent = os.write(self._socket.fileno(), data)
        except OSError:
            # It includes BlockingIOError.
            return data
        # A socket that does not accept all of the data is full.
        return b"" if sent == len(data) else memoryview(data)[sent:]

    def _descriptor(self) -> int:
        descriptor = self._socket.fileno()
        if descriptor < 0:
            raise trio.ClosedResourceError("this transport is closed")
        return descriptor


def _broken(error: OSError) -> Exception:
    return trio.BrokenResourceError(f"socket connection broken: {error}")


# Without `os.readv`, a socket is treated like any other stream.
_HAS_READV: Final = hasattr(os, "readv")


def make_pump(transport: trio.abc.Stream) -> CiphertextPump:
    """Return the fastest pump for a transport."""
    if _HAS_READV and isinstance(transport, trio.SocketStream):
        return SocketPump(transport)
    return StreamPump(transport)

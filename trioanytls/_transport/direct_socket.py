"""Reading and writing the socket of a `trio.SocketStream` directly, which takes far fewer calls for each piece."""

from __future__ import annotations

import os
import sys
from typing import Final

import trio

# On Windows, a socket is not a descriptor that `os` can read.
_IS_DESCRIPTOR: Final = sys.platform != "win32"


class DirectSocket:
    """The socket of a `trio.SocketStream`, for one task that receives and one that sends.

    Trio still owns the descriptor and closes it.
    """

    __slots__ = ("_fileno", "_is_empty")

    def __init__(self, stream: trio.SocketStream) -> None:
        # Asked each time: Trio closes the descriptor, and the system gives its number to another file.
        self._fileno = stream.socket.fileno
        # Whether the last read emptied the socket's buffer, as far as is known.
        self._is_empty = True

    async def receive_some(self, max_bytes: int) -> bytes:
        """See `trio.abc.ReceiveStream`. No memory is allocated for the data before it has arrived."""
        if not self._is_empty:
            await trio.lowlevel.checkpoint()
        while True:
            if self._is_empty and (descriptor := self._fileno()) >= 0:
                await trio.lowlevel.wait_readable(descriptor)
            try:
                # The number is -1 if the socket is closed, perhaps since it became readable.
                data = os.read(self._fileno(), max_bytes)
            except BlockingIOError:
                self._is_empty = True
                continue
            except OSError as error:
                raise self._failure(error) from error
            self._is_empty = len(data) < max_bytes
            return data

    async def send_rest(self, data: memoryview) -> None:
        """Send the data that `send_nowait` has left, once the socket has room.

        Raises:
          trio.BrokenResourceError, trio.ClosedResourceError: see `trio.abc.SendStream`.
        """
        while data:
            # An error of the socket ends the wait, too.
            if (descriptor := self._fileno()) >= 0:
                await trio.lowlevel.wait_writable(descriptor)
            try:
                data = data[os.write(self._fileno(), data) :]
            except BlockingIOError:
                pass
            except OSError as error:
                raise self._failure(error) from error

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Send as much as possible without waiting. Return the number of bytes. Errors are left to `send_rest`."""
        try:
            # The number is -1 if the socket is closed.
            return os.write(self._fileno(), data)
        except OSError:
            # It includes BlockingIOError.
            return 0

    def _failure(self, error: OSError) -> Exception:
        if self._fileno() < 0:
            return trio.ClosedResourceError("this socket was already closed")
        return trio.BrokenResourceError(f"socket connection broken: {error}")


def direct_socket(stream: trio.abc.Stream) -> DirectSocket | None:
    """Return the socket of a stream. None if it has none that can be read and written directly."""
    return DirectSocket(stream) if _IS_DESCRIPTOR and isinstance(stream, trio.SocketStream) else None

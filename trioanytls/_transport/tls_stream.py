"""TLS 1.3 under a connection (spec: Connections): contexts, and a transport written for one reader and one writer.

How it works. An `ssl.SSLObject` knows no socket: ciphertext goes in and out through two `ssl.MemoryBIO`. Between them
and the socket stands a pump, which moves as much at a time as there is, where `trio.SSLStream` moves a record:

    socket -- one large read --> incoming -- all complete records at once --> receive_some
    send_all -- any number of records --> outgoing -- one write --> socket

A connection has exactly one task that calls `receive_some` and one that calls `send_all`; neither waits for the other.
What TLS itself wants to say is in `outgoing` before anything that is sent later, and goes out with it. For the answer
to a KeyUpdate that is early enough: it has to precede the next application data (RFC 8446: 4.6.3), and a reader that
sent it would have to wait for the writer.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable, Collection
from typing import Final, cast

import trio

from .ciphertext_pump import READ_SIZE, make_pump
from .pinning import pin_of

# The header of a record in bytes, and where in it the length is of what follows (RFC 8446: 5.2).
_RECORD_HEADER: Final = 5
_RECORD_LENGTH: Final = slice(3, 5)
# What TLS may want to say and has not been sent, in bytes: a peer that asks for more without end is not served.
_MAX_UNSENT: Final = 64 * 1024


class _Buffers:
    """Buffers that all connections of a thread share: each is used between two checkpoints only.

    They must not cross threads. Reading a socket and decrypting release the GIL, so that a second event loop would
    overwrite what the first one has not yet copied.
    """

    __slots__ = ("ciphertext", "plaintext")

    def __init__(self) -> None:
        self.ciphertext = memoryview(bytearray(READ_SIZE))
        # Holds whatever one read can bring, and the record that the read before had begun.
        self.plaintext = memoryview(bytearray(READ_SIZE + 16 * 1024))


class _PerThread(threading.local):
    """State of the running thread. Python calls `__init__` once in each thread."""

    def __init__(self) -> None:
        self.buffers = _Buffers()


per_thread: Final = _PerThread()

# The OpenSSL object of every closed transport. Nothing is ever read from it or written to it, so threads can share it.
_CLOSED: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)

#: Whether each read of `SSLObject.session` leaks a copy of it, 6.5 KB and more (gh-116810).
SESSION_READ_LEAKS: Final = sys.version_info < (3, 12, 8) or (3, 13) <= sys.version_info < (3, 13, 1)

# The GNU allocator gives large blocks back to the system as soon as they are free, and gets them again, page by page,
# for the next batch: half of the time of a bulk transfer. Once it has seen a block of this size come and go, it keeps
# up to twice as much (mallopt(3), "dynamic mmap threshold"). Other allocators take no notice.
bytes(8 * 1024 * 1024)


def is_truncation(error: trio.BrokenResourceError) -> bool:
    """Whether the peer has ended TCP without having ended TLS, as many a client does."""
    return isinstance(error.__cause__, ssl.SSLEOFError)


class TLSStream(trio.abc.Stream):
    """TLS over a transport, for one task that receives and one that sends.

    Attributes:
      transport: the transport below.
      keep_session: (client) whether `take_session` will be called after the transport was closed.

    Receiving can be cancelled at any time. A `send_all` that is cancelled in its middle leaves the transport unable to
    send, since a record may be incomplete; the connection's writer is never cancelled but to give up.
    """

    def __init__(
        self,
        transport: trio.abc.Stream,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        received: bytes = b"",
        session: ssl.SSLSession | None = None,
    ) -> None:
        self.transport = transport
        self.keep_session = False
        self._incoming = ssl.MemoryBIO()
        self._incoming.write(received)
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname, session=session
        )
        self._pump = make_pump(transport)
        self._receiving = False
        self._sending = False
        self._closed = False
        self._sent_eof = False
        # What `send_nowait` could not send.
        self._unsent: bytes | memoryview = b""
        # Why nothing can be sent any more, or received.
        self._broken: BaseException | None = None
        # Read when the transport was closed.
        self._session: ssl.SSLSession | None = None
        # Reading into a buffer, it returns a number.
        self._read = cast("Callable[[int, memoryview], int]", self._ssl.read)
        # What was decrypted beyond what somebody asked for, and what stands behind it: the end, or an error.
        self._rest = b""
        self._end = False
        self._receive_error: ssl.SSLError | None = None

    def version(self) -> str | None:
        """The TLS version, as `ssl.SSLObject.version`."""
        return self._ssl.version()

    def selected_alpn_protocol(self) -> str | None:
        """The protocol agreed upon by ALPN, None if none was."""
        return self._ssl.selected_alpn_protocol()

    def take_session(self) -> ssl.SSLSession | None:
        """(client) Return the session, for a later connection to resume; None if the server has sent no ticket.

        To be called once, see `SESSION_READ_LEAKS`. Of a transport that was closed since, only one with `keep_session`
        knows it.
        """
        if not self._closed:
            return self._read_session()
        session, self._session = self._session, None
        return session

    def _read_session(self) -> ssl.SSLSession | None:
        try:
            session = self._ssl.session
        except ValueError:
            # The handshake was not finished.
            return None
        return session if session is not None and session.has_ticket else None

    @property
    def resumed(self) -> bool:
        """Whether the handshake resumed an earlier session."""
        return bool(self._ssl.session_reused)

    def has_key_of(self, pins: Collection[bytes]) -> bool:
        """Whether the peer's public key fits one of the pins."""
        certificate = self._ssl.getpeercert(binary_form=True)
        try:
            return certificate is not None and pin_of(certificate) in pins
        except ValueError:
            # What only the TLS library can read, nobody has pinned.
            return False

    async def do_handshake(self) -> None:
        """Do the handshake. To be called once, before anything else.

        Raises:
          trio.BrokenResourceError: it failed; the `__cause__` says why.

        Cancellation: the transport is of no use any more.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                self._ssl.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._pump.receive(self._incoming, per_thread.buffers.ciphertext):
                    # OpenSSL is not asked: which exception an end during a handshake makes is another one in each
                    # version of Python.
                    error = ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the transport ended during the handshake")
                    raise trio.BrokenResourceError(str(error)) from error
                self._check_not_closed()
            except ssl.SSLError as failure:
                # The peer is told why, by an alert.
                with contextlib.suppress(trio.BrokenResourceError):
                    await self._flush()
                raise trio.BrokenResourceError(str(failure)) from failure
        if self._ssl.server_side:
            self._send_tickets()
        else:
            await self._flush()

    def _send_tickets(self) -> None:
        """(server) Send the session tickets like OpenSSL on a socket: at once, each record in a write of its own.

        A client that only sends would never take them, so nothing waits here: the first data takes along what is left,
        and all of them on a transport that cannot send without waiting.
        """
        data = self._outgoing.read()
        while data and not self._unsent:
            end = _RECORD_HEADER + int.from_bytes(data[_RECORD_LENGTH])
            self._unsent, data = self._pump.send_nowait(data[:end]), data[end:]
        if data:
            self._unsent = b"".join((self._unsent, data))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive what has arrived: all complete records of one read of the transport, up to `max_bytes`.

        Returns:
          the bytes; `b""` where the peer has ended TLS by a close_notify.

        Raises:
          trio.BrokenResourceError: the transport broke, or ended without a close_notify, or what came is no TLS.
          trio.ClosedResourceError, trio.BusyResourceError: see `trio.abc.ReceiveStream`.
        """
        if max_bytes is not None:
            max_bytes = operator.index(max_bytes)
            if max_bytes < 1:
                raise ValueError("max_bytes must be at least 1")
        view = await self._receive(per_thread.buffers)
        data = view if isinstance(view, bytes) else bytes(view)
        if max_bytes is None or len(data) <= max_bytes:
            return data
        self._rest = data[max_bytes:]
        return data[:max_bytes]

    def receiving_views(self) -> Callable[[], Awaitable[memoryview | bytes]]:
        """Return a function like `receive_some`, without `max_bytes`, for the calling task alone.

        Its result is valid until the next checkpoint: then another connection of this thread uses the buffer.
        """
        # A task stays in one thread, so the buffers are looked up once for all its reads. A transport does not: it may
        # have been made, or have done its handshake, in another thread.
        return functools.partial(self._receive, per_thread.buffers)

    async def _receive(self, buffers: _Buffers) -> memoryview | bytes:
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this transport")
        self._check_not_closed()
        self._receiving = True
        try:
            if not self._rest and (self._incoming.pending or self._receive_error is not None):
                # The read that ended the handshake may have brought data as well.
                await trio.lowlevel.checkpoint_if_cancelled()
                self._rest = bytes(buffers.plaintext[: self._decrypt(buffers.plaintext)])
            if self._rest or self._end:
                await trio.lowlevel.checkpoint()
                rest, self._rest = self._rest, b""
                return rest
            while True:
                if not await self._pump.receive(self._incoming, buffers.ciphertext):
                    # TLS is not told: it would not let us answer any more.
                    self._receive_error = ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the transport ended without close_notify")
                self._check_not_closed()
                if (size := self._decrypt(buffers.plaintext)) or self._end:
                    # No checkpoint between here and the last use of the buffer.
                    return buffers.plaintext[:size]
        finally:
            self._receiving = False

    def _decrypt(self, plaintext: memoryview) -> int:
        """Decrypt all complete records that have come into the shared buffer; the number of bytes."""
        incoming = self._incoming
        size, room = 0, len(plaintext)
        try:
            # Asking TLS for more than there is costs an exception.
            while size < room and incoming.pending and not self._end and not self._receive_error:
                read = self._read(room - size, plaintext[size:])
                if not read:
                    self._end = True
                    break
                size += read
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            # The end, where ours was sent before.
            self._end = True
        except ssl.SSLError as error:
            self._receive_error = error
        if not size and self._receive_error is not None:
            raise trio.BrokenResourceError(f"TLS: {self._receive_error}") from self._receive_error
        if self._outgoing.pending > _MAX_UNSENT:
            raise trio.BrokenResourceError("the peer asks TLS for answers without end")
        return size

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data` as the records that it needs, in one write of the transport, and what `send_nowait` has left.

        Raises:
          trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError: see `trio.abc.SendStream`.
        """
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if not data and not self._unsent:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return
            self._encrypt(data)
            await self._flush()
        finally:
            self._sending = False

    def send_nowait(self, data: bytes) -> bool:
        """Send `data` as far as that takes no wait; False where something is left, which the next `send_all` sends.

        Not to be called while `send_all` is under way. Errors of the transport meet that next call too.
        """
        self._begin_sending()
        try:
            self._encrypt(data)
            self._unsent = self._pump.send_nowait(self._take_outgoing())
            return not self._unsent
        finally:
            self._sending = False

    def _encrypt(self, data: bytes | bytearray | memoryview) -> None:
        if data:
            try:
                self._ssl.write(data)
            except ssl.SSLError as error:
                raise trio.BrokenResourceError(f"TLS: {error}") from error

    def _take_outgoing(self) -> bytes:
        data = self._outgoing.read()
        if self._unsent:
            data = b"".join((self._unsent, data))
            self._unsent = b""
        return data

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        self._begin_sending()
        try:
            await self.transport.wait_send_all_might_not_block()
        finally:
            self._sending = False

    def _begin_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this transport")
        self._check_not_closed()
        if self._broken is not None:
            raise trio.BrokenResourceError("this transport is broken") from self._broken
        if self._sent_eof:
            raise trio.ClosedResourceError("the end was sent already")
        self._sending = True

    async def _flush(self) -> None:
        data = self._take_outgoing()
        if data:
            try:
                await self._pump.send(data)
            except BaseException as error:
                # A record may have gone out in part.
                self._broken = error
                raise

    def _check_not_closed(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this transport is closed")

    async def send_eof(self) -> None:
        """Send a close_notify, and let the transport below say that nothing follows; receiving goes on.

        For whoever takes a connection over, see `_server.fallback`: ANYTLS itself has no half-close. A second call does
        nothing.

        Raises:
          trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError: as `send_all`.
        """
        if self._sent_eof and not self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._incoming.pending:
                # It came with the end of the handshake. The goodbye would take it for the peer's, and drop it.
                with contextlib.suppress(trio.BrokenResourceError):
                    plaintext = per_thread.buffers.plaintext
                    self._rest += bytes(plaintext[: self._decrypt(plaintext)])
            self._say_goodbye()
            await self._flush()
            if isinstance(self.transport, trio.abc.HalfCloseableStream):
                await self.transport.send_eof()
            self._sent_eof = True
        finally:
            self._sending = False

    def give_up(self) -> None:
        """Send nothing any more, no close_notify either: the peer is to know that something is missing."""
        self._broken = self._broken or trio.BrokenResourceError("the transport was given up")

    async def aclose(self) -> None:
        """Send a close_notify, unless something else is being sent, and close the transport.

        Cancellation: the transport is closed all the same.
        """
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        try:
            if self._broken is None and not self._sending and not self._sent_eof:
                self._say_goodbye()
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._flush()
        finally:
            # A connection's parts refer to each other, and may wait long for Python's collector, which does not know
            # how much OpenSSL holds for them.
            if self.keep_session:
                self._session = self._read_session()
            self._ssl = _CLOSED
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._read = cast("Callable[[int, memoryview], int]", _CLOSED.read)
            # A cancelled close, as any other, closes before its checkpoint.
            await self.transport.aclose()

    def _say_goodbye(self) -> None:
        with contextlib.suppress(ssl.SSLError):
            # It raises as the peer's close_notify has not come; ours is in `outgoing` then.
            self._ssl.unwrap()

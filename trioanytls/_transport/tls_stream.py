"""TLS under a connection (spec: Connections): a stream written for one reader and one writer.

Theory of operation. An `ssl.SSLObject` has no socket: ciphertext passes through two `ssl.MemoryBIO` objects. A pump
between them and the socket moves all available data at once, while `trio.SSLStream` moves one record at a time:

    socket -- one large read --> incoming -- all complete records at once --> receive_some
    send_all -- any number of records --> outgoing -- one write --> socket

A connection has exactly one task that calls `receive_some` and one that calls `send_all`. Neither waits for the other.
Messages of TLS itself are written to `outgoing`, and sent with the next application data. This is early enough for the
answer to a KeyUpdate: it must precede the next application data (RFC 8446: 4.6.3), and a reader that sent it would have
to wait for the writer.
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
from .half_close import send_eof
from .pinning import pin_of
from .tcp_info import estimated_round_trip

# The length of a record's header in bytes, and the position of the record's length in it (RFC 8446: 5.2).
_RECORD_HEADER: Final = 5
_RECORD_LENGTH: Final = slice(3, 5)
# The most ciphertext in the BIO at once. It keeps the memory that it has once needed until the connection ends.
_BIO_SIZE: Final = 64 * 1024
# The largest record in bytes, with its header (RFC 5246: 6.2.3; those of TLS 1.3 are smaller).
_MAX_RECORD: Final = _RECORD_HEADER + 16 * 1024 + 2048
# The most to read at once during the handshake: a peer that was not authenticated may send more.
_HANDSHAKE_READ: Final = 16 * 1024
# The maximum number of unsent bytes of TLS itself. A peer can request answers without limit, and not read them.
_MAX_UNSENT: Final = 64 * 1024


class _Buffers:
    """Buffers that all connections of a thread share. Each is only used between two checkpoints.

    Threads must not share them. Reading a socket and decrypting release the GIL, so that a second event loop would
    overwrite data that the first one has not copied yet.
    """

    __slots__ = ("ciphertext", "plaintext")

    def __init__(self) -> None:
        self.ciphertext = memoryview(bytearray(READ_SIZE))
        # Large enough for one read and an incomplete record from the read before.
        self.plaintext = memoryview(bytearray(READ_SIZE + 16 * 1024))


class _PerThread(threading.local):
    """The state of the current thread. Python calls `__init__` once in each thread."""

    def __init__(self) -> None:
        self.buffers = _Buffers()


per_thread: Final = _PerThread()

# Replaces the OpenSSL object of closed streams. It is never read or written, so threads can share it.
_CLOSED: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)

#: Whether each read of `SSLObject.session` leaks a copy of the session, 6.5 KB and more (gh-116810).
SESSION_READ_LEAKS: Final = sys.version_info < (3, 12, 8) or (3, 13) <= sys.version_info < (3, 13, 1)

# The GNU allocator returns large blocks to the system as soon as they are free, and gets them again, page by page, for
# the next batch. That takes half of the time of a bulk transfer. Once a block of this size was allocated and freed,
# it keeps up to twice as much (mallopt(3), "dynamic mmap threshold"). This has no effect on other allocators.
bytes(8 * 1024 * 1024)


def is_truncation(error: trio.BrokenResourceError) -> bool:
    """Return whether the peer ended TCP without ending TLS, as many clients do."""
    return isinstance(error.__cause__, ssl.SSLEOFError)


class TLSStream(trio.abc.Stream):
    """TLS over a transport, for one task that receives and one that sends.

    Attributes:
      transport: the transport below.
      keep_session: (client) whether `take_session` will be called after the stream was closed.

    Receiving can be cancelled at any time. After a `send_all` was cancelled, the stream cannot send any more, since a
    record may be incomplete. The connection's writer is only cancelled to abandon the connection.
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
        # Ciphertext that `send_nowait` could not send.
        self._unsent: bytes | memoryview = b""
        # The error after which nothing can be sent.
        self._broken: BaseException | None = None
        # The session, read when the stream was closed.
        self._session: ssl.SSLSession | None = None
        # With a buffer, `read` returns a number.
        self._read = cast("Callable[[int, memoryview], int]", self._ssl.read)
        # Decrypted data that exceeded `max_bytes`, and what follows it: the end, or an error.
        self._rest = b""
        self._end = False
        self._receive_error: ssl.SSLError | None = None

    def version(self) -> str | None:
        """Return the TLS version, like `ssl.SSLObject.version`."""
        return self._ssl.version()

    def selected_alpn_protocol(self) -> str | None:
        """Return the protocol selected by ALPN; None if there is none."""
        return self._ssl.selected_alpn_protocol()

    def take_session(self) -> ssl.SSLSession | None:
        """(client) Return the session, which a later connection can resume; None if the server has sent no ticket.

        Call this once, see `SESSION_READ_LEAKS`. After the stream was closed, it is only available with `keep_session`.
        """
        if not self._closed:
            return self._read_session()
        session, self._session = self._session, None
        return session

    def _read_session(self) -> ssl.SSLSession | None:
        try:
            session = self._ssl.session
        except ValueError:
            # The handshake is not finished.
            return None
        return session if session is not None and session.has_ticket else None

    @property
    def resumed(self) -> bool:
        """True if the handshake resumed an earlier session."""
        return bool(self._ssl.session_reused)

    def estimate_round_trip(self) -> float | None:
        """Return the kernel's estimate of the round trip in seconds, see `tcp_info`; None if there is none."""
        return estimated_round_trip(self.transport)

    def has_key_of(self, pins: Collection[bytes]) -> bool:
        """Return whether the peer's public key matches one of the pins."""
        certificate = self._ssl.getpeercert(binary_form=True)
        try:
            return certificate is not None and pin_of(certificate) in pins
        except ValueError:
            # A certificate that only the TLS library can parse cannot be pinned.
            return False

    async def do_handshake(self) -> None:
        """Do the handshake. Call this once, before anything else.

        Raises:
          trio.BrokenResourceError: the handshake failed. The `__cause__` is the error of the TLS library.

        Cancellation: the stream cannot be used any more.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                self._ssl.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush_at_once()
                ciphertext = await self._pump.receive(per_thread.buffers.ciphertext[:_HANDSHAKE_READ])
                if not ciphertext:
                    # Raise the error here: if OpenSSL sees the end of the transport during a handshake, the exception
                    # differs between versions of Python.
                    error = ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the transport ended during the handshake")
                    raise trio.BrokenResourceError(str(error)) from error
                self._incoming.write(ciphertext)
                self._check_not_closed()
            except ssl.SSLError as failure:
                # Send the TLS alert that tells the peer the cause.
                with contextlib.suppress(trio.BrokenResourceError):
                    await self._flush()
                raise trio.BrokenResourceError(str(failure)) from failure
        if self._ssl.server_side:
            self._send_tickets()
        else:
            await self._flush_at_once()

    def _send_tickets(self) -> None:
        """(server) Send the session tickets like OpenSSL on a socket: at once, each record in a separate write.

        A client that only sends would never read them, so this does not wait. The remaining tickets are sent with the
        first data. On a transport that cannot send without waiting, those are all of them.
        """
        data = self._outgoing.read()
        while data and not self._unsent:
            end = _RECORD_HEADER + int.from_bytes(data[_RECORD_LENGTH])
            self._unsent, data = self._pump.send_nowait(data[:end]), data[end:]
        if data:
            self._unsent = b"".join((self._unsent, data))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive all complete records of one read of the transport, up to `max_bytes`.

        Returns:
          the bytes; `b""` if the peer has ended TLS by a close_notify.

        Raises:
          trio.BrokenResourceError: the transport broke, or ended without a close_notify, or the data is not valid TLS.
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
        """Return a function like `receive_some` without `max_bytes`. Only the calling task may use it.

        Its result is valid until the next checkpoint: then another connection of this thread may use the buffer.
        """
        # A task stays in one thread, so the buffers are looked up once for all its reads. A stream can move: it may
        # have been created, or have done its handshake, in another thread.
        return functools.partial(self._receive, per_thread.buffers)

    async def _receive(self, buffers: _Buffers) -> memoryview | bytes:
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this transport")
        if self._closed:
            self._check_not_closed()
        self._receiving = True
        try:
            if not self._rest and (self._incoming.pending or self._receive_error is not None):
                # The last read of the handshake may have received application data, too.
                await trio.lowlevel.checkpoint_if_cancelled()
                self._rest = bytes(buffers.plaintext[: self._decrypt(buffers.plaintext)])
            if self._rest or self._end:
                await trio.lowlevel.checkpoint()
                rest, self._rest = self._rest, b""
                return rest
            while True:
                ciphertext = await self._pump.receive(buffers.ciphertext)
                if not ciphertext:
                    # Do not signal the end to OpenSSL: it would refuse to send then.
                    self._receive_error = ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the transport ended without close_notify")
                if self._closed:
                    self._check_not_closed()
                if (size := self._decrypt(buffers.plaintext, ciphertext)) or self._end:
                    # There must be no checkpoint between here and the last use of the buffer.
                    return buffers.plaintext[:size]
        finally:
            self._receiving = False

    def _decrypt(self, plaintext: memoryview, ciphertext: memoryview | bytes | bytearray = b"") -> int:
        """Decrypt all complete records into the shared buffer. Return the number of bytes.

        `ciphertext` follows that which was received before.
        """
        incoming, read = self._incoming, self._read
        size, room = 0, 0 if self._end or self._receive_error is not None else len(plaintext)
        fed = 0
        while room:
            incoming.write(ciphertext[fed : fed + _BIO_SIZE])
            fed += _BIO_SIZE
            # Reading an incomplete record costs an exception. As long as more follows, leave what may be one.
            least = 1 if fed >= len(ciphertext) else _MAX_RECORD
            try:
                while size < room and incoming.pending >= least:
                    count = read(room - size, plaintext[size:])
                    if not count:
                        self._end, room = True, 0
                    size += count
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                # The end, after we sent our own close_notify.
                self._end, room = True, 0
            except ssl.SSLError as error:
                self._receive_error, room = error, 0
            if fed >= len(ciphertext):
                break
        if not size and self._receive_error is not None:
            raise trio.BrokenResourceError(f"TLS: {self._receive_error}") from self._receive_error
        if self._outgoing.pending > _MAX_UNSENT:
            raise trio.BrokenResourceError("too many unsent TLS responses (renegotiation or key-update flood)")
        return size

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data` in as many records as needed, after the rest of `send_nowait`, in one write of the transport.

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
        """Send `data` as far as possible without waiting. Return whether all of it was sent.

        The next `send_all` sends the rest, and raises errors of the transport. Must not be called during a `send_all`.
        """
        # One test for all of `_check_may_send`, and the bodies of `_encrypt` and `_take_outgoing`: this runs for each
        # frame, and each call is 1 % of a large one.
        if self._sending or self._closed or self._sent_eof or self._broken is not None:
            self._check_may_send()
        if data:
            try:
                self._ssl.write(data)
            except ssl.SSLError as error:
                raise trio.BrokenResourceError(f"TLS: {error}") from error
        ciphertext = self._outgoing.read()
        if self._unsent:
            ciphertext = b"".join((self._unsent, ciphertext))
        self._unsent = self._pump.send_nowait(ciphertext)
        return not self._unsent

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
        self._check_may_send()
        self._sending = True

    def _check_may_send(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this transport")
        self._check_not_closed()
        if self._broken is not None:
            raise trio.BrokenResourceError("this transport is broken") from self._broken
        if self._sent_eof:
            raise trio.ClosedResourceError("send_eof was called already")

    async def _flush(self) -> None:
        data = self._take_outgoing()
        if data:
            try:
                await self._pump.send(data)
            except BaseException as error:
                # A record may have been sent in part.
                self._broken = error
                raise

    async def _flush_at_once(self) -> None:
        """Flush, without a checkpoint if the transport accepts everything: a handshake has others."""
        if data := self._take_outgoing():
            self._unsent = self._pump.send_nowait(data)
            if self._unsent:
                await self._flush()

    def _check_not_closed(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this transport is closed")

    async def send_eof(self) -> None:
        """Send a close_notify and the end of the transport below. Receiving continues.

        For the fallback, and for the end of a connection. A second call does nothing.

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
                # Received with the end of the handshake. `unwrap` would drop it while looking for a close_notify.
                with contextlib.suppress(trio.BrokenResourceError):
                    plaintext = per_thread.buffers.plaintext
                    self._rest += bytes(plaintext[: self._decrypt(plaintext)])
            self._write_close_notify()
            # The next line has the checkpoint.
            await self._flush_at_once()
            await send_eof(self.transport)
            self._sent_eof = True
        finally:
            self._sending = False

    def abandon(self) -> None:
        """Send nothing more, not even a close_notify, so that the peer notices that data is missing."""
        self._broken = self._broken or trio.BrokenResourceError("the transport was abandoned")

    async def aclose(self) -> None:
        """Send a close_notify, unless a `send_all` is in progress, and close the transport.

        Cancellation: the transport is closed anyway.
        """
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        try:
            if self._broken is None and not self._sending and not self._sent_eof:
                self._write_close_notify()
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._flush_at_once()
        finally:
            # A connection's parts refer to each other, and the garbage collector may free them late: it does not know
            # how much memory OpenSSL holds.
            if self.keep_session:
                self._session = self._read_session()
            self._ssl = _CLOSED
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._read = cast("Callable[[int, memoryview], int]", _CLOSED.read)
            # This closes before its checkpoint, even if it is cancelled.
            await self.transport.aclose()

    def _write_close_notify(self) -> None:
        with contextlib.suppress(ssl.SSLError):
            # This raises if the peer's close_notify has not arrived. Ours is in `outgoing` anyway.
            self._ssl.unwrap()

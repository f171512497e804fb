"""Streams to destinations for local applications: through the relay, or directly if a bypass rule applies."""

from __future__ import annotations

import logging
import math
from typing import Final

import trio
from attrs import define, field

import trioanytls
from trioanytls.destination import Destination, encode

from . import refusal_reasons
from .bypass import Bypass
from .dial import DialError, connect, resolve
from .reply_codes import ReplyCode, find_reply, reply_of_code, text_of_code

_log = logging.getLogger("trioanytls.relay")

#: How long the relay may take to connect to a destination, in seconds: longer than the relay's own timeout, so that its
#: reply comes first.
CONNECT_TIMEOUT: Final = 15.0
#: How long the relay may take to say that it speaks version 2 of the legacy format, in seconds. It says so at once, so
#: that one that says nothing speaks version 1, which does not acknowledge streams.
VERSION_TIMEOUT: Final = 1.0
# The version of that format that acknowledges streams.
_ACKNOWLEDGING: Final = 2
# How many streams are opened for one request. Servers that are shutting down have not seen the ones before the last.
_ATTEMPTS: Final = 5
#: How long one direction may be silent once the other one has ended, in seconds. A connection that an application has
#: closed looks the same, and without the extension `fin` a stream cannot tell the destination (RFC 5382, section 5,
#: requires at least 4 minutes).
HALF_CLOSED_TIMEOUT: Final = 600.0
#: How long such a connection must have been silent to be ended for another one, if all streams are in use, in seconds.
LEAST_SILENCE: Final = 5.0


class Unreachable(trioanytls.AnyTLSError):
    """A destination cannot be reached.

    Attributes:
      reply: the reason, as a reply code of SOCKS.
    """

    def __init__(self, reply: ReplyCode, detail: str | None = None) -> None:
        super().__init__(detail or reply.text)
        self.reply = reply


@define(eq=False)
class Upstream:
    """Opens streams to destinations for the front ends, and counts their bytes.

    Attributes:
      client: the client whose server is the relay. It must remain open.
      connect_timeout: the time for opening one stream, in seconds, including the relay's connecting.
      bypass: the destinations that are connected to directly, without the relay.
      capacity: how many streams the client can have open at once. If all are in use, a stream whose application may
        have closed it makes room for a new one.
      up, down: the number of bytes to destinations, and from them.
    """

    client: trioanytls.Client
    connect_timeout: float = CONNECT_TIMEOUT
    bypass: Bypass = field(factory=Bypass)
    capacity: float = math.inf
    up: int = field(init=False, default=0)
    down: int = field(init=False, default=0)
    _half_closed: trioanytls.HalfClosedCopies = field(init=False, factory=trioanytls.HalfClosedCopies)

    async def open(self, destination: Destination) -> trio.abc.Stream:
        """Open a stream to a destination: through the relay, or directly if `bypass` applies.

        Raises:
          Unreachable: the destination could not be connected to.

        Cancellation: the stream is closed.
        """
        if self.bypass.applies_to(destination):
            return await self._connect(destination)
        return await self.open_stream(destination)

    async def _connect(self, destination: Destination) -> trio.SocketStream:
        _log.debug("%s: connecting directly, by a bypass rule", destination)
        if not destination.port:
            raise Unreachable(ReplyCode.HOST_UNREACHABLE, "cannot connect directly: port 0 is invalid")
        try:
            with trio.fail_after(self.connect_timeout):
                return await connect(await resolve(destination))
        except trio.TooSlowError as error:
            raise Unreachable(ReplyCode.TIMED_OUT) from error
        except DialError as error:
            raise Unreachable(error.reply, f"cannot connect directly: {error}") from error

    async def open_stream(self, destination: Destination, request: bytes = b"") -> trioanytls.Stream:
        """Open a stream that the relay has connected to a destination.

        If the server was shutting down and has not seen the stream, it is opened again on another connection
        (extensions: 5). Nothing of the application's data has been sent by then.

        Args:
          destination: the destination; `bypass` does not apply.
          request: further bytes that the relay needs before it can acknowledge the stream.

        Raises:
          Unreachable: the relay could not connect, or is unavailable.

        Cancellation: the stream is closed.
        """
        try:
            address = encode(destination)
        except ValueError as error:
            raise Unreachable(ReplyCode.HOST_UNREACHABLE, str(error)) from error
        stream = None
        left = _ATTEMPTS
        try:
            with trio.fail_after(self.connect_timeout):
                while True:
                    self._make_room()
                    stream = await self.client.open_stream()
                    left -= 1
                    try:
                        await stream.send_all(address + request)
                        await _wait_acknowledged(stream)
                    except trioanytls.StreamRefused as error:
                        if not (error.retryable and left):
                            raise
                        _log.debug("%s: opening the stream again: %s", destination, error)
                        await trio.aclose_forcefully(stream)
                        stream = None
                    else:
                        return stream
        except trio.TooSlowError as error:
            # Without a stream, the destination was not even requested.
            reply = ReplyCode.GENERAL_FAILURE if stream is None else ReplyCode.TIMED_OUT
            raise await _abandon(stream, Unreachable(reply)) from error
        except trioanytls.StreamRefused as error:
            assert stream is not None  # noqa: S101 - it was refused
            raise await _abandon(stream, await _explain(stream, error)) from error
        except trioanytls.StreamTimeout as error:
            raise await _abandon(stream, Unreachable(ReplyCode.TIMED_OUT)) from error
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            raise await _abandon(stream, Unreachable(ReplyCode.GENERAL_FAILURE, str(error))) from error
        except BaseException:
            if stream is not None:
                await trio.aclose_forcefully(stream)
            raise

    def _make_room(self) -> None:
        """End a stream whose application may have closed it, if the client has no room for another one."""
        if self.capacity == math.inf:
            return
        stats = self.client.stats
        if stats.streams + stats.waiting >= self.capacity:
            self._half_closed.end_longest_silent(LEAST_SILENCE)

    async def relay(self, near: trio.abc.Stream, far: trio.abc.Stream, first: bytes = b"") -> None:
        """Copy both ways until both directions have ended, and close both streams. Errors are logged.

        Args:
          near: the application's connection.
          far: the stream to the destination.
          first: data already received from `near`.

        Cancellation: both streams are reset.
        """
        try:
            if first:
                await far.send_all(first)
                self.count(len(first), 0)
            await trioanytls.copy_both_ways(
                near,
                far,
                on_bytes=self.count,
                half_closed_timeout=math.inf if _can_half_close(far) else HALF_CLOSED_TIMEOUT,
                half_closed=self._half_closed,
            )
        except BaseException as error:
            # What was received so far must not look complete.
            await trioanytls.reset_stream(near)
            await trioanytls.reset_stream(far)
            if not isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError):
                raise
            name = f"stream {far.stream_id}" if isinstance(far, trioanytls.Stream) else "direct connection"
            _log.debug("%s: %s", name, error.__cause__ or error)

    def count(self, up: int, down: int) -> None:
        """Add to the number of bytes to destinations, and from them."""
        self.up += up
        self.down += down


def _can_half_close(far: trio.abc.Stream) -> bool:
    """Return whether a destination learns that the application has ended its sending, and can close.

    If it does not, the idle timer of the stream limits its silence.
    """
    return isinstance(far, trioanytls.Stream) and bool(far.can_half_close)


async def _wait_acknowledged(stream: trioanytls.Stream) -> None:
    """Wait until the relay has accepted a stream, unless it is one that never says so."""
    connection = stream.connection
    if connection.protocol == "legacy":
        if connection.version is None:
            with trio.move_on_after(VERSION_TIMEOUT):
                await stream.wait_acknowledged()
        if (connection.version or 1) < _ACKNOWLEDGING and not stream.closed:
            return
    await stream.wait_acknowledged()


async def _explain(refused: trioanytls.Stream, error: trioanytls.StreamRefused) -> Unreachable:
    """Find out why the relay has refused a stream."""
    if error.retryable:
        return Unreachable(ReplyCode.GENERAL_FAILURE, text_of_code(trioanytls.StreamCode.SHUTTING_DOWN))
    if refusal_reasons.knows_reasons(refused):
        return _translate(error)
    if refused.connection.protocol != "legacy":
        return Unreachable(await refusal_reasons.fetch_reason(refused))
    if error.reason is None:
        # The usual reason.
        return Unreachable(ReplyCode.CONNECTION_REFUSED)
    # A relay of this package sends the text of a reply.
    reply = find_reply(error.reason)
    return Unreachable(ReplyCode.GENERAL_FAILURE, error.reason) if reply is None else Unreachable(reply)


def _translate(error: trioanytls.StreamRefused) -> Unreachable:
    """Make the error for a refusal with a code (extensions: 4)."""
    # A relay of this package sends the text of a reply, if the reply says the same as the code.
    reply = None if error.reason is None else find_reply(error.reason)
    if reply is not None and reply.stream_code is error.code:
        return Unreachable(reply)
    return Unreachable(reply_of_code(error.code), error.reason or text_of_code(error.code))


async def _abandon(stream: trioanytls.Stream | None, error: Unreachable) -> Unreachable:
    if stream is not None:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)
    return error

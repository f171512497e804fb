"""The way out of the client's machine: a stream to a destination, relayed or direct, or why there is none."""

from __future__ import annotations

import logging
import math
from typing import Final

import trio
from attrs import define, field

import trioanytls
from trioanytls import HalfClosedCopies, SideBroken, copy_both_ways
from trioanytls.destination import Destination, encode

from . import refusal_reasons
from .bypass import Bypass
from .dial import DialError, connect, resolve
from .errors import Restorable
from .reply_codes import ReplyCode

_log = logging.getLogger("trioanytls.relay")

#: How long the relay may take to connect to a destination, in seconds: somewhat longer than it takes its own patience
#: to run out, so that its word comes first.
CONNECT_TIMEOUT: Final = 15.0
#: How long a connection may be silent of which one direction has ended, in seconds. What an application closes looks
#: like that, too, and a stream cannot tell the destination of it (RFC 5382, section 5, asks for 4 minutes at least).
HALF_CLOSED_TIMEOUT: Final = 600.0
#: How long it must have been silent to be ended for another one, if all streams are in use, in seconds.
LEAST_SILENCE: Final = 5.0


class Unreachable(Restorable):
    """There is no way to a destination.

    Attributes:
      reply: why.
    """

    def __init__(self, reply: ReplyCode, detail: str | None = None) -> None:
        super().__init__(detail or reply.text)
        self.reply = reply


@define(eq=False)
class Upstream:
    """Opens streams, and counts what goes through them.

    Attributes:
      client: what opens them.
      connect_timeout: how long one may take, in seconds.
      bypass: the destinations that are connected to directly.
      capacity: how many streams the client can have open at once. When all are in use, one that an application may have
        left makes room for a new one.
      up, down: bytes that went to destinations, and came from them.
    """

    client: trioanytls.Client
    connect_timeout: float = CONNECT_TIMEOUT
    bypass: Bypass = field(factory=Bypass)
    capacity: float = math.inf
    up: int = field(init=False, default=0)
    down: int = field(init=False, default=0)
    _half_closed: HalfClosedCopies = field(init=False, factory=HalfClosedCopies)

    async def open(self, destination: Destination) -> trio.abc.Stream:
        """Open a stream to a destination: through the relay, or directly if `bypass` applies to it.

        Raises:
          Unreachable: it could not be connected to.
        """
        if self.bypass.applies_to(destination):
            return await self._connect(destination)
        return await self.open_stream(destination)

    async def _connect(self, destination: Destination) -> trio.SocketStream:
        _log.debug("%s: connecting directly, as --bypass says", destination)
        if not destination.port:
            raise Unreachable(ReplyCode.HOST_UNREACHABLE, "not connected to directly: port 0 is invalid")
        try:
            with trio.fail_after(self.connect_timeout):
                return await connect(await resolve(destination))
        except trio.TooSlowError as error:
            raise Unreachable(ReplyCode.TIMED_OUT) from error
        except DialError as error:
            raise Unreachable(error.reply, f"not connected to directly: {error}") from error

    async def open_stream(self, destination: Destination, request: bytes = b"") -> trioanytls.Stream:
        """A stream that the relay has connected to a destination; `request` is what it has to know before it can.

        Raises:
          Unreachable: it could not.
        """
        try:
            address = encode(destination)
        except ValueError as error:
            raise Unreachable(ReplyCode.HOST_UNREACHABLE, str(error)) from error
        stream = None
        try:
            with trio.fail_after(self.connect_timeout):
                self._make_room()
                stream = await self.client.open_stream()
                await stream.send_all(address + request)
                await stream.wait_acknowledged()
        except trio.TooSlowError as error:
            # Without a stream, the destination has not even been asked.
            reply = ReplyCode.GENERAL_FAILURE if stream is None else ReplyCode.TIMED_OUT
            raise await _given_up(stream, Unreachable(reply)) from error
        except trioanytls.StreamRefused as error:
            assert stream is not None  # noqa: S101 - it was refused
            raise await _given_up(stream, Unreachable(await refusal_reasons.fetch_reason(stream))) from error
        except trioanytls.StreamTimeout as error:
            raise await _given_up(stream, Unreachable(ReplyCode.TIMED_OUT)) from error
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            raise await _given_up(stream, Unreachable(ReplyCode.GENERAL_FAILURE, str(error))) from error
        except BaseException:
            if stream is not None:
                await trio.aclose_forcefully(stream)
            raise
        return stream

    def _make_room(self) -> None:
        """End a stream that an application may have left, if all that the client can have are open."""
        if self.capacity == math.inf:
            return
        stats = self.client.stats
        if stats.streams + stats.waiting >= self.capacity:
            self._half_closed.end_longest_silent(LEAST_SILENCE)

    async def relay(self, near: trio.abc.Stream, far: trio.abc.Stream, first: bytes = b"") -> None:
        """Copy both ways until both have ended; `first` came from `near` before. Both are closed then."""
        try:
            if first:
                await far.send_all(first)
                self.count(len(first), 0)
            await copy_both_ways(
                near, far, on_bytes=self.count, half_closed_timeout=HALF_CLOSED_TIMEOUT, half_closed=self._half_closed
            )
        except (SideBroken, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            name = f"stream {far.stream_id}" if isinstance(far, trioanytls.Stream) else "direct connection"
            _log.debug("%s: %s", name, error.__cause__ or error)
            await trio.aclose_forcefully(near)
            await trio.aclose_forcefully(far)

    def count(self, up: int, down: int) -> None:
        """So many further bytes went to destinations, and came from them."""
        self.up += up
        self.down += down


async def _given_up(stream: trioanytls.Stream | None, error: Unreachable) -> Unreachable:
    if stream is not None:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)
    return error

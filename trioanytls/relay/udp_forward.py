"""Forwarding a local UDP port to one destination, and its answers back.

Each sender has a separate association: a stream to the relay that carries datagrams for one address (see
`udp_over_tcp`), so that answers reach the right sender. An association ends after a time without datagrams. If there
are too many, the least recently used one ends.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from attrs import define, field, frozen

import trioanytls
from trioanytls.destination import Destination

from . import udp_over_tcp
from .front_end import log_failure
from .reply_codes import ReplyCode
from .upstream import Unreachable, Upstream

_log = logging.getLogger("trioanytls.relay")

#: The most associations of one forward. Each needs a stream, of which a client has 1,024.
MOST_ASSOCIATIONS: Final = 256
#: How long an association lives without a datagram in either direction, in seconds (RFC 4787, section 4.3). The relay
#: uses the same timeout.
IDLE_TIMEOUT: Final = 300.0
# How many datagrams of a sender wait while its association is being opened, or while the relay accepts no data.
# Further ones are dropped. Each has at most 64 KiB.
_MOST_WAITING: Final = 16
# How long datagrams are dropped after an association could not be opened, before the next attempt, in seconds.
_PAUSE: Final = 2.0
# How long to wait after an error of the socket, in seconds.
_RETRY_INTERVAL: Final = 0.1
_READ: Final = 64 * 1024

Sender = tuple[Any, ...]
#: Sends a datagram to a sender. Returns whether the system accepted it.
SendBack = Callable[[bytes, Sender], Awaitable[bool]]


@frozen
class UDPForward:
    """Serves the datagrams of a port, all to one destination. `Upstream.bypass` does not apply.

    Attributes:
      upstream: opens the streams.
      destination: the destination of all datagrams.
      most_associations: how many senders are served at the same time.
    """

    upstream: Upstream
    destination: Destination
    most_associations: int = MOST_ASSOCIATIONS

    async def __call__(self, local: trio.socket.SocketType) -> None:
        """Serve a socket until cancelled. The socket is closed then."""
        with local:
            await _ForwardTask(self, local).run()


@define(eq=False)
class _ForwardTask:
    _forward: UDPForward
    _local: trio.socket.SocketType
    # The least recently used one comes first.
    _associations: OrderedDict[Sender, _ForwardAssociation] = field(init=False, factory=OrderedDict)
    # Only one task may wait for room in the socket.
    _sending: trio.Lock = field(init=False, factory=trio.Lock)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    data, sender = await self._local.recvfrom(_READ)
                except OSError as error:
                    # Some systems report here that an earlier datagram did not arrive.
                    _log.debug("UDP forward to %s: %s", self._forward.destination, error)
                    await trio.sleep(_RETRY_INTERVAL)
                    continue
                association = self._associations.get(sender)
                if association is None:
                    association = self._add(sender)
                    nursery.start_soon(self._serve, association)
                self._associations.move_to_end(sender)
                association.put(data)

    def _add(self, sender: Sender) -> _ForwardAssociation:
        if len(self._associations) >= self._forward.most_associations:
            _, oldest = self._associations.popitem(last=False)
            oldest.end("closed to make room for another sender")
        association = self._associations[sender] = _ForwardAssociation(self._forward, sender, self._send)
        return association

    async def _serve(self, association: _ForwardAssociation) -> None:
        try:
            await association.run()
        except* Exception as group:  # noqa: BLE001 - any error is logged, and ends this association only
            log_failure(f"UDP forward to {self._forward.destination}", group)
        finally:
            if self._associations.get(association.sender) is association:
                del self._associations[association.sender]

    async def _send(self, data: bytes, sender: Sender) -> bool:
        """Send a datagram to a local sender. Return whether the system accepted it."""
        try:
            async with self._sending:
                await self._local.sendto(data, sender)
        except OSError:
            return False
        return True


class _ForwardAssociation:
    """The datagrams of one sender, and their answers."""

    def __init__(self, forward: UDPForward, sender: Sender, send: SendBack) -> None:
        self.sender = sender
        self._forward = forward
        self._send_back = send
        self._put, self._take = trio.open_memory_channel[bytes](_MOST_WAITING)
        self._scope = trio.CancelScope()
        self._how: str | None = None
        self._dropped = 0

    def put(self, data: bytes) -> None:
        """Queue a datagram of the sender. Drop it if the queue is full."""
        try:
            self._put.send_nowait(data)
        except trio.WouldBlock:
            self._dropped += 1

    def end(self, how: str) -> None:
        """End the association. `how` is for the log."""
        self._how = how
        self._scope.cancel()

    async def run(self) -> None:
        """Relay until the relay ends the association, it is idle for too long, or `end` is called."""
        try:
            with self._scope, self._put, self._take:
                await self._run()
            if self._scope.cancelled_caught and self._how is None:
                self._how = f"idle for {IDLE_TIMEOUT:g} s"
        finally:
            _log.debug(
                "UDP forward to %s: association ended: %s; %d datagrams dropped",
                self._forward.destination,
                self._how or "cancelled",
                self._dropped,
            )

    async def _run(self) -> None:
        try:
            far = await self._open()
        except Unreachable as error:
            _log.info("UDP forward to %s: %s", self._forward.destination, error)
            self._how = "not opened"
            await trio.sleep(_PAUSE)
            return
        async with far:
            self._touch()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, far)
                await self._receive(far)
                nursery.cancel_scope.cancel()

    async def _open(self) -> trioanytls.Stream:
        request = udp_over_tcp.encode_request(
            udp_over_tcp.UOTRequest(connected=True, destination=self._forward.destination)
        )
        try:
            return await self._forward.upstream.open_stream(udp_over_tcp.DESTINATION, request)
        except Unreachable as error:
            if error.reply in (ReplyCode.HOST_UNREACHABLE, ReplyCode.CONNECTION_REFUSED):
                # A relay without UDP refuses the name like one that it cannot resolve.
                raise Unreachable(error.reply, f"{error}; or the relay does not carry UDP") from error
            raise

    def _touch(self) -> None:
        self._scope.deadline = trio.current_time() + IDLE_TIMEOUT

    async def _send(self, far: trioanytls.Stream) -> None:
        address = self._forward.destination
        async for data in self._take:
            frame = udp_over_tcp.encode_datagram(udp_over_tcp.Datagram(address, data), connected=True)
            try:
                await far.send_all(frame)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self.end(f"relay disconnected: {error}")
                return
            self._forward.upstream.count(len(frame), 0)
            self._touch()

    async def _receive(self, far: trioanytls.Stream) -> None:
        decoder = udp_over_tcp.DatagramDecoder(self._forward.destination)
        try:
            while data := await far.receive_some(_READ):
                decoder.feed(data)
                while (datagram := decoder.take()) is not None:
                    if not await self._send_back(datagram.data, self.sender):
                        self._dropped += 1
                    self._touch()
                self._forward.upstream.count(0, len(data))
            self._how = "closed by the relay"
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._how = f"relay disconnected: {error}"

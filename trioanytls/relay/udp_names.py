"""Datagrams of one association to names, for relays that resolve only the name in the request of a stream.

Such are the relays of sing-box: on a stream for several addresses, they lose datagrams to names. Each name therefore
gets a stream of its own, for that destination alone.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio
from attrs import define, field

import trioanytls
from trioanytls.destination import Destination

from . import udp_over_tcp
from .udp_over_tcp import Datagram, DatagramDecoder, UOTRequest
from .upstream import Unreachable, Upstream

_log = logging.getLogger("trioanytls.relay")

#: How many names an association can use at once. Datagrams to further ones are dropped.
MOST_NAMES: Final = 16
_READ: Final = 64 * 1024


def is_name(destination: Destination) -> bool:
    """Return whether the host of a destination is a name, and not an address."""
    try:
        ipaddress.ip_address(destination.host)
    except ValueError:
        return True
    return False


@define(eq=False)
class NamedStreams:
    """The streams of one association, each to one name and port.

    Attributes:
      upstream: opens the streams.
      nursery: runs a task for each stream.
      deliver: passes a datagram from the relay on to the application.
    """

    upstream: Upstream
    nursery: trio.Nursery
    deliver: Callable[[Datagram], Awaitable[None]]
    # None while the stream is being opened.
    _streams: dict[Destination, trioanytls.Stream | None] = field(init=False, factory=dict)

    async def send(self, datagram: Datagram) -> bool:
        """Send a datagram. Return False if it is dropped, since nothing is queued while a stream is being opened."""
        name = datagram.address
        frame = udp_over_tcp.encode_datagram(datagram, connected=True)
        if name not in self._streams:
            if len(self._streams) >= MOST_NAMES:
                return False
            request = udp_over_tcp.encode_request(UOTRequest(connected=True, destination=name))
            self._streams[name] = None
            self.nursery.start_soon(self._serve, name, request + frame)
            return True
        stream = self._streams[name]
        if stream is None:
            return False
        try:
            await stream.send_all(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # Its task notices as well.
            return False
        self.upstream.count(len(frame), 0)
        return True

    async def _serve(self, name: Destination, request: bytes) -> None:
        """Open the stream to a name, and pass its datagrams on until it ends. Errors are logged."""
        try:
            stream = await self.upstream.open_stream(udp_over_tcp.DESTINATION, request)
            async with stream:
                self._streams[name] = stream
                self.upstream.count(len(request), 0)
                await self._receive(stream, DatagramDecoder(name))
        except (Unreachable, udp_over_tcp.UOTError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            _log.debug("SOCKS: UDP to %s ended: %s", name, error)
        finally:
            del self._streams[name]

    async def _receive(self, stream: trioanytls.Stream, decoder: DatagramDecoder) -> None:
        while data := await stream.receive_some(_READ):
            decoder.feed(data)
            while (datagram := decoder.take()) is not None:
                await self.deliver(datagram)
            self.upstream.count(0, len(data))

"""UDP for local applications: UDP ASSOCIATE of SOCKS5 (RFC 1928, sections 4 and 7), over one stream to the relay.

An association consists of a SOCKS connection, a UDP socket, and the stream. It ends as soon as the connection or the
stream ends. If the relay may be one of sing-box, datagrams to names have further streams, see `udp_names`. Nothing is
queued: while the relay accepts no data, the socket is not read, and the system drops the datagrams that do not fit into
its buffer.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from typing import Any, Final

import trio
from attrs import define, field

import trioanytls
from trioanytls.destination import Destination

from . import udp_over_tcp
from .address_policy import IPAddress
from .reply_codes import ReplyCode
from .socks5 import SOCKS5Negotiation, SOCKSError, decode_datagram, encode_datagram
from .udp_names import NamedStreams, is_name
from .upstream import Unreachable, Upstream

_log = logging.getLogger("trioanytls.relay")

_READ: Final = 64 * 1024
# The request for datagrams with individual addresses.
_ANY: Final = udp_over_tcp.encode_request(
    udp_over_tcp.UOTRequest(connected=False, destination=Destination("0.0.0.0", 0))  # noqa: S104 - a dummy
)


async def associate(near: trio.SocketStream, negotiation: SOCKS5Negotiation, upstream: Upstream) -> None:
    """Serve an application that requests UDP, until it closes the connection or the relay ends the stream.

    Raises:
      Unreachable: UDP is unavailable. The application has received no answer yet.
      trio.BrokenResourceError: the application has disconnected.
    """
    try:
        own, client = near.socket.getsockname(), _address(near.socket.getpeername()[0])
    except OSError as error:
        raise trio.BrokenResourceError(f"application disconnected: {error.strerror}") from error
    try:
        local = _open_socket(own)
    except OSError as error:
        raise Unreachable(ReplyCode.GENERAL_FAILURE, f"no UDP socket available: {error.strerror or error}") from error
    with local:
        far = await _open_stream(upstream)
        async with far:
            try:
                await near.send_all(negotiation.reply(ReplyCode.SUCCEEDED, Destination(*_named(local.getsockname()))))
            except trio.BrokenResourceError:
                return
            port = 0 if negotiation.destination is None else negotiation.destination.port
            await _SOCKSAssociation(near, local, far, upstream, client, port).run()


async def _open_stream(upstream: Upstream) -> trioanytls.Stream:
    try:
        return await upstream.open_stream(udp_over_tcp.DESTINATION, _ANY)
    except Unreachable as error:
        # A relay without UDP refuses the name like that of an unknown host, or gives no reason, or that of `refuse`.
        if error.reply in (ReplyCode.HOST_UNREACHABLE, ReplyCode.CONNECTION_REFUSED, ReplyCode.NOT_ALLOWED):
            raise Unreachable(ReplyCode.COMMAND_NOT_SUPPORTED) from error
        raise


@define(eq=False)
class _SOCKSAssociation:
    """One association of an application."""

    _near: trio.SocketStream
    _local: trio.socket.SocketType
    _far: trioanytls.Stream
    _upstream: Upstream
    # The application's UDP socket; only its datagrams are relayed. The port is 0 until it is known.
    _client: IPAddress
    _port: int
    # The address for answers, None before the first datagram.
    _return: tuple[Any, ...] | None = field(init=False, default=None)
    # The streams to names, if they have their own.
    _names: NamedStreams | None = field(init=False, default=None)
    _scope: trio.CancelScope = field(init=False, factory=trio.CancelScope)
    _how: str = field(init=False, default="cancelled")
    _dropped: int = field(init=False, default=0)

    async def run(self) -> None:
        """Relay until the application or the relay ends the association."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    if self._upstream.client.protocol == "legacy":
                        self._names = NamedStreams(self._upstream, nursery, self._send_to_application)
                    for work in (self._send, self._receive, self._wait):
                        nursery.start_soon(work)
        finally:
            _log.debug("SOCKS: UDP association ended: %s; %d datagrams dropped", self._how, self._dropped)

    def _end(self, how: str) -> None:
        self._how = how
        self._scope.cancel()

    async def _wait(self) -> None:
        """Wait until the application closes the connection. Its data on the connection is ignored."""
        try:
            while await self._near.receive_some(_READ):
                pass
        except trio.BrokenResourceError as error:
            self._end(f"application disconnected: {error}")
        else:
            self._end("closed by the application")

    async def _send(self) -> None:
        while True:
            try:
                data, sender = await self._local.recvfrom(_READ)
            # Some systems report here that an earlier datagram did not arrive.
            except OSError:
                continue
            read = self._read(data, sender)
            if read is None:
                self._dropped += 1
                continue
            datagram, frame = read
            if self._names is not None and is_name(datagram.address):
                self._dropped += not await self._names.send(datagram)
                continue
            try:
                await self._far.send_all(frame)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._end(f"relay disconnected: {error}")
                return
            self._upstream.count(len(frame), 0)

    def _read(self, data: bytes, sender: tuple[Any, ...]) -> tuple[udp_over_tcp.Datagram, bytes] | None:
        """Decode a datagram of the application. Return it and its encoding, None if it must be dropped."""
        if _address(sender[0]) != self._client or self._port not in (0, sender[1]):
            return None
        try:
            datagram = udp_over_tcp.Datagram(*decode_datagram(data))
            frame = udp_over_tcp.encode_datagram(datagram)
        except (SOCKSError, ValueError):
            return None
        self._port, self._return = sender[1], sender
        return datagram, frame

    async def _receive(self) -> None:
        decoder = udp_over_tcp.DatagramDecoder()
        try:
            while data := await self._far.receive_some(_READ):
                decoder.feed(data)
                while (datagram := decoder.take()) is not None:
                    await self._send_to_application(datagram)
                self._upstream.count(0, len(data))
            self._end("closed by the relay")
        except udp_over_tcp.UOTError as error:
            _log.info("SOCKS: UDP: invalid datagram from the relay: %s", error)
            self._end("invalid datagram from the relay")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._end(f"relay disconnected: {error}")

    async def _send_to_application(self, datagram: udp_over_tcp.Datagram) -> None:
        """Send a datagram to the application. Drop it if it is too long with its address."""
        try:
            if self._return is not None:
                await self._local.sendto(encode_datagram(datagram.address, datagram.data), self._return)
                return
        except (OSError, ValueError):
            pass
        self._dropped += 1
        await trio.lowlevel.checkpoint()


def _open_socket(neighbor: tuple[Any, ...]) -> trio.socket.SocketType:
    """Open a UDP socket on the same address as `neighbor`, on a port that the system chooses."""
    address = _address(neighbor[0])
    if address.version == 4:
        family, sockaddr = socket.AF_INET, (str(address), 0)
    else:
        family, sockaddr = socket.AF_INET6, (neighbor[0], 0, *neighbor[2:])
    one = socket.socket(family, socket.SOCK_DGRAM)
    try:
        one.bind(sockaddr)
    except BaseException:
        one.close()
        raise
    return trio.socket.from_stdlib_socket(one)


def _address(host: str) -> IPAddress:
    """Parse the address of a socket, without its zone. An IPv4-mapped address becomes the IPv4 address."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _named(sockaddr: tuple[Any, ...]) -> tuple[str, int]:
    return str(_address(sockaddr[0])), sockaddr[1]

"""UDP for local applications: UDP ASSOCIATE of SOCKS5 (RFC 1928, sections 4 and 7), over one stream to the relay.

An association is a connection of SOCKS, a socket for UDP beside it, and the stream; it ends with whichever of the
connection and the stream ends first. Nothing is queued: while the relay does not take what is sent to it, nobody reads
the socket, and the system drops what it has no room for.
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
from .upstream import Unreachable, Upstream

_log = logging.getLogger("trioanytls.relay")

_READ: Final = 64 * 1024
# What is in the request where datagrams have addresses of their own.
_ANY: Final = udp_over_tcp.encode_request(
    udp_over_tcp.UOTRequest(connected=False, destination=Destination("0.0.0.0", 0))  # noqa: S104 - a dummy
)


async def associate(near: trio.SocketStream, server: SOCKS5Negotiation, gateway: Upstream) -> None:
    """Serve an application that has asked for UDP, until it closes the connection or the relay ends the stream.

    Raises:
      Unreachable: it cannot be had; the application has no answer yet.
      trio.BrokenResourceError: the application has gone.
    """
    try:
        own, client = near.socket.getsockname(), _address(near.socket.getpeername()[0])
    except OSError as error:
        raise trio.BrokenResourceError(f"the application broke off: {error.strerror}") from error
    try:
        local = _open_socket(own)
    except OSError as error:
        raise Unreachable(
            ReplyCode.GENERAL_FAILURE, f"there is no socket for UDP: {error.strerror or error}"
        ) from error
    with local:
        far = await _open_stream(gateway)
        async with far:
            try:
                await near.send_all(server.reply(ReplyCode.SUCCEEDED, Destination(*_named(local.getsockname()))))
            except trio.BrokenResourceError:
                return
            port = 0 if server.destination is None else server.destination.port
            await _SOCKSAssociation(near, local, far, gateway, client, port).run()


async def _open_stream(gateway: Upstream) -> trioanytls.Stream:
    try:
        return await gateway.open_stream(udp_over_tcp.DESTINATION, _ANY)
    except Unreachable as error:
        # A relay that does not know the name refuses it like that of a host which is not there, or says nothing.
        if error.reply in (ReplyCode.HOST_UNREACHABLE, ReplyCode.CONNECTION_REFUSED):
            raise Unreachable(ReplyCode.COMMAND_NOT_SUPPORTED) from error
        raise


@define(eq=False)
class _SOCKSAssociation:
    _near: trio.SocketStream
    _local: trio.socket.SocketType
    _far: trioanytls.Stream
    _gateway: Upstream
    # Whose datagrams are relayed: those of one socket. Its port is 0 until it is known.
    _client: IPAddress
    _port: int
    # Where answers go; None until something has come.
    _return: tuple[Any, ...] | None = field(init=False, default=None)
    _scope: trio.CancelScope = field(init=False, factory=trio.CancelScope)
    _how: str = field(init=False, default="cut off")
    _dropped: int = field(init=False, default=0)

    async def run(self) -> None:
        """Relay until something ends."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for work in (self._send, self._receive, self._wait):
                        nursery.start_soon(work)
        finally:
            _log.debug("SOCKS: UDP: %s; %d datagrams dropped", self._how, self._dropped)

    def _end(self, how: str) -> None:
        self._how = how
        self._scope.cancel()

    async def _wait(self) -> None:
        """Wait until the application ends it. What it says on the connection means nothing."""
        try:
            while await self._near.receive_some(_READ):
                pass
        except trio.BrokenResourceError as error:
            self._end(f"the application broke off: {error}")
        else:
            self._end("the application has ended it")

    async def _send(self) -> None:
        while True:
            try:
                data, sender = await self._local.recvfrom(_READ)
            # Some systems report so that an earlier datagram of ours did not arrive.
            except OSError:
                continue
            frame = self._read(data, sender)
            if frame is None:
                self._dropped += 1
                continue
            try:
                await self._far.send_all(frame)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._end(f"the relay broke off: {error}")
                return
            self._gateway.count(len(frame), 0)

    def _read(self, data: bytes, sender: tuple[Any, ...]) -> bytes | None:
        """What goes to the relay; None where that is nothing."""
        if _address(sender[0]) != self._client or self._port not in (0, sender[1]):
            return None
        try:
            destination, content = decode_datagram(data)
            frame = udp_over_tcp.encode_datagram(udp_over_tcp.Datagram(destination, content))
        except (SOCKSError, ValueError):
            return None
        self._port, self._return = sender[1], sender
        return frame

    async def _receive(self) -> None:
        decoder = udp_over_tcp.DatagramDecoder()
        try:
            while data := await self._far.receive_some(_READ):
                decoder.feed(data)
                while (datagram := decoder.take()) is not None:
                    await self._give(datagram)
                self._gateway.count(0, len(data))
            self._end("the relay has ended it")
        except udp_over_tcp.UOTError as error:
            _log.info("SOCKS: UDP: the relay: %s", error)
            self._end("what came from the relay is no datagram")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._end(f"the relay broke off: {error}")

    async def _give(self, datagram: udp_over_tcp.Datagram) -> None:
        """Pass a datagram on to the application, if it fits into one with its address."""
        try:
            if self._return is not None:
                await self._local.sendto(encode_datagram(datagram.address, datagram.data), self._return)
                return
        except (OSError, ValueError):
            pass
        self._dropped += 1
        await trio.lowlevel.checkpoint()


def _open_socket(beside: tuple[Any, ...]) -> trio.socket.SocketType:
    """A socket for UDP on the same address as that one, at a port that the system chooses."""
    address = _address(beside[0])
    if address.version == 4:
        family, sockaddr = socket.AF_INET, (str(address), 0)
    else:
        family, sockaddr = socket.AF_INET6, (beside[0], 0, *beside[2:])
    one = socket.socket(family, socket.SOCK_DGRAM)
    try:
        one.bind(sockaddr)
    except BaseException:
        one.close()
        raise
    return trio.socket.from_stdlib_socket(one)


def _address(host: str) -> IPAddress:
    """An address as such, whatever the socket is that has it: without a zone, and IPv4 as IPv4."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _named(sockaddr: tuple[Any, ...]) -> tuple[str, int]:
    return str(_address(sockaddr[0])), sockaddr[1]

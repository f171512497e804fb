"""UDP relaying (server side): handles streams to the reserved name `sp.v2.udp-over-tcp.arpa`.

An association is one stream, and a socket for each address family in use. Destinations are checked as for TCP: names
are resolved here, and each address is checked by the policy. A datagram that cannot be sent is dropped, as in UDP.

An incoming datagram is passed on only if it comes from an address to which the client has sent. If all datagrams are
for one address, the port must match as well. The relays of anytls-go pass on any datagram. Anyone who finds the port
could then send to a client behind its firewall, and use up its bandwidth, and datagrams from the relay's own network
would bypass the policy.

Nothing is queued. While the client does not read, the sockets are not read, and the system drops the datagrams that do
not fit into their buffers. Only datagrams for names that are being resolved wait, within a small limit.
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections import OrderedDict
from typing import Final

import trio
from attrs import Factory, define, field, frozen

from trioanytls import Stream
from trioanytls.destination import Destination

from .address_policy import AddressPolicy
from .dial import DestinationDialer, DialError
from .late_acknowledgement import ACKNOWLEDGE_DELAY, acknowledged_late
from .logging import StreamLog
from .refusal_reasons import RefusalReasons
from .refusals import REQUEST_TIMEOUT, Refusal, read_request, refusing
from .reply_codes import ReplyCode
from .udp_hosts import UDPHost, UDPHosts
from .udp_over_tcp import Datagram, DatagramDecoder, UOTError, UOTRequest, UOTRequestDecoder, encode_datagram

# How long an association lives without a datagram in either direction, in seconds (RFC 4787, section 4.3, which also
# says that shorter timeouts break applications).
_IDLE_TIMEOUT: Final = 300.0
# The limits of one association: addresses sent to that are remembered, names being resolved, bytes of datagrams that
# wait for them, and hosts for which the log mentions a dropped datagram.
_MOST_SENT_TO: Final = 1024
_MOST_RESOLVING: Final = 4
_MOST_WAITING: Final = 64 * 1024
_MOST_LOGGED: Final = 16
# The cost of a waiting datagram in addition to its data, in bytes.
_OVERHEAD: Final = 512

_READ: Final = 64 * 1024


@frozen
class UDPRelay:
    """Relays UDP over streams; one of `RelayHandler.special_hosts`.

    Attributes:
      policy: the addresses that may be sent to.
      resolve_timeout: the time for resolving a name, in seconds.
      reasons: records why streams were refused; shared with the `RelayHandler`.
      dialer: resolves names, by the same policy; shared with the `RelayHandler`.
      acknowledge_delay: see `RelayHandler`.
    """

    policy: AddressPolicy
    resolve_timeout: float
    reasons: RefusalReasons
    dialer: DestinationDialer = field(default=Factory(lambda self: DestinationDialer(self.policy), takes_self=True))
    acknowledge_delay: float = ACKNOWLEDGE_DELAY

    async def __call__(self, stream: Stream, _destination: Destination) -> None:
        """Serve one stream until it ends. It is acknowledged once datagrams can be sent, and refused otherwise."""
        log = StreamLog(stream)
        async with refusing(stream, log, self.reasons):
            with contextlib.ExitStack() as stack:
                async with acknowledged_late(stream, self.acknowledge_delay):
                    decoder = await read_request(
                        stream, log, _read_request, invalid=ReplyCode.GENERAL_FAILURE, timeout=_request_timeout(stream)
                    )
                    if decoder is None or decoder.request is None:
                        return
                    hosts = UDPHosts(self.dialer, stream.connection, self.resolve_timeout)
                    association = _RelayAssociation(stream, log, hosts, decoder.request)
                    stack.enter_context(contextlib.closing(association))
                    await _open(association, decoder.request)
                await association.run(decoder.rest)


def _request_timeout(stream: Stream) -> float:
    # Clients of the legacy format send the request with the first datagram, for which the application may take long.
    return _IDLE_TIMEOUT if stream.connection.protocol == "legacy" else REQUEST_TIMEOUT


async def _open(association: _RelayAssociation, request: UOTRequest) -> None:
    try:
        await association.open()
    except DialError as error:
        raise Refusal(f"cannot send to {request.destination}: {error}", error.reply, code=error.code) from error
    except OSError as error:
        raise Refusal(f"no UDP socket available: {error.strerror or error}") from error


async def _read_request(stream: Stream) -> UOTRequestDecoder | None:
    """Read the request, and keep the bytes after it. Return None if the stream ends before that."""
    decoder = UOTRequestDecoder()
    while decoder.request is None:
        data = await stream.receive_some(_READ)
        if not data:
            return None
        decoder.feed(data)
    return decoder


@define(eq=False)
class _RelayAssociation:
    """The relay's end of one association."""

    _stream: Stream
    _log: StreamLog
    _hosts: UDPHosts
    _request: UOTRequest
    _decoder: DatagramDecoder = field(init=False)
    # By family; None if the system has none.
    _sockets: dict[int, trio.socket.SocketType | None] = field(init=False, factory=dict)
    # Only one task may wait for room in a socket, or in the stream.
    _to_sockets: trio.Lock = field(init=False, factory=trio.Lock)
    _to_client: trio.Lock = field(init=False, factory=trio.Lock)
    _scope: trio.CancelScope = field(init=False, factory=trio.CancelScope)
    # For the tasks that read sockets, and for those that resolve names.
    _receivers: trio.Nursery | None = field(init=False, default=None)
    _resolvers: trio.Nursery | None = field(init=False, default=None)
    # By name being resolved, the datagrams to send then; and their size in bytes.
    _waiting: dict[str, list[Datagram]] = field(init=False, factory=dict)
    _waiting_size: int = field(init=False, default=0)
    # The senders whose datagrams are passed on, see `_sender`.
    _sent_to: OrderedDict[tuple[bytes, int], None] = field(init=False, factory=OrderedDict)
    _logged: set[str] = field(init=False, factory=set)
    _how: str | None = field(init=False, default=None)
    _up: int = field(init=False, default=0)
    _down: int = field(init=False, default=0)
    _dropped: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self._decoder = DatagramDecoder(self._request.destination if self._request.connected else None)

    async def open(self) -> None:
        """Open the socket, and resolve the destination if all datagrams are for one.

        Raises:
          DialError: that destination cannot be resolved, or is not allowed.
          OSError: no socket is available.
        """
        families = [socket.AF_INET, socket.AF_INET6]
        if self._request.connected:
            destination = self._request.destination
            if not destination.port:
                raise DialError("port 0 is invalid")
            # Kept for good, so that the address does not change.
            host = self._hosts.get(destination.host) or await self._hosts.resolve(destination, lifetime=math.inf)
            if host.failure is not None:
                raise host.failure
            families = [socket.AddressFamily(target.family) for target in host.targets]
        failure: OSError | None = None
        for family in families:
            try:
                self._sockets[family] = _open_socket(family)
                return
            except OSError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Close the sockets."""
        for one in self._sockets.values():
            if one is not None:
                one.close()

    async def run(self, rest: bytes) -> None:
        """Relay until either end is gone, or the association is idle for too long."""
        started = trio.current_time()
        how = "cancelled"
        self._touch()
        self._decoder.feed(rest)
        try:
            # A client that has sent everything and has closed the stream is still served.
            with contextlib.suppress(trio.BrokenResourceError):
                await self._stream.acknowledge()
            with self._scope:
                async with trio.open_nursery() as self._receivers:
                    for family, one in list(self._sockets.items()):
                        if one is not None:
                            self._receivers.start_soon(self._receive, family, one)
                    async with trio.open_nursery() as self._resolvers:
                        await self._send_all()
                    self._scope.cancel()
            how = self._how or f"idle for {_IDLE_TIMEOUT:g} s"
        finally:
            self._log.debug(
                "UDP association ended: %s; %d datagrams up, %d down, %d dropped, %.1f s",
                how,
                self._up,
                self._down,
                self._dropped,
                trio.current_time() - started,
            )

    def _touch(self) -> None:
        self._scope.deadline = trio.current_time() + _IDLE_TIMEOUT

    # From the client

    async def _send_all(self) -> None:
        """Send the client's datagrams, until the stream ends."""
        try:
            while True:
                while (datagram := self._decoder.take()) is not None:
                    await self._pass_on(datagram)
                data = await self._stream.receive_some(_READ)
                if not data:
                    self._how = "closed"
                    return
                self._decoder.feed(data)
        except UOTError as error:
            self._log.info("closing the UDP association: %s", error)
            self._how = "invalid datagram from the client"
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._how = f"client disconnected: {error}"

    async def _pass_on(self, datagram: Datagram) -> None:
        host = self._hosts.get(datagram.address.host)
        if host is not None:
            await self._send(datagram, host)
        else:
            self._wait_for_name(datagram)
            await trio.lowlevel.checkpoint()

    def _wait_for_name(self, datagram: Datagram) -> None:
        name = datagram.address.host.lower()
        size = len(datagram.data) + _OVERHEAD
        waiting = self._waiting.get(name)
        if (waiting is None and len(self._waiting) >= _MOST_RESOLVING) or self._waiting_size + size > _MOST_WAITING:
            self._dropped += 1
            return
        self._waiting_size += size
        if waiting is not None:
            waiting.append(datagram)
        elif self._resolvers is not None:
            self._waiting[name] = [datagram]
            self._resolvers.start_soon(self._resolve, datagram.address)

    async def _resolve(self, destination: Destination) -> None:
        host = await self._hosts.resolve(destination)
        for datagram in self._waiting.pop(destination.host.lower()):
            self._waiting_size -= len(datagram.data) + _OVERHEAD
            await self._send(datagram, host)

    async def _send(self, datagram: Datagram, host: UDPHost) -> None:
        destination = datagram.address
        reason: object = host.failure
        for target in host.targets if destination.port else ():
            one = self._get_socket(target.family)
            if one is None:
                reason = "no UDP socket available"
                continue
            sockaddr = (target.sockaddr[0], destination.port, *target.sockaddr[2:])
            self._remember(self._sender(target.family, sockaddr))
            try:
                async with self._to_sockets:
                    await one.sendto(datagram.data, sockaddr)
            except OSError as error:
                reason = error.strerror or error
                continue
            # This address works, so all further datagrams use it.
            host.targets = [target]
            self._up += 1
            self._touch()
            return
        self._drop(destination, reason if destination.port else "port 0 is invalid")
        await trio.lowlevel.checkpoint()

    def _drop(self, destination: Destination, reason: object) -> None:
        self._dropped += 1
        host = destination.host.lower()
        if host not in self._logged and len(self._logged) < _MOST_LOGGED:
            self._logged.add(host)
            self._log.info("dropped a datagram to %s: %s", destination, reason)

    def _get_socket(self, family: int) -> trio.socket.SocketType | None:
        if family not in self._sockets:
            try:
                one = self._sockets[family] = _open_socket(family)
            except OSError:
                self._sockets[family] = None
            else:
                if self._receivers is not None:
                    self._receivers.start_soon(self._receive, family, one)
        return self._sockets[family]

    # To the client

    async def _receive(self, family: int, one: trio.socket.SocketType) -> None:
        while True:
            try:
                data, sockaddr = await one.recvfrom(_READ)
            # Some systems report here that an earlier datagram did not arrive. Lasting errors end in the idle timeout.
            except OSError:
                continue
            if self._sender(family, sockaddr) not in self._sent_to:
                self._dropped += 1
                continue
            source = Destination(_without_zone(sockaddr[0]), sockaddr[1])
            frame = encode_datagram(Datagram(source, data), connected=self._request.connected)
            try:
                async with self._to_client:
                    await self._stream.send_all(frame)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._how = f"client disconnected: {error}"
                self._scope.cancel()
                return
            self._down += 1
            self._touch()

    def _sender(self, family: int, sockaddr: tuple[object, ...]) -> tuple[bytes, int]:
        """Return the key of a sender: its address, and its port if all datagrams are for one destination."""
        packed = socket.inet_pton(family, _without_zone(str(sockaddr[0])))
        return packed, int(str(sockaddr[1])) if self._request.connected else 0

    def _remember(self, sender: tuple[bytes, int]) -> None:
        self._sent_to[sender] = None
        self._sent_to.move_to_end(sender)
        if len(self._sent_to) > _MOST_SENT_TO:
            self._sent_to.popitem(last=False)


def _open_socket(family: int) -> trio.socket.SocketType:
    """Open a socket that can receive at once, on a port that the system chooses."""
    one = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(("", 0))
    except BaseException:
        one.close()
        raise
    return trio.socket.from_stdlib_socket(one)


def _without_zone(host: str) -> str:
    return host.partition("%")[0]

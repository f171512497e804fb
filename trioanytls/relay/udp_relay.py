"""UDP through the relay: what becomes of a stream whose destination is the name that stands for it.

An association is one stream, and a socket for each family that it uses. Where a datagram may go is decided as for TCP:
names are resolved here, and each address is looked at. What cannot be sent is dropped, as UDP may be.

A datagram that comes is passed on if it is from an address to which one was sent; where all are for one address, from
that port. The reference's relays pass on whatever comes. Then anybody who finds the port could send to a client behind
its firewall, and use up its line; and what the relay's own network sends would pass the policy by.

Nothing is queued. While the client does not read, nobody reads the sockets, and the system drops what they have no room
for. Only datagrams for names that are being resolved wait, and there is room for a few.
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
import socket
from collections import OrderedDict
from typing import Final

import trio
from attrs import Factory, define, field, frozen

from trioanytls import Connection, Stream
from trioanytls.destination import Destination

from .address_policy import AddressPolicy
from .dial import Busy, DestinationDialer, DialError, Resolved
from .logging import StreamLog
from .refusal_reasons import RefusalReasons
from .reply_codes import ReplyCode
from .udp_over_tcp import Datagram, DatagramDecoder, UOTError, UOTRequest, UOTRequestDecoder, encode_datagram

# How long a client may take to say what it wants, in seconds.
_REQUEST_TIMEOUT: Final = 10.0
# How long an association lives without a datagram in either direction, in seconds (RFC 4787, section 4.3, which also
# says that shorter ones break applications).
_IDLE_TIMEOUT: Final = 300.0
# How long what a name was resolved to, or that it was not, is good for, in seconds: the resolver does not tell.
_NAME_LIFETIME: Final = 60.0
# How long a name is not asked for again after it was refused because too many were waiting, in seconds.
_BUSY_LIFETIME: Final = 1.0
# Of each association: how many hosts, and how many addresses of each, are remembered; how many addresses that were sent
# to; how many names are resolved at the same time, for which how many bytes of datagrams wait; and for how many hosts
# the log says that a datagram was dropped.
_MOST_HOSTS: Final = 256
_MOST_TARGETS: Final = 4
_MOST_SENT_TO: Final = 1024
_MOST_RESOLVING: Final = 4
_MOST_WAITING: Final = 64 * 1024
_MOST_TOLD: Final = 16
# What a datagram that waits takes beside its data, in bytes.
_OVERHEAD: Final = 512

_READ: Final = 64 * 1024


@frozen
class UDPRelay:
    """Serves such streams; one of `Relay.specials`.

    Attributes:
      policy: which addresses may be sent to.
      resolve_timeout: how long resolving a name may take, in seconds.
      reasons: where it is kept why streams were refused.
      dialer: what resolves names, by the same policy; shared with the `Relay`.
    """

    policy: AddressPolicy
    resolve_timeout: float
    reasons: RefusalReasons
    dialer: DestinationDialer = field(default=Factory(lambda self: DestinationDialer(self.policy), takes_self=True))

    async def __call__(self, stream: Stream, _destination: Destination) -> None:
        """Serve one; returns when it has ended. It is acknowledged when datagrams can be sent, and refused where that
        cannot be.
        """
        log = StreamLog(stream)
        try:
            with trio.fail_after(_REQUEST_TIMEOUT):
                decoder = await _read_request(stream)
        except trio.TooSlowError:
            reason = f"it has not said within {_REQUEST_TIMEOUT:g} s where it is to go"
            await self._refuse(stream, log, reason, ReplyCode.GENERAL_FAILURE)
        except UOTError as error:
            await self._refuse(stream, log, str(error), ReplyCode.GENERAL_FAILURE)
        except trio.BrokenResourceError as error:
            log.debug("it ended before it said where it is to go: %s", error)
        else:
            if decoder.request is None:
                log.debug("it was closed before it said where it is to go")
            else:
                await self._serve(stream, log, decoder.request, decoder.rest)

    async def _serve(self, stream: Stream, log: StreamLog, request: UOTRequest, rest: bytes) -> None:
        hosts = _Hosts(self.dialer, stream.connection, self.resolve_timeout)
        with contextlib.closing(_RelayAssociation(stream, log, hosts, request)) as association:
            try:
                await association.open()
            except DialError as error:
                await self._refuse(stream, log, f"{request.destination} cannot be sent to: {error}", error.reply)
            except OSError as error:
                reason = f"there is no socket for UDP: {error.strerror or error}"
                await self._refuse(stream, log, reason, ReplyCode.GENERAL_FAILURE)
            else:
                await association.run(rest)

    async def _refuse(self, stream: Stream, log: StreamLog, reason: str, reply: ReplyCode) -> None:
        log.info("refused: %s", reason)
        self.reasons.note(stream, reply)
        await stream.refuse()


async def _read_request(stream: Stream) -> UOTRequestDecoder:
    """The request, and what has come behind it; without one where the stream ends before that."""
    decoder = UOTRequestDecoder()
    while decoder.request is None:
        data = await stream.receive_some(_READ)
        if not data:
            break
        decoder.feed(data)
    return decoder


@define(eq=False)
class _Host:
    """What is known of a host.

    Attributes:
      targets: which of its addresses may be sent to, with any port; in the order in which to try them.
      failure: why there are none, if so.
      until: when that has to be asked for again.
    """

    targets: list[Resolved]
    failure: DialError | None = None
    until: float = math.inf


@define(eq=False)
class _Hosts:
    """The hosts of an association: those that it used last."""

    _dialer: DestinationDialer
    _connection: Connection
    _timeout: float
    _known: OrderedDict[str, _Host] = field(init=False, factory=OrderedDict)

    def get(self, host: str) -> _Host | None:
        """What is known of a host; None where it has to be resolved."""
        host = host.lower()
        known = self._known.get(host)
        if known is not None and trio.current_time() < known.until:
            self._known.move_to_end(host)
            return known
        target = _literal(host)
        if target is None:
            return None
        try:
            return self._keep(host, _Host(self._dialer.permitted([target], self._connection)))
        except DialError as error:
            return self._keep(host, _Host([], error))

    async def resolve(self, destination: Destination, *, lifetime: float = _NAME_LIFETIME) -> _Host:
        """Ask for the addresses of a name."""
        try:
            with trio.fail_after(self._timeout):
                found = await self._dialer.resolve(destination, self._connection)
            host = _Host(self._dialer.permitted(found, self._connection)[:_MOST_TARGETS])
        except Busy as error:
            host, lifetime = _Host([], error), _BUSY_LIFETIME
        except DialError as error:
            host = _Host([], error)
        except trio.TooSlowError:
            host = _Host([], DialError(f"the name was not resolved within {self._timeout:g} s", ReplyCode.TIMED_OUT))
        host.until = trio.current_time() + lifetime
        return self._keep(destination.host.lower(), host)

    def _keep(self, name: str, host: _Host) -> _Host:
        self._known[name] = host
        self._known.move_to_end(name)
        if len(self._known) > _MOST_HOSTS:
            self._known.popitem(last=False)
        return host


def _literal(host: str) -> Resolved | None:
    """An address as such; None where it is a name, or something that only the system's resolver can read."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return Resolved(socket.AF_INET, (str(address), 0))
    return None if address.scope_id else Resolved(socket.AF_INET6, (str(address), 0, 0, 0))


@define(eq=False)
class _RelayAssociation:
    _stream: Stream
    _log: StreamLog
    _hosts: _Hosts
    _request: UOTRequest
    _decoder: DatagramDecoder = field(init=False)
    # By family; None where there is none to be had.
    _sockets: dict[int, trio.socket.SocketType | None] = field(init=False, factory=dict)
    # Only one task may wait until a socket, or the stream, takes something.
    _to_sockets: trio.Lock = field(init=False, factory=trio.Lock)
    _to_client: trio.Lock = field(init=False, factory=trio.Lock)
    _scope: trio.CancelScope = field(init=False, factory=trio.CancelScope)
    # For the tasks of sockets, and for those that resolve names.
    _receivers: trio.Nursery | None = field(init=False, default=None)
    _resolvers: trio.Nursery | None = field(init=False, default=None)
    # Names that are being resolved, what is to be sent then, and how many bytes that has.
    _waiting: dict[str, list[Datagram]] = field(init=False, factory=dict)
    _waiting_size: int = field(init=False, default=0)
    # Those who may answer, see `_sender`.
    _sent_to: OrderedDict[tuple[bytes, int], None] = field(init=False, factory=OrderedDict)
    _told: set[str] = field(init=False, factory=set)
    _how: str | None = field(init=False, default=None)
    _up: int = field(init=False, default=0)
    _down: int = field(init=False, default=0)
    _dropped: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self._decoder = DatagramDecoder(self._request.destination if self._request.connected else None)

    async def open(self) -> None:
        """Have what datagrams need.

        Raises:
          DialError: all datagrams are for one destination, and it cannot, or may not, be sent to.
          OSError: there is no socket for them.
        """
        families = [socket.AF_INET, socket.AF_INET6]
        if self._request.connected:
            destination = self._request.destination
            if not destination.port:
                raise DialError("there is no port 0")
            # Kept, as it is to remain the same one.
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
        """Have it no more."""
        for one in self._sockets.values():
            if one is not None:
                one.close()

    async def run(self, rest: bytes) -> None:
        """Relay until either end has gone, or nothing has passed for too long."""
        started = trio.current_time()
        how = "cut off"
        self._touch()
        self._decoder.feed(rest)
        try:
            # Who has sent everything and has left may still be served.
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
                "UDP: %s; %d datagrams up, %d down, %d dropped, %.1f s",
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
        """Send what comes from the client, until that ends."""
        try:
            while True:
                while (datagram := self._decoder.take()) is not None:
                    await self._pass_on(datagram)
                data = await self._stream.receive_some(_READ)
                if not data:
                    self._how = "ended"
                    return
                self._decoder.feed(data)
        except UOTError as error:
            self._log.info("it is cut off: %s", error)
            self._how = "what came is no datagram"
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._how = f"the client broke off: {error}"

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

    async def _send(self, datagram: Datagram, host: _Host) -> None:
        destination = datagram.address
        reason: object = host.failure
        for target in host.targets if destination.port else ():
            one = self._get_socket(target.family)
            if one is None:
                reason = "there is no socket for it"
                continue
            sockaddr = (target.sockaddr[0], destination.port, *target.sockaddr[2:])
            self._remember(self._sender(target.family, sockaddr))
            try:
                async with self._to_sockets:
                    await one.sendto(datagram.data, sockaddr)
            except OSError as error:
                reason = error.strerror or error
                continue
            # The one that goes is the one for all that follow.
            host.targets = [target]
            self._up += 1
            self._touch()
            return
        self._drop(destination, reason if destination.port else "there is no port 0")
        await trio.lowlevel.checkpoint()

    def _drop(self, destination: Destination, reason: object) -> None:
        self._dropped += 1
        host = destination.host.lower()
        if host not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(host)
            self._log.info("a datagram to %s was dropped: %s", destination, reason)

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
            # Some systems report so that an earlier datagram of ours did not arrive. What does not end is idle.
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
                self._how = f"the client broke off: {error}"
                self._scope.cancel()
                return
            self._down += 1
            self._touch()

    def _sender(self, family: int, sockaddr: tuple[object, ...]) -> tuple[bytes, int]:
        """What answers are told by: the address, and the port where all datagrams are for one."""
        packed = socket.inet_pton(family, _without_zone(str(sockaddr[0])))
        return packed, int(str(sockaddr[1])) if self._request.connected else 0

    def _remember(self, sender: tuple[bytes, int]) -> None:
        self._sent_to[sender] = None
        self._sent_to.move_to_end(sender)
        if len(self._sent_to) > _MOST_SENT_TO:
            self._sent_to.popitem(last=False)


def _open_socket(family: int) -> trio.socket.SocketType:
    """A socket that can receive at once, at a port that the system chooses."""
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

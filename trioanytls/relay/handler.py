"""The handler of a relay server: read a stream's destination, connect to it, and copy."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping

import trio
from attrs import Factory, define, field, frozen

from trioanytls import SideBroken, Stream, copy_both_ways
from trioanytls.destination import Destination, DestinationDecoder

from . import udp_over_tcp
from .address_policy import AddressPolicy
from .dial import DestinationDialer, DialError, NotAllowed
from .late_acknowledgement import ACKNOWLEDGE_DELAY, acknowledged_late
from .logging import StreamLog
from .refusal_reasons import DESTINATION as REASON
from .refusal_reasons import RefusalReasons
from .refusals import Refusal, read_request, refusing
from .reply_codes import ReplyCode
from .udp_relay import UDPRelay

#: Serves a stream to a special host. It acknowledges or refuses the stream.
SpecialHandler = Callable[[Stream, Destination], Awaitable[object]]


@frozen
class RelayHandler:
    """A handler for `trioanytls.serve` that relays each stream to its destination.

    The client sends the destination first, as a SOCKS address (RFC 1928, section 5). The server needs
    `Config(acknowledge="manual")`: a stream is acknowledged once its destination is connected, and refused otherwise.
    With the format "legacy", the refusal has a text, and a stream whose destination takes longer than
    `acknowledge_delay` is acknowledged before the result is known. It is closed if the destination then fails.

    Attributes:
      policy: the addresses that may be connected to; by default, those that are public on the Internet.
      connect_timeout: the time for resolving and connecting together, in seconds.
      special_hosts: names of hosts, in lower case, that the relay serves itself, and their handlers.
      reasons: records why streams were refused, for clients that ask.
      dialer: resolves names and connects, by the same policy. It is shared with the special hosts that do the same.
      acknowledge_delay: the longest time between a complete destination and the acknowledgement of a stream of the
        format "legacy", in seconds. Its clients close the connection after 3 s. `math.inf` if it must be connected.
    """

    policy: AddressPolicy = field(factory=AddressPolicy)
    connect_timeout: float = 10.0
    special_hosts: Mapping[str, SpecialHandler] = field(factory=dict)
    reasons: RefusalReasons = field(factory=RefusalReasons)
    dialer: DestinationDialer = field(default=Factory(lambda self: DestinationDialer(self.policy), takes_self=True))
    acknowledge_delay: float = ACKNOWLEDGE_DELAY

    @classmethod
    def with_udp(
        cls,
        policy: AddressPolicy = AddressPolicy(),
        connect_timeout: float = 10.0,
        *,
        special_hosts: Mapping[str, SpecialHandler] | None = None,
        acknowledge_delay: float = ACKNOWLEDGE_DELAY,
    ) -> RelayHandler:
        """Make a handler that also relays UDP. The arguments are those of the class."""
        reasons = RefusalReasons()
        dialer = DestinationDialer(policy)
        udp = {udp_over_tcp.HOST: UDPRelay(policy, connect_timeout, reasons, dialer, acknowledge_delay)}
        return cls(policy, connect_timeout, {**udp, **(special_hosts or {})}, reasons, dialer, acknowledge_delay)

    async def __call__(self, stream: Stream) -> None:
        """Relay one stream until both directions have ended.

        Cancellation: the connection to the destination is reset, the stream is closed.
        """
        log = StreamLog(stream)
        async with refusing(stream, log, self.reasons):
            destination = await read_request(
                stream, log, _read_destination, invalid=ReplyCode.ADDRESS_TYPE_NOT_SUPPORTED
            )
            if destination is None:
                return
            if destination == REASON:
                await self.reasons.serve(stream, destination)
            elif (special := self.special_hosts.get(destination.host.lower())) is not None:
                await special(stream, destination)
            else:
                await self._relay(stream, destination, log)

    async def _relay(self, stream: Stream, destination: Destination, log: StreamLog) -> None:
        async with contextlib.AsyncExitStack() as stack:
            async with acknowledged_late(stream, self.acknowledge_delay):
                far = await stack.enter_async_context(await self._connect(stream, destination))
            if log.isEnabledFor(logging.DEBUG):
                log.debug("relaying to %s from local address %s", destination, _local_address(far))
            await _copy(stream, far, destination, log)

    async def _connect(self, stream: Stream, destination: Destination) -> trio.SocketStream:
        try:
            with trio.fail_after(self.connect_timeout):
                return await self.dialer.dial(destination, stream.connection)
        except NotAllowed as error:
            raise Refusal(f"{destination} is not allowed: {error}", error.reply, code=error.code) from error
        except DialError as error:
            raise Refusal(f"cannot connect to {destination}: {error}", error.reply, code=error.code) from error
        except trio.TooSlowError:
            text = f"{destination} did not answer within {self.connect_timeout:g} s"
            raise Refusal(text, ReplyCode.TIMED_OUT) from None


async def _read_destination(stream: Stream) -> Destination | None:
    """Read the destination, and no byte after it. Return None if the stream ends before that."""
    decoder = DestinationDecoder()
    while decoder.destination is None:
        data = await stream.receive_some(decoder.needed)
        if not data:
            return None
        decoder.feed(data)
    return decoder.destination


async def _copy(stream: Stream, far: trio.SocketStream, destination: Destination, log: StreamLog) -> None:
    counter = _Counter()
    started = trio.current_time()
    how = "cancelled"
    try:
        # A client that has sent everything and has closed the stream is still served.
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.acknowledge()
        await copy_both_ways(stream, far, on_bytes=counter.add)
        how = "closed"
    except SideBroken as error:
        how = f"{'client' if error.side == 'near' else 'destination'} disconnected: {error.__cause__}"
    finally:
        seconds = trio.current_time() - started
        log.debug(
            "relaying to %s ended: %s; %d bytes up, %d down, %.1f s",
            destination,
            how,
            counter.up,
            counter.down,
            seconds,
        )


@define
class _Counter:
    up: int = 0
    down: int = 0

    def add(self, up: int, down: int) -> None:
        self.up += up
        self.down += down


def _local_address(stream: trio.SocketStream) -> str:
    try:
        host, port, *_ = stream.socket.getsockname()
    except OSError:
        return "unknown, since the socket is closed"
    return str(Destination(host, port))

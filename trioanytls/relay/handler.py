"""What the server does with a stream: read where it is to go, connect to there, and copy."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import trio
from attrs import Factory, define, field, frozen

from trioanytls import SideBroken, Stream, copy_both_ways
from trioanytls.destination import Destination, DestinationDecoder, DestinationError

from .address_policy import AddressPolicy
from .dial import DestinationDialer, DialError, NotAllowed
from .logging import StreamLog
from .refusal_reasons import DESTINATION as REASON
from .refusal_reasons import RefusalReasons
from .reply_codes import ReplyCode

#: Takes a stream whose destination is a special one: what that has in its stead. It acknowledges the stream, or
#: refuses it.
SpecialHandler = Callable[[Stream, Destination], Awaitable[object]]

# How long a client may take to say where a stream is to go, in seconds.
_DESTINATION_TIMEOUT: Final = 10.0


@frozen
class RelayHandler:
    """A handler for `trioanytls.serve` that relays each stream; for `Config.acknowledge` "manual".

    Attributes:
      policy: which addresses may be connected to.
      connect_timeout: how long resolving and connecting may take together, in seconds.
      specials: names of hosts, in lower case, that stand for something else than a host.
      reasons: where it is kept why streams were refused.
      dialer: what resolves and connects, by the same policy; shared with the specials that do so as well.
    """

    policy: AddressPolicy
    connect_timeout: float = 10.0
    specials: Mapping[str, SpecialHandler] = field(factory=dict)
    reasons: RefusalReasons = field(factory=RefusalReasons)
    dialer: DestinationDialer = field(default=Factory(lambda self: DestinationDialer(self.policy), takes_self=True))

    async def __call__(self, stream: Stream) -> None:
        """Relay a stream; returns when it has ended. It is acknowledged when its destination is connected, and refused
        where that cannot be.
        """
        log = StreamLog(stream)
        try:
            with trio.fail_after(_DESTINATION_TIMEOUT):
                destination = await _read_destination(stream)
        except trio.TooSlowError:
            reason = f"it has not said within {_DESTINATION_TIMEOUT:g} s where it is to go"
            await self._refuse(stream, log, reason, ReplyCode.GENERAL_FAILURE)
        except DestinationError as error:
            await self._refuse(stream, log, str(error), ReplyCode.ADDRESS_TYPE_NOT_SUPPORTED)
        except trio.BrokenResourceError as error:
            log.debug("it ended before it said where it is to go: %s", error)
        else:
            if destination is None:
                log.debug("it was closed before it said where it is to go")
            elif destination == REASON:
                await self.reasons.serve(stream, destination)
            elif (special := self.specials.get(destination.host.lower())) is not None:
                await special(stream, destination)
            else:
                await self._relay(stream, destination, log)

    async def _relay(self, stream: Stream, destination: Destination, log: StreamLog) -> None:
        try:
            with trio.fail_after(self.connect_timeout):
                far = await self.dialer.dial(destination, stream.connection)
        except NotAllowed as error:
            await self._refuse(stream, log, f"{destination} may not be connected to: {error}", ReplyCode.NOT_ALLOWED)
        except DialError as error:
            await self._refuse(stream, log, f"{destination} cannot be connected to: {error}", error.reply)
        except trio.TooSlowError:
            reason = f"{destination} has not answered within {self.connect_timeout:g} s"
            await self._refuse(stream, log, reason, ReplyCode.TIMED_OUT)
        else:
            async with far:
                log.debug("relays to %s, connected from here by %s", destination, _own_address(far))
                await _copy(stream, far, destination, log)

    async def _refuse(self, stream: Stream, log: StreamLog, reason: str, reply: ReplyCode) -> None:
        log.info("refused: %s", reason)
        self.reasons.note(stream, reply)
        await stream.refuse()


async def _read_destination(stream: Stream) -> Destination | None:
    """What the stream begins with, and not a byte more; None where it ends before that."""
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
    how = "cut off"
    try:
        # Who has sent everything and has left may still be served.
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.acknowledge()
        await copy_both_ways(stream, far, on_bytes=counter.add)
        how = "ended"
    except SideBroken as error:
        how = f"the {'client' if error.side == 'near' else 'destination'} broke off: {error.__cause__}"
    finally:
        seconds = trio.current_time() - started
        log.debug("%s: %s; %d bytes up, %d down, %.1f s", destination, how, counter.up, counter.down, seconds)


@define
class _Counter:
    up: int = 0
    down: int = 0

    def add(self, up: int, down: int) -> None:
        self.up += up
        self.down += down


def _own_address(stream: trio.SocketStream) -> str:
    try:
        host, port, *_ = stream.socket.getsockname()
    except OSError:
        return "an address that is gone already"
    return str(Destination(host, port))

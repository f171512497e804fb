"""What the server does with a stream: read where it is to go, connect to there, and copy."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

import trio
from attrs import define, field, frozen

from trioanytls import Stream
from trioanytls.destination import Destination, DestinationDecoder, DestinationError

from ._copy import SideBroken, copy_both_ways
from ._dial import DialError, NotAllowed, dial
from ._policy import AddressPolicy
from ._reasons import DESTINATION as REASON
from ._reasons import Reasons
from ._reply import Reply

#: Takes a stream whose destination is a special one: what that has in its stead. It acknowledges the stream, or
#: refuses it.
Special = Callable[[Stream, Destination], Awaitable[object]]

_log = logging.getLogger("trioanytls.relay")

# How long a client may take to say where a stream is to go, in seconds.
_DESTINATION_TIMEOUT: Final = 10.0


@frozen
class Relay:
    """A handler for `trioanytls.serve` that relays each stream; for `Config.acknowledge` "manual".

    Attributes:
      policy: which addresses may be connected to.
      connect_timeout: how long resolving and connecting may take together, in seconds.
      specials: names of hosts, in lower case, that stand for something else than a host.
    """

    policy: AddressPolicy
    connect_timeout: float = 10.0
    specials: Mapping[str, Special] = field(factory=dict)
    _reasons: Reasons = field(init=False, factory=Reasons)

    async def __call__(self, stream: Stream) -> None:
        """Relay a stream; returns when it has ended. It is acknowledged when its destination is connected, and refused
        where that cannot be.
        """
        log = _StreamLog(stream)
        try:
            with trio.fail_after(_DESTINATION_TIMEOUT):
                destination = await _read_destination(stream)
        except trio.TooSlowError:
            reason = f"it has not said within {_DESTINATION_TIMEOUT:g} s where it is to go"
            await self._refuse(stream, log, reason, Reply.GENERAL_FAILURE)
        except DestinationError as error:
            await self._refuse(stream, log, str(error), Reply.ADDRESS_TYPE_NOT_SUPPORTED)
        except trio.BrokenResourceError as error:
            log.debug("it ended before it said where it is to go: %s", error)
        else:
            if destination is None:
                log.debug("it was closed before it said where it is to go")
            elif destination == REASON:
                await self._reasons.serve(stream, destination)
            elif (special := self.specials.get(destination.host.lower())) is not None:
                await special(stream, destination)
            else:
                await self._relay(stream, destination, log)

    async def _relay(self, stream: Stream, destination: Destination, log: _StreamLog) -> None:
        try:
            with trio.fail_after(self.connect_timeout):
                far = await dial(destination, self.policy)
        except NotAllowed as error:
            await self._refuse(stream, log, f"{destination} may not be connected to: {error}", Reply.NOT_ALLOWED)
        except DialError as error:
            await self._refuse(stream, log, f"{destination} cannot be connected to: {error}", error.reply)
        except trio.TooSlowError:
            reason = f"{destination} has not answered within {self.connect_timeout:g} s"
            await self._refuse(stream, log, reason, Reply.TIMED_OUT)
        else:
            async with far:
                log.debug("relays to %s, connected from here by %s", destination, _own_address(far))
                await _copy(stream, far, destination, log)

    async def _refuse(self, stream: Stream, log: _StreamLog, reason: str, reply: Reply) -> None:
        log.info("refused: %s", reason)
        self._reasons.note(stream, reply)
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


async def _copy(stream: Stream, far: trio.SocketStream, destination: Destination, log: _StreamLog) -> None:
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


class _StreamLog(logging.LoggerAdapter[logging.Logger]):
    """A logger whose records are about one stream, with the fields that those of the library have."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(_log)
        connection = stream.connection
        peer = None if connection.peer_address is None else str(Destination(*connection.peer_address))
        self._fields = {"connection": connection.connection_id, "peer": peer, "user": connection.user}
        who = "".join((f", {peer}" if peer else "", f", user {connection.user!r}" if connection.user else ""))
        self._prefix = f"connection {connection.connection_id}{who}, stream {stream.stream_id}: ".replace("%", "%%")

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """See `logging.LoggerAdapter`."""
        kwargs["extra"] = self._fields
        return self._prefix + msg, kwargs

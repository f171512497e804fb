"""The reasons for streams refused without the extension `reset`. The relay keeps them, and clients can fetch them.

RST says only that a stream is refused; STREAM_RESET says why, but not all peers have it. A byte sent before RST would
reach a client that does not wait for STREAM_ACK as the destination's. The client therefore fetches the reason on
another stream: its destination is a name that no resolver has (RFC 6761, section 6.4), followed by the 8 bytes of the
refused stream's id. The answer is one byte, a `ReplyCode`.
A relay that does not know the name refuses that stream as well.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from typing import Final

import trio
from attrs import define, field

from trioanytls import Connection, Stream
from trioanytls.destination import Destination, encode

from .reply_codes import ReplyCode, parse_reply

#: The destination of the stream that fetches a reason.
DESTINATION: Final = Destination("reason.trioanytls.invalid", 0)
_ID_SIZE: Final = 8
# How many refusals are kept for each connection. A client fetches a reason at once.
_KEPT: Final = 256
# The time for fetching a reason, in seconds. It takes one round trip.
_TIMEOUT: Final = 5.0


def knows_reasons(stream: Stream) -> bool:
    """Return whether a refusal of the stream has a code: both ends have the extension `reset`."""
    return "reset" in (stream.connection.extensions or ())


@define(eq=False)
class RefusalReasons:
    """Keeps the reasons on the relay's side."""

    _kept: weakref.WeakKeyDictionary[Connection, OrderedDict[int, ReplyCode]] = field(
        init=False, factory=weakref.WeakKeyDictionary
    )

    def record(self, stream: Stream, reply: ReplyCode) -> None:
        """Keep the reason for the refusal of a stream."""
        kept = self._kept.setdefault(stream.connection, OrderedDict())
        kept[stream.stream_id] = reply
        if len(kept) > _KEPT:
            kept.popitem(last=False)

    async def serve(self, stream: Stream, _destination: Destination) -> None:
        """Answer a client that fetches a reason; see `RelayHandler.special_hosts`."""
        await stream.acknowledge()
        refused = b""
        with trio.move_on_after(_TIMEOUT):
            while len(refused) < _ID_SIZE:
                data = await stream.receive_some(_ID_SIZE - len(refused))
                if not data:
                    return
                refused += data
            kept = self._kept.get(stream.connection)
            reply = None if kept is None else kept.get(int.from_bytes(refused))
            await stream.send_all(bytes([reply or ReplyCode.GENERAL_FAILURE]))


async def fetch_reason(refused: Stream) -> ReplyCode:
    """Fetch the reason for a refused stream from the relay.

    Return `CONNECTION_REFUSED`, the usual reason, if the relay does not answer.
    """
    try:
        with trio.move_on_after(_TIMEOUT):
            async with await refused.connection.open_stream() as stream:
                await stream.send_all(encode(DESTINATION) + refused.stream_id.to_bytes(_ID_SIZE))
                return parse_reply(await stream.receive_some(1)) or ReplyCode.CONNECTION_REFUSED
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    return ReplyCode.CONNECTION_REFUSED

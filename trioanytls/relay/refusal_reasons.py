"""Why a relay has refused a stream: kept by it for a while, for clients that ask.

RST says only that a stream is refused, and a byte sent in front of it would be the destination's for a client that does
not wait for STREAM_ACK. So the client asks afterwards, on a stream of its own: its destination is a name that no
resolver has (RFC 6761, section 6.4), and behind that come the 8 bytes of the refused stream's id. The answer is one
byte, a `ReplyCode`. A relay that does not know the name refuses that stream as well.
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

#: The destination.
DESTINATION: Final = Destination("reason.trioanytls.invalid", 0)
_ID_SIZE: Final = 8
# How many refusals are remembered for each connection: a client asks at once.
_KEPT: Final = 256
# How long asking may take, in seconds: it is a round trip.
_TIMEOUT: Final = 5.0


@define(eq=False)
class RefusalReasons:
    """The relay's side."""

    _kept: weakref.WeakKeyDictionary[Connection, OrderedDict[int, ReplyCode]] = field(
        init=False, factory=weakref.WeakKeyDictionary
    )

    def note(self, stream: Stream, reply: ReplyCode) -> None:
        """A stream is refused."""
        kept = self._kept.setdefault(stream.connection, OrderedDict())
        kept[stream.stream_id] = reply
        if len(kept) > _KEPT:
            kept.popitem(last=False)

    async def serve(self, stream: Stream, _destination: Destination) -> None:
        """Answer; see `Relay.specials`."""
        await stream.acknowledge()
        asked = b""
        with trio.move_on_after(_TIMEOUT):
            while len(asked) < _ID_SIZE:
                data = await stream.receive_some(_ID_SIZE - len(asked))
                if not data:
                    return
                asked += data
            kept = self._kept.get(stream.connection)
            reply = None if kept is None else kept.get(int.from_bytes(asked))
            await stream.send_all(bytes([reply or ReplyCode.GENERAL_FAILURE]))


async def ask(refused: Stream) -> ReplyCode:
    """The client's side: why a stream was refused; `CONNECTION_REFUSED`, the usual reason, where nobody says."""
    try:
        with trio.move_on_after(_TIMEOUT):
            async with await refused.connection.open_stream() as stream:
                await stream.send_all(encode(DESTINATION) + refused.stream_id.to_bytes(_ID_SIZE))
                return parse_reply(await stream.receive_some(1)) or ReplyCode.CONNECTION_REFUSED
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    return ReplyCode.CONNECTION_REFUSED

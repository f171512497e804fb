"""The events that a wire format reports to a connection, the same for every wire format."""

from __future__ import annotations

from enum import IntEnum


class Event(IntEnum):
    """What `receive` yields, as the first member of a tuple `(event, stream id, payload)`."""

    #: Bytes for a stream. (The value of the frame's type: such a frame is passed on as it came from the decoder.)
    DATA = 0x0A
    #: A frame refreshed a stream's timer, and nothing else.
    REFRESHED = 0x40
    #: The peer opened a stream.
    OPENED = 0x41
    #: The peer's application accepted a stream.
    ACKNOWLEDGED = 0x42
    #: The peer closed a stream.
    ENDED = 0x43
    #: The peer closed a stream that it had not accepted.
    REFUSED = 0x44
    #: The answer to our PINGPONG.
    PONG = 0x45
    #: The client is who the payload says.
    AUTHENTICATED = 0x46
    #: Versions are agreed upon: `version` is set.
    NEGOTIATED = 0x47
    #: The server wants the payload, a `PaddingScheme`, used for later connections.
    SCHEME = 0x48
    #: The peer leaves; the payload is its `CloseCode`.
    LEFT = 0x49
    #: The peer leaves because of a violation; the payload is its ALERT text.
    ALERTED = 0x4A


#: An event, a stream id (0 where it is about the connection), and what belongs to it.
EventTuple = tuple[int, int, object]

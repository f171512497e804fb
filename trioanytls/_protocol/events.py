"""The events that a wire format reports to a connection, the same for every wire format."""

from __future__ import annotations

from enum import IntEnum


class Event(IntEnum):
    """The first member of the tuples `(event, stream id, payload)` that `receive` yields."""

    #: Bytes for a stream. (The value is the frame type of `anytls1`, whose decoder's tuples are passed on as they are.)
    DATA = 0x0A
    #: A frame restarted a stream's timer, and did nothing else.
    REFRESHED = 0x40
    #: The peer opened a stream.
    OPENED = 0x41
    #: The peer's application accepted a stream.
    ACKNOWLEDGED = 0x42
    #: The peer closed a stream.
    ENDED = 0x43
    #: The peer closed a stream without accepting it. The payload is the `StreamReason`, None if it gave none.
    REFUSED = 0x44
    #: The peer answered our ping.
    PONG = 0x45
    #: The client authenticated. The payload is the user's name.
    AUTHENTICATED = 0x46
    #: Both ends agreed on a protocol version. `version` is set.
    NEGOTIATED = 0x47
    #: The server asked for another padding scheme on later connections. The payload is the `PaddingScheme`.
    SCHEME = 0x48
    #: The peer closed the connection. The payload is its `CloseCode`.
    LEFT = 0x49
    #: The peer closed the connection because of a violation. The payload is the text of its ALERT.
    ALERTED = 0x4A
    #: (server) The client's wire format is known: the payload is the end that the connection continues with.
    SELECTED = 0x4B
    #: The peer sends no more data on a stream. It may be closed by that.
    FINISHED = 0x4C
    #: The peer aborted a stream. The payload is the `StreamReason`, None if it gave none.
    RESET = 0x4D
    #: The peer grants credit on a stream. The payload is the number of bytes.
    GRANTED = 0x4E
    #: (client) The server serves no streams above an id, which is the payload. Those that were open are closed.
    GOING_AWAY = 0x4F


#: An event, a stream id (0 if the event concerns the connection), and the event's payload.
EventTuple = tuple[int, int, object]

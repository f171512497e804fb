"""The state machines of both ends of a connection, and of a stream, as tables (protocol: 4 and 5).

    client   TLS -> OPEN -> CONFIRMED -> CLOSING -> CLOSED
    server   TLS -> WAIT_AUTH -> WAIT_NEGO -> OPEN -> CLOSING -> CLOSED

The two are not synchronised (spec: Authentication). The client is OPEN as soon as its TLS handshake is done: it does
not wait for an answer. CONFIRMED only means that the answer has arrived. CLOSING means that one side has begun to close
the connection: everything that arrives from then on is ignored.

A stream. Only the client opens streams. Either end closes them, both directions at once:

              client                          server
    IDLE -- OPEN sent -----> OPENING    IDLE -- OPEN received --> OPENED
    OPENING -- ACK received -> ESTABLISHED   OPENED -- ACK sent -> ESTABLISHED
    any of these -- RST sent or received --> CLOSED

The tables contain every pair of state and input. If the specification forbids a pair, the entry is the rule that it
breaks, as text for the peer.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from trioanytls._protocol.anytls1.frames import FrameType


class ConnectionState(enum.IntEnum):
    """The state of one end of a connection."""

    TLS = 0
    WAIT_AUTH = 1
    WAIT_NEGO = 2
    OPEN = 3
    CONFIRMED = 4
    CLOSING = 5
    CLOSED = 6


class ConnectionEvent(enum.IntEnum):
    """An input of a connection's state machine other than a frame. (The values differ from those of `FrameType`.)"""

    #: The TLS handshake is done.
    HANDSHAKE = 0x40
    #: This end closes the connection, for any reason.
    LEAVE = 0x41
    #: The transport has ended.
    TRANSPORT_CLOSED = 0x42


class StreamState(enum.IntEnum):
    """The state of one end of a stream."""

    IDLE = 0
    #: The client has sent OPEN.
    OPENING = 1
    #: The server has received OPEN. Its application has not accepted the stream yet.
    OPENED = 2
    ESTABLISHED = 3
    CLOSED = 4


class StreamEvent(enum.IntEnum):
    """An action of the application on a stream. (The values differ from those of `FrameType`.)"""

    OPEN = 0x40
    ACKNOWLEDGE = 0x41
    CLOSE = 0x42


class StreamAction(enum.IntEnum):
    """The action that an input of a stream's state machine requires."""

    #: Only restart the stream's timer.
    REFRESH = 0
    #: Hand the bytes to the stream.
    DATA = 1
    #: The peer opened the stream.
    ACCEPT = 2
    #: The peer's application accepted the stream.
    CONFIRM = 3
    #: The peer closed the stream: end of file after the buffered data.
    END = 4
    #: The peer closed the stream before accepting it.
    REFUSE = 5
    #: Drop a late frame of a stream that this end has closed: the two ends are not synchronised.
    DROP = 6
    SEND_OPEN = 7
    SEND_ACK = 8
    SEND_RST = 9
    #: The action is done already, or no longer possible.
    NOTHING = 10
    #: The application must not do this.
    MISUSE = 11


#: The next state, or the rule that the input breaks.
ConnectionTable = Mapping[ConnectionState, Mapping[int, ConnectionState | str]]
#: The action and the next state, or the rule that the input breaks.
StreamTable = Mapping[StreamState, Mapping[int, tuple[StreamAction, StreamState] | str]]

_EITHER = frozenset(
    {
        FrameType.PADDING,
        FrameType.PINGPONG,
        FrameType.STREAM,
        FrameType.STREAM_DATA,
        FrameType.STREAM_RST,
    }
)
_CLOSING_FRAMES = frozenset({FrameType.ALERT, FrameType.CLOSE})

_FROM_SERVERS = "only a server may send this frame"
_FROM_CLIENTS = "only a client may send this frame"
_SECOND = "must not be sent twice"

_CLIENT_RULES: Final = {
    FrameType.AUTH: _FROM_CLIENTS,
    FrameType.CLIENT_NEGO: _FROM_CLIENTS,
    FrameType.STREAM_OPEN: "only a client may open streams",
    FrameType.SERVER_NEGO: _SECOND,
}
_SERVER_RULES: Final = {
    FrameType.AUTH: _SECOND,
    FrameType.CLIENT_NEGO: _SECOND,
    FrameType.SERVER_NEGO: _FROM_SERVERS,
    FrameType.PADDING_UPDATE_SCHEME: _FROM_SERVERS,
    FrameType.STREAM_ACK: _FROM_SERVERS,
}


def _row(
    state: ConnectionState,
    stay: frozenset[FrameType],
    move: Mapping[int, ConnectionState],
    rules: Mapping[FrameType, str],
    otherwise: str = "unexpected frame",
) -> Mapping[int, ConnectionState | str]:
    """Return the row of one state: inputs that leave it, inputs that do not, and the rule for every other frame."""
    row: dict[int, ConnectionState | str] = {kind: rules.get(kind, otherwise) for kind in FrameType}
    row[ConnectionEvent.HANDSHAKE] = "the TLS handshake must be done only once"
    row[ConnectionEvent.LEAVE] = ConnectionState.CLOSING
    row[ConnectionEvent.TRANSPORT_CLOSED] = ConnectionState.CLOSED
    row.update(dict.fromkeys(stay, state))
    row.update(move)
    return row


_EARLY = "no frame may be sent before the TLS handshake is done"
_NO_MORE = frozenset(FrameType)

_CLOSING_ROWS: Final = {
    ConnectionState.CLOSING: _row(ConnectionState.CLOSING, _NO_MORE, {}, {}),
    ConnectionState.CLOSED: _row(ConnectionState.CLOSED, _NO_MORE, {ConnectionEvent.LEAVE: ConnectionState.CLOSED}, {}),
}
_CLOSING_MOVES: Final[dict[int, ConnectionState]] = dict.fromkeys(_CLOSING_FRAMES, ConnectionState.CLOSING)

_CLIENT_LEGAL = _EITHER | {FrameType.PADDING_UPDATE_SCHEME, FrameType.STREAM_ACK}

CLIENT: Final[ConnectionTable] = {
    ConnectionState.TLS: _row(
        ConnectionState.TLS, frozenset(), {ConnectionEvent.HANDSHAKE: ConnectionState.OPEN}, {}, _EARLY
    ),
    ConnectionState.OPEN: _row(
        ConnectionState.OPEN,
        _CLIENT_LEGAL,
        {**_CLOSING_MOVES, FrameType.SERVER_NEGO: ConnectionState.CONFIRMED},
        _CLIENT_RULES,
    ),
    ConnectionState.CONFIRMED: _row(ConnectionState.CONFIRMED, _CLIENT_LEGAL, _CLOSING_MOVES, _CLIENT_RULES),
    **_CLOSING_ROWS,
}

SERVER: Final[ConnectionTable] = {
    ConnectionState.TLS: _row(
        ConnectionState.TLS, frozenset(), {ConnectionEvent.HANDSHAKE: ConnectionState.WAIT_AUTH}, {}, _EARLY
    ),
    ConnectionState.WAIT_AUTH: _row(
        ConnectionState.WAIT_AUTH, frozenset(), {FrameType.AUTH: ConnectionState.WAIT_NEGO}, {}, "expected AUTH first"
    ),
    ConnectionState.WAIT_NEGO: _row(
        ConnectionState.WAIT_NEGO,
        frozenset({FrameType.PADDING}),
        {FrameType.CLIENT_NEGO: ConnectionState.OPEN},
        {FrameType.AUTH: _SECOND},
        "expected NEGO directly after AUTH",
    ),
    ConnectionState.OPEN: _row(ConnectionState.OPEN, _EITHER | {FrameType.STREAM_OPEN}, _CLOSING_MOVES, _SERVER_RULES),
    **_CLOSING_ROWS,
}

_NEVER_OPENED = "the stream was never opened"
_NOT_INCREASING = "stream ids must be unique and increase"


def _open_row(
    state: StreamState,
    rst: StreamAction,
    ack: tuple[StreamAction, StreamState] | str,
    acknowledge: tuple[StreamAction, StreamState],
) -> Mapping[int, tuple[StreamAction, StreamState] | str]:
    return {
        FrameType.STREAM: (StreamAction.REFRESH, state),
        FrameType.STREAM_DATA: (StreamAction.DATA, state),
        FrameType.STREAM_OPEN: _NOT_INCREASING,
        FrameType.STREAM_RST: (rst, StreamState.CLOSED),
        FrameType.STREAM_ACK: ack,
        StreamEvent.OPEN: (StreamAction.MISUSE, state),
        StreamEvent.ACKNOWLEDGE: acknowledge,
        StreamEvent.CLOSE: (StreamAction.SEND_RST, StreamState.CLOSED),
    }


STREAM: Final[StreamTable] = {
    StreamState.IDLE: {
        FrameType.STREAM: _NEVER_OPENED,
        FrameType.STREAM_DATA: _NEVER_OPENED,
        FrameType.STREAM_OPEN: (StreamAction.ACCEPT, StreamState.OPENED),
        FrameType.STREAM_RST: _NEVER_OPENED,
        FrameType.STREAM_ACK: _NEVER_OPENED,
        StreamEvent.OPEN: (StreamAction.SEND_OPEN, StreamState.OPENING),
        StreamEvent.ACKNOWLEDGE: (StreamAction.MISUSE, StreamState.IDLE),
        StreamEvent.CLOSE: (StreamAction.MISUSE, StreamState.IDLE),
    },
    StreamState.OPENING: _open_row(
        StreamState.OPENING,
        rst=StreamAction.REFUSE,
        ack=(StreamAction.CONFIRM, StreamState.ESTABLISHED),
        acknowledge=(StreamAction.MISUSE, StreamState.OPENING),
    ),
    StreamState.OPENED: _open_row(
        StreamState.OPENED,
        rst=StreamAction.END,
        ack=_FROM_SERVERS,
        acknowledge=(StreamAction.SEND_ACK, StreamState.ESTABLISHED),
    ),
    StreamState.ESTABLISHED: _open_row(
        StreamState.ESTABLISHED,
        rst=StreamAction.END,
        ack=(StreamAction.REFRESH, StreamState.ESTABLISHED),
        acknowledge=(StreamAction.NOTHING, StreamState.ESTABLISHED),
    ),
    StreamState.CLOSED: {
        FrameType.STREAM: (StreamAction.DROP, StreamState.CLOSED),
        FrameType.STREAM_DATA: (StreamAction.DROP, StreamState.CLOSED),
        FrameType.STREAM_OPEN: _NOT_INCREASING,
        FrameType.STREAM_RST: (StreamAction.DROP, StreamState.CLOSED),
        FrameType.STREAM_ACK: (StreamAction.DROP, StreamState.CLOSED),
        StreamEvent.OPEN: (StreamAction.MISUSE, StreamState.CLOSED),
        StreamEvent.ACKNOWLEDGE: (StreamAction.NOTHING, StreamState.CLOSED),
        StreamEvent.CLOSE: (StreamAction.NOTHING, StreamState.CLOSED),
    },
}

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

With the extension `fin`, an end may say that it sends no more data. Each open state then has two further ones, for a
STREAM_FIN that was sent and for one that was received. A stream with both is closed (extensions: 3).

The tables contain every pair of state and input. If the specification forbids a pair, the entry is the rule that it
breaks, as text for the peer.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from attrs import frozen

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
    # With the extension `fin`: one direction has ended.
    OPENING_FIN_SENT = 5
    OPENING_FIN_RECEIVED = 6
    OPENED_FIN_SENT = 7
    OPENED_FIN_RECEIVED = 8
    ESTABLISHED_FIN_SENT = 9
    ESTABLISHED_FIN_RECEIVED = 10


class StreamEvent(enum.IntEnum):
    """An action of the application on a stream. (The values differ from those of `FrameType`.)"""

    OPEN = 0x40
    ACKNOWLEDGE = 0x41
    #: The application has read all that it wants, and all that it has sent is valid.
    CLOSE = 0x42
    #: The application sends no more data.
    FINISH = 0x43
    #: The stream ends because of an error, a timer or a cancelled close.
    RESET = 0x44


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
    #: The peer grants credit.
    GRANT = 12
    #: The peer sends no more data.
    FINISH = 13
    #: The peer aborted the stream: an error after the buffered data.
    ABORT = 14
    SEND_FIN = 15
    SEND_FIN_RST = 16
    #: RST, or STREAM_RESET with the reason.
    SEND_RESET = 17


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
        FrameType.STREAM_WINDOW,
        FrameType.STREAM_FIN,
        FrameType.STREAM_RESET,
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
    FrameType.GOAWAY: _FROM_SERVERS,
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

_CLIENT_LEGAL = _EITHER | {FrameType.PADDING_UPDATE_SCHEME, FrameType.STREAM_ACK, FrameType.GOAWAY}

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
_NO_MORE_DATA = "the sender has sent STREAM_FIN before"

_Entry = tuple[StreamAction, StreamState] | str


@frozen
class _Accepting:
    """The part of an open state that says who has to accept the stream.

    Attributes:
      rst: the action if the peer sends RST.
      abort: the action if the peer sends STREAM_RESET.
      ack: the action if the peer sends STREAM_ACK, or the rule that it breaks.
      acknowledge: the action if the application accepts the stream.
      close: the action if the application closes the stream.
      states: the state while both directions are open, once STREAM_FIN was sent, and once it was received.
    """

    rst: StreamAction
    abort: StreamAction
    ack: StreamAction | str
    acknowledge: StreamAction
    close: StreamAction
    states: tuple[StreamState, StreamState, StreamState]


_OPENING = _Accepting(
    rst=StreamAction.REFUSE,
    abort=StreamAction.REFUSE,
    ack=StreamAction.CONFIRM,
    acknowledge=StreamAction.MISUSE,
    close=StreamAction.SEND_FIN_RST,
    states=(StreamState.OPENING, StreamState.OPENING_FIN_SENT, StreamState.OPENING_FIN_RECEIVED),
)
_OPENED = _Accepting(
    rst=StreamAction.ABORT,
    abort=StreamAction.ABORT,
    ack=_FROM_SERVERS,
    acknowledge=StreamAction.SEND_ACK,
    # This refuses the stream.
    close=StreamAction.SEND_RST,
    states=(StreamState.OPENED, StreamState.OPENED_FIN_SENT, StreamState.OPENED_FIN_RECEIVED),
)
_ESTABLISHED = _Accepting(
    rst=StreamAction.ABORT,
    abort=StreamAction.ABORT,
    ack=StreamAction.REFRESH,
    acknowledge=StreamAction.NOTHING,
    close=StreamAction.SEND_FIN_RST,
    states=(StreamState.ESTABLISHED, StreamState.ESTABLISHED_FIN_SENT, StreamState.ESTABLISHED_FIN_RECEIVED),
)
# The actions after which a stream is accepted.
_ACCEPTS = (StreamAction.CONFIRM, StreamAction.SEND_ACK)


def _open_row(accepting: _Accepting, direction: int, *, fin: bool) -> Mapping[int, _Entry]:
    """Return the row of an open state.

    Args:
      accepting: who has to accept the stream.
      direction: the index in `accepting.states`.
      fin: whether the extension `fin` is in force: RST is then an abort unless STREAM_FIN came before.
    """
    both, sent, received = accepting.states
    state = accepting.states[direction]
    is_received = state is received
    end = StreamAction.END if is_received or not fin else accepting.rst
    rst = accepting.rst if accepting.rst is StreamAction.REFUSE else end

    def accept(action: StreamAction | str) -> _Entry:
        if isinstance(action, str):
            return action
        return action, _ESTABLISHED.states[direction] if action in _ACCEPTS else state

    # Without the extension, closing is RST. With it, RST alone says that the data is complete only after STREAM_FIN.
    close = StreamAction.SEND_RST
    finish: _Entry = (StreamAction.MISUSE, state)
    if fin:
        finish = (StreamAction.SEND_FIN, {both: sent, sent: sent, received: StreamState.CLOSED}[state])
        if state is both:
            close = accepting.close
        elif is_received and accepting.close is StreamAction.SEND_FIN_RST:
            # Both ends have sent STREAM_FIN then: no RST follows.
            close = StreamAction.SEND_FIN
        elif state is sent:
            finish = (StreamAction.NOTHING, sent)
    return {
        FrameType.STREAM: (StreamAction.REFRESH, state),
        FrameType.STREAM_DATA: _NO_MORE_DATA if is_received else (StreamAction.DATA, state),
        FrameType.STREAM_OPEN: _NOT_INCREASING,
        FrameType.STREAM_RST: (rst, StreamState.CLOSED),
        FrameType.STREAM_ACK: accept(accepting.ack),
        FrameType.STREAM_WINDOW: (StreamAction.GRANT, state),
        FrameType.STREAM_FIN: (
            _NO_MORE_DATA if is_received else (StreamAction.FINISH, received if state is both else StreamState.CLOSED)
        ),
        FrameType.STREAM_RESET: (accepting.abort, StreamState.CLOSED),
        StreamEvent.OPEN: (StreamAction.MISUSE, state),
        StreamEvent.ACKNOWLEDGE: accept(accepting.acknowledge),
        StreamEvent.CLOSE: (close, StreamState.CLOSED),
        StreamEvent.FINISH: finish,
        StreamEvent.RESET: (StreamAction.SEND_RESET, StreamState.CLOSED),
    }


def _unopened_row(frames: _Entry, open_frame: _Entry, events: Mapping[int, _Entry]) -> Mapping[int, _Entry]:
    """Return the row of a state in which a stream is not open, with the entry for all frames but OPEN."""
    row: dict[int, _Entry] = {kind: frames for kind in FrameType if FrameType.STREAM <= kind < FrameType.GOAWAY}
    return {**row, FrameType.STREAM_OPEN: open_frame, **events}


def _without_fin(row: Mapping[int, _Entry]) -> Mapping[int, _Entry]:
    return {given: entry for given, entry in row.items() if given != FrameType.STREAM_FIN}


def _stream_table(*, fin: bool) -> StreamTable:
    rows = {
        StreamState.IDLE: _unopened_row(
            _NEVER_OPENED,
            (StreamAction.ACCEPT, StreamState.OPENED),
            {
                **dict.fromkeys(StreamEvent, (StreamAction.MISUSE, StreamState.IDLE)),
                StreamEvent.OPEN: (StreamAction.SEND_OPEN, StreamState.OPENING),
            },
        ),
        StreamState.CLOSED: _unopened_row(
            (StreamAction.DROP, StreamState.CLOSED),
            _NOT_INCREASING,
            {
                **dict.fromkeys(StreamEvent, (StreamAction.NOTHING, StreamState.CLOSED)),
                StreamEvent.OPEN: (StreamAction.MISUSE, StreamState.CLOSED),
            },
        ),
    }
    for accepting in (_OPENING, _OPENED, _ESTABLISHED):
        for direction, state in enumerate(accepting.states if fin else accepting.states[:1]):
            rows[state] = _open_row(accepting, direction, fin=fin)
    # The decoder refuses STREAM_FIN without the extension.
    return rows if fin else {state: _without_fin(row) for state, row in rows.items()}


#: A stream in version 1.
STREAM: Final[StreamTable] = _stream_table(fin=False)
#: A stream with the extension `fin`.
STREAM_WITH_FIN: Final[StreamTable] = _stream_table(fin=True)
#: The states in which the peer may send data.
RECEIVING: Final = frozenset(state for accepting in (_OPENING, _OPENED, _ESTABLISHED) for state in accepting.states[:2])

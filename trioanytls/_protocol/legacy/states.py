"""The state machines of the legacy format, as tables (legacy: 3).

    client   TLS -> OPEN -> CONFIRMED -> CLOSING -> CLOSED        CONFIRMED: the server is known to speak version 2
    server   TLS -> WAIT_AUTH -> WAIT_NEGO -> OPEN -> CLOSING -> CLOSED    WAIT_NEGO: until Settings

Every command is legal in every open state: one that is meant for the other side, or comes twice, is ignored or acted on
again, as the programs in the field do. Only SYN before Settings is an error.

A stream. A client may open any id again that is closed:

    IDLE -- SYN sent -> OPENING -- SYNACK received -> ESTABLISHED
    IDLE -- SYN received -> OPENED -- SYNACK sent -> ESTABLISHED
    any of these -- FIN sent or received, or SYNACK with a text -> CLOSED, which is IDLE again
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from trioanytls._protocol.state_machine import (
    ConnectionEvent,
    ConnectionState,
    ConnectionTable,
    StreamAction,
    StreamEvent,
    StreamState,
    StreamTable,
)

from .frames import UNKNOWN, Command

_COMMANDS: Final = range(UNKNOWN + 1)
_EARLY: Final = "no frame may be sent before the TLS handshake is done"
#: What the programs in the field send in an Alert.
NO_SETTINGS: Final = "client did not send its settings"


def _row(
    state: ConnectionState, moves: Mapping[int, ConnectionState], rule: str | None = None
) -> Mapping[int, ConnectionState | str]:
    """Return the row of a state in which all commands are legal, or break `rule`."""
    row: dict[int, ConnectionState | str] = dict.fromkeys(_COMMANDS, state if rule is None else rule)
    row[ConnectionEvent.HANDSHAKE] = "the TLS handshake must be done only once"
    row[ConnectionEvent.LEAVE] = ConnectionState.CLOSING
    row[ConnectionEvent.TRANSPORT_CLOSED] = ConnectionState.CLOSED
    return {**row, **moves}


_CLOSING_ROWS: Final = {
    ConnectionState.CLOSING: _row(ConnectionState.CLOSING, {}),
    ConnectionState.CLOSED: _row(ConnectionState.CLOSED, {ConnectionEvent.LEAVE: ConnectionState.CLOSED}),
}

CLIENT: Final[ConnectionTable] = {
    ConnectionState.TLS: _row(ConnectionState.TLS, {ConnectionEvent.HANDSHAKE: ConnectionState.OPEN}, _EARLY),
    ConnectionState.OPEN: _row(ConnectionState.OPEN, {}),
    ConnectionState.CONFIRMED: _row(ConnectionState.CONFIRMED, {}),
    **_CLOSING_ROWS,
}

SERVER: Final[ConnectionTable] = {
    ConnectionState.TLS: _row(ConnectionState.TLS, {ConnectionEvent.HANDSHAKE: ConnectionState.WAIT_AUTH}, _EARLY),
    # No frame is decoded in this state.
    ConnectionState.WAIT_AUTH: _row(ConnectionState.WAIT_AUTH, {}, "expected the preamble first"),
    ConnectionState.WAIT_NEGO: {**_row(ConnectionState.WAIT_NEGO, {}), Command.SYN: NO_SETTINGS},
    ConnectionState.OPEN: _row(ConnectionState.OPEN, {}),
    **_CLOSING_ROWS,
}

_DROP_IDLE: Final = (StreamAction.DROP, StreamState.CLOSED)


def _open_row(
    state: StreamState,
    fin: StreamAction,
    ack: tuple[StreamAction, StreamState],
    acknowledge: tuple[StreamAction, StreamState],
) -> Mapping[int, tuple[StreamAction, StreamState] | str]:
    return {
        # A SYN of an open stream is ignored.
        Command.SYN: (StreamAction.REFRESH, state),
        Command.PSH: (StreamAction.DATA, state),
        Command.FIN: (fin, StreamState.CLOSED),
        Command.SYNACK: ack,
        StreamEvent.OPEN: (StreamAction.MISUSE, state),
        StreamEvent.ACKNOWLEDGE: acknowledge,
        StreamEvent.CLOSE: (StreamAction.SEND_RST, StreamState.CLOSED),
        StreamEvent.RESET: (StreamAction.SEND_RST, StreamState.CLOSED),
        StreamEvent.FINISH: (StreamAction.MISUSE, state),
    }


_NOT_OPEN: Final[Mapping[int, tuple[StreamAction, StreamState] | str]] = {
    Command.SYN: (StreamAction.ACCEPT, StreamState.OPENED),
    Command.PSH: _DROP_IDLE,
    Command.FIN: _DROP_IDLE,
    Command.SYNACK: _DROP_IDLE,
    StreamEvent.OPEN: (StreamAction.SEND_OPEN, StreamState.OPENING),
    StreamEvent.ACKNOWLEDGE: (StreamAction.NOTHING, StreamState.CLOSED),
    StreamEvent.CLOSE: (StreamAction.NOTHING, StreamState.CLOSED),
    StreamEvent.RESET: (StreamAction.NOTHING, StreamState.CLOSED),
    StreamEvent.FINISH: (StreamAction.NOTHING, StreamState.CLOSED),
}

#: A SYNACK with a text is handled before this table.
STREAM: Final[StreamTable] = {
    StreamState.IDLE: _NOT_OPEN,
    StreamState.CLOSED: _NOT_OPEN,
    StreamState.OPENING: _open_row(
        StreamState.OPENING,
        fin=StreamAction.REFUSE,
        ack=(StreamAction.CONFIRM, StreamState.ESTABLISHED),
        acknowledge=(StreamAction.MISUSE, StreamState.OPENING),
    ),
    StreamState.OPENED: _open_row(
        StreamState.OPENED,
        fin=StreamAction.END,
        ack=(StreamAction.REFRESH, StreamState.OPENED),
        acknowledge=(StreamAction.SEND_ACK, StreamState.ESTABLISHED),
    ),
    StreamState.ESTABLISHED: _open_row(
        StreamState.ESTABLISHED,
        fin=StreamAction.END,
        ack=(StreamAction.REFRESH, StreamState.ESTABLISHED),
        acknowledge=(StreamAction.NOTHING, StreamState.ESTABLISHED),
    ),
}

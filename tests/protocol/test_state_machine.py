"""The state machines of both ends and of a stream: every pair of state and input (protocol: 4 and 5).

The grids below are written from the specification. One test compares them with the tables. The others bring the real
ends into each state, give them each input, and check the result.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest

from trioanytls._protocol import state_machine
from trioanytls._protocol.anytls1.base import BaseProtocol
from trioanytls._protocol.anytls1.client import ClientProtocol
from trioanytls._protocol.anytls1.frames import FrameType
from trioanytls._protocol.anytls1.server import ServerProtocol
from trioanytls._protocol.events import Event
from trioanytls._protocol.exceptions import AuthenticationFailed, NotSupported, ProtocolViolation
from trioanytls._protocol.extensions import EXTENSIONS, Extension
from trioanytls._protocol.state_machine import ConnectionEvent, ConnectionState, StreamAction, StreamEvent, StreamState
from trioanytls._protocol.stream_codes import StreamCode, StreamReason

from ..helpers.wire_bytes import (
    ACK_1,
    AUTH,
    CLIENT_NEGO,
    FIN_1,
    GOAWAY_5,
    HELLO_1,
    OPEN_1,
    PINGPONG,
    RESET_1,
    RST_1,
    SERVER_NEGO,
    WINDOW_1,
    client,
    client_in,
    number,
    server,
    server_in,
    take,
)

# !: the input is illegal. A dot: the state does not change. Otherwise: the next state.
CLIENT_GRID = """
                       TLS      OPEN       CONFIRMED  CLOSING  CLOSED
AUTH                   !        !          !          .        .
ALERT                  !        CLOSING    CLOSING    .        .
CLOSE                  !        CLOSING    CLOSING    .        .
CLIENT_NEGO            !        !          !          .        .
SERVER_NEGO            !        CONFIRMED  !          .        .
PADDING                !        .          .          .        .
PADDING_UPDATE_SCHEME  !        .          .          .        .
PINGPONG               !        .          .          .        .
STREAM                 !        .          .          .        .
STREAM_RST             !        .          .          .        .
STREAM_DATA            !        .          .          .        .
STREAM_OPEN            !        !          !          .        .
STREAM_ACK             !        .          .          .        .
STREAM_WINDOW          !        .          .          .        .
STREAM_FIN             !        .          .          .        .
STREAM_RESET           !        .          .          .        .
GOAWAY                 !        .          .          .        .
HANDSHAKE              OPEN     !          !          !        !
LEAVE                  CLOSING  CLOSING    CLOSING    .        .
TRANSPORT_CLOSED       CLOSED   CLOSED     CLOSED     CLOSED   .
"""

SERVER_GRID = """
                       TLS        WAIT_AUTH  WAIT_NEGO  OPEN     CLOSING  CLOSED
AUTH                   !          WAIT_NEGO  !          !        .        .
ALERT                  !          !          !          CLOSING  .        .
CLOSE                  !          !          !          CLOSING  .        .
CLIENT_NEGO            !          !          OPEN       !        .        .
SERVER_NEGO            !          !          !          !        .        .
PADDING                !          !          .          .        .        .
PADDING_UPDATE_SCHEME  !          !          !          !        .        .
PINGPONG               !          !          !          .        .        .
STREAM                 !          !          !          .        .        .
STREAM_RST             !          !          !          .        .        .
STREAM_DATA            !          !          !          .        .        .
STREAM_OPEN            !          !          !          .        .        .
STREAM_ACK             !          !          !          !        .        .
STREAM_WINDOW          !          !          !          .        .        .
STREAM_FIN             !          !          !          .        .        .
STREAM_RESET           !          !          !          .        .        .
GOAWAY                 !          !          !          !        .        .
HANDSHAKE              WAIT_AUTH  !          !          !        !        !
LEAVE                  CLOSING    CLOSING    CLOSING    CLOSING  .        .
TRANSPORT_CLOSED       CLOSED     CLOSED     CLOSED     CLOSED   CLOSED   .
"""

# !: the frame is a violation. ACTION, or ACTION>NEXT_STATE.
STREAM_GRID = """
               IDLE               OPENING              OPENED                ESTABLISHED        CLOSED
STREAM         !                  REFRESH              REFRESH               REFRESH            DROP
STREAM_DATA    !                  DATA                 DATA                  DATA               DROP
STREAM_OPEN    ACCEPT>OPENED      !                    !                     !                  !
STREAM_RST     !                  REFUSE>CLOSED        END>CLOSED            END>CLOSED         DROP
STREAM_ACK     !                  CONFIRM>ESTABLISHED  !                     REFRESH            DROP
STREAM_WINDOW  !                  GRANT                GRANT                 GRANT              DROP
STREAM_RESET   !                  REFUSE>CLOSED        ABORT>CLOSED          ABORT>CLOSED       DROP
OPEN           SEND_OPEN>OPENING  MISUSE               MISUSE                MISUSE             MISUSE
ACKNOWLEDGE    MISUSE             MISUSE               SEND_ACK>ESTABLISHED  NOTHING            NOTHING
CLOSE          MISUSE             SEND_RST>CLOSED      SEND_RST>CLOSED       SEND_RST>CLOSED    NOTHING
FINISH         MISUSE             MISUSE               MISUSE                MISUSE             NOTHING
RESET          MISUSE             SEND_RESET>CLOSED    SEND_RESET>CLOSED     SEND_RESET>CLOSED  NOTHING
"""

# With the extension `fin` (extensions: 3).
STREAM_WITH_FIN_GRIDS = (
    """
               IDLE               CLOSED
STREAM         !                  DROP
STREAM_DATA    !                  DROP
STREAM_OPEN    ACCEPT>OPENED      !
STREAM_RST     !                  DROP
STREAM_ACK     !                  DROP
STREAM_WINDOW  !                  DROP
STREAM_FIN     !                  DROP
STREAM_RESET   !                  DROP
OPEN           SEND_OPEN>OPENING  MISUSE
ACKNOWLEDGE    MISUSE             NOTHING
CLOSE          MISUSE             NOTHING
FINISH         MISUSE             NOTHING
RESET          MISUSE             NOTHING
""",
    """
               OPENING                      OPENING_FIN_SENT              OPENING_FIN_RECEIVED
STREAM         REFRESH                      REFRESH                       REFRESH
STREAM_DATA    DATA                         DATA                          !
STREAM_OPEN    !                            !                             !
STREAM_RST     REFUSE>CLOSED                REFUSE>CLOSED                 REFUSE>CLOSED
STREAM_ACK     CONFIRM>ESTABLISHED          CONFIRM>ESTABLISHED_FIN_SENT  CONFIRM>ESTABLISHED_FIN_RECEIVED
STREAM_WINDOW  GRANT                        GRANT                         GRANT
STREAM_FIN     FINISH>OPENING_FIN_RECEIVED  FINISH>CLOSED                 !
STREAM_RESET   REFUSE>CLOSED                REFUSE>CLOSED                 REFUSE>CLOSED
OPEN           MISUSE                       MISUSE                        MISUSE
ACKNOWLEDGE    MISUSE                       MISUSE                        MISUSE
CLOSE          SEND_FIN_RST>CLOSED          SEND_RST>CLOSED               SEND_FIN>CLOSED
FINISH         SEND_FIN>OPENING_FIN_SENT    NOTHING                       SEND_FIN>CLOSED
RESET          SEND_RESET>CLOSED            SEND_RESET>CLOSED             SEND_RESET>CLOSED
""",
    """
               OPENED                       OPENED_FIN_SENT                OPENED_FIN_RECEIVED
STREAM         REFRESH                      REFRESH                        REFRESH
STREAM_DATA    DATA                         DATA                           !
STREAM_OPEN    !                            !                              !
STREAM_RST     ABORT>CLOSED                 ABORT>CLOSED                   END>CLOSED
STREAM_ACK     !                            !                              !
STREAM_WINDOW  GRANT                        GRANT                          GRANT
STREAM_FIN     FINISH>OPENED_FIN_RECEIVED   FINISH>CLOSED                  !
STREAM_RESET   ABORT>CLOSED                 ABORT>CLOSED                   ABORT>CLOSED
OPEN           MISUSE                       MISUSE                         MISUSE
ACKNOWLEDGE    SEND_ACK>ESTABLISHED         SEND_ACK>ESTABLISHED_FIN_SENT  SEND_ACK>ESTABLISHED_FIN_RECEIVED
CLOSE          SEND_RST>CLOSED              SEND_RST>CLOSED                SEND_RST>CLOSED
FINISH         SEND_FIN>OPENED_FIN_SENT     NOTHING                        SEND_FIN>CLOSED
RESET          SEND_RESET>CLOSED            SEND_RESET>CLOSED              SEND_RESET>CLOSED
""",
    """
               ESTABLISHED                      ESTABLISHED_FIN_SENT  ESTABLISHED_FIN_RECEIVED
STREAM         REFRESH                          REFRESH               REFRESH
STREAM_DATA    DATA                             DATA                  !
STREAM_OPEN    !                                !                     !
STREAM_RST     ABORT>CLOSED                     ABORT>CLOSED          END>CLOSED
STREAM_ACK     REFRESH                          REFRESH               REFRESH
STREAM_WINDOW  GRANT                            GRANT                 GRANT
STREAM_FIN     FINISH>ESTABLISHED_FIN_RECEIVED  FINISH>CLOSED         !
STREAM_RESET   ABORT>CLOSED                     ABORT>CLOSED          ABORT>CLOSED
OPEN           MISUSE                           MISUSE                MISUSE
ACKNOWLEDGE    NOTHING                          NOTHING               NOTHING
CLOSE          SEND_FIN_RST>CLOSED              SEND_RST>CLOSED       SEND_FIN>CLOSED
FINISH         SEND_FIN>ESTABLISHED_FIN_SENT    NOTHING               SEND_FIN>CLOSED
RESET          SEND_RESET>CLOSED                SEND_RESET>CLOSED     SEND_RESET>CLOSED
""",
)
_FIN_STATES = {state for state in StreamState if "FIN" in state.name}
# The frames of the extensions.
EXTENSION_FRAMES = {"STREAM_WINDOW": "window", "STREAM_FIN": "fin", "STREAM_RESET": "reset", "GOAWAY": "goaway"}


def cells(grid: str) -> dict[tuple[str, str], str]:
    """Parse a grid: (state, input) -> the entry."""
    head, *rows = grid.strip("\n").splitlines()
    states = head.split()
    result: dict[tuple[str, str], str] = {}
    for row in rows:
        name, *entries = row.split()
        result |= {(state, name): entry for state, entry in zip(states, entries, strict=True)}
    return result


CLIENT_CELLS, SERVER_CELLS, STREAM_CELLS = map(cells, (CLIENT_GRID, SERVER_GRID, STREAM_GRID))
STREAM_WITH_FIN_CELLS = {pair: entry for grid in STREAM_WITH_FIN_GRIDS for pair, entry in cells(grid).items()}


def pairs(grid: dict[tuple[str, str], str]) -> pytest.MarkDecorator:
    """Return each pair of the grid as the parameters of one test."""
    return pytest.mark.parametrize(
        ("state", "given", "expected"),
        [(state, given, entry) for (state, given), entry in grid.items()],
        ids=[f"{state}-{given}" for state, given in grid],
    )


# The tables


def connection_input(name: str) -> int:
    return FrameType[name] if name in FrameType.__members__ else ConnectionEvent[name]


@pytest.mark.parametrize(
    ("table", "grid"),
    [(state_machine.CLIENT, CLIENT_CELLS), (state_machine.SERVER, SERVER_CELLS)],
    ids=["client", "server"],
)
def test_the_connections_tables_say_what_the_grids_say(
    table: state_machine.ConnectionTable, grid: dict[tuple[str, str], str]
) -> None:
    inputs = {*FrameType, *ConnectionEvent}
    assert {(state.name, given) for state, row in table.items() for given in row} == {
        (state, connection_input(given)) for state, given in grid
    }
    for state, row in table.items():
        assert set(row) == inputs
        for given, after in row.items():
            name = (FrameType(given) if given < 0x40 else ConnectionEvent(given)).name
            expected = grid[state.name, name]
            if expected == "!":
                assert isinstance(after, str), (state, name)
                assert after
            else:
                assert after == (state if expected == "." else ConnectionState[expected]), (state, name)


@pytest.mark.parametrize(
    ("table", "grid", "states", "without"),
    [
        (state_machine.STREAM, STREAM_CELLS, {*StreamState} - _FIN_STATES, {FrameType.STREAM_FIN}),
        (state_machine.STREAM_WITH_FIN, STREAM_WITH_FIN_CELLS, {*StreamState}, set[FrameType]()),
    ],
    ids=["version-1", "fin"],
)
def test_the_streams_table_says_what_the_grid_says(
    table: state_machine.StreamTable,
    grid: dict[tuple[str, str], str],
    states: set[StreamState],
    without: set[FrameType],
) -> None:
    inputs = {kind for kind in FrameType if FrameType.STREAM <= kind < FrameType.GOAWAY} - without | set(StreamEvent)
    assert set(table) == states
    assert len(grid) == len(states) * len(inputs)
    for state, row in table.items():
        assert set(row) == inputs
        for given, entry in row.items():
            name = (FrameType(given) if given < 0x40 else StreamEvent(given)).name
            expected = grid[state.name, name]
            if expected == "!":
                assert isinstance(entry, str), (state, name)
                assert entry
            else:
                action, _, after = expected.partition(">")
                assert entry == (StreamAction[action], StreamState[after] if after else state), (state, name)


def test_the_peer_may_send_data_in_the_states_in_which_the_table_says_so() -> None:
    table = state_machine.STREAM_WITH_FIN
    takes_data = {
        state
        for state, row in table.items()
        if isinstance(entry := row[FrameType.STREAM_DATA], tuple) and entry[0] is StreamAction.DATA
    }
    assert takes_data == state_machine.RECEIVING


@pytest.mark.parametrize("table", [state_machine.CLIENT, state_machine.SERVER])
def test_a_connection_with_streams_may_get_data_and_stays_as_it_is(table: state_machine.ConnectionTable) -> None:
    """`BaseProtocol.receive` does not look for it."""
    for state in (ConnectionState.OPEN, ConnectionState.CONFIRMED):
        assert state not in table or table[state][FrameType.STREAM_DATA] is state


def test_events_are_no_frame_types() -> None:
    assert not {*map(int, ConnectionEvent), *map(int, StreamEvent)} & set(range(0x40))


@pytest.mark.parametrize(
    "table",
    [state_machine.CLIENT, state_machine.SERVER, state_machine.STREAM, state_machine.STREAM_WITH_FIN],
)
def test_rules_can_be_sent_in_an_alert(table: Mapping[int, Mapping[int, object]]) -> None:
    for row in table.values():
        for entry in row.values():
            assert not isinstance(entry, str) or (entry.isascii() and entry.isprintable())


# The connections of real ends

WIRE = {
    "AUTH": AUTH,
    "ALERT": bytes.fromhex("010003626164"),
    "CLOSE": bytes.fromhex("020003"),
    "CLIENT_NEGO": CLIENT_NEGO,
    "SERVER_NEGO": SERVER_NEGO,
    "PADDING": bytes.fromhex("050003010203"),
    "PADDING_UPDATE_SCHEME": bytes.fromhex("06000773746f703d310a"),
    "PINGPONG": PINGPONG,
    "STREAM": bytes.fromhex("0801"),
    "STREAM_RST": RST_1,
    "STREAM_DATA": HELLO_1,
    "STREAM_OPEN": bytes.fromhex("0c02"),
    "STREAM_ACK": ACK_1,
    "STREAM_WINDOW": WINDOW_1,
    "STREAM_FIN": FIN_1,
    "STREAM_RESET": RESET_1,
    "GOAWAY": GOAWAY_5,
}

# The events of a legal frame of each type, at an end on which stream 1 is open.
CLIENT_EVENTS: dict[str, list[Event]] = {
    "ALERT": [Event.ALERTED],
    "CLOSE": [Event.LEFT],
    "SERVER_NEGO": [Event.NEGOTIATED],
    "PADDING_UPDATE_SCHEME": [Event.SCHEME],
    "STREAM": [Event.REFRESHED],
    "STREAM_RST": [Event.REFUSED],
    "STREAM_DATA": [Event.DATA],
    "STREAM_ACK": [Event.ACKNOWLEDGED],
    "STREAM_WINDOW": [Event.GRANTED],
    "STREAM_FIN": [Event.FINISHED],
    "STREAM_RESET": [Event.REFUSED],
    "GOAWAY": [Event.GOING_AWAY],
}
SERVER_EVENTS: dict[str, list[Event]] = {
    "AUTH": [Event.AUTHENTICATED],
    "ALERT": [Event.ALERTED],
    "CLOSE": [Event.LEFT],
    "CLIENT_NEGO": [Event.NEGOTIATED],
    "STREAM": [Event.REFRESHED],
    "STREAM_RST": [Event.ENDED],
    "STREAM_DATA": [Event.DATA],
    "STREAM_OPEN": [Event.OPENED],
    "STREAM_WINDOW": [Event.GRANTED],
    "STREAM_FIN": [Event.FINISHED],
    "STREAM_RESET": [Event.RESET],
}


def give_event(end: BaseProtocol, event: ConnectionEvent) -> None:
    {
        ConnectionEvent.HANDSHAKE: end.handshake_done,
        ConnectionEvent.LEAVE: end.leave,
        ConnectionEvent.TRANSPORT_CLOSED: end.transport_closed,
    }[event]()


def check_connection(end: BaseProtocol, given: str, expected: str, events: dict[str, list[Event]]) -> None:
    before = end.state
    after = before if expected in ".!" else ConnectionState[expected]
    if given in ConnectionEvent.__members__:
        if expected == "!":
            with pytest.raises(RuntimeError):
                give_event(end, ConnectionEvent[given])
        else:
            give_event(end, ConnectionEvent[given])
        assert end.state is after
        return
    if expected == "!":
        # Before the authentication, every violation by a client is a failed authentication (protocol: 4).
        error = AuthenticationFailed if before is ConnectionState.WAIT_AUTH else ProtocolViolation
        with pytest.raises(error):
            take(end, WIRE[given])
        assert end.unconsumed == WIRE[given]
        assert end.replies == []
        assert end.state is before
        return
    got = [event for event, _, _ in take(end, WIRE[given])]
    assert end.state is after
    if before in (ConnectionState.CLOSING, ConnectionState.CLOSED):
        # Frames have no meaning any more, except that the peer closes the connection as well.
        assert got == (events[given] if given in ("ALERT", "CLOSE") else [])
        assert end.replies == []
    else:
        assert got == events.get(given, [])
        assert end.replies == {"PINGPONG": [PINGPONG], "CLIENT_NEGO": [SERVER_NEGO]}.get(given, [])


# The extensions agreed upon.
agreements = pytest.mark.parametrize("extensions", [(), EXTENSIONS], ids=["version-1", "extensions"])


def in_force(given: str, expected: str, extensions: Collection[str]) -> str:
    """Return the entry of a grid, a violation for a frame of an extension that is not in force."""
    is_unknown = given in EXTENSION_FRAMES and EXTENSION_FRAMES[given] not in extensions
    return "!" if is_unknown else expected


@agreements
@pairs(CLIENT_CELLS)
def test_a_clients_connection(state: str, given: str, expected: str, extensions: Collection[Extension]) -> None:
    end = client_in(ConnectionState[state], extensions=extensions)
    if state in ("OPEN", "CONFIRMED"):
        end.open_stream()
        # The client knows the extensions only from the server's NEGO on.
        expected = in_force(given, expected, extensions if state == "CONFIRMED" else ())
    check_connection(end, given, expected, CLIENT_EVENTS)


@agreements
@pairs(SERVER_CELLS)
def test_a_servers_connection(state: str, given: str, expected: str, extensions: Collection[Extension]) -> None:
    end = server_in(ConnectionState[state], extensions=extensions)
    if state == "OPEN":
        take(end, OPEN_1)
        expected = in_force(given, expected, extensions)
    # With half-close, RST alone is an abort (extensions: 3).
    aborts = {"STREAM_RST": [Event.RESET]} if "fin" in extensions else {}
    check_connection(end, given, expected, SERVER_EVENTS | aborts)


@pytest.mark.parametrize("given", [*WIRE])
@pytest.mark.parametrize("state", ["TLS", "WAIT_AUTH", "WAIT_NEGO"])
@agreements
def test_a_server_that_left_early_ignores_what_arrives(
    state: str, given: str, extensions: Collection[Extension]
) -> None:
    end = server_in(ConnectionState[state], extensions=extensions)
    end.leave()
    got = [event for event, _, _ in take(end, WIRE[given])]
    assert not set(got) - {Event.ALERTED, Event.LEFT}
    assert end.state is ConnectionState.CLOSING
    assert end.replies == []


@pytest.mark.parametrize("ending", ["ALERT", "CLOSE"])
@pytest.mark.parametrize("given", [*WIRE])
@agreements
def test_frames_after_the_end_have_no_meaning(given: str, ending: str, extensions: Collection[Extension]) -> None:
    for end in (client(extensions), server(extensions)):
        got = take(end, WIRE[ending] + WIRE[given])
        assert got[0][0] == SERVER_EVENTS[ending][0]
        assert not {event for event, _, _ in got} - {Event.ALERTED, Event.LEFT}
        assert end.state is ConnectionState.CLOSING
        assert end.replies == []


# The streams of real ends

STREAM_EVENTS = {
    "REFRESH": Event.REFRESHED,
    "DATA": Event.DATA,
    "ACCEPT": Event.OPENED,
    "CONFIRM": Event.ACKNOWLEDGED,
    "END": Event.ENDED,
    "REFUSE": Event.REFUSED,
    "GRANT": Event.GRANTED,
    "FINISH": Event.FINISHED,
    "ABORT": Event.RESET,
}
# The payloads of frames, on the wire and of their events.
PAYLOADS: dict[str, tuple[bytes, object]] = {
    "STREAM_DATA": (b"\x05hello", b"hello"),
    "STREAM_WINDOW": (number(300), 300),
    "STREAM_RESET": (b"\x03\x07refused", StreamReason(StreamCode.CONNECTION_REFUSED, "refused")),
}
SENT = {
    "SEND_OPEN": (b"\x0c",),
    "SEND_ACK": (b"\x10",),
    "SEND_RST": (b"\x09",),
    "SEND_RESET": (b"\x09",),
    "SEND_FIN": (b"\x12",),
    "SEND_FIN_RST": (b"\x12", b"\x09"),
}


def client_with_stream(state: StreamState, extensions: Collection[Extension]) -> list[tuple[str, ClientProtocol, int]]:
    """Return clients with a stream in this state: one for each way to reach it."""
    if state is StreamState.IDLE:
        return [("next", client(extensions), 1)]
    if state.name.startswith("OPENED"):
        return []
    # What the stream receives before and after the client ends its direction, if it does.
    ways = {
        "OPENING": {"opened": (b"", b"")},
        "ESTABLISHED": {
            "acknowledged": (ACK_1, b""),
            "acknowledged later": (b"", ACK_1),
            "acknowledged twice": (ACK_1, ACK_1),
        },
        "CLOSED": {"closed here": (b"", b""), "refused": (RST_1, b""), "closed there": (ACK_1, RST_1)},
    }[state.name.partition("_FIN")[0]]
    if state is StreamState.CLOSED and "fin" in extensions:
        ways |= {"finished here and there": (ACK_1, FIN_1), "finished there and here": (FIN_1, b"")}
    result = []
    for way, (first, then) in ways.items():
        end = client(extensions)
        assert end.open_stream() == (1, OPEN_1)
        take(end, first + (FIN_1 if "FIN_RECEIVED" in state.name else b""))
        if way == "closed here":
            assert end.close_stream(1) == ((FIN_1, RST_1) if "fin" in extensions else (RST_1,))
        elif "FIN_SENT" in state.name or "finished" in way:
            assert end.finish_stream(1) == (FIN_1,)
        take(end, then)
        result.append((way, end, 1))
    return result


def server_with_stream(state: StreamState, extensions: Collection[Extension]) -> list[tuple[str, ServerProtocol, int]]:
    """Return servers with a stream in this state: one for each way to reach it."""
    if state is StreamState.IDLE:
        skipped, beyond = server(extensions), server(extensions)
        take(skipped, b"\x0c\x05")
        return [("next", server(extensions), 1), ("skipped", skipped, 3), ("beyond", beyond, 2**62 - 1)]
    if state.name.startswith("OPENING"):
        return []
    ways = {
        "OPENED": ["opened"],
        "ESTABLISHED": ["acknowledged", "acknowledged later"],
        "CLOSED": ["refused here", "closed here", "closed there", "accepted and closed there"],
    }[state.name.partition("_FIN")[0]]
    if state is StreamState.CLOSED and "fin" in extensions:
        ways += ["finished here and there", "finished there and here"]
    result = []
    for way in ways:
        end = server(extensions)
        take(end, OPEN_1)
        if way in ("acknowledged", "closed here", "accepted and closed there", "finished here and there"):
            assert end.acknowledge(1) == ACK_1
        if "FIN_RECEIVED" in state.name or way == "finished there and here":
            take(end, FIN_1)
        if "FIN_SENT" in state.name or "finished" in way:
            assert end.finish_stream(1) == (FIN_1,)
        if way == "finished here and there":
            take(end, FIN_1)
        if way == "acknowledged later":
            assert end.acknowledge(1) == ACK_1
        if "closed there" in way:
            take(end, RST_1)
        elif way == "refused here":
            assert end.close_stream(1) == (RST_1,)
        elif way == "closed here":
            assert end.close_stream(1) == ((FIN_1, RST_1) if "fin" in extensions else (RST_1,))
        result.append((way, end, 1))
    return result


def stream_frame(kind: str, stream_id: int) -> bytes:
    return bytes([FrameType[kind]]) + number(stream_id) + PAYLOADS.get(kind, (b"", None))[0]


@pytest.mark.parametrize("extensions", [(), ("reset",), ("goaway", "reset", "window")], ids="+".join)
@pairs(STREAM_CELLS)
def test_a_stream(state: str, given: str, expected: str, extensions: Collection[Extension]) -> None:
    check_stream(state, given, in_force(given, expected, extensions), extensions)


@pytest.mark.parametrize("extensions", [("fin",), EXTENSIONS], ids="+".join)
@pairs(STREAM_WITH_FIN_CELLS)
def test_a_stream_with_half_close(state: str, given: str, expected: str, extensions: Collection[Extension]) -> None:
    """extensions: 3."""
    check_stream(state, given, in_force(given, expected, extensions), extensions)


def check_stream(state: str, given: str, expected: str, extensions: Collection[Extension]) -> None:
    before = StreamState[state]
    ends = client_with_stream(before, extensions) + server_with_stream(before, extensions)
    assert ends
    for way, end, stream_id in ends:
        assert end.stream_state(stream_id) is before, way
        if given in StreamEvent.__members__:
            check_stream_event(end, stream_id, given, expected)
        else:
            check_stream_frame(end, stream_id, given, expected, skipped=way == "skipped")


def check_stream_frame(end: BaseProtocol, stream_id: int, given: str, expected: str, *, skipped: bool) -> None:
    before = end.stream_state(stream_id)
    data = stream_frame(given, stream_id)
    # This end must not receive some frames on any stream. A skipped id is too low to be opened.
    foreign = given == ("STREAM_OPEN" if isinstance(end, ClientProtocol) else "STREAM_ACK")
    if expected == "!" or foreign or (skipped and given == "STREAM_OPEN"):
        with pytest.raises(ProtocolViolation):
            take(end, data)
        assert end.unconsumed == data
        assert end.stream_state(stream_id) is before
    else:
        action, _, after = expected.partition(">")
        got = take(end, data)
        event = STREAM_EVENTS.get(action)
        assert got == ([(event, stream_id, PAYLOADS.get(given, (b"", None))[1])] if event else [])
        assert end.stream_state(stream_id) is (StreamState[after] if after else before)
        assert end.is_open(stream_id) is (end.stream_state(stream_id) is not StreamState.CLOSED)
    # Not even an RST is answered (protocol: 5).
    assert end.replies == []


def check_stream_event(end: BaseProtocol, stream_id: int, given: str, expected: str) -> None:
    before = end.stream_state(stream_id)
    action, _, after = expected.partition(">")
    # There are no methods by which a server opens a stream, a client accepts one, or an end opens a given stream again.
    if given == "OPEN":
        assert not hasattr(ServerProtocol, "open_stream")
        if isinstance(end, ClientProtocol):
            opened, frame = end.open_stream()
            assert frame == b"\x0c" + number(opened)
            assert end.stream_state(opened) is StreamState.OPENING
            assert opened == stream_id or action == "MISUSE"
            assert opened == stream_id or end.stream_state(stream_id) is before
        return
    if given == "ACKNOWLEDGE":
        if isinstance(end, ServerProtocol):
            check_acknowledge(end, stream_id, expected)
        else:
            assert not hasattr(end, "acknowledge")
        return
    do = {"CLOSE": end.close_stream, "FINISH": end.finish_stream, "RESET": end.reset_stream}[given]
    if given == "FINISH" and end.STREAM is state_machine.STREAM:
        with pytest.raises(NotSupported):
            do(stream_id)
        assert end.stream_state(stream_id) is before
    elif action == "MISUSE":
        with pytest.raises(RuntimeError, match=f"stream {stream_id}"):
            do(stream_id)
        assert end.stream_state(stream_id) is before
    else:
        assert do(stream_id) == tuple(kind + number(stream_id) for kind in SENT.get(action, ()))
        assert end.stream_state(stream_id) is (StreamState[after] if after else before)
    assert end.replies == []


def check_acknowledge(end: ServerProtocol, stream_id: int, expected: str) -> None:
    before = end.stream_state(stream_id)
    action, _, after = expected.partition(">")
    if action == "MISUSE":
        with pytest.raises(RuntimeError, match=f"stream {stream_id}"):
            end.acknowledge(stream_id)
    else:
        assert end.acknowledge(stream_id) == (ACK_1 if action == "SEND_ACK" else None)
    assert end.stream_state(stream_id) is (StreamState[after] if after else before)
    assert end.replies == []


@pytest.mark.parametrize("end", [client(EXTENSIONS), server(EXTENSIONS)], ids=["client", "server"])
def test_a_reset_with_a_reason_is_a_frame_of_its_own(end: BaseProtocol) -> None:
    """extensions: 4."""
    open_1(end)
    frames = end.reset_stream(1, StreamReason(StreamCode.CONNECTION_REFUSED, "refused"))
    assert frames == (RESET_1,)
    assert end.reset_stream(1, StreamReason(StreamCode.IDLE)) == ()


@pytest.mark.parametrize("extensions", [(), ("fin", "goaway", "window")], ids="+".join)
def test_a_reset_is_rst_where_the_peer_knows_no_reasons(extensions: Collection[Extension]) -> None:
    """extensions: 4."""
    for end in (client(extensions), server(extensions)):
        open_1(end)
        assert end.reset_stream(1, StreamReason(StreamCode.CONNECTION_REFUSED, "refused")) == (RST_1,)


def open_1(end: BaseProtocol) -> None:
    if isinstance(end, ClientProtocol):
        end.open_stream()
    else:
        take(end, OPEN_1)

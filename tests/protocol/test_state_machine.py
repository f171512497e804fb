"""The state machines of both ends and of a stream: every pair of state and input (protocol: 4 and 5).

The grids below are written from the specification. One test compares them with the tables. The others bring the real
ends into each state, give them each input, and check the result.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from trioanytls._protocol import state_machine
from trioanytls._protocol.anytls1.base import BaseProtocol
from trioanytls._protocol.anytls1.client import ClientProtocol
from trioanytls._protocol.anytls1.frames import FrameType
from trioanytls._protocol.anytls1.server import ServerProtocol
from trioanytls._protocol.events import Event
from trioanytls._protocol.exceptions import AuthenticationFailed, ProtocolViolation
from trioanytls._protocol.state_machine import ConnectionEvent, ConnectionState, StreamAction, StreamEvent, StreamState

from ..helpers.wire_bytes import (
    ACK_1,
    AUTH,
    CLIENT_NEGO,
    HELLO_1,
    OPEN_1,
    PINGPONG,
    RST_1,
    SERVER_NEGO,
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
HANDSHAKE              WAIT_AUTH  !          !          !        !        !
LEAVE                  CLOSING    CLOSING    CLOSING    CLOSING  .        .
TRANSPORT_CLOSED       CLOSED     CLOSED     CLOSED     CLOSED   CLOSED   .
"""

# !: the frame is a violation. ACTION, or ACTION>NEXT_STATE.
STREAM_GRID = """
             IDLE               OPENING              OPENED                ESTABLISHED      CLOSED
STREAM       !                  REFRESH              REFRESH               REFRESH          DROP
STREAM_DATA  !                  DATA                 DATA                  DATA             DROP
STREAM_OPEN  ACCEPT>OPENED      !                    !                     !                !
STREAM_RST   !                  REFUSE>CLOSED        END>CLOSED            END>CLOSED       DROP
STREAM_ACK   !                  CONFIRM>ESTABLISHED  !                     REFRESH          DROP
OPEN         SEND_OPEN>OPENING  MISUSE               MISUSE                MISUSE           MISUSE
ACKNOWLEDGE  MISUSE             MISUSE               SEND_ACK>ESTABLISHED  NOTHING          NOTHING
CLOSE        MISUSE             SEND_RST>CLOSED      SEND_RST>CLOSED       SEND_RST>CLOSED  NOTHING
"""


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


def test_the_streams_table_says_what_the_grid_says() -> None:
    inputs = {kind for kind in FrameType if kind >= FrameType.STREAM} | set(StreamEvent)
    assert set(state_machine.STREAM) == set(StreamState)
    assert len(STREAM_CELLS) == len(StreamState) * len(inputs)
    for state, row in state_machine.STREAM.items():
        assert set(row) == inputs
        for given, entry in row.items():
            name = (FrameType(given) if given < 0x40 else StreamEvent(given)).name
            expected = STREAM_CELLS[state.name, name]
            if expected == "!":
                assert isinstance(entry, str), (state, name)
                assert entry
            else:
                action, _, after = expected.partition(">")
                assert entry == (StreamAction[action], StreamState[after] if after else state), (state, name)


def test_events_are_no_frame_types() -> None:
    assert not {*map(int, ConnectionEvent), *map(int, StreamEvent)} & set(range(0x40))


@pytest.mark.parametrize("table", [state_machine.CLIENT, state_machine.SERVER, state_machine.STREAM])
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


@pairs(CLIENT_CELLS)
def test_a_clients_connection(state: str, given: str, expected: str) -> None:
    if state in ("OPEN", "CONFIRMED"):
        end = client_in(ConnectionState[state])
        end.open_stream()
    else:
        end = client_in(ConnectionState[state])
    check_connection(end, given, expected, CLIENT_EVENTS)


@pairs(SERVER_CELLS)
def test_a_servers_connection(state: str, given: str, expected: str) -> None:
    end = server_in(ConnectionState[state])
    if state == "OPEN":
        take(end, OPEN_1)
    check_connection(end, given, expected, SERVER_EVENTS)


@pytest.mark.parametrize("given", [*WIRE])
@pytest.mark.parametrize("state", ["TLS", "WAIT_AUTH", "WAIT_NEGO"])
def test_a_server_that_left_early_ignores_what_arrives(state: str, given: str) -> None:
    end = server_in(ConnectionState[state])
    end.leave()
    got = [event for event, _, _ in take(end, WIRE[given])]
    assert not set(got) - {Event.ALERTED, Event.LEFT}
    assert end.state is ConnectionState.CLOSING
    assert end.replies == []


@pytest.mark.parametrize("ending", ["ALERT", "CLOSE"])
@pytest.mark.parametrize("given", [*WIRE])
def test_frames_after_the_end_have_no_meaning(given: str, ending: str) -> None:
    for end in (client(), server()):
        got = take(end, WIRE[ending] + WIRE[given])
        assert got[0][0] == SERVER_EVENTS[ending][0]
        assert not {event for event, _, _ in got} - {Event.ALERTED, Event.LEFT}
        assert end.state is ConnectionState.CLOSING
        assert end.replies == []


# The streams of real ends

STREAM_EVENTS = {
    "REFRESH": (Event.REFRESHED, None),
    "DATA": (Event.DATA, b"hello"),
    "ACCEPT": (Event.OPENED, None),
    "CONFIRM": (Event.ACKNOWLEDGED, None),
    "END": (Event.ENDED, None),
    "REFUSE": (Event.REFUSED, None),
}
SENT = {"SEND_OPEN": b"\x0c", "SEND_ACK": b"\x10", "SEND_RST": b"\x09"}


def client_with_stream(state: StreamState) -> list[tuple[str, ClientProtocol, int]]:
    """Return clients with a stream in this state: one for each way to reach it."""
    if state is StreamState.IDLE:
        return [("next", client(), 1)]
    if state is StreamState.OPENED:
        return []
    ways = {
        StreamState.OPENING: {"opened": b""},
        StreamState.ESTABLISHED: {"acknowledged": ACK_1, "acknowledged twice": ACK_1 + ACK_1},
        StreamState.CLOSED: {"closed here": b"", "refused": RST_1, "closed there": ACK_1 + RST_1},
    }[state]
    result = []
    for way, received in ways.items():
        end = client()
        assert end.open_stream() == (1, OPEN_1)
        take(end, received)
        if way == "closed here":
            assert end.close_stream(1) == (RST_1,)
        result.append((way, end, 1))
    return result


def server_with_stream(state: StreamState) -> list[tuple[str, ServerProtocol, int]]:
    """Return servers with a stream in this state: one for each way to reach it."""
    if state is StreamState.IDLE:
        skipped, beyond = server(), server()
        take(skipped, b"\x0c\x05")
        return [("next", server(), 1), ("skipped", skipped, 3), ("beyond", beyond, 2**62 - 1)]
    if state is StreamState.OPENING:
        return []
    result = []
    for way in {
        StreamState.OPENED: ["opened"],
        StreamState.ESTABLISHED: ["acknowledged"],
        StreamState.CLOSED: ["refused here", "closed here", "closed there", "accepted and closed there"],
    }[state]:
        end = server()
        take(end, OPEN_1)
        if way in ("acknowledged", "closed here", "accepted and closed there"):
            assert end.acknowledge(1) == ACK_1
        if "closed there" in way:
            take(end, RST_1)
        elif state is StreamState.CLOSED:
            assert end.close_stream(1) == (RST_1,)
        result.append((way, end, 1))
    return result


def stream_frame(kind: str, stream_id: int) -> bytes:
    return bytes([FrameType[kind]]) + number(stream_id) + (b"\x05hello" if kind == "STREAM_DATA" else b"")


@pairs(STREAM_CELLS)
def test_a_stream(state: str, given: str, expected: str) -> None:
    before = StreamState[state]
    ends = client_with_stream(before) + server_with_stream(before)
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
        assert got == ([(event[0], stream_id, event[1])] if event else [])
        assert end.stream_state(stream_id) is (StreamState[after] if after else before)
        assert (stream_id in end.streams) is (end.stream_state(stream_id) is not StreamState.CLOSED)
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
    if given == "ACKNOWLEDGE" and isinstance(end, ClientProtocol):
        assert not hasattr(end, "acknowledge")
        return
    assert given == "CLOSE" or isinstance(end, ServerProtocol)
    do = end.close_stream if given == "CLOSE" else end.acknowledge  # type: ignore[attr-defined]
    if action == "MISUSE":
        with pytest.raises(RuntimeError, match=f"stream {stream_id}"):
            do(stream_id)
        assert end.stream_state(stream_id) is before
    else:
        assert do(stream_id) == (SENT[action] + number(stream_id) if action in SENT else None)
        assert end.stream_state(stream_id) is (StreamState[after] if after else before)
    assert end.replies == []

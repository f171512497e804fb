"""Both ends of the legacy format compared with a model, in random conversations (legacy: 2 and 3).

See `tests/protocol/test_model.py`, which does the same for the other format.
"""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from ...fuzz._pair import LegacyPair
from ...helpers import legacy_bytes
from ...helpers.legacy_bytes import DEFAULT_DIGEST, DEFAULT_SCHEME
from ...helpers.legacy_model import (
    ALERT,
    FIN,
    HEART_REQUEST,
    HEART_RESPONSE,
    LAST_ID,
    PSH,
    SERVER_SETTINGS,
    SETTINGS,
    SYN,
    SYNACK,
    UPDATE,
    WASTE,
    frame,
)
from ...helpers.wire_bytes import cut_at
from ..test_model import BATCHES
from ..test_model import SETTINGS as RUNS

OTHER_SCHEME = b"stop=2\n1=5-9\n"
IDS = st.sampled_from([1, 1, 1, 2, 2, 3, 4, 0, LAST_ID])
COMMANDS = st.sampled_from(
    [WASTE, SYN, SYN, PSH, PSH, PSH, FIN, FIN, SYNACK, SYNACK, HEART_REQUEST, HEART_RESPONSE, 11]
)
PAYLOADS = st.binary(max_size=12) | st.sampled_from(
    [b"", b"", b"no route", b"\x1b[2J\r\n", bytes(20_000), bytes(65_535)]
)
CUTS = st.lists(st.integers(0, 60), max_size=4)
REACTIONS = st.lists(st.sampled_from(["", "acknowledge", "acknowledge", "close", "leave"]), max_size=3)
LINES = st.lists(
    st.sampled_from(
        [
            b"v=2",
            b"v=2",
            b"v=1",
            b"v=3",
            b"v=258",
            b"v=02",
            b"v=",
            b"client=",
            b"client=a/1=b",
            b"client=\xff\x1b",
            b"junk",
            b"",
            b"padding-md5=0",
            b"padding-md5=" + DEFAULT_DIGEST.encode(),
            b"=",
            b"v=2\r",
        ]
    ),
    max_size=5,
).map(b"\n".join)
SCHEMES = st.sampled_from(
    [
        DEFAULT_SCHEME,
        OTHER_SCHEME,
        b"stop=0",
        b"stop=x",
        b"",
        b"stop=8\n1=30,a-b,9-5,c",
        b"stop=1\nstop=2",
        b"stop=3\n1=5-65536",
        b"stop=3\n1=-5-70000",
        b"stop=1073741825",
        b"stop=3\n01=5-70000",
    ]
)

going_on = precondition(lambda self: not self.pair.is_over)


class Machine(RuleBasedStateMachine):
    """The actions that the peers of both ends, and both applications, have in common."""

    pair: LegacyPair

    def begin(self, data: st.DataObject) -> None:
        raise NotImplementedError

    @initialize(data=st.data())
    def first_connection(self, data: st.DataObject) -> None:
        self.begin(data)

    def send(self, sent: bytes, cuts: list[int], reactions: list[str]) -> None:
        for piece in cut_at(sent, [min(position, len(sent)) for position in cuts]):
            self.pair.feed(piece, reactions * 4)

    def teardown(self) -> None:
        if hasattr(self, "pair") and not self.pair.is_over:
            self.pair.check_stream_states([0, 1, 2, 3, 4, 5, LAST_ID])

    @precondition(lambda self: self.pair.is_over)
    @rule(data=st.data(), late=st.binary(max_size=30))
    def another_connection(self, data: st.DataObject, late: bytes) -> None:
        self.pair.feed(late)
        self.begin(data)

    @going_on
    @rule(command=COMMANDS | st.integers(0, 255), stream_id=IDS, data=PAYLOADS, cuts=CUTS, reactions=REACTIONS)
    def any_frame(self, command: int, stream_id: int, data: bytes, cuts: list[int], reactions: list[str]) -> None:
        self.send(frame(command, stream_id, data), cuts, reactions)

    @going_on
    @rule(command=st.sampled_from([PSH, FIN, SYN, SYNACK]), stream_id=IDS, cuts=CUTS, reactions=REACTIONS)
    def frame_of_a_stream(self, command: int, stream_id: int, cuts: list[int], reactions: list[str]) -> None:
        self.send(frame(command, stream_id, b"hello" if command == PSH else b""), cuts, reactions)

    @going_on
    @rule(command=st.sampled_from([SETTINGS, SERVER_SETTINGS]), text=LINES, cuts=CUTS)
    def settings(self, command: int, text: bytes, cuts: list[int]) -> None:
        self.send(frame(command, 0, text), cuts, [])

    @going_on
    @rule(text=SCHEMES, cuts=CUTS)
    def scheme(self, text: bytes, cuts: list[int]) -> None:
        self.send(frame(UPDATE, 0, text), cuts, [])

    @going_on
    @rule(text=st.sampled_from([b"", b"", b"", b"bad"]))
    def alert(self, text: bytes) -> None:
        self.send(frame(ALERT, 0, text), [], [])

    @going_on
    @rule(stream_id=IDS)
    def application_closes_a_stream(self, stream_id: int) -> None:
        self.pair.close_stream(stream_id)

    @going_on
    @rule()
    def application_pings(self) -> None:
        self.pair.ping()

    @going_on
    @rule()
    def replies_are_sent(self) -> None:
        self.pair.take_replies()


class ServerMachine(Machine):
    """A server with an arbitrary client."""

    def begin(self, data: st.DataObject) -> None:
        state = data.draw(st.sampled_from(["WAIT_AUTH", "WAIT_NEGO", "OPEN", "OPEN"]))
        self.pair = LegacyPair.of_server(state, data.draw(st.sampled_from([DEFAULT_SCHEME, OTHER_SCHEME])))
        if state == "WAIT_AUTH":
            changed = data.draw(st.sampled_from([b"", b"", b"\x00"]))
            self.send(changed + legacy_bytes.PREAMBLE, data.draw(CUTS), [])

    @going_on
    @rule(stream_id=IDS)
    def application_acknowledges(self, stream_id: int) -> None:
        self.pair.acknowledge(stream_id)


class ClientMachine(Machine):
    """A client with an arbitrary server."""

    def begin(self, data: st.DataObject) -> None:
        self.pair = LegacyPair.of_client(data.draw(st.sampled_from(["OPEN", "CONFIRMED"])))
        for _ in range(data.draw(st.integers(0, 4))):
            self.pair.open_stream()

    @going_on
    @rule()
    def application_opens_a_stream(self) -> None:
        self.pair.open_stream()


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("machine", [ServerMachine, ClientMachine])
def test_an_end_does_what_the_programs_in_the_field_do(machine: type[Machine], batch: int) -> None:
    run_state_machine_as_test(machine, settings=RUNS)

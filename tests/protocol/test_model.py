"""Both ends compared with a model, in random conversations (protocol: 2 to 5; extensions: 1 to 5).

Each run has several connections, with any extensions. The peer sends legal and illegal frames, whole or in pieces. The
application acts at random. After every step, the events, the answers and the state of the end must be those of the
model.

The test suite includes only a few runs. TRIOANYTLS_MODEL_RUNS sets the number of further runs, which are new each time.
`nox -s fuzz` makes 10,000 of each machine.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from trioanytls._protocol.extensions import EXTENSIONS, Extension

from ..fuzz._pair import DEFAULT_SCHEME, Pair
from ..helpers.protocol_model import LAST_ID, LIMIT
from ..helpers.wire_bytes import AUTH, DEFAULT_DIGEST, cut_at, number

RUNS = os.environ.get("TRIOANYTLS_MODEL_RUNS")
# Hypothesis keeps 2 MB for each run until the last one is done, so that many runs are made in batches.
LARGEST_BATCH = 75
SETTINGS = settings(
    deadline=None,
    max_examples=min(int(RUNS or LARGEST_BATCH), LARGEST_BATCH),
    derandomize=not RUNS,
    stateful_step_count=40,
    # The first run of a process is slow, and drawing a machine of this size takes long.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
BATCHES = range(math.ceil(int(RUNS or 1) / LARGEST_BATCH))

OTHER_SCHEME = b"stop=2\n1=5-9\n"
OTHER_DIGEST = hashlib.md5(OTHER_SCHEME[:-1], usedforsecurity=False).hexdigest()

# The arrival of a frame's bytes


class Delivery(NamedTuple):
    """The cuts, the number of bytes kept in flight, and the application's reaction to a new stream."""

    cuts: tuple[int, ...] = ()
    held: int = 0
    reactions: tuple[str, ...] = ()


REACTIONS = st.lists(
    st.sampled_from(["", "", "", *["acknowledge"] * 3, "close", "close", "finish", "reset", "leave"]), max_size=3
).map(tuple)
DELIVERIES = st.just(Delivery()) | st.builds(
    Delivery,
    cuts=st.lists(st.integers(0, 80), max_size=4).map(tuple),
    held=st.just(0) | st.integers(0, 12),
    reactions=REACTIONS,
)

# Integers in the shortest form, or in one of at least this length.
FORMS = st.sampled_from([1, 1, 1, 1, 2, 4, 8])
PAYLOADS = st.binary(max_size=12) | st.integers(0, 300).map(bytes) | st.sampled_from([bytes(16384), b"\x07\x00" * 9000])


def spelled(value: int, form: int = 1) -> bytes:
    return number(value, max(form, len(number(value))))


def prefixed(kind: int, stream_id: int, payload: bytes, form: int = 1) -> bytes:
    return spelled(kind, form) + spelled(stream_id, form) + spelled(len(payload), form) + payload


# The stream of a frame, from the peer's point of view. A number selects one of several.
OF_A_STREAM = ["open"] * 8 + ["closed"] * 3
ANY_STREAM = [*OF_A_STREAM * 3, "next", "skipped", "beyond", "zero"]

GAPS = st.sampled_from([0] * 12 + [1, 2, 3, 60, 2**14, 2**30, 2**61, LAST_ID])

TEXTS = st.sampled_from([b"", b"bad", b"two\nlines", b" ~", b"x" * 300])
BAD_TEXTS = st.sampled_from([b"\x1b[31m", b"a\tb", b"\r\n", b"\x7f", "ä".encode(), b"\xef\xbb\xbfok", b"ok\xff"])
CODES = st.integers(0, 8) | st.integers(0, LAST_ID)
GOOD_VERSIONS = [b"1", b"1,2", b"3,2,1", b"999999999,1"]
OTHER_VERSIONS = [b"2", b"10,11", b"999999999"]
BAD_VERSIONS = [b"one", b"-1", b"1.0", b"01", b"1,x", b"0x1", b"+1", b"1,,2", b"", b"1 "]
#: A line that makes every block invalid.
BAD_LINES = [
    b"\n",
    b"nothing\n",
    b"=1\n",
    b"a=\n",
    b"a,b=1\n",
    b"a=1,\n",
    b"a= 1\n",
    b"a=1\r\n",
    b"a=\xc3\xa4\n",
    b"a=\x7f\n",
    b"v=1\n",
]
SCHEMES = [
    DEFAULT_SCHEME,
    OTHER_SCHEME,
    b"stop=0",
    b"stop=1000\n0=0-0\n999=65535-65535\n",
    b"3=9-1,c,c\nstop=3",
]
BAD_SCHEMES = [
    b"",
    b"1=1-2\n",
    b"stop=x\n",
    b"stop=1,2\n",
    b"stop=08\n",
    b"stop=1001\n",
    b"stop=1073741825\n",
    b"stop=8\n1=100\n",
    b"stop=8\n1=1-2-3\n",
    b"stop=8\n1=1-65536\n",
    b"stop=8\n01=1-2\n",
    b"stop=8\n-1=1-2\n",
    b"stop=8\n1=C\n",
    b"stop=8\n1=c\n1=c\n",
    b"stop=8\nmode=fast\n",
    b"stop=8\n\n",
]
# Bytes that are illegal for every end in every state.
UNREADABLE = [
    b"\x15",
    number(0x15, 8),
    number(0x16, 2),
    number(2**40),
    number(LAST_ID),
    b"\x07\x01",
    b"\x01\x01\x00",
    b"\x02\x01\x00",
    b"\x05\x01\x00",
    b"\x06\x06\x00",
    b"\x04\x05\x00",
    b"\x03\x06\x00",
    b"\x08\x00",
    b"\x09\x00",
    b"\x0a\x00\x00",
    b"\x0c\x00",
    b"\x10\x00",
    *(bytes([kind, 0]) + number(LIMIT + 1) for kind in (1, 3, 4, 6)),
    b"\x01\x00" + number(LAST_ID),
]


# One frame of each type, at the wrong time or for the wrong end.
FRAMES = [
    AUTH,
    prefixed(3, 0, b"v=1\n"),
    prefixed(4, 6, b"v=1\n"),
    prefixed(6, 0, OTHER_SCHEME),
    b"\x10\x01",
    b"\x0c\x01",
    b"\x11\x01\x05",
    b"\x12\x01",
    b"\x13\x01\x03\x00",
    b"\x14\x00\x05",
]
# Frames of extensions that are illegal whether or not these are in force.
UNREADABLE += [
    b"\x11\x00\x05",
    b"\x11\x01\x00",
    b"\x12\x00",
    b"\x13\x00\x01\x00",
    b"\x13\x01\x01" + number(513),
    b"\x13\x01\x01\x01\x1b",
    b"\x14\x01\x05",
]

#: All combinations of the extensions, most often all of them.
COMBINATIONS: list[tuple[Extension, ...]] = [
    tuple(name for bit, name in enumerate(EXTENSIONS) if chosen >> bit & 1) for chosen in range(16)
]
COMBINATIONS += [EXTENSIONS] * 16
WINDOWS = [b"16384", b"65536", b"2147483647"]
BAD_WINDOWS = [b"16383", b"2147483648", b"0", b"-1", b"x", b"020000", b"20000,20000"]
INCREMENTS = st.integers(1, 70) | st.sampled_from([65536, 2**31, LAST_ID])
REASONS = st.sampled_from([b"", b"refused", b"two\nlines", b"x" * 512])
SHOWN_REASONS = st.sampled_from(["", "", "refused", "y" * 512])


@st.composite
def extension_lines(draw: st.DrawFn, names: Sequence[str], *, good: bool = True) -> bytes:
    """Draw lines of NEGO that name these extensions, and perhaps unknown ones, with a valid window."""
    values = [name.encode() for name in draw(st.permutations(names))]
    values += draw(st.sampled_from([[], [], [b"future"], values[:1]]))
    lines = b"ext=" + b",".join(values) + b"\n" if values else b""
    window = draw(st.sampled_from(WINDOWS if good else [*BAD_WINDOWS, None]))
    has_window = "window" in names or draw(st.booleans())
    return lines + b"window=" + window + b"\n" if has_window and window is not None else lines


def client_nego(
    versions: bytes = b"1", identifier: bytes = b"other/2.0", digest: bytes = DEFAULT_DIGEST.encode()
) -> bytes:
    return b"v=" + versions + b"\nclient=" + identifier + b"\npadding-md5=" + digest + b"\n"


NEGO = client_nego()
BLOCKS = [NEGO, NEGO[:-1], b"future=1,2\n" + NEGO + b"V=x\nstop=8\n", client_nego(identifier=b"a/1=b")]
BLOCKS += [client_nego(digest=OTHER_DIGEST.encode()), client_nego(digest=b"0" * 32)]
BLOCKS += map(client_nego, GOOD_VERSIONS)
BAD_BLOCKS = [b"", b"\n", NEGO.split(b"\n", 1)[1], NEGO.replace(b"client", b"Client"), NEGO.replace(b"-md5", b"")]
BAD_BLOCKS += [NEGO + line for line in BAD_LINES]
BAD_BLOCKS += map(client_nego, [*OTHER_VERSIONS, *BAD_VERSIONS])
BAD_BLOCKS += [client_nego(identifier=b"a/1,b/2"), client_nego(identifier=b"")]
BAD_BLOCKS += [
    client_nego(digest=digest) for digest in (b"0" * 31, b"0" * 33, b"A" * 32, b"g" * 32, b",".join([b"0" * 32] * 2))
]
SELECTED = [b"v=1\n", b"v=1", b"future=1,2\nv=1\nclient=ignored\npadding-md5=ignored\n"]
BAD_SELECTED = [
    b"",
    b"w=1\n",
    *(b"v=" + versions + b"\n" for versions in ([*OTHER_VERSIONS, *BAD_VERSIONS, b"1,1", b"1,2", b"2,1"])),
]


def auth(password: str, padding: int, form: int = 1, flipped: int | None = None) -> bytes:
    digest = bytearray(hashlib.sha256(password.encode()).digest())
    if flipped is not None:
        digest[flipped] ^= 1
    header = spelled(0, form) * 2
    return header + digest + spelled(padding, form) + bytes(min(padding, LIMIT + 1))


AUTHS = st.builds(auth, st.sampled_from(["password", "builder"]), st.integers(0, 300), FORMS)
BAD_AUTHS = st.builds(
    auth,
    st.sampled_from(["password", "wrong"]),
    st.integers(0, 300) | st.sampled_from([LIMIT, LIMIT + 1, LAST_ID]),
    FORMS,
    st.none() | st.integers(0, 31),
)


#: The steps of a stream's life: by this end's application, and by the peer.
LIFE = ["accept", "accept", "close here", "close here", "finish here", "finish here", "reset here"]
LIFE += ["data", "stream", "rst", "data and rst", "window", "fin", "fin", "reset"]
LIVES = st.lists(st.sampled_from(LIFE), min_size=2, max_size=7)

# The number of frames that still arrive after the end of a connection.
FRAMES_BEHIND_THE_END = 4

going_on = precondition(lambda self: not self.pair.is_over or self.after_the_end < FRAMES_BEHIND_THE_END)
with_streams = precondition(lambda self: self.pair.model.opened.all)
rough = precondition(lambda self: self.calm <= 0)


class Machine(RuleBasedStateMachine):
    """The actions that the peers of both ends, and both applications, have in common.

    Attributes:
      pair: the end and its model.
      waiting: the bytes that the peer has sent and that have not arrived.
      calm: the number of frames that must pass before one may end the connection. Most rules can end it, so that no
        connection would last long otherwise.
      after_the_end: the number of frames since the end of the connection.
      is_sound: whether no step has failed.
    """

    pair: Pair
    waiting: bytes
    calm: int
    after_the_end: int
    is_sound = False

    def begin(self, data: st.DataObject) -> None:
        raise NotImplementedError

    @initialize(data=st.data())
    def first_connection(self, data: st.DataObject) -> None:
        self.waiting = b""
        self.calm = data.draw(st.sampled_from([0, 0, 0, 5, 15, 40]))
        self.after_the_end = 0
        self.begin(data)

    # Common to all rules

    def send(self, frame: bytes, delivery: Delivery) -> None:
        """Send a frame from the peer, after everything that it has sent before."""
        self.is_sound = False
        self.calm -= 1
        self.after_the_end += self.pair.is_over
        sent = self.waiting + frame
        length = len(sent) - min(delivery.held, len(sent))
        self.waiting = sent[length:]
        reactions: Sequence[str] = delivery.reactions
        for piece in cut_at(sent[:length], [min(position, length) for position in delivery.cuts]):
            before = len(self.pair.model.opened.all)
            self.pair.feed(piece, reactions)
            reactions = reactions[len(self.pair.model.opened.all) - before :]
        self.is_sound = True

    def one_of(self, good: bytes, bad: bytes | None) -> bytes:
        return good if bad is None or self.calm > 0 else bad

    def target(self, which: str, choice: int) -> int:
        model = self.pair.model
        known = model.opened.all
        highest = model.opened.highest
        if which == "open":
            known = list(model.streams)
        elif which == "sending":
            known = [stream_id for stream_id in model.streams if stream_id not in model.finished_there]
        elif which == "closed":
            known = [stream_id for stream_id in known if stream_id not in model.streams]
        elif which == "skipped":
            known = [stream_id for stream_id in range(1, min(highest, 100)) if stream_id not in model.opened]
        else:
            known = [{"next": highest + 1, "beyond": highest + 2 + choice, "zero": 0}[which]]
        known = [stream_id for stream_id in known if stream_id <= LAST_ID]
        # If there is no such stream, use any opened stream, or the next one if there is none.
        known = known or model.opened.all or [1]
        return int(known[choice % len(known)])

    def target_of_data(self, which: str, choice: int) -> int:
        """Return the stream of DATA or STREAM_FIN, in calm times none on which the peer has sent STREAM_FIN."""
        target = self.target("sending" if which == "open" else which, choice)
        model = self.pair.model
        if self.calm > 0 and target in model.finished_there:
            closed = [stream_id for stream_id in model.opened.all if stream_id not in model.streams]
            return int(closed[0]) if closed else 0
        return target

    def teardown(self) -> None:
        # Skip this if the end and its model differ already: that was reported.
        if self.is_sound:
            self.send(b"", Delivery())
            model = self.pair.model
            if not model.has_ended:
                seen = [*model.opened.all[-20:], 1, model.opened.highest + 1, LAST_ID]
                self.pair.check_stream_states({*seen, *(stream_id - 1 for stream_id in seen if stream_id > 1)})

    # After the end of a connection, most actions have no effect: begin another connection.

    @precondition(lambda self: self.pair.is_over)
    @rule(data=st.data())
    def another_connection(self, data: st.DataObject) -> None:
        self.teardown()
        self.first_connection(data)

    # Frames that both ends may send

    @going_on
    @rule(length=st.integers(0, 40) | st.integers(0, 20_000), form=FORMS, delivery=DELIVERIES)
    def padding(self, length: int, form: int, delivery: Delivery) -> None:
        self.send(prefixed(5, 0, bytes(length), form), delivery)

    @going_on
    @rule(length=st.integers(1, 300), missing=st.integers(1, 40), delivery=DELIVERIES)
    def padding_that_takes_what_follows(self, length: int, missing: int, delivery: Delivery) -> None:
        self.send(prefixed(5, 0, bytes(length))[: -min(missing, length)], delivery)

    @going_on
    @rule(form=FORMS, delivery=DELIVERIES)
    def pingpong(self, form: int, delivery: Delivery) -> None:
        self.send(spelled(7, form) + spelled(0, form), delivery)

    @with_streams
    @going_on
    @rule(
        flags=st.sampled_from([0, 0, 0, 1, 2, 2, 2, 3]),
        which=st.sampled_from(OF_A_STREAM),
        choice=st.integers(0, 30),
        payload=PAYLOADS,
        form=FORMS,
        delivery=DELIVERIES,
    )
    def stream(self, flags: int, which: str, choice: int, payload: bytes, form: int, delivery: Delivery) -> None:
        target = self.target_of_data(which, choice) if flags & 2 else self.target(which, choice)
        if target:
            self.send(self.stream_frame(flags, target, payload, form), delivery)

    @with_streams
    @going_on
    @rule(which=st.sampled_from(OF_A_STREAM), choice=st.integers(0, 30), payload=PAYLOADS, delivery=DELIVERIES)
    def stream_data(self, which: str, choice: int, payload: bytes, delivery: Delivery) -> None:
        if target := self.target_of_data(which, choice):
            self.send(self.stream_frame(2, target, payload, 1), delivery)

    @going_on
    @rule(steps=LIVES, reactions=REACTIONS, delivery=DELIVERIES)
    def life_of_a_stream(self, steps: Sequence[str], reactions: tuple[str, ...], delivery: Delivery) -> None:
        """Open a stream, and do all of this on it."""
        stream_id = self.begin_stream(reactions)
        for step in steps:
            if not self.pair.is_over:
                self.live(step, stream_id, delivery)

    def first_streams(self, data: st.DataObject) -> None:
        for steps in data.draw(st.lists(LIVES, max_size=3)):
            if not self.pair.is_over:
                self.life_of_a_stream(steps, (), Delivery())

    def begin_stream(self, reactions: tuple[str, ...]) -> int:
        raise NotImplementedError

    def accept(self, stream_id: int) -> None:
        raise NotImplementedError

    def live(self, step: str, stream_id: int, delivery: Delivery) -> None:
        model = self.pair.model
        spelled_id = spelled(stream_id)
        frames = {
            "data": ("", self.stream_frame(2, stream_id, b"hello", 1)),
            "stream": ("", self.stream_frame(0, stream_id, b"", 1)),
            "rst": ("", self.stream_frame(1, stream_id, b"", 1)),
            "data and rst": ("", self.stream_frame(3, stream_id, b"hello", 1)),
            "window": ("window", b"\x11" + spelled_id + b"\x05"),
            "fin": ("fin", b"\x12" + spelled_id),
            "reset": ("reset", b"\x13" + spelled_id + b"\x03\x00"),
        }
        if step == "accept":
            self.accept(stream_id)
        elif step == "close here":
            self.pair.close_stream(stream_id)
        elif step == "finish here":
            self.pair.finish_stream(stream_id)
        elif step == "reset here":
            self.pair.reset_stream(stream_id, 3, "refused")
        else:
            extension, frame = frames[step]
            is_late = stream_id in model.finished_there and step in ("data", "data and rst", "fin")
            if self.calm <= 0 or (not is_late and (not extension or model.has(extension))):
                self.send(frame, delivery)

    # Frames of extensions, most often in force

    def may_send(self, extension: str) -> bool:
        return self.calm <= 0 or self.pair.model.has(extension)

    @with_streams
    @precondition(lambda self: self.may_send("window"))
    @going_on
    @rule(
        which=st.sampled_from(OF_A_STREAM * 3 + ANY_STREAM),
        choice=st.integers(0, 30),
        increment=INCREMENTS,
        form=FORMS,
        delivery=DELIVERIES,
    )
    def stream_window(self, which: str, choice: int, increment: int, form: int, delivery: Delivery) -> None:
        target = self.target(which if self.calm <= 0 else "open", choice)
        self.send(spelled(0x11, form) + spelled(target, form) + spelled(increment, form), delivery)

    @with_streams
    @precondition(lambda self: self.may_send("fin"))
    @going_on
    @rule(which=st.sampled_from(OF_A_STREAM), choice=st.integers(0, 30), form=FORMS, delivery=DELIVERIES)
    def stream_fin(self, which: str, choice: int, form: int, delivery: Delivery) -> None:
        target = self.target(which, choice) if self.calm <= 0 else self.target_of_data(which, choice)
        if target:
            self.send(spelled(0x12, form) + spelled(target, form), delivery)

    @with_streams
    @precondition(lambda self: self.may_send("reset"))
    @going_on
    @rule(
        which=st.sampled_from(OF_A_STREAM),
        choice=st.integers(0, 30),
        code=st.integers(0, 14) | CODES,
        text=REASONS,
        form=FORMS,
        delivery=DELIVERIES,
    )
    def stream_reset(self, which: str, choice: int, code: int, text: bytes, form: int, delivery: Delivery) -> None:
        header = spelled(0x13, form) + spelled(self.target(which, choice), form) + spelled(code, form)
        self.send(header + spelled(len(text), form) + text, delivery)

    @rough
    @going_on
    @rule(
        kind=st.integers(0x11, 0x13),
        which=st.sampled_from(ANY_STREAM),
        choice=st.integers(0, 30),
        number=st.integers(0, 70),
        text=REASONS | BAD_TEXTS,
        delivery=DELIVERIES,
    )
    def any_extension_frame(
        self, kind: int, which: str, choice: int, number: int, text: bytes, delivery: Delivery
    ) -> None:
        frame = spelled(kind) + spelled(self.target(which, choice))
        if kind != 0x12:
            frame += spelled(number)
        if kind == 0x13:
            frame += spelled(len(text)) + text
        self.send(frame, delivery)

    @rough
    @going_on
    @rule(
        flags=st.integers(0, 7),
        which=st.sampled_from(ANY_STREAM),
        choice=st.integers(0, 30),
        payload=PAYLOADS,
        delivery=DELIVERIES,
    )
    def any_stream_frame(self, flags: int, which: str, choice: int, payload: bytes, delivery: Delivery) -> None:
        self.send(self.stream_frame(flags, self.target(which, choice), payload, 1), delivery)

    @staticmethod
    def stream_frame(flags: int, stream_id: int, payload: bytes, form: int) -> bytes:
        header = spelled(8 | flags, form) + spelled(stream_id, form)
        return header + spelled(len(payload), form) + payload if flags & 2 else header

    @rough
    @going_on
    @rule(code=CODES, form=FORMS, delivery=DELIVERIES)
    def close(self, code: int, form: int, delivery: Delivery) -> None:
        self.send(spelled(2, form) + spelled(0, form) + spelled(code, form), delivery)

    @rough
    @going_on
    @rule(text=TEXTS | TEXTS | BAD_TEXTS, form=FORMS, delivery=DELIVERIES)
    def alert(self, text: bytes, form: int, delivery: Delivery) -> None:
        self.send(prefixed(1, 0, text, form), delivery)

    @rough
    @going_on
    @rule(data=st.data(), delivery=DELIVERIES)
    def out_of_place(self, data: st.DataObject, delivery: Delivery) -> None:
        which = data.draw(st.sampled_from(["unreadable", "frame", "bytes"]))
        if which == "unreadable":
            self.send(data.draw(st.sampled_from(UNREADABLE)), delivery)
        elif which == "frame":
            self.send(data.draw(st.sampled_from(FRAMES)), delivery)
        else:
            self.send(data.draw(st.binary(max_size=8)), delivery)

    # The application

    @going_on
    @rule(choice=st.integers(0, 30), which=st.sampled_from(ANY_STREAM))
    def application_closes_a_stream(self, choice: int, which: str) -> None:
        self.pair.close_stream(self.target(which, choice))

    @going_on
    @rule(choice=st.integers(0, 30), which=st.sampled_from(OF_A_STREAM * 3 + ANY_STREAM))
    def application_finishes_a_stream(self, choice: int, which: str) -> None:
        self.pair.finish_stream(self.target(which, choice))

    @going_on
    @rule(choice=st.integers(0, 30), which=st.sampled_from(ANY_STREAM), code=st.integers(0, 12), text=SHOWN_REASONS)
    def application_resets_a_stream(self, choice: int, which: str, code: int, text: str) -> None:
        self.pair.reset_stream(self.target(which, choice), code, text)

    @going_on
    @rule()
    def application_pings(self) -> None:
        self.pair.ping()

    @going_on
    @rule()
    def replies_are_sent(self) -> None:
        self.pair.take_replies()

    @rough
    @going_on
    @rule(action=st.sampled_from([Pair.leave, Pair.leave, Pair.transport_closed]))
    def application_leaves(self, action: Callable[[Pair], None]) -> None:
        action(self.pair)


class ServerMachine(Machine):
    """A server with an arbitrary client."""

    def begin(self, data: st.DataObject) -> None:
        state = data.draw(st.sampled_from(["WAIT_AUTH", "WAIT_NEGO", "OPEN", "OPEN"]))
        scheme = data.draw(st.sampled_from([DEFAULT_SCHEME, OTHER_SCHEME]))
        self.pair = Pair.of_server(state, scheme, data.draw(st.sampled_from(COMBINATIONS)))
        # Most often at once, or few connections would get further. Sometimes with another frame in between.
        self.introduction(data)
        self.introduction(data)
        if self.pair.model.state == "OPEN":
            for stream_id in range(1, 1 + data.draw(st.integers(0, 4))):
                self.send(b"\x0c" + number(stream_id), Delivery(reactions=data.draw(REACTIONS)))
        if self.pair.model.state == "OPEN":
            self.first_streams(data)

    @precondition(lambda self: self.pair.model.state in ("WAIT_AUTH", "WAIT_NEGO"))
    @going_on
    @rule(data=st.data())
    def introduction(self, data: st.DataObject) -> None:
        step = data.draw(st.sampled_from(["good", "good", "good", "bad", "later"]))
        state = self.pair.model.state
        if state == "WAIT_AUTH" and step != "later":
            self.send(data.draw(AUTHS if step == "good" else BAD_AUTHS), data.draw(DELIVERIES))
        elif state == "WAIT_NEGO" and step != "later":
            good = step == "good"
            offered = data.draw(extension_lines(data.draw(st.sampled_from(COMBINATIONS)), good=good))
            # Most blocks end with a line feed.
            block = data.draw(st.sampled_from(BLOCKS if good else BAD_BLOCKS + BLOCKS))
            block += offered if block.endswith(b"\n") else b""
            self.send(prefixed(3, 0, block, data.draw(FORMS)), data.draw(DELIVERIES))

    @going_on
    @rule(
        flags=st.sampled_from([4, 4, 5, 6, 7]),
        gap=GAPS,
        payload=PAYLOADS,
        form=FORMS,
        delivery=DELIVERIES,
    )
    def open(self, flags: int, gap: int, payload: bytes, form: int, delivery: Delivery) -> None:
        stream_id = min(self.pair.model.opened.highest + 1 + gap, LAST_ID)
        self.send(self.stream_frame(flags, stream_id, payload, form), delivery)

    def begin_stream(self, reactions: tuple[str, ...]) -> int:
        stream_id = int(min(self.pair.model.opened.highest + 1, LAST_ID))
        self.send(self.stream_frame(4, stream_id, b"", 1), Delivery(reactions=reactions))
        return stream_id

    def accept(self, stream_id: int) -> None:
        self.pair.acknowledge(stream_id)

    @going_on
    @rule(choice=st.integers(0, 30), which=st.sampled_from(ANY_STREAM))
    def application_acknowledges(self, choice: int, which: str) -> None:
        self.pair.acknowledge(self.target(which, choice))


class ClientMachine(Machine):
    """A client with an arbitrary server."""

    def begin(self, data: st.DataObject) -> None:
        state = data.draw(st.sampled_from(["OPEN", "CONFIRMED"]))
        self.pair = Pair.of_client(state, data.draw(st.sampled_from(COMBINATIONS)))
        for _ in range(data.draw(st.integers(0, 4))):
            self.pair.open_stream()
        self.first_streams(data)

    @precondition(lambda self: self.pair.model.state == "OPEN")
    @going_on
    @rule(
        good=st.sampled_from(SELECTED),
        bad=st.none() | st.sampled_from(BAD_SELECTED + SELECTED),
        stream_id=st.sampled_from([0, 6]),
        form=FORMS,
        delivery=DELIVERIES,
        data=st.data(),
    )
    def nego(
        self, good: bytes, bad: bytes | None, stream_id: int, form: int, delivery: Delivery, data: st.DataObject
    ) -> None:
        block = self.one_of(good, bad)
        is_good = block is good
        offered = self.pair.model.offered
        named = [name for name in data.draw(st.sampled_from(COMBINATIONS)) if not is_good or name in offered]
        lines = data.draw(extension_lines(named, good=is_good))
        block += lines if block.endswith(b"\n") else b""
        self.send(prefixed(4, stream_id, block, form), delivery)

    @precondition(lambda self: self.may_send("goaway"))
    @going_on
    @rule(choice=st.integers(0, 30), lower=st.booleans(), form=FORMS, delivery=DELIVERIES)
    def goaway(self, choice: int, lower: bool, form: int, delivery: Delivery) -> None:
        model = self.pair.model
        known = [0, *model.opened.all, model.opened.highest + 2, LAST_ID]
        if lower or self.calm > 0:
            known = [stream_id for stream_id in known if stream_id <= model.last_served] or [model.last_served]
        last_served = known[-1 - choice % len(known)]
        self.send(spelled(0x14, form) + spelled(0, form) + spelled(last_served, form), delivery)

    @going_on
    @rule(
        good=st.sampled_from(SCHEMES),
        bad=st.none() | st.sampled_from(BAD_SCHEMES),
        form=FORMS,
        delivery=DELIVERIES,
    )
    def scheme(self, good: bytes, bad: bytes | None, form: int, delivery: Delivery) -> None:
        self.send(prefixed(6, 0, self.one_of(good, bad), form), delivery)

    @going_on
    @rule(
        which=st.sampled_from(OF_A_STREAM * 3 + ANY_STREAM), choice=st.integers(0, 30), form=FORMS, delivery=DELIVERIES
    )
    def stream_ack(self, which: str, choice: int, form: int, delivery: Delivery) -> None:
        self.send(spelled(0x10, form) + spelled(self.target(which, choice), form), delivery)

    def begin_stream(self, reactions: tuple[str, ...]) -> int:
        self.pair.open_stream()
        return int(self.pair.model.opened.highest)

    def accept(self, stream_id: int) -> None:
        self.send(spelled(0x10) + spelled(stream_id), Delivery())

    @going_on
    @rule()
    def application_opens_a_stream(self) -> None:
        self.pair.open_stream()


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("machine", [ServerMachine, ClientMachine])
def test_an_end_does_what_the_specification_says(machine: type[Machine], batch: int) -> None:
    run_state_machine_as_test(machine, settings=SETTINGS)

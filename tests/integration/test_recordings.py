"""Today's ends against the bytes that the ends of 40ee90b sent, which knew the specification alone.

Each file of `recordings` is an exchange of a client with a server of that commit, see `recorded_exchange`. Here, one of
its ends is today's, with the same calls of the application, and must send the same bytes in the same writes. The one
exception is that a client which offers extensions has the keys `ext` and `window` in its NEGO.

`REWORDED` lists the texts of ALERT that were reworded after 40ee90b, with both wordings. It is not to grow for the sake
of extensions.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.recorded_exchange import END, SIDES, Exchange, Round, Step, from_text, run, to_text
from tests.helpers.wire_bytes import AUTH, CLIENT_NEGO, frame
from trioanytls._protocol.anytls1 import varint

RECORDINGS = Path(__file__).parent / "recordings"
NAMES = sorted(path.stem for path in RECORDINGS.glob("*.json"))
#: The name that a client of 40ee90b gives itself.
CLIENT = "trioanytls/0.1.0"
#: The extensions of today's end.
EXTENSIONS = {"on": ("fin", "goaway", "reset", "window"), "off": ()}
#: The texts of ALERT at 40ee90b, and their wording since then.
REWORDED = {
    "AUTH on stream 0: it is sent only once": "AUTH on stream 0: must not be sent twice",
    "AUTH on stream 0: only a client sends it": "AUTH on stream 0: only a client may send this frame",
    "CLIENT_NEGO on stream 0: it did not come within auth_timeout": (
        "CLIENT_NEGO on stream 0: not received within auth_timeout"
    ),
    "CLIENT_NEGO on stream 0: it is sent only once": "CLIENT_NEGO on stream 0: must not be sent twice",
    "CLIENT_NEGO on stream 0: only a client sends it": "CLIENT_NEGO on stream 0: only a client may send this frame",
    "PADDING_UPDATE_SCHEME on stream 0: only a server sends it": (
        "PADDING_UPDATE_SCHEME on stream 0: only a server may send this frame"
    ),
    "PINGPONG on stream 1: it belongs to the Control Stream": (
        "PINGPONG on stream 1: must be sent on the control stream (stream 0)"
    ),
    "SERVER_NEGO on stream 6: it is sent only once": "SERVER_NEGO on stream 6: must not be sent twice",
    "SERVER_NEGO on stream 6: the version selected was not offered": (
        "SERVER_NEGO on stream 6: the selected version was not offered"
    ),
    "STREAM_ACK on stream 1: only a server sends it": "STREAM_ACK on stream 1: only a server may send this frame",
    "STREAM[OPEN] on stream 1: NEGO comes directly after AUTH": (
        "STREAM[OPEN] on stream 1: expected NEGO directly after AUTH"
    ),
    "STREAM[OPEN] on stream 1: stream ids are unique and increase": (
        "STREAM[OPEN] on stream 1: stream ids must be unique and increase"
    ),
    "STREAM[OPEN] on stream 2: only a client opens streams": "STREAM[OPEN] on stream 2: only a client may open streams",
    "STREAM[OPEN] on stream 3: stream ids increase, and 5 was opened before": (
        "STREAM[OPEN] on stream 3: stream ids must increase, but 5 was opened before"
    ),
    **{
        f"frame type {kind:#04x}: it is unknown": f"unknown frame type {kind:#04x}"
        for kind in (0x11, 0x12, 0x13, 0x14, 0x854)
    },
}
#: A result of an application that has changed: a handler whose stream the timer has closed gets an error of its own.
CHANGED = {
    ("idle_stream_server", "server read 1: ClosedResourceError"): "server read 1: StreamTimeout",
}


def load(name: str) -> Exchange:
    """Read a recording, with the texts that have changed since."""
    exchange = Exchange.load(RECORDINGS / f"{name}.json")
    for step in exchange.steps:
        step.seen = [CHANGED.get((name, line), line) for line in step.seen]
        for one, side in itertools.product(step.rounds, SIDES):
            one.of(side)[:] = map(reworded, one.of(side))
    return exchange


def reworded(write: str) -> str:
    """Return a write with today's text in its ALERT, if it ends in one that is in the table."""
    if write == END:
        return write
    data = from_text(write)
    for old, new in REWORDED.items():
        alert = frame(0x01, 0, old.encode())
        if data.endswith(alert):
            return to_text(data.removesuffix(alert) + frame(0x01, 0, new.encode()))
    return write


def recorded(side: str) -> list[str]:
    """Return the names of the recordings with this end."""
    return [name for name in NAMES if getattr(Exchange.load(RECORDINGS / f"{name}.json"), side) is not None]


def split_nego(write: bytes) -> tuple[bytes, bytes, bytes]:
    """Split a client's first write into the bytes before NEGO, the block of NEGO, and the bytes after it."""
    # The type, the stream id, and the hash of the password.
    at = 2 + 32
    decoded = varint.decode(write, at)
    assert decoded is not None
    padding, at = decoded
    at += padding
    assert write[at : at + 2] == b"\x03\x00"
    decoded = varint.decode(write, at + 2)
    assert decoded is not None
    length, block = decoded
    return write[:at], write[block : block + length], write[block + length :]


def without_extensions(write: bytes) -> bytes:
    """Remove the keys `ext` and `window` from NEGO in a client's first write."""
    before, block, after = split_nego(write)
    return before + frame(0x03, 0, re.sub(rb"(?m)^(ext|window)=.*\n", b"", block)) + after


def with_keys(write: bytes, lines: bytes) -> bytes:
    """Add lines to NEGO in a client's first write."""
    before, block, after = split_nego(write)
    return before + frame(0x03, 0, block + lines) + after


def first_round(exchange: Exchange) -> Round:
    """Return the round in which the client sends its first bytes."""
    return next(one for step in exchange.steps for one in step.rounds if one.client)


#: Recordings in which a stream is closed before the server's NEGO arrives. A client that has offered `fin` sends the
#: same frames, but waits for NEGO with the one that closes the stream.
CLOSED_EARLY = {"closed_before_flush"}


def check(exchange: Exchange, side: str, replayed: list[Step], *, in_rounds: bool = True) -> None:
    """Check that an end has done what the recording says, step by step.

    Without `in_rounds`, it may have written later within a step.
    """
    for step, now in zip(exchange.steps, replayed, strict=True):
        expected, writes = ([one.of(side) for one in made.rounds if one.of(side)] for made in (step, now))
        if not in_rounds:
            expected, writes = ([[*itertools.chain(*rounds)]] for rounds in (expected, writes))
        assert writes == expected, step.do
        assert now.seen_by(side) == step.seen_by(side), step.do


@pytest.mark.parametrize("extensions", EXTENSIONS)
@pytest.mark.parametrize("name", recorded("server"))
def test_server(name: str, extensions: str) -> None:
    """A server answers the client of 40ee90b as the server of 40ee90b did."""
    exchange = load(name)
    check(exchange, "server", run(exchange, ["server"], extensions=EXTENSIONS[extensions]))


#: Recordings whose client does not get as far as NEGO, or sends none.
_WITHOUT_NEGO = {"auth_timeout", "http_client", "nego_timeout", "violation_before_nego", "wrong_password"}


@pytest.mark.parametrize("extensions", EXTENSIONS)
@pytest.mark.parametrize("name", [name for name in recorded("server") if name not in _WITHOUT_NEGO])
def test_server_and_unknown_extensions(name: str, extensions: str) -> None:
    """A server answers a client that offers unknown extensions as it answers one that offers none."""
    exchange = load(name)
    one = first_round(exchange)
    one.client[0] = to_text(with_keys(from_text(one.client[0]), b"ext=quux,foo\n"))
    check(exchange, "server", run(exchange, ["server"], extensions=EXTENSIONS[extensions]))


@pytest.mark.parametrize("extensions", EXTENSIONS)
@pytest.mark.parametrize("name", recorded("client"))
def test_client(name: str, extensions: str) -> None:
    """A client does the same with the server of 40ee90b, which sends no `ext`, as the client of 40ee90b did."""
    exchange = load(name)
    replayed = run(exchange, ["client"], client_identifier=CLIENT, extensions=EXTENSIONS[extensions])
    if extensions == "on":
        one = next(one for step in replayed for one in step.rounds if one.client)
        offering = from_text(one.client[0])
        assert b"\next=fin,goaway,reset,window\nwindow=" in offering
        one.client[0] = to_text(without_extensions(offering))
    check(exchange, "client", replayed, in_rounds=extensions != "on" or name not in CLOSED_EARLY)


# The comparison itself


HELLO = AUTH + CLIENT_NEGO
LATER = bytes.fromhex("0c01") + b"\next=fin\nwindow=5\n"


@pytest.mark.parametrize("name", recorded("client"))
def test_nothing_is_removed_from_the_recordings(name: str) -> None:
    [first, *_] = first_round(load(name)).client
    assert without_extensions(from_text(first)) == from_text(first)


def test_two_keys_are_removed_and_nothing_else() -> None:
    kept = b"text=1\nexts=2\nwindows=3\nEXT=4\nother=ext=fin\nlast=window=5\n"
    expected = with_keys(HELLO, kept) + LATER
    both = b"ext=fin,goaway,reset,window\nwindow=262144\n"
    for keys in (both, b"window=16384\next=fin\n", b"ext=quux\n", b"window=1\n"):
        assert without_extensions(with_keys(HELLO, keys + kept) + LATER) == expected
        assert without_extensions(with_keys(HELLO, kept + keys) + LATER) == expected
    assert without_extensions(expected) == expected


def test_a_difference_is_found() -> None:
    """A missing write, a further one, another cut, other bytes and another result are differences."""
    exchange = load("one_stream")
    changes: list[Callable[[Step], object]] = [
        lambda step: step.rounds[0].client.pop(),
        lambda step: step.rounds.append(Round(client=["0700"])),
        lambda step: step.rounds[0].client.append(step.rounds[0].client.pop()[:2]),
        lambda step: step.rounds[0].client.append("0700"),
        lambda step: step.seen.clear(),
    ]
    for change in changes:
        replayed = run(exchange, ["client"], client_identifier=CLIENT, extensions=())
        check(exchange, "client", replayed)
        change(replayed[0])
        with pytest.raises(AssertionError):
            check(exchange, "client", replayed)


# The recordings


@pytest.mark.parametrize("name", NAMES)
def test_recordings_are_complete(name: str) -> None:
    """Each end of a recording has sent something, or has closed."""
    exchange = load(name)
    for side in SIDES:
        assert any(one.of(side) for step in exchange.steps for one in step.rounds)


def test_the_notation_of_bytes() -> None:
    text = b"v=1\nclient=x/1\n" + bytes(11) + b"\\ten 'quoted' words\r\n"
    for data in (b"", b"\x00\xff", bytes(40) + b"ab", text, b"a" * 30):
        assert from_text(to_text(data)) == data
    assert to_text(b"\x0a\x01" + b"v=1\nname" + bytes(12)) == "0a01 'v=1\\nname' 00*12"
    assert to_text(b"end") != END

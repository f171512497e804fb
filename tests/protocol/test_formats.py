"""The choice between the wire formats on one port (legacy: 9)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from unittest import mock

import pytest

from trioanytls._protocol.anytls1 import frames as anytls1_frames
from trioanytls._protocol.anytls1.client import ClientProtocol
from trioanytls._protocol.anytls1.server import ServerProtocol
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.credentials import UserTable, hash_password
from trioanytls._protocol.events import Event, EventTuple
from trioanytls._protocol.exceptions import AuthenticationFailed, SchemeError
from trioanytls._protocol.formats import ServerFormatSelector, make_client, make_server
from trioanytls._protocol.interface import ServerWireProtocol, WireFormat
from trioanytls._protocol.legacy.client import LegacyClientProtocol
from trioanytls._protocol.legacy.preamble import encode_preamble
from trioanytls._protocol.legacy.server import LegacyServerProtocol
from trioanytls._protocol.limits import ProtocolLimits
from trioanytls._protocol.padding_scheme import PaddingScheme

BOTH: tuple[WireFormat, ...] = ("anytls1", "legacy")
USERS = {"alice": "password", "bob": "other"}
DEFAULT = PaddingScheme.DEFAULT


def selector(formats: Collection[WireFormat] = BOTH, users: dict[str, str] | None = None) -> ServerWireProtocol:
    protocol = make_server(formats, UserTable(users or USERS), DEFAULT, ProtocolLimits())
    protocol.handshake_done()
    return protocol


def receive(protocol: ServerWireProtocol, *pieces: bytes) -> Iterator[EventTuple]:
    """Receive as a connection does, which goes on with the end that was selected."""
    for piece in pieces:
        current = protocol
        for event in current.receive(piece):
            if event[0] == Event.SELECTED:
                assert isinstance(event[2], ServerProtocol | LegacyServerProtocol)
                protocol = event[2]
            yield event


def beginning(wire_format: WireFormat, password: str, padding: int = 30) -> bytes:
    if wire_format == "anytls1":
        return b"".join(ClientProtocol(password, DEFAULT).first_frames(padding))
    return b"".join(LegacyClientProtocol(password, DEFAULT, identifier="x").first_writes(padding))


@pytest.mark.parametrize("wire_format", BOTH)
@pytest.mark.parametrize(("user", "password"), USERS.items())
@pytest.mark.parametrize("padding", [0, 1, 30, 300, 5000])
def test_a_client_of_either_format(wire_format: WireFormat, user: str, password: str, padding: int) -> None:
    events = list(receive(selector(), beginning(wire_format, password, padding)))
    assert [event for event, *_ in events] == [Event.SELECTED, Event.AUTHENTICATED, Event.NEGOTIATED]
    kind = ServerProtocol if wire_format == "anytls1" else LegacyServerProtocol
    assert isinstance(events[0][2], kind)
    assert events[1][2] == user


def test_anytls1_may_come_in_pieces() -> None:
    for size in (1, 2, 3, 33):
        data = beginning("anytls1", "password")
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        assert [event for event, *_ in receive(selector(), *pieces)][:2] == [Event.SELECTED, Event.AUTHENTICATED]


def test_the_padding_of_legacy_may_come_in_pieces() -> None:
    data = beginning("legacy", "password", 5000)
    events = [event for event, *_ in receive(selector(), data[:1186], data[1186:3000], data[3000:])]
    assert events == [Event.SELECTED, Event.AUTHENTICATED, Event.NEGOTIATED]


@pytest.mark.parametrize("prefix", [b"\x00\x00", b"\x00\x00\x00\x00", b"GET ", b"\x16\x03\x01"])
@pytest.mark.parametrize("wire_format", BOTH)
def test_a_hash_that_begins_like_something_else(
    prefix: bytes, wire_format: WireFormat, hashes: dict[str, bytes]
) -> None:
    hashes["unlucky"] = prefix + bytes(range(100, 132 - len(prefix)))
    events = list(receive(selector(users={"eve": "unlucky", **USERS}), beginning(wire_format, "unlucky")))
    assert [event for event, *_ in events] == [Event.SELECTED, Event.AUTHENTICATED, Event.NEGOTIATED]
    assert isinstance(events[0][2], ServerProtocol if wire_format == "anytls1" else LegacyServerProtocol)
    assert events[1][2] == "eve"


@pytest.mark.parametrize(
    "first",
    [
        b"G",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\n",
        b"HELO relay.test\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"\x00\x01" + bytes(20),
        b"\x01",
        bytes.fromhex("5e884898da280471"),
    ],
)
def test_a_short_first_record_is_not_waited_for(first: bytes) -> None:
    protocol = selector()
    with pytest.raises(AuthenticationFailed, match="too short for a preamble"):
        list(receive(protocol, first))
    assert protocol.unconsumed == first


@pytest.mark.parametrize("first", [b"\x00", b"\x00\x00", bytes(33)])
def test_what_may_be_auth_is_waited_for(first: bytes) -> None:
    protocol = selector()
    assert list(receive(protocol, first)) == []
    assert protocol.incomplete == first


def test_what_turns_out_not_to_be_auth_fails_at_once() -> None:
    protocol = selector()
    assert list(receive(protocol, b"\x00")) == []
    with pytest.raises(AuthenticationFailed, match="neither AUTH nor a preamble"):
        list(receive(protocol, b"\x01"))
    assert protocol.unconsumed == b"\x00\x01"


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", bytes(34), b"x" * 34, bytes(1000)])
def test_34_bytes_of_nobody_fail_at_once(first: bytes) -> None:
    protocol = selector()
    with pytest.raises(AuthenticationFailed, match="no user has this password"):
        list(receive(protocol, first))
    assert protocol.unconsumed == first


def test_with_legacy_alone_anytls1_is_not_accepted() -> None:
    first, *_ = receive(selector(["legacy"]), beginning("legacy", "password"))
    assert first[0] == Event.SELECTED
    with pytest.raises(AuthenticationFailed, match="no user has this password"):
        list(receive(selector(["legacy"]), beginning("anytls1", "password")))
    with pytest.raises(AuthenticationFailed, match="too short"):
        list(receive(selector(["legacy"]), b"\x00"))


def test_with_anytls1_alone_nothing_is_selected() -> None:
    protocol = selector(["anytls1"])
    assert isinstance(protocol, ServerProtocol)
    with pytest.raises(AuthenticationFailed):
        list(receive(protocol, beginning("legacy", "password")))


def test_a_header_in_longer_integers_is_not_accepted_beside_legacy() -> None:
    auth = anytls1_frames.encode_auth(hash_password("password"), 0)
    longer = b"\x40\x00" + auth[1:]
    assert [event for event, *_ in receive(selector(["anytls1"]), longer)] == [Event.AUTHENTICATED]
    with pytest.raises(AuthenticationFailed):
        list(receive(selector(), longer))


@pytest.mark.parametrize(
    "data",
    [
        beginning("anytls1", "password"),
        beginning("anytls1", "wrong"),
        encode_preamble(hash_password("password"), 0),
        encode_preamble(hash_password("wrong"), 0),
        b"x" * 34,
        bytes(34),
    ],
)
def test_both_hashes_are_always_looked_up(data: bytes) -> None:
    table = UserTable(USERS)
    protocol = ServerFormatSelector(BOTH, table, DEFAULT, ProtocolLimits())
    protocol.handshake_done()
    with mock.patch.object(UserTable, "find", autospec=True, side_effect=lambda _self, _hash: None) as find:
        with pytest.raises(AuthenticationFailed):
            list(protocol.receive(data))
        assert [call.args[1] for call in find.call_args_list] == [data[:32], data[2:34]]


def test_nothing_is_received_after_the_end() -> None:
    protocol = selector()
    protocol.leave()
    assert list(receive(protocol, beginning("legacy", "password"))) == []
    protocol.transport_closed()


def test_no_frame_goes_to_a_client_before_it_is_known() -> None:
    protocol = selector()
    assert protocol.encode_close(CloseCode.NO_ERROR) is None
    assert protocol.encode_alert("text") is None
    assert protocol.replies == []


def test_the_clients_by_name() -> None:
    limits = ProtocolLimits()
    assert isinstance(make_client("anytls1", "password", DEFAULT, limits, "x"), ClientProtocol)
    assert isinstance(make_client("legacy", "password", DEFAULT, limits, "x"), LegacyClientProtocol)


@pytest.mark.parametrize(
    "text", ["stop=2", "stop=2\n0=30-30", "stop=2\n0=1152-1152", "stop=2\n0=9-1153", "stop=2\n0=c"]
)
def test_schemes_for_legacy_clients(text: str) -> None:
    PaddingScheme.parse(text.encode()).check_for_legacy()


def test_a_scheme_whose_preamble_go_would_split_is_refused() -> None:
    with pytest.raises(SchemeError, match="line 0 asks for up to 1153 bytes: legacy clients can have at most 1152"):
        PaddingScheme.parse(b"stop=2\n0=1153-1153").check_for_legacy()

"""The server's end of the legacy format, without I/O (legacy: 2 and 3)."""

from __future__ import annotations

import itertools

import pytest

from trioanytls._protocol.credentials import UserTable, hash_password
from trioanytls._protocol.events import Event, EventTuple
from trioanytls._protocol.exceptions import AuthenticationFailed, LimitExceeded, NotSupported, ProtocolViolation
from trioanytls._protocol.legacy import frames
from trioanytls._protocol.legacy.frames import Command
from trioanytls._protocol.legacy.preamble import encode_preamble
from trioanytls._protocol.legacy.scheme import parse_scheme
from trioanytls._protocol.legacy.server import LegacyServerProtocol
from trioanytls._protocol.limits import ProtocolLimits
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._protocol.state_machine import ConnectionState
from trioanytls._protocol.stream_codes import StreamReason

USERS = UserTable({"alice": "password", "bob": "other"})
DIGEST = PaddingScheme.DEFAULT.digest
PREAMBLE = encode_preamble(hash_password("password"), 30)
SYN_1 = frames.encode(Command.SYN, 1)
FIN_1 = frames.encode(Command.FIN, 1)
DATA_1 = frames.encode(Command.PSH, 1, b"hello")


def settings(*lines: str) -> bytes:
    return frames.encode(Command.SETTINGS, data="\n".join(lines).encode())


VERSION_2 = settings("v=2", "client=x/1", f"padding-md5={DIGEST}")
VERSION_1 = settings("v=1", "client=x/1", f"padding-md5={DIGEST}")
SERVER_SETTINGS = frames.encode(Command.SERVER_SETTINGS, data=b"v=2")


def server(scheme: PaddingScheme = PaddingScheme.DEFAULT, **limits: int) -> LegacyServerProtocol:
    protocol = LegacyServerProtocol(USERS, scheme, ProtocolLimits(**limits))
    protocol.handshake_done()
    return protocol


def receive(protocol: LegacyServerProtocol, *pieces: bytes) -> list[EventTuple]:
    return [event for piece in pieces for event in protocol.receive(piece)]


def replies(protocol: LegacyServerProtocol) -> bytes:
    joined = b"".join(protocol.replies)
    protocol.replies.clear()
    return joined


def opened(hello: bytes = VERSION_2) -> LegacyServerProtocol:
    protocol = server()
    receive(protocol, PREAMBLE, hello, SYN_1)
    replies(protocol)
    return protocol


BEGINNING = PREAMBLE + VERSION_2 + SYN_1 + DATA_1
EVENTS = [
    (Event.AUTHENTICATED, 0, "alice"),
    (Event.NEGOTIATED, 0, None),
    (Event.OPENED, 1, None),
    (Event.DATA, 1, b"hello"),
]


def test_a_beginning_whole_and_byte_by_byte() -> None:
    whole, slow = server(), server()
    assert receive(whole, BEGINNING) == EVENTS
    events = receive(slow, *(bytes((byte,)) for byte in BEGINNING))
    assert events[:3] == EVENTS[:3]
    assert b"".join(bytes(data) for *_, data in events[3:] if isinstance(data, bytes)) == b"hello"
    for protocol in (whole, slow):
        assert (protocol.user, protocol.peer_identifier, protocol.version) == ("alice", "x/1", 2)
        assert protocol.state is ConnectionState.OPEN
        assert replies(protocol) == SERVER_SETTINGS


@pytest.mark.parametrize("padding", [0, 1, 1152, 16000, 40000])
def test_padding_of_any_length_is_taken(padding: int) -> None:
    preamble = hash_password("other") + padding.to_bytes(2, "big") + bytes(padding)
    assert receive(server(), preamble + VERSION_2)[0] == (Event.AUTHENTICATED, 0, "bob")


def test_an_unknown_password_fails_with_the_34th_byte() -> None:
    protocol = server()
    preamble = hash_password("wrong") + b"\xff\xff"
    assert receive(protocol, preamble[:33]) == []
    assert protocol.incomplete == preamble[:33]
    with pytest.raises(AuthenticationFailed, match="no user has this password"):
        receive(protocol, preamble[33:])
    assert protocol.unconsumed == preamble


def test_the_padding_has_a_limit() -> None:
    protocol = server(max_auth_padding=29)
    with pytest.raises(AuthenticationFailed, match="30 bytes of padding exceeds the limit"):
        receive(protocol, PREAMBLE)
    assert protocol.unconsumed == PREAMBLE


@pytest.mark.parametrize("lines", list(itertools.permutations(("v=2", "client=", f"padding-md5={DIGEST}"))))
def test_settings_in_any_order(lines: tuple[str, ...]) -> None:
    protocol = server()
    receive(protocol, PREAMBLE, settings(*lines))
    assert (protocol.version, protocol.peer_identifier) == (2, "")
    assert replies(protocol) == SERVER_SETTINGS


@pytest.mark.parametrize(
    ("lines", "updates", "version"),
    [
        (["v=2", f"padding-md5={DIGEST}"], False, 2),
        (["v=2", "padding-md5=00"], True, 2),
        (["v=2"], True, 2),
        (["v=3", f"padding-md5={DIGEST}"], False, 2),
        (["v=1", f"padding-md5={DIGEST}"], False, 1),
        ([f"padding-md5={DIGEST}"], False, 1),
        (["v=two", f"padding-md5={DIGEST}"], False, 1),
        (["junk"], True, 1),
    ],
)
def test_the_answer_to_settings(lines: list[str], updates: bool, version: int) -> None:
    protocol = server()
    receive(protocol, PREAMBLE, settings(*lines))
    update = frames.encode(Command.UPDATE_PADDING_SCHEME, data=PaddingScheme.DEFAULT.text)
    assert replies(protocol) == update * updates + SERVER_SETTINGS * (version == 2)
    assert protocol.version == version


def test_empty_settings_do_not_count() -> None:
    protocol = server()
    receive(protocol, PREAMBLE, frames.encode(Command.SETTINGS))
    assert protocol.state == ConnectionState.WAIT_NEGO
    assert replies(protocol) == b""
    assert receive(protocol, VERSION_2) == [(Event.NEGOTIATED, 0, None)]


def test_second_settings_are_processed_again() -> None:
    protocol = server()
    receive(protocol, PREAMBLE, VERSION_1, VERSION_2)
    assert protocol.version == 2
    assert replies(protocol) == SERVER_SETTINGS


def test_waste_heartbeats_and_unknown_commands_may_come_before_settings() -> None:
    protocol = server()
    early = frames.encode_waste(100) + frames.encode(Command.HEART_REQUEST, 5) + frames.encode(77) + DATA_1 + FIN_1
    assert receive(protocol, PREAMBLE, early)[1:] == []
    assert replies(protocol) == frames.encode(Command.HEART_RESPONSE, 5)
    receive(protocol, VERSION_2)
    assert protocol.state is ConnectionState.OPEN


def test_syn_before_settings_is_a_violation() -> None:
    protocol = server()
    with pytest.raises(ProtocolViolation, match=r"^client did not send its settings$"):
        receive(protocol, PREAMBLE, SYN_1)
    assert protocol.unconsumed == SYN_1
    alert = protocol.encode_alert("client did not send its settings")
    assert alert == frames.encode(Command.ALERT, data=b"client did not send its settings")


@pytest.mark.parametrize("stream_id", [0, 1, 2, 1000, 0xFFFFFFFF])
def test_any_id_is_accepted_in_any_order_and_again(stream_id: int) -> None:
    protocol = opened()
    protocol.close_stream(1)
    syn, fin = frames.encode(Command.SYN, stream_id), frames.encode(Command.FIN, stream_id)
    for _ in range(2):
        # A SYN of a stream that is open is ignored.
        assert receive(protocol, syn, syn) == [(Event.OPENED, stream_id, None), (Event.REFRESHED, stream_id, None)]
        assert receive(protocol, fin) == [(Event.ENDED, stream_id, None)]


def test_synack_is_sent_to_version_2_only() -> None:
    protocol = opened()
    assert protocol.acknowledge(1) == frames.encode(Command.SYNACK, 1)
    assert protocol.acknowledge(1) is None
    old = opened(VERSION_1)
    assert old.acknowledge(1) is None
    assert 1 in old.streams


NO_ROUTE = StreamReason(text="no route")


def test_a_refusal_is_synack_with_a_text_and_fin() -> None:
    assert opened().refuse(1, NO_ROUTE) == (frames.encode(Command.SYNACK, 1, b"no route"), FIN_1)
    assert opened().refuse(1) == (FIN_1,)
    assert opened(VERSION_1).refuse(1, NO_ROUTE) == (FIN_1,)
    protocol = opened()
    receive(protocol, FIN_1)
    assert protocol.refuse(1, NO_ROUTE) == ()


def test_fin_is_not_answered() -> None:
    protocol = opened()
    assert receive(protocol, DATA_1, FIN_1, DATA_1, FIN_1) == [(Event.DATA, 1, b"hello"), (Event.ENDED, 1, None)]
    assert replies(protocol) == b""
    assert protocol.close_stream(1) == ()


def test_data_that_arrives_after_our_fin_is_dropped() -> None:
    protocol = opened()
    assert protocol.close_stream(1) == (FIN_1,)
    assert receive(protocol, DATA_1, FIN_1) == []
    # The id can be opened again.
    assert receive(protocol, SYN_1, DATA_1) == [(Event.OPENED, 1, None), (Event.DATA, 1, b"hello")]


def test_a_ping_needs_a_client_of_version_2() -> None:
    assert opened().ping() == frames.encode(Command.HEART_REQUEST)
    with pytest.raises(NotSupported):
        opened(VERSION_1).ping()


@pytest.mark.parametrize(
    "frame",
    [
        frames.encode(Command.UPDATE_PADDING_SCHEME, data=b"stop=1"),
        frames.encode(Command.SERVER_SETTINGS, data=b"v=2"),
        frames.encode(Command.SYNACK, 1, b"text"),
        frames.encode(Command.SYNACK, 1),
        frames.encode(99, 1, b"data"),
    ],
)
def test_commands_of_servers_are_ignored_and_limited(frame: bytes) -> None:
    protocol = server(max_idle_frames=5)
    receive(protocol, PREAMBLE, VERSION_2, SYN_1, DATA_1)
    assert all(event == Event.REFRESHED for event, *_ in receive(protocol, frame * 5))
    with pytest.raises(LimitExceeded, match="consecutive idle frames"):
        receive(protocol, frame)


def test_an_alert_of_a_client_closes() -> None:
    assert receive(opened(), frames.encode(Command.ALERT, data=b"bye")) == [(Event.ALERTED, 0, "bye")]


def test_the_scheme_is_sent_as_it_is_hashed() -> None:
    scheme = PaddingScheme.parse(b"stop=3\n1=5-5\n")
    protocol = server(scheme)
    receive(protocol, PREAMBLE, VERSION_2)
    assert replies(protocol) == frames.encode(Command.UPDATE_PADDING_SCHEME, data=b"stop=3\n1=5-5") + SERVER_SETTINGS
    again = server(scheme)
    receive(again, PREAMBLE, settings("v=2", f"padding-md5={scheme.digest}"))
    assert replies(again) == SERVER_SETTINGS


def test_the_name_of_a_client_is_one_line() -> None:
    protocol = server()
    receive(protocol, PREAMBLE, settings("v=2", "client=\x1b[2Jx\r" + "y" * 1000))
    assert protocol.peer_identifier is not None
    assert protocol.peer_identifier.startswith("\\x1b[2Jx\\ryyy")
    assert len(protocol.peer_identifier) < 600


def test_many_settings_are_answered_by_one_scheme_in_memory() -> None:
    """The answer to a few bytes may have 64 KiB."""
    protocol = server(parse_scheme(b"stop=3\n" + b"1=5-5\n" * 1000))
    receive(protocol, PREAMBLE, settings("v=2") * 100)
    assert len(protocol.replies) == 200
    assert len({id(reply) for reply in protocol.replies if len(reply) > 1000}) == 1

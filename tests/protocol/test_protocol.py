"""Both ends of the protocol without I/O: authentication, negotiation, answers, violations (protocol: 2 to 5)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trioanytls
from trioanytls._protocol import data_blocks
from trioanytls._protocol.anytls1.base import BaseProtocol
from trioanytls._protocol.anytls1.client import ClientProtocol
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.events import Event
from trioanytls._protocol.exceptions import AuthenticationFailed, ProtocolViolation, VersionNotSupported
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._protocol.state_machine import ConnectionState, StreamState

from ..helpers.wire_bytes import (
    ACK_1,
    AUTH,
    CLIENT_NEGO,
    CLIENT_NEGO_BLOCK,
    DEFAULT_DIGEST,
    HELLO_1,
    OPEN_1,
    PASSWORD,
    PINGPONG,
    RST_1,
    SERVER_NEGO,
    Pieces,
    Report,
    byte_by_byte,
    client,
    client_in,
    cuts,
    frame,
    joined,
    number,
    server,
    server_in,
    take,
    ways,
)

LIMIT = 65536
LAST_ID = 2**62 - 1
OTHER_SCHEME = PaddingScheme.parse(b"stop=2\n1=5-9\n")
OTHER_SCHEME_FRAME = bytes.fromhex("06000d") + b"stop=2\n1=5-9\n"


def nego(block: bytes) -> bytes:
    return frame(0x03, 0, block)


def server_nego(block: bytes, stream_id: int = 6) -> bytes:
    return frame(0x04, stream_id, block)


# The client's first frames


def test_the_client_begins_with_auth_and_nego() -> None:
    """Spec: Authentication and Version Negotiation."""
    auth, first_nego = ClientProtocol(PASSWORD, PaddingScheme.DEFAULT).first_frames(30)
    assert auth == AUTH
    assert first_nego == nego(
        b"v=1\nclient=trioanytls/%s\npadding-md5=%s\n" % (trioanytls.__version__.encode(), DEFAULT_DIGEST.encode())
    )


def test_the_client_names_the_scheme_it_uses() -> None:
    _, first_nego = ClientProtocol(PASSWORD, OTHER_SCHEME).first_frames(0)
    digest = hashlib.md5(b"stop=2\n1=5-9", usedforsecurity=False).hexdigest()
    assert f"padding-md5={digest}\n".encode() in first_nego


@pytest.mark.parametrize("padding", [0, 1, 30, 64, 65535])
def test_the_clients_first_frames_are_understood_by_the_server(padding: int) -> None:
    end = server_in(ConnectionState.WAIT_AUTH)
    first = b"".join(ClientProtocol(PASSWORD, PaddingScheme.DEFAULT).first_frames(padding))
    assert take(end, first) == [(Event.AUTHENTICATED, 0, "alice"), (Event.NEGOTIATED, 0, None)]
    assert (end.user, end.version, end.peer_identifier) == ("alice", 1, f"trioanytls/{trioanytls.__version__}")
    assert end.replies == [SERVER_NEGO]


def test_the_client_opens_streams_before_anything_arrives() -> None:
    """Protocol: 4. The client opens streams at once, optimistically."""
    end = client_in(ConnectionState.OPEN)
    assert end.version is None
    assert end.open_stream() == (1, b"\x0c\x01")
    assert end.open_stream() == (2, b"\x0c\x02")
    # The client accepts the server's stream frames before its NEGO.
    assert take(end, ACK_1 + HELLO_1) == [(Event.ACKNOWLEDGED, 1, None), (Event.DATA, 1, b"hello")]
    assert end.state is ConnectionState.OPEN


# Authentication


def test_auth_and_nego_whole_byte_by_byte_and_in_two() -> None:
    for pieces in ways(AUTH + CLIENT_NEGO + OPEN_1 + HELLO_1):
        end = server_in(ConnectionState.WAIT_AUTH)
        assert take(end, *pieces) == [
            (Event.AUTHENTICATED, 0, "alice"),
            (Event.NEGOTIATED, 0, None),
            (Event.OPENED, 1, None),
            (Event.DATA, 1, b"hello"),
        ]
        assert end.replies == [SERVER_NEGO]


def test_auth_is_counted_like_every_frame() -> None:
    end = server_in(ConnectionState.WAIT_NEGO)
    assert end.decoder.frames[0x00] == 1
    assert sum(end.decoder.frames) == 1


def auth(password: str, padding: bytes = bytes.fromhex("00")) -> bytes:
    return b"\x00\x00" + hashlib.sha256(password.encode()).digest() + padding


def test_each_user_authenticates_with_their_password() -> None:
    for password, name in (("password", "alice"), ("builder", "bob")):
        end = server_in(ConnectionState.WAIT_AUTH)
        assert take(end, auth(password)) == [(Event.AUTHENTICATED, 0, name)]
        assert end.user == name
        assert end.state is ConnectionState.WAIT_NEGO


def test_no_user_is_authenticated_before_auth_is_complete() -> None:
    end = server_in(ConnectionState.WAIT_AUTH)
    for byte in byte_by_byte(AUTH)[:-1]:
        assert take(end, byte) == []
        assert end.state is ConnectionState.WAIT_AUTH
    assert take(end, AUTH[-1:]) == [(Event.AUTHENTICATED, 0, "alice")]


def test_a_server_names_no_user_before_auth_is_complete() -> None:
    end = server_in(ConnectionState.WAIT_AUTH)
    take(end, AUTH[:-1])
    assert end.user is None
    take(end, AUTH[-1:])
    assert end.user == "alice"


def test_a_server_names_no_user_if_the_padding_fails_after_the_right_hash() -> None:
    end = server_in(ConnectionState.WAIT_AUTH)
    with pytest.raises(AuthenticationFailed):
        take(end, AUTH[:34], number(LIMIT + 1))
    assert end.user is None


def failed(pieces: Iterable[bytes]) -> bytes:
    """Feed a server until the authentication fails. Return the bytes fed. It sent nothing, and has kept everything."""
    end = server_in(ConnectionState.WAIT_AUTH)
    fed = b""
    with pytest.raises(AuthenticationFailed):
        for piece in pieces:
            fed += piece
            assert take(end, piece) == []
    assert end.unconsumed == fed
    assert end.replies == []
    assert end.state is ConnectionState.WAIT_AUTH
    return fed


def test_a_wrong_password_fails_with_the_hashs_last_byte_and_its_padding_is_not_waited_for() -> None:
    """Protocol: 4."""
    wrong = auth("wrong", b"\x80\x01\x00\x00")
    assert failed(byte_by_byte(wrong)) == wrong[:34]
    for pieces in ways(wrong):
        failed(pieces)
    # All bytes that follow go to the fallback, too.
    assert failed([wrong + bytes(100)]) == wrong + bytes(100)


def test_a_hash_that_differs_in_one_bit_is_wrong() -> None:
    for position in (2, 17, 33):
        data = bytearray(AUTH)
        data[position] ^= 1
        assert failed(byte_by_byte(bytes(data))) == bytes(data[:34])


@pytest.mark.parametrize(
    ("data", "fails_with"),
    [
        (b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", 1),
        (b"\x16\x03\x01\x02\x00\x01", 1),
        (b"\x00\x01", 2),
        (b"\x00\x06", 2),
        # Frames that arrive too early. The first byte is the type.
        (CLIENT_NEGO, 1),
        (bytes.fromhex("050000"), 1),
        (PINGPONG, 1),
        (OPEN_1, 1),
        # Integers in longer forms than needed fail as soon as their value cannot be 0.
        (bytes.fromhex("41"), 1),
        (bytes.fromhex("4001"), 2),
        (bytes.fromhex("8000000100"), 4),
        (bytes.fromhex("c000000000000080"), 8),
        (bytes.fromhex("4000c000000100000000"), 6),
        # The padding's limit of 64 KiB, after a correct hash.
        (AUTH[:34] + bytes.fromhex("80010001"), 38),
        (AUTH[:34] + bytes.fromhex("800200"), 36),
        (AUTH[:34] + bytes.fromhex("81"), 35),
        (AUTH[:34] + bytes.fromhex("bfffffff"), 35),
        (AUTH[:34] + bytes.fromhex("c000000000010001"), 42),
        (AUTH[:34] + bytes.fromhex("c000000001"), 39),
        (AUTH[:34] + bytes.fromhex("ffffffffffffffff"), 35),
    ],
    ids=lambda value: value[-8:].hex() if isinstance(value, bytes) else None,
)
def test_authentication_fails_at_the_first_byte_that_cannot_belong_to_auth(data: bytes, fails_with: int) -> None:
    """Spec: Authentication, any other data. Protocol: 4."""
    assert failed(byte_by_byte(data + bytes(100))) == data[:fails_with]
    assert failed([data]) == data
    assert failed([data + bytes(70_000)]) == data + bytes(70_000)


@pytest.mark.parametrize(
    "header", ["0000", "400000", "004000", "00c000000000000000", "8000000080000000", "c0000000000000004000"]
)
def test_auth_is_accepted_in_any_form_of_its_integers(header: str) -> None:
    start = bytes.fromhex(header)
    for form in (1, 2, 4, 8):
        for pieces in ways(start + AUTH[2:34] + number(3, form) + bytes(3)):
            assert take(server_in(ConnectionState.WAIT_AUTH), *pieces) == [(Event.AUTHENTICATED, 0, "alice")]


@pytest.mark.parametrize("padding", [16383, 16384, LIMIT - 1, LIMIT])
def test_auth_may_have_padding_up_to_the_limit_in_any_number_of_records(padding: int) -> None:
    data = AUTH[:34] + number(padding) + bytes(padding)
    for size in (1000, 16384, 65536, 100_000):
        end = server_in(ConnectionState.WAIT_AUTH)
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        assert take(end, *pieces) == [(Event.AUTHENTICATED, 0, "alice")]
        assert take(end, CLIENT_NEGO) == [(Event.NEGOTIATED, 0, None)]


def test_padding_is_allowed_between_auth_and_nego() -> None:
    """Protocol: 4. All other frames are violations."""
    for pieces in ways(AUTH + bytes.fromhex("0500020000050000") + CLIENT_NEGO):
        end = server_in(ConnectionState.WAIT_AUTH)
        assert take(end, *pieces) == [(Event.AUTHENTICATED, 0, "alice"), (Event.NEGOTIATED, 0, None)]


# Negotiation


def test_the_server_answers_nego_at_once() -> None:
    """Spec: Version Negotiation, the server NEGO MUST include the version selected."""
    end = server_in(ConnectionState.WAIT_NEGO)
    assert take(end, CLIENT_NEGO) == [(Event.NEGOTIATED, 0, None)]
    assert end.replies == [bytes.fromhex("040604763d310a")]
    assert (end.version, end.peer_identifier) == (1, "other/2.0")


def test_another_scheme_is_sent_directly_after_nego_and_before_anything_else() -> None:
    """Spec: Padding Scheme Update; protocol: 4."""
    for pieces in ways(CLIENT_NEGO + PINGPONG):
        end = server_in(ConnectionState.WAIT_NEGO, OTHER_SCHEME)
        take(end, *pieces)
        assert end.replies == [SERVER_NEGO, OTHER_SCHEME_FRAME, PINGPONG]


def test_the_same_scheme_is_not_sent() -> None:
    end = server_in(ConnectionState.WAIT_NEGO, OTHER_SCHEME)
    take(end, CLIENT_NEGO.replace(DEFAULT_DIGEST.encode(), OTHER_SCHEME.digest.encode()))
    assert end.replies == [SERVER_NEGO]


KEYS = b"client=a/1\npadding-md5=%s\n" % DEFAULT_DIGEST.encode()


@pytest.mark.parametrize(
    "block",
    [
        b"v=1\n" + KEYS,
        (b"v=1\n" + KEYS).removesuffix(b"\n"),
        KEYS + b"v=1\n",
        b"v=2,1\n" + KEYS,
        b"v=1,2,3\n" + KEYS,
        b"v=999999999,1\n" + KEYS,
        # Unknown keys are ignored, no matter which value they have.
        b"v=1\nfuture=1,2,3\n" + KEYS + b"V=x\nstop=8\n",
        b"scheme===,=\nv=1\n" + KEYS,
    ],
)
def test_what_a_client_can_offer(block: bytes) -> None:
    end = server_in(ConnectionState.WAIT_NEGO)
    assert take(end, nego(block)) == [(Event.NEGOTIATED, 0, None)]
    assert (end.version, end.peer_identifier) == (1, "a/1")
    assert end.replies == [SERVER_NEGO]


@pytest.mark.parametrize("versions", [b"2", b"2,3", b"10", b"11,21", b"999999999"])
def test_a_version_that_is_not_spoken_is_refused_without_an_answer(versions: bytes) -> None:
    """Spec: Version Negotiation; protocol: 4. CLOSE 2 follows, and no NEGO."""
    end = server_in(ConnectionState.WAIT_NEGO, OTHER_SCHEME)
    with pytest.raises(VersionNotSupported) as caught:
        take(end, nego(b"v=" + versions + b"\n" + KEYS))
    assert caught.value.code is CloseCode.VERSION_NOT_SUPPORTED
    assert caught.value.code.value == 2
    assert end.replies == []
    assert end.version is None


@pytest.mark.parametrize(
    ("block", "names"),
    [
        # Missing keys.
        (KEYS, "'v'"),
        (b"V=1\n" + KEYS, "'v'"),
        (b"v=1\npadding-md5=%s\n" % DEFAULT_DIGEST.encode(), "'client'"),
        (b"v=1\nclient=a/1\n", "'padding-md5'"),
        # Malformed ones.
        (b"v=one\n" + KEYS, "'v'"),
        (b"v=-1\n" + KEYS, "'v'"),
        (b"v=1.0\n" + KEYS, "'v'"),
        (b"v=01\n" + KEYS, "'v'"),
        (b"v=0x1\n" + KEYS, "'v'"),
        (b"v=1,x\n" + KEYS, "'v'"),
        (b"v=1\nclient=a/1,b/2\npadding-md5=%s\n" % DEFAULT_DIGEST.encode(), "'client'"),
        (b"v=1\nclient=a/1\npadding-md5=%s\n" % DEFAULT_DIGEST[:-1].encode(), "padding-md5"),
        (b"v=1\nclient=a/1\npadding-md5=%s0\n" % DEFAULT_DIGEST.encode(), "padding-md5"),
        (b"v=1\nclient=a/1\npadding-md5=%s\n" % DEFAULT_DIGEST.upper().encode(), "padding-md5"),
        (b"v=1\nclient=a/1\npadding-md5=%s\n" % DEFAULT_DIGEST.replace("7", "g").encode(), "padding-md5"),
        (b"v=1\nclient=a/1\npadding-md5=%s,%s\n" % (2 * (DEFAULT_DIGEST.encode(),)), "'padding-md5'"),
        # Not a key-value block at all (Appendix A).
        (b"", "block is empty"),
        (b"\n", "line 1"),
        (b"v=1\nv=1\n" + KEYS, "line 2: duplicate key 'v'"),
        (b"v=1\n\n" + KEYS, "line 2"),
        (b"v= 1\n" + KEYS, "line 1: the byte 0x20"),
        (b"v=1\r\n" + KEYS, "line 1: the byte 0x0d"),
        (b"v=\n" + KEYS, "line 1: the key 'v' has an empty value"),
        (b"\xef\xbb\xbfv=1\n" + KEYS, "line 1: a byte order mark"),
    ],
)
def test_missing_and_malformed_keys_of_the_client_are_violations(block: bytes, names: str) -> None:
    for pieces in ([nego(block)], byte_by_byte(nego(block))):
        end = server_in(ConnectionState.WAIT_NEGO)
        with pytest.raises(ProtocolViolation, match="NEGO") as caught:
            take(end, *pieces)
        assert names in str(caught.value)
        assert caught.value.code is CloseCode.PROTOCOL_ERROR
        assert end.replies == []
        assert end.version is None
        assert end.unconsumed == nego(block)


@pytest.mark.parametrize("stream_id", [0, 6])
@pytest.mark.parametrize("block", [b"v=1\n", b"v=1", b"future=1,2\nv=1\nclient=ignored\npadding-md5=ignored\n"])
def test_the_client_accepts_the_servers_nego(block: bytes, stream_id: int) -> None:
    """Protocol: 2. It may have the stream id from the specification, or that of the control stream."""
    for pieces in ways(server_nego(block, stream_id) + PINGPONG):
        end = client_in(ConnectionState.OPEN)
        assert take(end, *pieces) == [(Event.NEGOTIATED, 0, None)]
        assert end.version == 1
        assert end.state is ConnectionState.CONFIRMED
        assert end.replies == [PINGPONG]


@pytest.mark.parametrize(
    ("block", "names"),
    [
        # Not offered.
        (b"v=2\n", "not offered"),
        (b"v=11\n", "not offered"),
        # Not one version.
        (b"v=1,1\n", "NEGO"),
        (b"v=1,2\n", "NEGO"),
        (b"v=x\n", "'v'"),
        (b"v=01\n", "'v'"),
        (b"version=1\n", "'v'"),
        (b"", "block is empty"),
        (b"v=1 \n", "line 1: the byte 0x20"),
        (b"v=1\nw\n", "line 2"),
    ],
)
def test_a_servers_nego_that_selects_nothing_that_was_offered_is_a_violation(block: bytes, names: str) -> None:
    """Protocol: 4."""
    end = client_in(ConnectionState.OPEN)
    with pytest.raises(ProtocolViolation) as caught:
        take(end, server_nego(block))
    assert names in str(caught.value)
    # The client made the offer, so this is not an unsupported version but a protocol error.
    assert caught.value.code is CloseCode.PROTOCOL_ERROR
    assert end.version is None


# The scheme


def test_the_client_reports_the_scheme_of_the_server() -> None:
    for pieces in ways(OTHER_SCHEME_FRAME):
        end = client()
        assert take(end, *pieces) == [(Event.SCHEME, 0, OTHER_SCHEME)]
        assert end.replies == []


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (b"", "block is empty"),
        (b"stop=8\n1=100\n", "line 2: invalid size '...'"),
        (b"1=100-400\n", "'stop' is missing"),
        (b"stop=8\nx=1-2\n", "line 2: invalid key '...'"),
        (b"stop=8\n1=1-2 \n", "line 2: the byte 0x20"),
    ],
)
def test_a_scheme_that_does_not_parse_is_a_violation(block: bytes, reason: str) -> None:
    """Protocol: 4."""
    end = client()
    with pytest.raises(ProtocolViolation, match="PADDING_UPDATE_SCHEME") as caught:
        take(end, frame(0x06, 0, block))
    assert reason in str(caught.value)


@pytest.mark.parametrize("last", [b"", b"\n"])
@pytest.mark.parametrize("size", [1000, 65534, 65535, 65536])
def test_a_server_can_send_a_scheme_of_any_size(size: int, last: bytes) -> None:
    text = b"stop=%d\n1=" % (8 if size % 2 == 0 else 10)
    text += b",".join([b"c"] * ((size - len(text) + 1) // 2))
    assert len(text) == size
    try:
        scheme = PaddingScheme.parse(text + last)
    except trioanytls.SchemeError:
        assert size == 65536
        return
    end = server_in(ConnectionState.WAIT_NEGO, scheme)
    take(end, CLIENT_NEGO)
    assert take(client(), *end.replies[1:]) == [(Event.SCHEME, 0, scheme)]


# PINGPONG


def test_a_ping_is_answered_by_exactly_one() -> None:
    for end in (client(), server()):
        assert take(end, PINGPONG) == []
        assert end.replies == [PINGPONG]
        assert take(end, PINGPONG + PINGPONG) == []
        assert end.replies == [PINGPONG] * 3


def test_the_answer_to_a_ping_is_not_answered() -> None:
    for end in (client(), server()):
        assert end.ping() == PINGPONG
        assert take(end, PINGPONG) == [(Event.PONG, 0, None)]
        assert end.replies == []
        # The next one is the peer's own.
        assert take(end, PINGPONG) == []
        assert end.replies == [PINGPONG]


class Wire:
    """Two ends, and the frames in flight between them."""

    def __init__(self) -> None:
        self.ends: tuple[BaseProtocol, BaseProtocol] = (client(), server())
        self.under_way: tuple[list[bytes], list[bytes]] = ([], [])
        self.outstanding = [False, False]
        self.sent = self.pings = 0

    def ping(self, side: int) -> None:
        # Like a connection: calls during an outstanding ping share its answer.
        if not self.outstanding[side]:
            self.outstanding[side] = True
            self.pings += 1
            self.send(side, self.ends[side].ping())

    def send(self, side: int, data: bytes) -> None:
        self.sent += 1
        self.under_way[side].append(data)

    def transfer(self, side: int) -> None:
        """Let the next frame from this side arrive at the other."""
        if self.under_way[side]:
            end = self.ends[1 - side]
            for event, _, _ in take(end, self.under_way[side].pop(0)):
                assert event == Event.PONG
                assert self.outstanding[1 - side]
                self.outstanding[1 - side] = False
            for reply in end.replies:
                self.send(1 - side, reply)
            end.replies.clear()


def test_two_ends_that_ping_at_once_exchange_two_frames_in_all() -> None:
    """Protocol: 4. No exchange can loop."""
    wire = Wire()
    wire.ping(0)
    wire.ping(1)
    for _ in range(5):
        wire.transfer(0)
        wire.transfer(1)
    assert wire.sent == 2
    assert wire.outstanding == [False, False]
    assert wire.under_way == ([], [])


@given(st.lists(st.tuples(st.sampled_from([Wire.ping, Wire.transfer]), st.integers(0, 1)), max_size=60))
def test_whenever_they_ping_all_is_answered_and_comes_to_rest(steps: list[tuple[object, int]]) -> None:
    wire = Wire()
    for step, side in steps:
        step(wire, side)  # type: ignore[operator]
    for _ in range(2 * len(steps) + 2):
        wire.transfer(0)
        wire.transfer(1)
    assert wire.under_way == ([], [])
    assert wire.outstanding == [False, False]
    assert wire.pings <= wire.sent <= 2 * wire.pings


# The end


@pytest.mark.parametrize("code", list(CloseCode))
def test_close_ends_the_connection_with_its_code(code: CloseCode) -> None:
    for pieces in ways(b"\x02\x00" + number(code) + PINGPONG):
        for end in (client(), server()):
            assert take(end, *pieces) == [(Event.LEFT, 0, code)]
            assert end.state is ConnectionState.CLOSING
            assert end.replies == []


@pytest.mark.parametrize("code", [7, 63, 64, 2**62 - 1])
def test_an_unknown_close_code_is_treated_as_1(code: int) -> None:
    for end in (client(), server()):
        assert take(end, b"\x02\x00" + number(code)) == [(Event.LEFT, 0, CloseCode.PROTOCOL_ERROR)]


def test_alert_ends_the_connection_with_its_text() -> None:
    for pieces in ways(frame(0x01, 0, b"what was\nwrong")):
        for end in (client(), server()):
            assert take(end, *pieces) == [(Event.ALERTED, 0, "what was\nwrong")]
            assert end.state is ConnectionState.CLOSING


@pytest.mark.parametrize("unreadable", [b"\x11", b"\x09\x00", AUTH, b"\x01\x00" + number(LIMIT + 1)])
def test_unreadable_bytes_after_the_end_end_the_reading(unreadable: bytes) -> None:
    # The beginning of the next frame is unknown: bytes that look like one may be a part of another frame.
    for pieces in ways(b"\x02\x00\x00" + unreadable + b"\x01\x00\x03bad" + b"\x02\x00\x03"):
        for end in (client(), server()):
            assert take(end, *pieces) == [(Event.LEFT, 0, CloseCode.NO_ERROR)]
            assert end.state is ConnectionState.CLOSING


def test_data_before_the_end_comes_before_it() -> None:
    end = server()
    assert take(end, OPEN_1 + HELLO_1 + RST_1 + b"\x02\x00\x00") == [
        (Event.OPENED, 1, None),
        (Event.DATA, 1, b"hello"),
        (Event.ENDED, 1, None),
        (Event.LEFT, 0, CloseCode.NO_ERROR),
    ]


# Streams


def test_a_stream_from_its_beginning_to_its_end() -> None:
    near, far = client(), server()
    stream_id, opening = near.open_stream()
    assert take(far, opening) == [(Event.OPENED, 1, None)]
    assert take(far, HELLO_1) == [(Event.DATA, 1, b"hello")]
    acknowledged = far.acknowledge(1)
    assert acknowledged == ACK_1
    assert far.acknowledge(1) is None
    assert take(near, acknowledged) == [(Event.ACKNOWLEDGED, 1, None)]
    assert take(near, HELLO_1) == [(Event.DATA, 1, b"hello")]
    assert near.close_stream(stream_id) == (RST_1,)
    assert near.close_stream(stream_id) == ()
    assert take(far, RST_1) == [(Event.ENDED, 1, None)]
    # No RST in reply.
    assert far.close_stream(1) == ()
    assert far.replies == near.replies == []
    assert not near.streams
    assert not far.streams


def test_a_refused_stream_is_distinguished_from_a_closed_one() -> None:
    """Protocol: 5. RST without STREAM_ACK is a refusal."""
    near = client()
    near.open_stream()
    near.open_stream()
    assert take(near, RST_1 + b"\x10\x02" + b"\x09\x02") == [
        (Event.REFUSED, 1, None),
        (Event.ACKNOWLEDGED, 2, None),
        (Event.ENDED, 2, None),
    ]


@pytest.mark.parametrize(
    ("data", "events"),
    [
        ("0801", [(Event.REFRESHED, 1, None)]),
        ("0901", [(Event.ENDED, 1, None)]),
        ("0a01026869", [(Event.DATA, 1, b"hi")]),
        ("0b01026869", [(Event.DATA, 1, b"hi"), (Event.ENDED, 1, None)]),
        ("0c02", [(Event.OPENED, 2, None)]),
        ("0d02", [(Event.OPENED, 2, None), (Event.ENDED, 2, None)]),
        ("0e02026869", [(Event.OPENED, 2, None), (Event.DATA, 2, b"hi")]),
        ("0f02026869", [(Event.OPENED, 2, None), (Event.DATA, 2, b"hi"), (Event.ENDED, 2, None)]),
    ],
)
def test_all_combinations_of_flags_are_processed_in_the_order_open_data_rst(data: str, events: list[Report]) -> None:
    """Protocol: 2."""
    for pieces in ways(bytes.fromhex(data)):
        end = server()
        take(end, OPEN_1)
        assert take(end, *pieces) == events


@pytest.mark.parametrize(
    ("data", "events"),
    [
        ("0801", [(Event.REFRESHED, 1, None)]),
        ("0a01026869", [(Event.DATA, 1, b"hi")]),
        ("0b01026869", [(Event.DATA, 1, b"hi"), (Event.REFUSED, 1, None)]),
    ],
)
def test_a_client_understands_all_combinations_but_those_that_open(data: str, events: list[Report]) -> None:
    end = client()
    end.open_stream()
    assert take(end, bytes.fromhex(data)) == events


@pytest.mark.parametrize("data", ["0c02", "0c01", "0d02", "0e02026869", "0f02026869"])
def test_a_server_opens_no_streams(data: str) -> None:
    """Protocol: 4 and 5."""
    for before in (ConnectionState.OPEN, ConnectionState.CONFIRMED):
        end = client_in(before)
        end.open_stream()
        with pytest.raises(ProtocolViolation, match="only a client may open streams"):
            take(end, bytes.fromhex(data))


def test_ids_increase_and_gaps_are_legal() -> None:
    end = server()
    ids = [1, 2, 7, 63, 64, 16384, 2**30, LAST_ID]
    for stream_id in ids:
        assert take(end, b"\x0c" + number(stream_id)) == [(Event.OPENED, stream_id, None)]
    assert [*end.streams] == ids


@pytest.mark.parametrize("stream_id", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", [0x0C, 0x0D, 0x0E, 0x0F])
def test_an_id_at_or_below_the_highest_so_far_is_a_violation(kind: int, stream_id: int) -> None:
    """Spec: Explicit Data Stream Identifiers. This holds for open, closed and skipped ids."""
    end = server()
    take(end, b"\x0c\x01\x0c\x03\x0c\x05")
    end.close_stream(1)
    data = bytes([kind, stream_id]) + (b"\x00" if kind & 2 else b"")
    with pytest.raises(ProtocolViolation, match=f"on stream {stream_id}: stream ids"):
        take(end, data)
    assert end.unconsumed == data


@pytest.mark.parametrize("kind", range(0x08, 0x11))
def test_stream_frames_on_stream_0_are_violations(kind: int) -> None:
    for end in (client(), server()):
        with pytest.raises(ProtocolViolation, match="stream 0"):
            take(end, bytes([kind, 0, 0]))


def test_after_the_last_id_no_more_streams_are_opened() -> None:
    end = client()
    end.opened_ids.add(LAST_ID - 1)
    assert not end.exhausted
    assert end.open_stream() == (LAST_ID, b"\x0c" + b"\xff" * 8)
    assert end.exhausted
    with pytest.raises(RuntimeError, match="used up"):
        end.open_stream()
    assert take(end, b"\x10" + b"\xff" * 8) == [(Event.ACKNOWLEDGED, LAST_ID, None)]


LATE = ["0801", "0901", "0a01026869", "0a0100", "0b01026869"]


@pytest.mark.parametrize("data", LATE)
def test_late_frames_for_a_stream_that_is_closed_here_are_dropped(data: str) -> None:
    """Protocol: 5. The two sides are not synchronised."""
    near, far = client(), server()
    near.open_stream()
    take(far, OPEN_1)
    for end in (near, far):
        end.close_stream(1)
        for pieces in ways(bytes.fromhex(data) + PINGPONG):
            assert take(end, *pieces) == []
            assert end.replies == [PINGPONG]
            end.replies.clear()
        assert not end.streams


def test_a_late_acknowledgement_is_dropped() -> None:
    end = client()
    end.open_stream()
    end.close_stream(1)
    assert take(end, ACK_1 + HELLO_1) == []


def test_a_stream_that_is_closed_while_its_data_passes_gets_no_more() -> None:
    end = server()
    assert take(end, OPEN_1 + b"\x0b\x01\x44\x00" + b"abc") == [(Event.OPENED, 1, None), (Event.DATA, 1, b"abc")]
    assert end.close_stream(1) == (RST_1,)
    assert take(end, b"def", bytes(1018), PINGPONG) == []
    assert end.replies == [PINGPONG]


@pytest.mark.parametrize("data", [*LATE, "1001", "0a01ffffffffffffffff"])
@pytest.mark.parametrize("stream_id", [2, 3, 6, 64, LAST_ID])
def test_frames_for_a_stream_that_was_never_opened_are_violations(data: str, stream_id: int) -> None:
    """Protocol: 5. This includes skipped ids (here 2 and 3)."""
    given_id = bytes.fromhex(data)
    wrong = given_id[:1] + number(stream_id) + given_id[2:]
    for pieces in ([wrong], byte_by_byte(wrong)):
        near, far = client(), server()
        near.open_stream()
        take(far, b"\x0c\x01\x0c\x05")
        for end in (near, far):
            fed = b""
            with pytest.raises(ProtocolViolation, match=f"stream {stream_id}"):
                for piece in pieces:
                    fed += piece
                    take(end, piece)
            assert end.unconsumed == fed
            assert stream_id not in end.streams


def test_many_streams_one_after_the_other_cost_no_memory() -> None:
    """Protocol: 5. The ids are kept as intervals, not as a set that grows with every stream."""
    end = server()
    for stream_id in range(1, 5001):
        take(end, bytes([0x0D]) + number(stream_id))
    for stream_id in range(5002, 15_000, 2):
        take(end, bytes([0x0D]) + number(stream_id))
    assert not end.streams
    assert end.opened_ids.runs <= 1024
    assert end.stream_state(4000) is StreamState.CLOSED
    assert end.stream_state(14_997) is StreamState.IDLE
    assert end.stream_state(14_998) is StreamState.CLOSED
    assert end.stream_state(15_000) is StreamState.IDLE


def test_data_of_any_declared_length_passes_in_pieces() -> None:
    end = server()
    take(end, OPEN_1 + b"\x0a\x01" + b"\xff" * 8)
    piece = bytes(65536)
    for _ in range(100):
        assert [*end.receive(piece)] == [(Event.DATA, 1, piece)]


# Local errors


def test_only_what_is_there_can_be_closed_and_acknowledged() -> None:
    with pytest.raises(RuntimeError, match="stream 1"):
        client().close_stream(1)
    with pytest.raises(RuntimeError, match="stream 1"):
        server().close_stream(1)
    with pytest.raises(RuntimeError, match="stream 1"):
        server().acknowledge(1)


def test_the_handshake_is_done_once() -> None:
    for end in (client(), server(), client_in(ConnectionState.CLOSED), server_in(ConnectionState.CLOSING)):
        with pytest.raises(RuntimeError, match="only once"):
            end.handshake_done()


# Violations

CLIENTS_FRAMES = {"AUTH": AUTH, "client NEGO": CLIENT_NEGO}
# Frames that a server must not send, and frames that a client must not send.
FROM_SERVER = {
    **CLIENTS_FRAMES,
    "a second NEGO": SERVER_NEGO,
    "a second NEGO on stream 0": bytes.fromhex("040004763d310a"),
    "OPEN": bytes.fromhex("0c02"),
    "ACK of nothing": bytes.fromhex("1002"),
    "a bad scheme": frame(0x06, 0, b"stop=x\n"),
}
FROM_CLIENT = {
    **CLIENTS_FRAMES,
    "server NEGO": SERVER_NEGO,
    "a scheme": frame(0x06, 0, b"stop=1\n"),
    "ACK": ACK_1,
    "OPEN again": OPEN_1,
    "a NEGO that is none": frame(0x03, 0, b"none"),
}
FROM_EITHER = {
    "unknown type": b"\x11",
    "unknown type in a long form": number(0x11, 8),
    "unknown large type": number(2**40),
    "PINGPONG on a stream": b"\x07\x01",
    "ALERT on a stream": b"\x01\x01\x00",
    "CLOSE on a stream": b"\x02\x01\x00",
    "PADDING on a stream": b"\x05\x01\x00",
    "scheme on a stream": b"\x06\x06\x00",
    "server NEGO on stream 5": b"\x04\x05\x00",
    "RST on stream 0": b"\x09\x00",
    "DATA of nothing": b"\x0a\x02\x01x",
    "STREAM of nothing": b"\x08\x02",
    "ALERT with a control character": frame(0x01, 0, b"ok\nnot\x1b[31m"),
    "ALERT with a character of two bytes": frame(0x01, 0, "ä".encode()),
    "ALERT with a byte order mark": frame(0x01, 0, b"\xef\xbb\xbfok"),
    "ALERT that is no UTF-8": frame(0x01, 0, b"\xff"),
    "a long ALERT": b"\x01\x00" + number(LIMIT + 1),
    "a long client NEGO": b"\x03\x00" + number(LIMIT + 1),
    "a long server NEGO": b"\x04\x06" + number(LIMIT + 1),
    "a long scheme": b"\x06\x00" + number(2**62 - 1),
}


def established(side: str) -> BaseProtocol:
    """Create an end with stream 1 open."""
    if side == "client":
        end = client()
        end.open_stream()
        return end
    far = server()
    take(far, OPEN_1)
    return far


OFFENCES = [
    *(("client", name, data) for name, data in {**FROM_SERVER, **FROM_EITHER}.items()),
    *(("server", name, data) for name, data in {**FROM_CLIENT, **FROM_EITHER}.items()),
]


@pytest.mark.parametrize(
    ("side", "data"), [(side, data) for side, _, data in OFFENCES], ids=[f"{s}-{n}" for s, n, _ in OFFENCES]
)
def test_violations_have_a_text_and_leave_the_offending_frame_unconsumed(side: str, data: bytes) -> None:
    before = HELLO_1 + bytes.fromhex("050003010203") + b"\x0a\x01\x40\x46" + bytes(70)
    for trailing in (b"", b"\x07\x00 and whatever follows"):
        for pieces in ways(before + data + trailing):
            end = established(side)
            fed = b""
            events: list[Report] = []
            with pytest.raises(ProtocolViolation) as caught:
                for piece in pieces:
                    fed += piece
                    events.extend(end.receive(piece))
            # Everything before it was reported, and none of it is left.
            assert joined(events) == [(Event.DATA, 1, b"hello" + bytes(70))]
            assert end.unconsumed == fed[len(before) :]
            # The text can be sent in an ALERT.
            text = str(caught.value)
            assert text
            assert data_blocks.format_text(text) == text.encode()
            assert end.replies == []


@pytest.mark.parametrize(
    "data", [AUTH, PINGPONG, OPEN_1, SERVER_NEGO, b"\x01\x00\x00", b"\x02\x00\x00", b"\x06\x00\x00", ACK_1]
)
def test_in_wait_nego_anything_but_nego_and_padding_is_a_violation(data: bytes) -> None:
    end = server_in(ConnectionState.WAIT_AUTH)
    events: list[Report] = []
    with pytest.raises(ProtocolViolation):
        events.extend(end.receive(AUTH + data + b"more"))
    assert events == [(Event.AUTHENTICATED, 0, "alice")]
    assert end.unconsumed == data + b"more"
    assert end.replies == []


@pytest.mark.parametrize("kind", [0x01, 0x03, 0x04, 0x06])
def test_control_payloads_of_64_kib_are_taken_and_longer_ones_not_waited_for(kind: int) -> None:
    """Protocol: 2. A longer payload is rejected by its length alone."""
    for end in (established("client"), established("server")):
        header = bytes([kind, 0])
        for byte in byte_by_byte(header + number(LIMIT + 1))[:-1]:
            assert take(end, byte) == []
        with pytest.raises(ProtocolViolation, match="65537 bytes exceeds the limit of 65536"):
            take(end, number(LIMIT + 1)[-1:])


def test_an_alert_of_64_kib_is_taken() -> None:
    text = b"x" * LIMIT
    assert take(client(), frame(0x01, 0, text)) == [(Event.ALERTED, 0, text.decode())]


# Random bytes
CLIENT_SENDS = [
    CLIENT_NEGO,
    PINGPONG,
    OPEN_1,
    HELLO_1,
    RST_1,
    b"\x08\x01",
    b"\x0c\x02",
    b"\x0f\x03\x02hi",
    b"\x0a\x02\x00",
    b"\x0c\x41\x00",
    b"\x05\x00\x03abc",
    b"\x05\x00\x00",
    b"\x01\x00\x03bad",
    b"\x02\x00\x00",
    nego(b"v=2\n" + KEYS),
    nego(CLIENT_NEGO_BLOCK.replace(b"75cf", b"0000")),
    SERVER_NEGO,
    ACK_1,
    AUTH,
    b"\x07\x01",
    b"\x11",
]
SERVER_SENDS = [
    SERVER_NEGO,
    b"\x04\x00\x04v=1\n",
    PINGPONG,
    ACK_1,
    HELLO_1,
    RST_1,
    b"\x08\x01",
    b"\x0b\x01\x02hi",
    b"\x10\x02",
    b"\x09\x02",
    b"\x05\x00\x03abc",
    b"\x05\x00\x00",
    b"\x01\x00\x03bad",
    b"\x02\x00\x07",
    OTHER_SCHEME_FRAME,
    b"\x06\x00\x01x",
    b"\x04\x06\x04v=2\n",
    CLIENT_NEGO,
    OPEN_1,
    b"\x0a\x05\x00",
    b"\x11",
]


def soup(frames: list[bytes]) -> st.SearchStrategy[bytes]:
    """Draw mostly valid frames, and sometimes other bytes."""
    parts = st.lists(st.sampled_from(frames) | st.sampled_from(frames) | st.binary(max_size=6), max_size=12)
    return parts.map(b"".join)


def outcome(end: BaseProtocol, pieces: Pieces) -> tuple[object, ...]:
    """Feed an end these pieces up to its first error. Return its complete visible state."""
    events: list[Report] = []
    error: type[Exception] | None = None
    left = b""
    for index, piece in enumerate(pieces):
        try:
            events.extend(end.receive(piece))
        except (ProtocolViolation, AuthenticationFailed) as raised:
            error = type(raised)
            left = end.unconsumed + b"".join(pieces[index + 1 :])
            break
    return joined(events), error, left, end.replies, end.state, end.streams, end.version


@given(st.data())
def test_random_bytes_bring_a_server_to_the_same_end_in_any_pieces(data: st.DataObject) -> None:
    start = data.draw(st.sampled_from([b"", AUTH[:34], AUTH, AUTH + CLIENT_NEGO, AUTH + CLIENT_NEGO]))
    sent = start + data.draw(soup(CLIENT_SENDS))
    outcomes = [
        outcome(server_in(ConnectionState.WAIT_AUTH), pieces)
        for pieces in ([sent], byte_by_byte(sent), data.draw(cuts(sent)))
    ]
    assert outcomes[0] == outcomes[1] == outcomes[2]


@given(st.data())
def test_random_bytes_bring_a_client_to_the_same_end_in_any_pieces(data: st.DataObject) -> None:
    sent = data.draw(st.sampled_from([b"", SERVER_NEGO])) + data.draw(soup(SERVER_SENDS))
    outcomes = []
    for pieces in ([sent], byte_by_byte(sent), data.draw(cuts(sent))):
        end = client_in(ConnectionState.OPEN)
        end.open_stream()
        end.open_stream()
        outcomes.append(outcome(end, pieces))
    assert outcomes[0] == outcomes[1] == outcomes[2]


@given(st.binary(max_size=80))
def test_random_bytes_raise_nothing_else_in_any_state(sent: bytes) -> None:
    ends: list[BaseProtocol] = [client_in(state) for state in (ConnectionState.OPEN, ConnectionState.CLOSING)]
    states = (ConnectionState.WAIT_AUTH, ConnectionState.WAIT_NEGO, ConnectionState.OPEN, ConnectionState.CLOSED)
    ends += map(server_in, states)
    for end in ends:
        outcome(end, [sent])

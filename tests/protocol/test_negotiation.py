"""The negotiation of extensions by both ends (extensions: 1)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

import pytest

from trioanytls._protocol.anytls1.client import ClientProtocol
from trioanytls._protocol.anytls1.server import ServerProtocol
from trioanytls._protocol.events import Event
from trioanytls._protocol.exceptions import NotSupported, ProtocolViolation, VersionNotSupported
from trioanytls._protocol.extensions import EXTENSIONS, Extension, ExtensionOffer
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._protocol.state_machine import ConnectionState
from trioanytls._protocol.stream_codes import StreamCode, StreamReason

from ..helpers.wire_bytes import (
    AUTH,
    CLIENT_NEGO_BLOCK,
    DEFAULT_DIGEST,
    FIN_1,
    GOAWAY_5,
    OPEN_1,
    PASSWORD,
    RESET_1,
    SERVER_NEGO,
    USERS,
    WINDOW_1,
    client_in,
    client_nego,
    frame,
    number,
    server_in,
    server_nego,
    take,
)

#: All combinations of the extensions.
COMBINATIONS: list[tuple[Extension, ...]] = [
    tuple(name for bit, name in enumerate(EXTENSIONS) if chosen >> bit & 1) for chosen in range(16)
]
FRAMES: dict[Extension, bytes] = {"window": WINDOW_1, "fin": FIN_1, "reset": RESET_1, "goaway": GOAWAY_5}
ENTRIES: dict[Extension, Event] = {
    "window": Event.GRANTED,
    "fin": Event.FINISHED,
    "reset": Event.REFUSED,
    "goaway": Event.GOING_AWAY,
}
INVALID_WINDOWS = [
    b"",
    b"window=0\n",
    b"window=1\n",
    b"window=16383\n",
    b"window=2147483648\n",
    b"window=4611686018427387904\n",
    b"window=-16384\n",
    b"window=+16384\n",
    b"window=016384\n",
    b"window=16384.0\n",
    b"window=0x4000\n",
    b"window=many\n",
    b"window=16384,16384\n",
    b"Window=16384\n",
]


def combinations(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(name, COMBINATIONS, ids=lambda names: "+".join(names) or "none")


def client_of(names: Collection[Extension], window: int = 16384) -> ClientProtocol:
    """Create a client that offers these, and has opened a stream."""
    client = ClientProtocol(
        PASSWORD, PaddingScheme.DEFAULT, identifier="x/1", offer=ExtensionOffer(frozenset(names), window)
    )
    client.handshake_done()
    assert client.open_stream() == (1, OPEN_1)
    return client


def server_of(names: Collection[Extension], window: int = 16384) -> ServerProtocol:
    """Create a server that accepts these, and waits for NEGO."""
    server = ServerProtocol(USERS, PaddingScheme.DEFAULT, offer=ExtensionOffer(frozenset(names), window))
    server.handshake_done()
    take(server, AUTH)
    return server


def selected(lines: bytes) -> bytes:
    return frame(0x04, 6, b"v=1\n" + lines)


def offered(lines: bytes) -> bytes:
    return frame(0x03, 0, CLIENT_NEGO_BLOCK + lines)


def test_the_block_of_a_client_is_that_of_the_page() -> None:
    client = client_of(EXTENSIONS, 262144)
    auth, nego = client.first_frames(30)
    assert auth == AUTH
    block = f"v=1\nclient=x/1\npadding-md5={DEFAULT_DIGEST}\next=fin,goaway,reset,window\nwindow=262144\n".encode()
    assert nego == frame(0x03, 0, block)


def test_a_client_that_offers_nothing_sends_what_version_1_sends() -> None:
    block = f"v=1\nclient=x/1\npadding-md5={DEFAULT_DIGEST}\n".encode()
    assert client_of(()).first_frames(30)[1] == frame(0x03, 0, block)


@combinations("known")
@combinations("named")
def test_a_server_accepts_what_both_ends_know(named: tuple[Extension, ...], known: tuple[Extension, ...]) -> None:
    both = {*named} & {*known}
    server = server_of(known, window=50_000)
    assert server.extensions is None
    window = b"window=70000\n" if "window" in named else b""
    names = f"ext={','.join(reversed(named))}\n".encode() if named else b""
    assert take(server, offered(names + window)) == [(Event.NEGOTIATED, 0, None)]
    assert server.extensions == both
    lines = f"ext={','.join(name for name in EXTENSIONS if name in both)}\n" if both else ""
    if "window" in both:
        lines += "window=50000\n"
        assert (server.send_window, server.receive_window) == (70_000, 50_000)
    else:
        assert (server.send_window, server.receive_window) == (None, None)
    # Byte for byte that of version 1 if nothing was agreed upon.
    assert server.replies == [selected(lines.encode())]
    assert both or server.replies == [SERVER_NEGO]


@combinations("accepted")
def test_a_client_uses_what_the_server_accepts(accepted: tuple[Extension, ...]) -> None:
    client = client_of(EXTENSIONS, window=50_000)
    assert client.extensions is None
    lines = b"ext=" + ",".join(accepted).encode() + b"\n" if accepted else b""
    if "window" in accepted:
        lines += b"window=70000\n"
    assert take(client, selected(lines)) == [(Event.NEGOTIATED, 0, None)]
    assert client.extensions == {*accepted}
    windows = (70_000, 50_000) if "window" in accepted else (None, None)
    assert (client.send_window, client.receive_window) == windows
    for name, event in ENTRIES.items():
        if name in accepted:
            assert take(client_with(accepted), FRAMES[name])[0][0] == event
        else:
            with pytest.raises(ProtocolViolation, match="unknown frame type"):
                take(client_with(accepted), FRAMES[name])


def client_with(extensions: Collection[Extension]) -> ClientProtocol:
    client = client_in(ConnectionState.CONFIRMED, extensions=extensions)
    client.open_stream()
    return client


@combinations("named")
def test_an_offer_beyond_what_a_client_has_offered_is_a_violation(named: tuple[Extension, ...]) -> None:
    for known in COMBINATIONS:
        client = client_of(known)
        answer = server_nego(named)
        if {*named} <= {*known}:
            take(client, answer)
            continue
        with pytest.raises(ProtocolViolation, match=r"SERVER_NEGO on stream 6: the extension '\w+' was not offered"):
            take(client, answer)
        assert (client.version, client.extensions) == (None, None)


@pytest.mark.parametrize("names", [b"future", b"future,fin", b"fin,x-y,Window,WINDOW", b"fin,fin", b"x,y,z"])
def test_unknown_names_are_ignored(names: bytes) -> None:
    server = server_of(EXTENSIONS)
    take(server, offered(b"ext=" + names + b"\n"))
    assert server.extensions == (frozenset({"fin"}) if b"fin" in names else frozenset())
    assert server.replies == [server_nego(["fin"]) if b"fin" in names else SERVER_NEGO]
    client = client_of(EXTENSIONS)
    take(client, selected(b"ext=" + names + b"\n"))
    assert client.extensions == (frozenset({"fin"}) if b"fin" in names else frozenset())


@pytest.mark.parametrize("lines", [b"ext=\n", b"ext\n", b"ext=fin,\n", b"ext=fin\next=reset\n", b"ext= fin\n"])
def test_the_names_are_a_list_of_values(lines: bytes) -> None:
    for end, sent in ((server_of(EXTENSIONS), offered(lines)), (client_of(EXTENSIONS), selected(lines))):
        with pytest.raises(ProtocolViolation):
            take(end, sent)
        assert end.extensions is None


@pytest.mark.parametrize("lines", INVALID_WINDOWS)
def test_window_without_a_valid_number_is_a_violation(lines: bytes) -> None:
    for end, sent in (
        (server_of(EXTENSIONS), offered(b"ext=window\n" + lines)),
        (client_of(EXTENSIONS), selected(lines + b"ext=window\n")),
    ):
        with pytest.raises(ProtocolViolation, match="the key 'window' is missing or not a number from 16384 to 2147"):
            take(end, sent)
        assert (end.version, end.extensions, end.send_window) == (None, None, None)
        assert end.replies == []


@pytest.mark.parametrize("window", [16384, 16385, 2**31 - 1])
def test_a_window_within_the_bounds_is_taken(window: int) -> None:
    for end, sent in (
        (server_of(EXTENSIONS), offered(b"ext=window\nwindow=%d\n" % window)),
        (client_of(EXTENSIONS), selected(b"ext=window\nwindow=%d\n" % window)),
    ):
        take(end, sent)
        assert (end.send_window, end.receive_window) == (window, 16384)


@pytest.mark.parametrize("lines", [*INVALID_WINDOWS, b"window=16384\n"])
def test_a_window_that_is_not_in_force_has_no_meaning(lines: bytes) -> None:
    """To an end without the extension, it is an unknown key."""
    server = server_of(["fin"])
    take(server, offered(b"ext=fin,window\n" + lines))
    assert server.extensions == frozenset({"fin"})
    # Nor has the key without the name.
    for end, sent in ((server_of(EXTENSIONS), offered(lines)), (client_of(EXTENSIONS), selected(lines))):
        take(end, sent)
        assert (end.extensions, end.send_window) == (frozenset(), None)


def test_the_version_comes_before_the_extensions() -> None:
    server = server_of(EXTENSIONS)
    with pytest.raises(VersionNotSupported):
        take(server, offered(b"ext=window\n").replace(b"v=1", b"v=2"))


@pytest.mark.parametrize("sent", FRAMES.values(), ids=FRAMES.keys())
def test_an_extension_is_in_force_at_the_client_from_the_servers_nego_on(sent: bytes) -> None:
    client = client_of(EXTENSIONS)
    with pytest.raises(ProtocolViolation, match="unknown frame type"):
        take(client, sent)
    client = client_of(EXTENSIONS)
    assert len(take(client, server_nego(EXTENSIONS) + sent)) == 2


@pytest.mark.parametrize("name", ["window", "fin", "reset"])
def test_an_extension_is_in_force_at_the_server_from_its_own_nego_on(name: Extension) -> None:
    server = server_of(EXTENSIONS)
    with pytest.raises(ProtocolViolation, match="unknown frame type"):
        take(server, FRAMES[name])
    server = server_of(EXTENSIONS)
    assert len(take(server, client_nego([name]) + OPEN_1 + FRAMES[name])) == 3


@combinations("agreed")
def test_an_end_sends_the_frames_of_what_is_in_force_only(agreed: tuple[Extension, ...]) -> None:
    """extensions: 1. Each of the four can be in force without the others."""
    reason = StreamReason(StreamCode.CONNECTION_REFUSED, "refused")
    client, server = client_with(agreed), server_in(ConnectionState.OPEN, extensions=agreed)
    take(server, OPEN_1)
    for end in (client, server):
        sends: list[tuple[Extension, Callable[[], object], object]] = [
            ("window", partial(end.encode_window, 1, 65536), WINDOW_1),
            ("fin", partial(end.finish_stream, 1), (FIN_1,)),
            ("goaway", partial(end.encode_goaway, 5), GOAWAY_5),
        ]
        for name, send, expected in sends:
            if name in agreed:
                assert send() == expected
            else:
                with pytest.raises(NotSupported):
                    send()
        assert end.encode_reset(1, reason) == (RESET_1 if "reset" in agreed else b"\x09\x01")
        assert end.encode_reset(1) == b"\x09\x01"
        assert end.reset_stream(1, reason) == (RESET_1 if "reset" in agreed else b"\x09\x01",)


def test_nothing_is_in_force_before_the_negotiation() -> None:
    client = client_of(EXTENSIONS)
    sends: list[Callable[[], object]] = [
        partial(client.encode_window, 1, 1),
        partial(client.finish_stream, 1),
        partial(client.encode_goaway, 1),
    ]
    for send in sends:
        with pytest.raises(NotSupported):
            send()
    assert client.reset_stream(1, StreamReason(StreamCode.IDLE)) == (b"\x09\x01",)


# The codes and texts of reasons (extensions: 4)


@pytest.mark.parametrize("code", range(13))
def test_a_code_is_itself(code: int) -> None:
    client = client_with(EXTENSIONS)
    assert take(client, b"\x13\x01" + number(code) + b"\x00") == [(Event.REFUSED, 1, StreamReason(StreamCode(code)))]


@pytest.mark.parametrize("code", [13, 63, 64, 2**62 - 1])
def test_other_codes_count_as_1(code: int) -> None:
    client = client_with(EXTENSIONS)
    reason = StreamReason(StreamCode.GENERAL_FAILURE)
    assert take(client, b"\x13\x01" + number(code) + b"\x00") == [(Event.REFUSED, 1, reason)]


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("no route to ünï.example", b"no route to ?n?.example"),
        ("two\nlines\x1b[31m\x7f", b"two lines [31m "),
        ("x" * 513, b"x" * 512),
        ("ä" * 600, b"?" * 512),
    ],
)
def test_a_text_is_sent_as_a_text_block(text: str, sent: bytes) -> None:
    client = client_with(EXTENSIONS)
    expected = b"\x13\x01\x01" + number(len(sent)) + sent
    assert client.encode_reset(1, StreamReason(StreamCode.GENERAL_FAILURE, text)) == expected


# GOAWAY (extensions: 5)


def test_streams_above_the_id_end_and_their_late_frames_are_dropped() -> None:
    client = client_with(EXTENSIONS)
    for _ in range(2):
        client.open_stream()
    assert take(client, b"\x14\x00\x02") == [(Event.GOING_AWAY, 0, 2)]
    assert [*client.streams] == [1, 2]
    assert take(client, b"\x0a\x03\x02hi\x10\x03\x12\x03\x09\x03") == []
    # The server has not seen the streams: nothing is sent.
    assert client.close_stream(3) == ()
    assert take(client, b"\x14\x00\x02" + b"\x14\x00\x00") == [(Event.GOING_AWAY, 0, 2), (Event.GOING_AWAY, 0, 0)]
    assert [*client.streams] == []

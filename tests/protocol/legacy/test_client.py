"""The client's end of the legacy format, without I/O (legacy: 3)."""

from __future__ import annotations

import hashlib

import pytest

from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.events import Event, EventTuple
from trioanytls._protocol.exceptions import LimitExceeded, NotSupported, ProtocolViolation
from trioanytls._protocol.legacy import frames
from trioanytls._protocol.legacy.client import LegacyClientProtocol
from trioanytls._protocol.legacy.frames import Command
from trioanytls._protocol.legacy.settings import parse_settings
from trioanytls._protocol.limits import ProtocolLimits
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._protocol.state_machine import ConnectionState
from trioanytls._protocol.stream_codes import StreamReason

VERSION_2 = frames.encode(Command.SERVER_SETTINGS, data=b"v=2")
SYNACK_1 = frames.encode(Command.SYNACK, 1)
FIN_1 = frames.encode(Command.FIN, 1)
DATA_1 = frames.encode(Command.PSH, 1, b"hello")


def client(limits: ProtocolLimits = ProtocolLimits(), streams: int = 1) -> LegacyClientProtocol:
    protocol = LegacyClientProtocol("password", PaddingScheme.DEFAULT, limits, "trioanytls/1")
    protocol.handshake_done()
    for _ in range(streams):
        protocol.open_stream()
    return protocol


def receive(protocol: LegacyClientProtocol, *pieces: bytes) -> list[EventTuple]:
    return [event for piece in pieces for event in protocol.receive(piece)]


def replies(protocol: LegacyClientProtocol) -> bytes:
    joined = b"".join(protocol.replies)
    protocol.replies.clear()
    return joined


def test_what_a_client_begins_with() -> None:
    preamble, settings = client().first_writes(30)
    assert preamble == hashlib.sha256(b"password").digest() + b"\x00\x1e" + bytes(30)
    assert settings[:7] == b"\x04\x00\x00\x00\x00" + (len(settings) - 7).to_bytes(2, "big")
    assert parse_settings(settings[7:]) == {
        "v": "2",
        "client": "trioanytls/1",
        "padding-md5": "75cff2ad89aadf5e257059ee571ebe11",
    }


def test_ids_count_from_1() -> None:
    protocol = client(streams=0)
    assert protocol.open_stream() == (1, frames.encode(Command.SYN, 1))
    assert protocol.open_stream() == (2, frames.encode(Command.SYN, 2))
    assert not protocol.exhausted


def test_ids_are_used_up_at_the_largest() -> None:
    protocol = client(streams=0)
    protocol._last_id = frames.MAX_STREAM_ID - 1
    assert protocol.open_stream() == (0xFFFFFFFF, frames.encode(Command.SYN, 0xFFFFFFFF))
    assert protocol.exhausted
    with pytest.raises(RuntimeError, match="all stream ids"):
        protocol.open_stream()


def test_synack_accepts_a_stream() -> None:
    protocol = client()
    assert receive(protocol, VERSION_2, SYNACK_1) == [(Event.NEGOTIATED, 0, None), (Event.ACKNOWLEDGED, 1, None)]
    assert protocol.version == 2
    # Once only.
    assert receive(protocol, SYNACK_1, DATA_1) == [(Event.DATA, 1, b"hello")]


def test_synack_with_a_text_refuses_a_stream_and_is_answered_with_fin() -> None:
    protocol = client()
    reason = StreamReason(text="dial tcp: \\x1b[31mrefused\\n")
    refused = frames.encode(Command.SYNACK, 1, b"dial tcp: \x1b[31mrefused\n")
    assert receive(protocol, VERSION_2, refused)[1:] == [(Event.REFUSED, 1, reason)]
    assert replies(protocol) == FIN_1
    assert protocol.streams == {}
    assert receive(protocol, FIN_1, DATA_1, SYNACK_1) == []
    assert protocol.close_stream(1) == ()


def test_fin_without_synack_refuses_a_stream() -> None:
    assert receive(client(), VERSION_2, FIN_1)[1:] == [(Event.REFUSED, 1, None)]
    assert receive(client(), FIN_1) == [(Event.REFUSED, 1, None)]


def test_a_server_of_version_1_accepts_a_stream_with_its_first_data() -> None:
    protocol = client()
    assert receive(protocol, DATA_1, DATA_1, FIN_1) == [
        (Event.NEGOTIATED, 0, None),
        (Event.ACKNOWLEDGED, 1, None),
        (Event.DATA, 1, b"hello"),
        (Event.DATA, 1, b"hello"),
        (Event.ENDED, 1, None),
    ]
    assert replies(protocol) == b""
    # A server of version 2 sends ServerSettings before all frames of streams.
    assert (protocol.version, protocol.acknowledges, protocol.can_ping) == (1, False, False)
    protocol.open_stream()
    assert receive(protocol, frames.encode(Command.PSH, 2, b"hello"))[0] == (Event.ACKNOWLEDGED, 2, None)
    # If they come all the same, they count.
    assert receive(protocol, VERSION_2) == [(Event.NEGOTIATED, 0, None)]
    assert (protocol.version, protocol.acknowledges, protocol.can_ping) == (2, True, True)


def test_a_server_that_closes_a_stream_before_it_has_sent_settings_has_version_1() -> None:
    protocol = client()
    assert receive(protocol, frames.encode(Command.FIN, 7)) == []
    assert protocol.version is None
    receive(protocol, FIN_1)
    assert protocol.version == 1


def test_fin_is_not_answered_and_ends_the_stream_once() -> None:
    protocol = client()
    assert receive(protocol, VERSION_2, SYNACK_1, DATA_1, FIN_1, FIN_1, DATA_1)[2:] == [
        (Event.DATA, 1, b"hello"),
        (Event.ENDED, 1, None),
    ]
    assert replies(protocol) == b""
    assert protocol.close_stream(1) == ()


def test_data_that_arrives_after_our_fin_is_dropped() -> None:
    protocol = client()
    assert protocol.close_stream(1) == (FIN_1,)
    assert receive(protocol, DATA_1, SYNACK_1, FIN_1, frames.encode(Command.SYNACK, 1, b"too late")) == []
    assert replies(protocol) == b""


def test_syn_of_a_server_is_answered_with_fin() -> None:
    protocol = client()
    assert receive(protocol, frames.encode(Command.SYN, 7), frames.encode(Command.PSH, 7, b"x")) == []
    assert replies(protocol) == frames.encode(Command.FIN, 7)
    assert 7 not in protocol.streams


@pytest.mark.parametrize(("text", "version"), [(b"v=2", 2), (b"v=3", 3), (b"x=1\nv=2\n", 2), (b"v=1", 1), (b"", 1)])
def test_server_settings(text: bytes, version: int) -> None:
    protocol = client()
    frame = frames.encode(Command.SERVER_SETTINGS, data=text)
    assert receive(protocol, frame) == [(Event.NEGOTIATED, 0, None)]
    assert (protocol.version, protocol.state) == (version, ConnectionState.CONFIRMED)
    # Repeats are harmless.
    assert receive(protocol, frame) == []


def test_a_heartbeat_is_answered_with_its_id_at_any_time() -> None:
    protocol = client(streams=0)
    assert receive(protocol, frames.encode(Command.HEART_REQUEST, 0), frames.encode(Command.HEART_REQUEST, 77)) == []
    assert replies(protocol) == frames.encode(Command.HEART_RESPONSE, 0) + frames.encode(Command.HEART_RESPONSE, 77)


def test_a_ping_needs_version_2() -> None:
    protocol = client()
    assert not protocol.can_ping
    with pytest.raises(NotSupported, match="version 2"):
        protocol.ping()
    receive(protocol, frames.encode(Command.SERVER_SETTINGS, data=b"v=1"))
    with pytest.raises(NotSupported, match="version 2"):
        protocol.ping()
    receive(protocol, VERSION_2)
    assert protocol.ping() == frames.encode(Command.HEART_REQUEST)
    response = frames.encode(Command.HEART_RESPONSE)
    assert receive(protocol, response, response) == [(Event.PONG, 0, None)]


def test_a_new_scheme_before_and_after_server_settings() -> None:
    protocol = client()
    text = b"stop=3\n1=5-5\n"
    update = frames.encode(Command.UPDATE_PADDING_SCHEME, data=text)
    [(event, _, scheme)] = receive(protocol, update)
    assert event == Event.SCHEME
    assert isinstance(scheme, PaddingScheme)
    # Byte by byte what came: its digest is what the next connection announces.
    assert (scheme.text, scheme.digest) == (text, hashlib.md5(text).hexdigest())
    assert [event for event, *_ in receive(protocol, VERSION_2, update)] == [Event.NEGOTIATED, Event.SCHEME]
    _, settings = protocol.first_writes(0)
    assert parse_settings(settings[7:])["padding-md5"] == scheme.digest


def test_a_scheme_that_is_none_leaves_the_old_one() -> None:
    protocol = client()
    assert receive(protocol, frames.encode(Command.UPDATE_PADDING_SCHEME, data=b"stop=x")) == []
    assert parse_settings(protocol.first_writes(0)[1][7:])["padding-md5"] == PaddingScheme.DEFAULT.digest


@pytest.mark.parametrize(
    ("text", "limits", "error"),
    [
        (b"stop=2\n" + b"#" * 100, {"max_scheme_size": 100}, "scheme of 107 bytes exceeds the limit of 100"),
        (b"stop=101", {"max_scheme_stop": 100}, r"the scheme's stop \(101\) exceeds the limit of 100"),
        (b"stop=2\n1=9-9,9-9", {"max_scheme_deliver": 17}, r"largest deliver \(18\) exceeds the limit of 17"),
        (b"stop=3\n1=9-9\n2=9-9", {"max_scheme_total": 17}, r"total \(18\) exceeds the limit of 17"),
    ],
)
def test_a_scheme_has_limits(text: bytes, limits: dict[str, int], error: str) -> None:
    protocol = client(ProtocolLimits(**limits))
    with pytest.raises(LimitExceeded, match=error):
        receive(protocol, frames.encode(Command.UPDATE_PADDING_SCHEME, data=text))


def test_an_alert_closes_and_an_empty_one_does_not() -> None:
    protocol = client()
    assert receive(protocol, frames.encode(Command.ALERT)) == []
    assert receive(protocol, frames.encode(Command.ALERT, data=b"go\naway")) == [(Event.ALERTED, 0, "go\\naway")]


@pytest.mark.parametrize("command", [Command.SETTINGS, 11, 99, 255])
def test_commands_that_mean_nothing_here_are_skipped(command: int) -> None:
    protocol = client()
    assert receive(protocol, frames.encode(command, 1, b"v=2"), VERSION_2, SYNACK_1)[1:] == [
        (Event.ACKNOWLEDGED, 1, None)
    ]


IDLE = {
    "Waste": frames.encode_waste(0),
    "empty PSH": frames.encode(Command.PSH, 1),
    "unknown command": frames.encode(99),
    "FIN of no stream": frames.encode(Command.FIN, 9),
    "empty PSH of no stream": frames.encode(Command.PSH, 9),
    "SYNACK of no stream": frames.encode(Command.SYNACK, 9),
    "HeartResponse": frames.encode(Command.HEART_RESPONSE),
    "ServerSettings": VERSION_2,
    "UpdatePaddingScheme": frames.encode(Command.UPDATE_PADDING_SCHEME, data=b"stop=1"),
    "SYN": frames.encode(Command.SYN, 9),
    "empty Alert": frames.encode(Command.ALERT),
    "Settings": frames.encode(Command.SETTINGS, data=b"v=2"),
}


@pytest.mark.parametrize("frame", IDLE.values(), ids=IDLE.keys())
def test_frames_that_carry_nothing_are_limited(frame: bytes) -> None:
    protocol = client(ProtocolLimits(max_idle_frames=10))
    receive(protocol, VERSION_2, DATA_1)
    receive(protocol, frame * 10)
    # Data ends the count.
    receive(protocol, DATA_1, frame * 10)
    with pytest.raises(LimitExceeded, match="more than 10 consecutive idle frames"):
        receive(protocol, frame)
    assert receive(protocol, DATA_1) == []


def test_bytes_of_waste_are_limited() -> None:
    protocol = client(ProtocolLimits(max_idle_bytes=1000))
    receive(protocol, frames.encode_waste(1000), DATA_1, frames.encode_waste(1000))
    with pytest.raises(LimitExceeded, match="more than 1000 consecutive bytes of padding"):
        receive(protocol, frames.encode_waste(1))


def test_nothing_is_an_event_after_the_end_has_begun() -> None:
    protocol = client()
    protocol.leave()
    assert receive(protocol, VERSION_2, SYNACK_1, DATA_1, frames.encode(Command.ALERT, data=b"x")) == []
    protocol.transport_closed()
    assert protocol.state is ConnectionState.CLOSED


def test_no_frame_closes_a_session() -> None:
    assert client().encode_close(CloseCode.NO_ERROR) is None
    assert client().encode_alert("text") is None


def test_a_frame_before_the_handshake_is_a_violation() -> None:
    protocol = LegacyClientProtocol("password", PaddingScheme.DEFAULT)
    with pytest.raises(ProtocolViolation, match="before the TLS handshake"):
        receive(protocol, VERSION_2)


def test_late_data_in_small_frames_is_not_limited() -> None:
    protocol = client(ProtocolLimits(max_idle_frames=5))
    protocol.close_stream(1)
    receive(protocol, frames.encode(Command.PSH, 1, b"on its way") * 100)
    # The peer's FIN, and then nothing but frames that carry nothing.
    receive(protocol, FIN_1, frames.encode_waste(0) * 4)
    with pytest.raises(LimitExceeded):
        receive(protocol, frames.encode_waste(0))

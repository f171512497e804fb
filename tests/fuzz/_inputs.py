"""The meaning of the fuzzer's bytes, and the checks that run on them.

The first byte of an input selects the code under test. For the ends of a connection, the second byte is the length of a
script. The script defines how the rest, the data from the peer, is split, and what the application does in between.

No input may cause errors other than the package's own. The pieces must make no difference, and memory must stay within
its bounds. The ends must also behave like the model of the specification.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator

from trioanytls._protocol import data_blocks
from trioanytls._protocol.anytls1 import varint as varint_module
from trioanytls._protocol.anytls1.auth_decoder import AuthDecoder
from trioanytls._protocol.anytls1.client import ClientProtocol
from trioanytls._protocol.anytls1.frame_decoder import FrameDecoder
from trioanytls._protocol.anytls1.frames import MAX_CONTROL_PAYLOAD
from trioanytls._protocol.anytls1.server import ServerProtocol
from trioanytls._protocol.events import Event
from trioanytls._protocol.exceptions import (
    AnyTLSError,
    AuthenticationFailed,
    DataBlockError,
    LimitExceeded,
    SchemeError,
)
from trioanytls._protocol.extensions import EXTENSIONS, Extension, ExtensionOffer
from trioanytls._protocol.formats import ServerFormatSelector
from trioanytls._protocol.legacy.client import LegacyClientProtocol
from trioanytls._protocol.legacy.frame_decoder import FrameDecoder as LegacyFrameDecoder
from trioanytls._protocol.legacy.scheme import parse_scheme as parse_legacy_scheme
from trioanytls._protocol.legacy.server import LegacyServerProtocol
from trioanytls._protocol.legacy.settings import parse_settings, parse_version
from trioanytls._protocol.limits import ProtocolLimits
from trioanytls._protocol.padding_scheme import MAX_SIZE, Mark, PaddingScheme

from ..helpers import legacy_bytes, legacy_model
from ..helpers.protocol_model import is_text, key_values, scheme_stop
from ..helpers.wire_bytes import (
    ACK_1,
    AUTH,
    CLIENT_NEGO,
    CLIENT_NEGO_BLOCK,
    FIN_1,
    GOAWAY_5,
    HELLO_1,
    OPEN_1,
    PASSWORD,
    PINGPONG,
    RESET_1,
    RST_1,
    SERVER_NEGO,
    USERS,
    WINDOW_1,
    Pieces,
    Report,
    byte_by_byte,
    cut_at,
    extension_lines,
    frame,
    joined,
    number,
    server_nego,
    take,
)
from ._pair import (
    DEFAULT_SCHEME,
    MOST_KEPT,
    MOST_OF_AUTH,
    PASSWORDS,
    Divergence,
    End,
    LegacyPair,
    LimitReached,
    Pair,
    check_memory,
)

OTHER_SCHEME = b"stop=2\n1=5-9\n"

# The bytes of a script. Below this: a piece of that many bytes. Below the next one: of that many times 64 bytes.
_LONG_PIECES = 0x80
_ACTIONS = 0xC0
_PING, _SEND_REPLIES, _OPEN_STREAM, _LEAVE, _TRANSPORT_CLOSED, _MANY_STREAMS = range(_ACTIONS, _ACTIONS + 6)
_REACTIONS = 0xC8
_ACKNOWLEDGE = 0xD0
_CLOSE_STREAM = 0xE0
_FINISH_STREAM = 0xE8
_RESET_STREAM = 0xEC
_MUCH = 0xF0

_REACTION_TO_OPEN = ("", "acknowledge", "close", "leave", "finish", "reset", "acknowledge", "")
_OFFER = ExtensionOffer(frozenset(EXTENSIONS))
#: More streams, each after a gap, than the number of runs of ids that an end keeps.
_STREAMS_WITH_GAPS = 1100
_MUCH_UNIT = 8 * 1024


def one_input(data: bytes) -> None:
    """Try one input.

    Raises:
      Exception: any exception means that the input found a fault.
    """
    if len(data) >= 2:
        TARGETS[data[0] % len(TARGETS)](data[1:])


def split(data: bytes) -> tuple[bytes, bytes]:
    """Split an input into the script and the data from the peer."""
    length = data[0] % 32
    return data[1 : 1 + length], data[1 + length :]


def pieces_of(script: bytes, sent: bytes) -> Pieces:
    """Split the data from the peer according to the script."""
    cuts: list[int] = []
    for step in script:
        cuts.append((cuts[-1] if cuts else 0) + _piece_length(step))
    return cut_at(sent, [cut for cut in cuts if cut <= len(sent)])


def _piece_length(step: int) -> int:
    if step < _LONG_PIECES:
        return step
    return (step - _LONG_PIECES + 1) * 64 if step < _ACTIONS else 0


# The two ends


def conversation(begin: Callable[[], Pair]) -> Callable[[bytes], None]:
    """Test an end against its model, and then the end alone with the same data in other pieces."""

    def run(data: bytes) -> None:
        script, sent = split(data)
        try:
            _follow(begin(), script, sent)
        except LimitReached:
            # Nothing more can be compared: the model only has the limits of the specification.
            return
        compare_pieces(lambda pieces: outcome(begin().end, pieces), script, sent)

    return run


def _follow(pair: Pair, script: bytes, sent: bytes) -> None:
    position, reactions = 0, ("",)
    has_many = False
    for step in script:
        if step < _ACTIONS:
            end = position + _piece_length(step)
            pair.feed(sent[position:end], reactions * 4)
            position = min(end, len(sent))
        elif step == _PING:
            pair.ping()
        elif step == _SEND_REPLIES:
            pair.take_replies()
        elif step == _OPEN_STREAM and hasattr(pair.end, "open_stream"):
            pair.open_stream()
        elif step == _LEAVE:
            pair.leave()
        elif step == _TRANSPORT_CLOSED:
            pair.transport_closed()
        elif step == _MANY_STREAMS and not has_many and not isinstance(pair, LegacyPair):
            # Once is enough to exceed the bound, and takes long enough. The legacy format keeps no ids.
            has_many = True
            highest = pair.model.opened.highest
            gaps = range(highest + 2, highest + 2 * _STREAMS_WITH_GAPS, 2)
            pair.feed(b"".join(b"\x0d" + number(stream_id) for stream_id in gaps if stream_id < 1 << 62))
        elif _REACTIONS <= step < _ACKNOWLEDGE:
            reactions = (_REACTION_TO_OPEN[step % 8],)
        elif _ACKNOWLEDGE <= step < _CLOSE_STREAM and hasattr(pair.end, "acknowledge"):
            pair.acknowledge(_stream_id(pair, step % 16))
        elif _CLOSE_STREAM <= step < _FINISH_STREAM:
            pair.close_stream(_stream_id(pair, step % 8))
        elif _FINISH_STREAM <= step < _RESET_STREAM:
            pair.finish_stream(_stream_id(pair, step % 4))
        elif _RESET_STREAM <= step < _MUCH:
            pair.reset_stream(_stream_id(pair, step % 4), step % 4, "refused" if step % 2 else "")
        elif step >= _MUCH:
            # In pieces of uneven sizes, so that one ends after the limit of a payload.
            for _ in range(1 + step % 16):
                pair.feed(b"x" * (_MUCH_UNIT + step % 7))
    pair.feed(sent[position:], reactions * 4)
    known = pair.model.opened.all[-8:]
    if not pair.is_over:
        pair.check_stream_states({*known, *(stream_id + 1 for stream_id in known), 1, 2, 3})


def _stream_id(pair: Pair, choice: int) -> int:
    """Select one of the first streams, or one that may never have been opened."""
    known = pair.model.opened.all
    return known[choice] if choice < len(known) else choice


def limited(begin: Callable[[ProtocolLimits], End]) -> Callable[[bytes], None]:
    """Test an end with limits that are low enough for an input to reach them."""
    limits = ProtocolLimits(
        max_control_payload=100, max_auth_padding=20, max_idle_frames=3, max_idle_bytes=30, max_scheme_size=30
    )

    def run(data: bytes) -> None:
        script, sent = split(data)
        found = [outcome(begin(limits), pieces) for pieces in ([sent], pieces_of(script, sent), byte_by_byte(sent))]
        # The point at which a limit on idle frames is exceeded depends on the pieces, so that only the error's type
        # is checked then. Otherwise, the pieces must make no difference.
        if not any(LimitExceeded in end for end in found):
            _same(found, sent)

    return run


def limited_server(limits: ProtocolLimits) -> ServerProtocol:
    end = ServerProtocol(USERS, PaddingScheme.DEFAULT, limits)
    end.handshake_done()
    take(end, AUTH[:34] + b"\x00")
    return end


def limited_client(limits: ProtocolLimits) -> ClientProtocol:
    end = ClientProtocol(PASSWORD, PaddingScheme.DEFAULT, limits)
    end.handshake_done()
    end.open_stream()
    return end


def limited_extended_server(limits: ProtocolLimits) -> ServerProtocol:
    end = ServerProtocol(USERS, PaddingScheme.DEFAULT, limits, _OFFER)
    end.handshake_done()
    # As short as the limits ask for.
    block = CLIENT_NEGO_BLOCK.replace(b"other/2.0", b"x") + extension_lines(EXTENSIONS)
    take(end, AUTH[:34] + b"\x00" + frame(0x03, 0, block) + OPEN_1)
    return end


def limited_extended_client(limits: ProtocolLimits) -> ClientProtocol:
    end = ClientProtocol(PASSWORD, PaddingScheme.DEFAULT, limits, offer=_OFFER)
    end.handshake_done()
    end.open_stream()
    take(end, server_nego(EXTENSIONS))
    return end


def limited_legacy_server(limits: ProtocolLimits) -> LegacyServerProtocol:
    end = LegacyServerProtocol(USERS, PaddingScheme.DEFAULT, limits)
    end.handshake_done()
    for _ in end.receive(legacy_bytes.PREAMBLE[:33] + b"\x00" + legacy_bytes.CLIENT_SETTINGS):
        pass
    return end


def limited_legacy_client(limits: ProtocolLimits) -> LegacyClientProtocol:
    end = LegacyClientProtocol(PASSWORD, PaddingScheme.DEFAULT, limits)
    end.handshake_done()
    end.open_stream()
    return end


def outcome(end: End, pieces: Iterable[bytes]) -> tuple[object, ...]:
    """Feed an end these pieces up to its first error. Return its complete visible state."""
    reports: list[Report] = []
    raised: type[AnyTLSError] | None = None
    unconsumed = b""
    left = iter(pieces)
    largest = 0
    for piece in left:
        largest = max(largest, len(piece))
        try:
            reports.extend(end.receive(piece))
        except AnyTLSError as error:
            raised = type(error)
            unconsumed = end.unconsumed + b"".join(left)
        check_memory(end, largest)
    seen = joined((kind, stream_id, payload) for kind, stream_id, payload in reports)
    return seen, raised, unconsumed, end.replies, end.state, end.streams, end.version, end.decoder.frames


def compare_pieces(outcome_of: Callable[[Pieces], tuple[object, ...]], script: bytes, sent: bytes) -> None:
    """Feed the bytes whole, split by the script, and byte by byte: the pieces must make no difference."""
    _same([outcome_of(pieces) for pieces in ([sent], pieces_of(script, sent), byte_by_byte(sent))], sent)


def _same(outcomes: Iterable[object], sent: bytes) -> None:
    whole, *others = outcomes
    for other in others:
        if other != whole:
            raise Divergence(f"in pieces: {other}; whole: {whole}; sent: {sent.hex()}")


def one_port(data: bytes) -> None:
    """Test the choice of the format by a client's first bytes, in one piece, and in the pieces of the script."""
    script, sent = split(data)
    hashes = [hashlib.sha256(password.encode()).digest() for password in PASSWORDS.values()]
    expected = "legacy" if sent[:32] in hashes and len(sent) >= 34 else None
    if sent[:2] == bytes(2) and sent[2:34] in hashes:
        expected = "anytls1"
    chosen, failed, unconsumed = _selected([sent])
    waits = not sent or (len(sent) < 34 and bytes(2).startswith(sent[:2]))
    if chosen != expected or failed != (expected is None and not waits):
        raise Divergence(f"chosen: {chosen}, failed: {failed}; expected: {expected}; sent: {sent.hex()}")
    if failed and unconsumed != sent:
        raise Divergence(f"{unconsumed.hex()} goes to the fallback; sent: {sent.hex()}")
    # A short first piece fails where the whole does not. Nothing is chosen that the whole does not choose.
    pieces = pieces_of(script, sent)
    chosen, failed, unconsumed = _selected(pieces)
    if chosen not in (None, expected) or (failed and not sent.startswith(unconsumed)):
        raise Divergence(f"chosen in pieces: {chosen}, unconsumed: {unconsumed.hex()}; expected: {expected}")


def _selected(pieces: Pieces) -> tuple[str | None, bool, bytes]:
    """Return the format chosen, whether the authentication failed before that, and the bytes for the fallback."""
    end = ServerFormatSelector(("anytls1", "legacy"), USERS, PaddingScheme.DEFAULT, ProtocolLimits())
    end.handshake_done()
    for piece in pieces:
        try:
            for event, _, payload in end.receive(piece):
                if event == Event.SELECTED:
                    assert isinstance(payload, ServerProtocol | LegacyServerProtocol)
                    return payload.name, False, b""
        except AuthenticationFailed:
            return None, True, end.unconsumed
    return None, False, b""


# The parts of the ends


def decoder(data: bytes) -> None:
    """Test the decoder alone, which accepts frames that are illegal for both ends."""
    script, sent = split(data)
    compare_pieces(_decoded, script, sent)


def extended_decoder(data: bytes) -> None:
    """Test the decoder alone with the frames of the extensions in the bits of the script's first byte."""
    script, sent = split(data)
    known = frozenset(kind for bit, kind in enumerate(range(0x11, 0x15)) if not script or script[0] >> bit & 1)
    compare_pieces(lambda pieces: _decoded(pieces, known), script, sent)


def _decoded(pieces: Pieces, extension_frames: frozenset[int] = frozenset()) -> tuple[object, ...]:
    taken = FrameDecoder()
    taken.extension_frames = extension_frames
    reports: list[Report] = []
    raised: type[AnyTLSError] | None = None
    unconsumed = b""
    left = iter(pieces)
    for piece in left:
        try:
            reports.extend(taken.decode(piece))
        except AnyTLSError as error:
            raised = type(error)
            unconsumed = taken.unconsumed + b"".join(left)
        if len(taken.incomplete) > MOST_KEPT:
            raise Divergence(f"{len(taken.incomplete)} bytes of a frame are kept")
    return joined(reports), raised, unconsumed, taken.incomplete, taken.frames, taken.payload_bytes


def legacy_decoder(data: bytes) -> None:
    """Test the decoder of the legacy format alone."""
    script, sent = split(data)
    compare_pieces(_legacy_decoded, script, sent)


def _legacy_decoded(pieces: Pieces) -> tuple[object, ...]:
    taken = LegacyFrameDecoder()
    reports: list[Report] = []
    for piece in pieces:
        for command, stream_id, payload in taken.decode(piece):
            # Both depend on the cuts.
            is_data = command == legacy_bytes.PSH and reports and reports[-1][:2] == (command, stream_id)
            if is_data and isinstance(payload, bytes):
                reports[-1] = command, stream_id, reports[-1][2] + payload  # type: ignore[operator]
            elif command != legacy_bytes.WASTE:
                reports.append((command, stream_id, payload))
        if len(taken.incomplete) > MOST_KEPT:
            raise Divergence(f"{len(taken.incomplete)} bytes of a frame are kept")
    return reports, taken.incomplete, taken.frames, taken.payload_bytes


def legacy_scheme(data: bytes) -> None:
    stop = legacy_model.scheme_stop(data)
    try:
        scheme = parse_legacy_scheme(data)
    except SchemeError:
        if stop is not None:
            raise
        return
    if scheme.stop != stop or scheme.text != data:
        raise Divergence(f"stop: {scheme.stop}; expected: {stop}")
    for index in scheme.lines:
        for size in [*scheme.draw(index), *scheme.draw(index, lambda below: below - 1)]:
            if size is not Mark.CHECK and not (isinstance(size, int) and 0 < size <= MAX_SIZE):
                raise Divergence(f"the size {size} is out of bounds")


def legacy_settings(data: bytes) -> None:
    found = parse_settings(data)
    expected = legacy_model.pairs_of(data)
    decoded = {key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in expected.items()}
    if found != decoded or parse_version(found) != legacy_model.version_of(data):
        raise Divergence(f"found: {found}; expected: {decoded}")


def auth_decoder(data: bytes) -> None:
    script, sent = split(data)
    compare_pieces(_authenticated, script, sent)


def _authenticated(pieces: Pieces) -> tuple[object, ...]:
    taken = AuthDecoder()
    left = iter(pieces)
    largest = 0
    for piece in left:
        largest = max(largest, len(piece))
        try:
            taken.feed(piece)
        except AnyTLSError as error:
            # Whether the hash was complete before the failure depends on the pieces.
            return type(error), taken.received + b"".join(left)
        if len(taken.received) > MOST_OF_AUTH + largest:
            raise Divergence(f"{len(taken.received)} bytes are kept")
        if taken.rest is not None:
            return taken.password_hash, taken.rest + b"".join(left)
    return taken.password_hash, bytes(taken.received)


def varint(data: bytes) -> None:
    """Test an integer: encoding it again yields the same bytes, and each prefix has a correct lower bound."""
    read = varint_module.decode(data)
    if read is None:
        if len(data) >= 8:
            raise Divergence("eight bytes are enough for any integer")
        return
    value, length = read
    if varint_module.encode(value, length) != data[:length] or number(value, length) != data[:length]:
        raise Divergence(f"{value} is written in another way")
    shortest = varint_module.encode(value)
    if len(shortest) > length or varint_module.decode(shortest) != (value, len(shortest)):
        raise Divergence(f"{value} has a shorter form than the shortest")
    bounds = [varint_module.lower_bound(data[:known]) for known in range(length + 1)]
    if bounds != sorted(bounds) or bounds[-1] != value:
        raise Divergence(f"{value} is not above {bounds}")
    if varint_module.decode(b"\xff" + data, 1) != (value, length + 1):
        raise Divergence(f"{value} is another number elsewhere")


def key_value_block(data: bytes) -> None:
    expected = key_values(data)
    try:
        parsed = data_blocks.parse_key_values(data)
    except DataBlockError:
        if expected is not None:
            raise
        return
    if expected is None or list(parsed) != [key.decode() for key in expected]:
        raise Divergence(f"accepted: {parsed}; expected: {expected}")
    if list(parsed.values()) != [tuple(map(bytes.decode, values)) for values in expected.values()]:
        raise Divergence(f"accepted: {parsed}; expected: {expected}")
    if data_blocks.format_key_values(parsed) != data.removesuffix(b"\n") + b"\n":
        raise Divergence("it is written in another way")


def text_block(data: bytes) -> None:
    try:
        text = data_blocks.parse_text(data)
    except DataBlockError:
        if is_text(data):
            raise
        return
    if not is_text(data) or data_blocks.format_text(text) != data:
        raise Divergence(f"accepted: {text!r}")


def padding_scheme(data: bytes) -> None:
    stop = scheme_stop(data)
    try:
        scheme = PaddingScheme.parse(data)
    except AnyTLSError:
        if stop is not None:
            raise
        return
    if scheme.stop != stop:
        raise Divergence(f"stop: {scheme.stop}; expected: {stop}")
    again = PaddingScheme.parse(scheme.to_bytes())
    if again != scheme or again.digest != scheme.digest or dict(again.lines) != dict(scheme.lines):
        raise Divergence("it is another one when it is read again")
    for index in scheme.lines:
        for size in [*scheme.draw(index), *scheme.draw(index, lambda below: below - 1)]:
            if size is not Mark.CHECK and not (isinstance(size, int) and 0 <= size <= MAX_SIZE):
                raise Divergence(f"the size {size} is out of bounds")


def _server(state: str, scheme: bytes = DEFAULT_SCHEME, extensions: tuple[Extension, ...] = ()) -> Callable[[], Pair]:
    return lambda: Pair.of_server(state, scheme, extensions)


def _client(state: str, streams: int = 0, extensions: tuple[Extension, ...] = ()) -> Callable[[], Pair]:
    def begin() -> Pair:
        pair = Pair.of_client(state, extensions)
        for _ in range(streams):
            pair.open_stream()
        return pair

    return begin


def _legacy_server(state: str, scheme: bytes = legacy_bytes.DEFAULT_SCHEME) -> Callable[[], Pair]:
    return lambda: LegacyPair.of_server(state, scheme)


def _legacy_client(state: str, streams: int = 0) -> Callable[[], Pair]:
    def begin() -> Pair:
        pair = LegacyPair.of_client(state)
        for _ in range(streams):
            pair.open_stream()
        return pair

    return begin


#: The tests that the first byte of an input selects from.
TARGETS: tuple[Callable[[bytes], None], ...] = (
    conversation(_server("WAIT_AUTH")),
    conversation(_server("WAIT_NEGO", OTHER_SCHEME)),
    conversation(_server("OPEN")),
    conversation(_client("OPEN")),
    conversation(_client("OPEN", streams=3)),
    limited(limited_server),
    limited(limited_client),
    decoder,
    auth_decoder,
    varint,
    key_value_block,
    text_block,
    padding_scheme,
    conversation(_legacy_server("WAIT_AUTH")),
    conversation(_legacy_server("WAIT_NEGO", OTHER_SCHEME)),
    conversation(_legacy_server("OPEN")),
    conversation(_legacy_client("OPEN", streams=3)),
    conversation(_legacy_client("CONFIRMED", streams=3)),
    limited(limited_legacy_server),
    limited(limited_legacy_client),
    one_port,
    legacy_decoder,
    legacy_scheme,
    legacy_settings,
    conversation(_server("WAIT_NEGO", extensions=EXTENSIONS)),
    conversation(_server("OPEN", extensions=EXTENSIONS)),
    conversation(_client("OPEN", streams=3, extensions=EXTENSIONS)),
    conversation(_client("CONFIRMED", streams=3, extensions=EXTENSIONS)),
    conversation(_client("CONFIRMED", streams=3, extensions=("fin",))),
    conversation(_server("OPEN", extensions=("goaway", "reset", "window"))),
    limited(limited_extended_server),
    limited(limited_extended_client),
    extended_decoder,
)
_CONVERSATIONS = 9
_LEGACY = 13
_EXTENDED = 24

# The initial inputs of the fuzzer

_BIG = frame(0x01, 0, b"x" * 200)
_OF_CLIENTS = [
    OPEN_1 + HELLO_1 + RST_1,
    OPEN_1 + PINGPONG + HELLO_1 + b"\x0c\x05" + b"\x0f\x07\x02hi" + b"\x0a\x05\x00" + b"\x08\x05" + b"\x09\x05",
    b"\x0c" + number(2**62 - 1) + b"\x0a" + number(2**62 - 1) + number(3, 8) + b"abc",
    b"\x05\x00\x03abc\x05\x00\x00\x02\x00\x05",
    OPEN_1 + b"\x0b\x01\x44\x00" + bytes(1024) + PINGPONG,
    OPEN_1 + b"\x0a\x01" + number(2**40) + b"abc",
    frame(0x01, 0, b"bad"),
    b"\x01\x00" + number(MAX_CONTROL_PAYLOAD) + b"x",
    _BIG,
]
_IDLE = b"\x05\x00\x01a" * 5 + b"\x05\x00\x3f" + bytes(63)
_OF_SERVERS = [
    SERVER_NEGO + ACK_1 + HELLO_1 + PINGPONG + RST_1 + b"\x09\x02",
    b"\x04\x00\x04v=1\n" + frame(0x06, 0, OTHER_SCHEME) + b"\x10\x02\x10\x02\x08\x02\x0b\x02\x02hi",
    frame(0x06, 0, DEFAULT_SCHEME) + b"\x02\x00\x06",
    b"\x06\x00" + number(MAX_CONTROL_PAYLOAD) + b"stop=1\n",
    _BIG,
]
_SCRIPTS = [
    b"",
    b"\x01\x02\x03\x04\x05\x06\x07\x08",
    bytes([_OPEN_STREAM, _OPEN_STREAM, _REACTIONS + 1, 20, _PING, 3, _ACKNOWLEDGE, 5, _CLOSE_STREAM, 1, _SEND_REPLIES]),
    bytes([_REACTIONS + 2, 9, _MANY_STREAMS, 30, _CLOSE_STREAM + 1, _MUCH + 8]),
    bytes([40, _LEAVE, 3, _TRANSPORT_CLOSED]),
    bytes([_LONG_PIECES, 12, _MUCH + 2, _LONG_PIECES + 4]),
    bytes([2, _FINISH_STREAM, 9, _FINISH_STREAM + 1, _ACKNOWLEDGE, 6, _RESET_STREAM + 1, _CLOSE_STREAM, 3]),
]


_EXTENDED_OF_CLIENTS = [
    OPEN_1 + WINDOW_1 + HELLO_1 + FIN_1 + b"\x08\x01" + RST_1,
    OPEN_1 + FIN_1 + FIN_1,
    OPEN_1 + FIN_1 + HELLO_1,
    OPEN_1 + b"\x0c\x02" + RESET_1 + b"\x12\x02\x11\x02\x05\x09\x02",
    OPEN_1 + b"\x13\x01" + number(2**62 - 1) + number(512) + b"x" * 512 + b"\x11\x01\x00",
    OPEN_1 + b"\x13\x01\x01" + number(513),
    OPEN_1 + b"\x11\x01" + number(2**62 - 1, 8) + GOAWAY_5,
    b"\x11\x01\x05" * 5,
]
_EXTENDED_OF_SERVERS = [
    ACK_1 + WINDOW_1 + HELLO_1 + FIN_1 + RST_1 + b"\x10\x02\x09\x02" + RESET_1,
    RESET_1 + b"\x12\x02\x10\x02\x13\x03\x00\x00\x12\x01",
    b"\x14\x00" + number(2**62 - 1) + PINGPONG + b"\x14\x00\x02" + b"\x12\x03\x12\x02\x14\x00\x01",
    GOAWAY_5 + b"\x14\x00\x06",
    b"\x14\x00\x02" * 5,
    b"\x13\x01\x01\x02\x1b[" + b"\x14\x01\x05",
]


_LEGACY_OF_CLIENTS = [
    b"".join(map(bytes.fromhex, ["01000000010000", "02000000010007017f0000010050", "03000000010000"])),
    legacy_bytes.syn(2**32 - 1) + legacy_bytes.psh(2**32 - 1, b"") + legacy_bytes.waste(9) + legacy_bytes.syn(0),
    legacy_model.frame(8, 7) + legacy_model.frame(9, 7) + legacy_model.frame(200, 1, b"abc") + legacy_model.frame(5, 0),
    legacy_bytes.settings("v=3", "client=a=b", "junk", "v=2", "") + legacy_bytes.syn(1) * 2 + legacy_bytes.fin(1) * 2,
    legacy_model.frame(5, 0, b"bad") + legacy_bytes.syn(1),
    legacy_bytes.syn(1) + b"\x02\x00\x00\x00\x01\xff\xff" + b"x" * 100,
]
_LEGACY_OF_SERVERS = [
    legacy_bytes.SERVER_SETTINGS_2 + legacy_bytes.synack(1) + legacy_bytes.psh(1, b"hi") + legacy_bytes.fin(1),
    legacy_bytes.psh(1, b"hi") + legacy_bytes.fin(2) + legacy_bytes.synack(3, "no route\x1b") + legacy_bytes.synack(9),
    legacy_model.frame(6, 0, b"stop=3\n1=5-9,c,x,9-5\n") + legacy_model.frame(6, 0, b"stop=x") + legacy_bytes.syn(5),
    legacy_model.frame(10, 0, b"v=1\nv=258") + legacy_model.frame(8, 3) + legacy_model.frame(5, 0, b"\xff\n"),
]
_LEGACY_IDLE = legacy_bytes.waste(9) * 5


def seeds() -> Iterator[bytes]:
    """Yield valid inputs: legal conversations, and valid data for the parts."""
    introduction = AUTH + CLIENT_NEGO
    sent = {
        0: [introduction, introduction + b"".join(_OF_CLIENTS[:2]), AUTH[:34] + number(MAX_CONTROL_PAYLOAD), AUTH],
        1: [CLIENT_NEGO, b"\x05\x00\x02ab" + CLIENT_NEGO + OPEN_1, CLIENT_NEGO + _OF_CLIENTS[1]],
        2: _OF_CLIENTS,
        3: _OF_SERVERS,
        4: _OF_SERVERS,
        5: [CLIENT_NEGO + conversation_sent for conversation_sent in [*_OF_CLIENTS, OPEN_1 + b"\x08\x01" * 4, _IDLE]],
        6: [*_OF_SERVERS, _IDLE, b"\x08\x01" * 4],
        7: _OF_CLIENTS + _OF_SERVERS,
        8: [introduction, AUTH[:34] + number(3, 8) + b"abcdef", b"\x40\x00" + AUTH[1:]],
    }
    legacy_hello = legacy_bytes.HELLO
    sent |= {
        _LEGACY: [legacy_hello + one for one in _LEGACY_OF_CLIENTS] + [legacy_bytes.PREAMBLE[:33] + b"\x01\x02"],
        _LEGACY + 1: [legacy_bytes.CLIENT_SETTINGS + _LEGACY_OF_CLIENTS[0], *_LEGACY_OF_CLIENTS],
        _LEGACY + 2: _LEGACY_OF_CLIENTS,
        _LEGACY + 3: _LEGACY_OF_SERVERS,
        _LEGACY + 4: _LEGACY_OF_SERVERS,
        _LEGACY + 5: [*_LEGACY_OF_CLIENTS, _LEGACY_IDLE],
        _LEGACY + 6: [*_LEGACY_OF_SERVERS, _LEGACY_IDLE],
        _LEGACY + 7: [introduction, legacy_hello, b"GET / HTTP/1.0\r\n\r\n", b"\x00" * 40],
        _LEGACY + 8: _LEGACY_OF_CLIENTS + _LEGACY_OF_SERVERS,
    }
    negotiated = [b"ext=fin,goaway,reset,window\nwindow=65536\n", b"ext=x,reset,fin,fin\n", b"ext=window\nwindow=1\n"]
    sent |= {
        _EXTENDED: [frame(0x03, 0, CLIENT_NEGO_BLOCK + lines) + _EXTENDED_OF_CLIENTS[0] for lines in negotiated],
        _EXTENDED + 1: _EXTENDED_OF_CLIENTS + _OF_CLIENTS,
        _EXTENDED + 2: [frame(0x04, 6, b"v=1\n" + lines) + _EXTENDED_OF_SERVERS[0] for lines in negotiated],
        _EXTENDED + 3: _EXTENDED_OF_SERVERS + _OF_SERVERS[1:],
        _EXTENDED + 4: _EXTENDED_OF_SERVERS,
        _EXTENDED + 5: _EXTENDED_OF_CLIENTS,
        _EXTENDED + 6: [*_EXTENDED_OF_CLIENTS, _IDLE],
        _EXTENDED + 7: [*_EXTENDED_OF_SERVERS, _IDLE],
        _EXTENDED + 8: _EXTENDED_OF_CLIENTS + _EXTENDED_OF_SERVERS,
    }
    for scheme in (legacy_bytes.DEFAULT_SCHEME, b"stop=3\n1=5-9,c,x,9-5,-1-4,5-70000\n\xff=1", b"stop=", b"stop=1=2"):
        yield bytes([_LEGACY + 9]) + scheme
    for text in (b"v=2\nclient=\npadding-md5=0", b"v=300\n\xff=\xfe", b"=\n=v=1\n", b"v=02"):
        yield bytes([_LEGACY + 10]) + text
    for target, conversations in sent.items():
        for conversation_sent in conversations:
            for script in _SCRIPTS:
                yield bytes([target, len(script)]) + script + conversation_sent
    for value in ("00", "25", "3f", "4040", "7bbd", "80004000", "9d7f3e7d", "c2197c5eff14e88c", "ff" * 8, "4025"):
        yield bytes([_CONVERSATIONS]) + bytes.fromhex(value)
    for block in (CLIENT_NEGO_BLOCK, b"v=1", b"proto=anytls\nversion=1,2,3\n", b"a==,b=\n"):
        yield bytes([_CONVERSATIONS + 1]) + block
    for text in (b"bad", b"Hello AnyTLS\nthisis a raw text block\n", b"\xef\xbb\xbfx", "ä".encode()):
        yield bytes([_CONVERSATIONS + 2]) + text
    for scheme in (DEFAULT_SCHEME, OTHER_SCHEME, b"stop=0", b"3=9-1,c,65535-65535\nstop=3\n"):
        yield bytes([_CONVERSATIONS + 3]) + scheme


def tokens() -> list[bytes]:
    """Yield the dictionary of the fuzzer: frames, their headers, and words of the data blocks."""
    frames = [WINDOW_1, FIN_1, RESET_1, GOAWAY_5, b"\x14\x00\x02"]
    frames += [AUTH, AUTH[:35], CLIENT_NEGO, SERVER_NEGO, PINGPONG, OPEN_1, HELLO_1, RST_1, ACK_1, b"\x02\x00\x00"]
    headers = [bytes([kind, stream_id]) for kind in range(0x16) for stream_id in (0, 1, 2, 6)]
    numbers = [number(0, 2), number(1, 4), number(1, 8), number(MAX_CONTROL_PAYLOAD), number(MAX_CONTROL_PAYLOAD + 1)]
    numbers += [number(2**62 - 1), number(64), number(16384), number(2**30)]
    words = [b"v=1", b"v=2", b"client=a/1", b"padding-md5=", b"stop=8", b"1=100-400", b",c,", b"\n", b"=", b","]
    words += [b"ext=fin,goaway,reset,window", b"window=16384", b"window=", b"ext="]
    words += [b"65535", b"65536", b"1073741824", b"0-", b"a,b=1\n", b"\x7f", b"\r"]
    frames += [legacy_bytes.PREAMBLE, legacy_bytes.PREAMBLE[:34], legacy_bytes.CLIENT_SETTINGS, legacy_bytes.VERSION_1]
    headers += [legacy_model.frame(command, stream_id) for command in range(12) for stream_id in (0, 1, 2)]
    steps = [bytes([step]) for step in range(_PING, _MANY_STREAMS)]
    return [*frames, *headers, *numbers, *words, *steps]

"""An end of the package and its model: both get the same input, and must behave alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from trioanytls._protocol.anytls1.client import ClientProtocol
from trioanytls._protocol.anytls1.server import ServerProtocol
from trioanytls._protocol.events import Event
from trioanytls._protocol.exceptions import (
    AuthenticationFailed,
    LimitExceeded,
    NotSupported,
    ProtocolViolation,
    VersionNotSupported,
)
from trioanytls._protocol.extensions import Extension
from trioanytls._protocol.legacy.base import LegacyProtocol
from trioanytls._protocol.legacy.client import LegacyClientProtocol
from trioanytls._protocol.legacy.scheme import parse_scheme
from trioanytls._protocol.legacy.server import LegacyServerProtocol
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._protocol.state_machine import ConnectionState, StreamState
from trioanytls._protocol.stream_codes import StreamCode, StreamReason

from ..helpers import legacy_bytes
from ..helpers.legacy_model import LegacyClientModel, LegacyServerModel
from ..helpers.protocol_model import WINDOW, ClientModel, Misuse, Model, Offence, Seen, ServerModel
from ..helpers.wire_bytes import PASSWORD, USERS, client_in, server_in

#: The users of the servers in `wire_bytes`.
PASSWORDS = {"alice": PASSWORD, "bob": "builder"}
DEFAULT_SCHEME = PaddingScheme.DEFAULT.to_bytes()

_RAISED: dict[type[Exception], str] = {
    ProtocolViolation: "violation",
    VersionNotSupported: "version",
    AuthenticationFailed: "authentication",
    LimitExceeded: "limit",
}
_LEAVING = ("LEFT", "ALERTED")
_STREAM_STATES = {StreamState.IDLE: "idle", StreamState.CLOSED: "closed"}

#: The maximum that a decoder keeps of an incomplete frame: a payload, and a header in its longest form.
MOST_KEPT = 64 * 1024 + 3 * 8
#: The same for AUTH, in which the hash is between the integers.
MOST_OF_AUTH = MOST_KEPT + 32
MOST_RUNS = 1024
#: The length of a text of a legacy peer: each of its characters may be escaped.
MOST_OF_A_TEXT = 10 * 515

#: The reactions of an application to a new stream, while more data arrives.
Reaction = str


End = ClientProtocol | ServerProtocol | LegacyProtocol


class Divergence(AssertionError):
    """The end and its model differ."""


class LimitReached(Exception):
    """The end raised `LimitExceeded` for a limit that the model lacks, so that no more can be compared."""


class _Stretch(NamedTuple):
    """Collect the events of one side until a stream is opened, or until there are no more."""

    seen: list[Seen]
    opened: int | None
    error: Exception | None


class Pair:
    """An end and its model.

    Attributes:
      is_over: whether the connection has ended, so that further data has no meaning.
    """

    def __init__(self, end: End, model: Model) -> None:
        # The ends of either format.
        self.end: Any = end
        # Those of either format have more than what both have in common.
        self.model: Any = model
        self._largest_piece = 0
        self._check()

    @classmethod
    def of_server(cls, state: str, scheme: bytes = DEFAULT_SCHEME, extensions: Collection[Extension] = ()) -> Pair:
        """Create a server that knows these extensions. In the state OPEN, they are in force."""
        end = server_in(ConnectionState[state], PaddingScheme.parse(scheme), extensions)
        model = ServerModel(state, PASSWORDS, scheme, extensions)
        if state == "WAIT_NEGO" or state == "OPEN":
            model.user = "alice"
        if state == "OPEN":
            model.version, model.identifier = 1, "other/2.0"
            model.agree(extensions, WINDOW)
        return cls(end, model)

    @classmethod
    def of_client(cls, state: str, extensions: Collection[Extension] = ()) -> Pair:
        """Create a client that offers these extensions. In the state CONFIRMED, they are in force."""
        end = client_in(ConnectionState[state], extensions=extensions)
        model = ClientModel(state, extensions)
        if state == "CONFIRMED":
            model.version = 1
            model.agree(extensions, WINDOW)
        return cls(end, model)

    @property
    def is_over(self) -> bool:
        return bool(self.model.has_ended)

    # Receiving

    def feed(self, piece: bytes, reactions: Sequence[Reaction] = ()) -> None:
        """Feed both. For each new stream, the application acts according to the next of `reactions`.

        Raises:
          Divergence: they do not behave alike.
          LimitReached: no more can be compared.
        """
        self._largest_piece = max(self._largest_piece, len(piece))
        # TLS returns a view of a buffer that is reused.
        buffer = bytearray(piece)
        theirs, ours = self._theirs(buffer), self.model.receive(piece)
        reaction = iter(reactions)
        while True:
            got, expected = _stretch(theirs), _stretch(ours)
            self._compare(got, expected)
            if got.error:
                # A connection does this after an error.
                self._end()
                break
            if got.opened is None:
                break
            self.react(next(reaction, ""), got.opened)
        buffer[:] = b"\xaa" * len(buffer)
        self._check()
        self._check_memory()

    def _theirs(self, buffer: bytearray) -> Iterator[Seen]:
        for kind, stream_id, payload in self.end.receive(memoryview(buffer)):
            yield Event(kind).name, stream_id, self._plain(kind, payload)

    def _plain(self, _kind: int, payload: object) -> object:
        if isinstance(payload, PaddingScheme):
            return payload.to_bytes()
        if isinstance(payload, memoryview | bytearray):
            raise Divergence("the payload is a view of a buffer that is used again")
        if isinstance(payload, StreamReason):
            return int(payload.code), payload.text
        return int(payload) if isinstance(payload, int) else payload

    def _compare(self, got: _Stretch, expected: _Stretch) -> None:
        if self.model.is_lost:
            # From some point in these bytes on, the specification is silent, and the end continues to read after
            # the end of the connection. It may only report that the peer closes the connection.
            reported, known = joined(got.seen), joined(expected.seen)
            later = reported[len(known) :]
            if got.error or reported[: len(known)] != known or any(name not in _LEAVING for name, _, _ in later):
                raise Divergence(f"reported: {got}; expected, up to bytes of no meaning: {expected}")
            return
        if isinstance(got.error, LimitExceeded) and not _allows(expected, "limit"):
            raise LimitReached from got.error
        if joined(got.seen) != joined(expected.seen) or got.opened != expected.opened:
            raise Divergence(f"reported: {got}; expected: {expected}")
        if got.error is None:
            if expected.error is not None:
                raise Divergence(f"an offence was not noticed: {expected.error!r}")
            return
        kind = _RAISED.get(type(got.error))
        if not (_allows(expected, kind) or (expected.error is None and self.model.offended and kind == "violation")):
            raise Divergence(f"raised: {got.error!r}; expected: {expected.error!r}") from got.error
        self.model.stop_reading()
        unconsumed = self.end.unconsumed
        if unconsumed != self.model.unconsumed:
            raise Divergence(f"unconsumed: {unconsumed.hex()}; expected: {self.model.unconsumed.hex()}")

    def _end(self) -> None:
        self.end.leave()
        self.model.leave()

    # Actions of the application

    def react(self, reaction: Reaction, stream_id: int) -> None:
        if reaction == "acknowledge":
            self.acknowledge(stream_id)
        elif reaction == "close":
            self.close_stream(stream_id)
        elif reaction == "finish":
            self.finish_stream(stream_id)
        elif reaction == "reset":
            self.reset_stream(stream_id, 3, "refused")
        elif reaction == "leave":
            self.leave()

    def acknowledge(self, stream_id: int) -> None:
        self._same("acknowledge", stream_id)

    def close_stream(self, stream_id: int) -> None:
        self._same("close_stream", stream_id)

    def finish_stream(self, stream_id: int) -> None:
        self._same("finish_stream", stream_id)

    def reset_stream(self, stream_id: int, code: int, text: str) -> None:
        reason = StreamReason(StreamCode(code), text)
        self._compare_results(
            f"reset_stream({stream_id}, {code}, {text!r})",
            lambda: self.end.reset_stream(stream_id, reason),
            lambda: self.model.reset_stream(stream_id, code, text),
        )

    def open_stream(self) -> None:
        self._same("open_stream")

    def ping(self) -> None:
        self._same("ping")

    def leave(self) -> None:
        self._same("leave")

    def transport_closed(self) -> None:
        self._same("transport_closed")

    def take_replies(self) -> None:
        self.end.replies.clear()
        self.model.replies.clear()

    def _same(self, action: str, *args: int) -> None:
        """Do the same on both sides. The results, and whether the action is allowed, must be the same."""
        self._compare_results(
            f"{action}{args}",
            lambda: getattr(self.end, action)(*args),
            lambda: getattr(self.model, action)(*args),
        )

    def _compare_results(self, action: str, end: Callable[[], object], model: Callable[[], object]) -> None:
        got: object
        expected: object
        try:
            got = end()
        except (RuntimeError, NotSupported):
            got = Misuse
        try:
            expected = model()
        except Misuse:
            expected = Misuse
        if got != expected:
            raise Divergence(f"{action}: {got!r}; expected: {expected!r}")
        self._check()

    # Visible state

    def _check(self) -> None:
        end, model = self.end, self.model
        names = ["state", "version", "replies"]
        seen: list[object] = [end.state.name, end.version, end.replies]
        expected: list[object] = [model.state, model.version, model.replies]
        if hasattr(end, "user") and not self.is_over:
            names += ["user", "identifier"]
            seen += [end.user, end.peer_identifier]
            expected += [model.user, model.identifier]
        if not self.is_over:
            # The end of a connection ends its streams: their states are not used any more.
            names += ["extensions", "send_window", "receive_window", "streams"]
            seen += [end.extensions, end.send_window, end.receive_window]
            expected += [model.extensions, model.send_window, model.receive_window]
            seen.append({stream_id: _seen_of(state) for stream_id, state in end.streams.items()})
            expected.append(model.stream_states)
        for name, one, other in zip(names, seen, expected, strict=True):
            if one != other:
                raise Divergence(f"{name}: {one!r}; expected: {other!r}")

    def check_stream_states(self, stream_ids: Iterable[int]) -> None:
        for stream_id in stream_ids:
            got = _STREAM_STATES.get(self.end.stream_state(stream_id), "open")
            expected = self.model.stream_state(stream_id)
            if got != expected:
                raise Divergence(f"stream {stream_id}: {got}; expected: {expected}")

    def _check_memory(self) -> None:
        check_memory(self.end, self._largest_piece)


class LegacyPair(Pair):
    """An end of the legacy format, and its model."""

    @classmethod
    def of_server(
        cls, state: str, scheme: bytes = legacy_bytes.DEFAULT_SCHEME, extensions: Collection[Extension] = ()
    ) -> LegacyPair:
        """Create a server. The format has no extensions."""
        end = LegacyServerProtocol(USERS, parse_scheme(scheme))
        end.handshake_done()
        model = LegacyServerModel("WAIT_AUTH", PASSWORDS, scheme)
        pair = cls(end, model)
        if state != "WAIT_AUTH":
            pair.feed(legacy_bytes.PREAMBLE)
        if state == "OPEN":
            pair.feed(legacy_bytes.CLIENT_SETTINGS)
            pair.take_replies()
        return pair

    @classmethod
    def of_client(cls, state: str, extensions: Collection[Extension] = ()) -> LegacyPair:
        """Create a client. The format has no extensions."""
        end = LegacyClientProtocol(PASSWORD, PaddingScheme.DEFAULT)
        end.handshake_done()
        pair = cls(end, LegacyClientModel("OPEN"))
        if state == "CONFIRMED":
            pair.feed(legacy_bytes.SERVER_SETTINGS_2)
        return pair

    def _plain(self, kind: int, payload: object) -> object:
        if isinstance(payload, PaddingScheme):
            return payload.text
        if isinstance(payload, StreamReason):
            payload = payload.text
        if isinstance(payload, str) and kind != Event.AUTHENTICATED:
            # The text of a SYNACK or an Alert.
            if not payload.isprintable() or len(payload) > MOST_OF_A_TEXT:
                raise Divergence(f"the text cannot be shown: {payload!r}")
            return None
        return super()._plain(kind, payload)


def _seen_of(state: StreamState) -> tuple[bool, bool, bool]:
    """Return whether a stream is accepted, finished by this end, and finished by the peer."""
    return state.name.startswith("ESTABLISHED"), state.name.endswith("SENT"), state.name.endswith("RECEIVED")


def check_memory(end: End, largest_piece: int) -> None:
    """Check that the memory of an end does not grow with the data that it was fed."""
    kept = len(end.decoder.incomplete)
    if kept > MOST_KEPT:
        raise Divergence(f"the decoder keeps {kept} bytes of a frame")
    # The bytes decoded last, for the fallback: the bytes kept before, and one piece.
    if len(end.decoder._data) > MOST_KEPT + largest_piece:
        raise Divergence(f"the decoder holds on to {len(end.decoder._data)} bytes")
    auth = getattr(end, "_auth", None) or getattr(end, "_preamble", None)
    if auth is not None and len(auth.received) > MOST_OF_AUTH + largest_piece:
        raise Divergence(f"{len(auth.received)} bytes are kept for AUTH")
    if not isinstance(end, LegacyProtocol) and end.opened_ids.runs > MOST_RUNS:
        raise Divergence(f"{end.opened_ids.runs} runs of opened ids are kept")


def joined(seen: Iterable[Seen]) -> list[Seen]:
    """Join the pieces of DATA, which depend on the cuts."""
    result: list[Seen] = []
    for name, stream_id, payload in seen:
        if name == "DATA" and result and result[-1][:2] == (name, stream_id):
            result[-1] = name, stream_id, result[-1][2] + payload  # type: ignore[operator]
        else:
            result.append((name, stream_id, payload))
    return result


def _stretch(reports: Iterator[Seen]) -> _Stretch:
    seen: list[Seen] = []
    try:
        for report in reports:
            seen.append(report)
            if report[0] == "OPENED":
                return _Stretch(seen, report[1], None)
    except (ProtocolViolation, AuthenticationFailed, Offence) as error:
        return _Stretch(seen, None, error)
    return _Stretch(seen, None, None)


def _allows(expected: _Stretch, kind: str | None) -> bool:
    return isinstance(expected.error, Offence) and kind in expected.error.kinds

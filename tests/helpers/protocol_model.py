"""A second, independent implementation of both ends, as a model for tests (protocol: 2 to 5; extensions: 1 to 5).

The package's two ends are compared with this model. It is written from the specification and imports nothing from the
package, so that a mistake stays hidden only if it was made twice. It has no tables, buffers or shortcuts: it reads the
wire one byte at a time, and keeps everything. If it differs from the package, one of them is wrong, and the
specification decides.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Generator, Iterator, Mapping

LIMIT = 64 * 1024
LAST_ID = 2**62 - 1
#: The number of runs of opened ids that are kept (protocol: 5).
MOST_RUNS = 1024
#: The largest `stop` that a client accepts.
MOST_DELIVERS = 1000
#: The largest size in a scheme (protocol: 6).
LARGEST_SIZE = 65535

#: An event of an end: its name, a stream id, and the payload.
Seen = tuple[str, int, object]

# A key has no equals sign and no comma, a value no comma. All characters are printable except space (spec: Appendix A).
_KEY = rb"[\x21-\x2b\x2d-\x3c\x3e-\x7e]+"
_VALUE = rb"[\x21-\x2b\x2d-\x7e]+"
_LINE = re.compile(rb"(%s)=(%s(?:,%s)*)" % (_KEY, _VALUE, _VALUE))
_TEXT = re.compile(rb"[\x0a\x20-\x7e]*")

# The specification does not define the spelling of a version. As in a scheme, a number has one spelling. 0 is invalid.
_VERSION = re.compile(rb"[1-9][0-9]{0,8}")
_DIGEST = re.compile(rb"[0-9a-f]{32}")
_NUMBER = re.compile(rb"0|[1-9][0-9]{0,9}")

# The frame types of the extensions (extensions: 1).
_FRAMES = {0x11: "window", 0x12: "fin", 0x13: "reset", 0x14: "goaway"}
#: The names of the extensions, in the order in which an end lists them.
EXTENSIONS = sorted(_FRAMES.values())
#: The credit that the ends of the tests begin with.
WINDOW = 16384
#: The most bytes of the text of a reason.
LONGEST_REASON = 512
#: The highest code of a reason. All others count as 1.
LAST_CODE = 12


class Offence(Exception):
    """The peer broke a rule.

    Attributes:
      kinds: the errors that an end may raise: `violation`, `version`, `authentication`, `limit`. There are several if
        two rules are broken at once and the specification does not say which one counts.
    """

    def __init__(self, *kinds: str) -> None:
        super().__init__(*kinds)
        self.kinds = frozenset(kinds)


class Misuse(Exception):
    """The application did something that is not allowed."""


# Data blocks


def key_values(block: bytes) -> dict[bytes, list[bytes]] | None:
    """Parse a block. Return None if Appendix A rejects it."""
    lines = block.split(b"\n")
    if len(lines) > 1 and lines[-1] == b"":
        # The line feed of the last line may be missing (protocol: 3).
        lines.pop()
    found: dict[bytes, list[bytes]] = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None or match[1] in found:
            return None
        found[match[1]] = match[2].split(b",")
    return found


def is_text(block: bytes) -> bool:
    """Return whether Appendix B accepts the block."""
    return _TEXT.fullmatch(block) is not None


def scheme_stop(block: bytes) -> int | None:
    """Return the `stop` of a scheme, None if the block is not a scheme (protocol: 6)."""
    pairs = key_values(block)
    if pairs is None or len(block.removesuffix(b"\n")) >= LIMIT:
        return None
    for key, values in pairs.items():
        if key == b"stop":
            if len(values) != 1 or not _NUMBER.fullmatch(values[0]) or int(values[0]) > 2**30:
                return None
        elif not _NUMBER.fullmatch(key) or not all(map(_is_size, values)):
            return None
    return int(pairs[b"stop"][0]) if b"stop" in pairs else None


def named_extensions(keys: dict[bytes, list[bytes]]) -> frozenset[str]:
    """Return the known extensions that a NEGO names (extensions: 1)."""
    return frozenset(EXTENSIONS) & {name.decode() for name in keys.get(b"ext", [])}


def window_of(keys: dict[bytes, list[bytes]]) -> int | None:
    """Return the credit that a NEGO gives, None if it gives none that is valid (extensions: 1)."""
    values = keys.get(b"window", [])
    if len(values) != 1 or not _NUMBER.fullmatch(values[0]) or not 16384 <= int(values[0]) < 2**31:
        return None
    return int(values[0])


def _is_size(value: bytes) -> bool:
    ends = value.split(b"-")
    if len(ends) != 2:
        return value == b"c"
    return all(_NUMBER.fullmatch(end) and int(end) <= LARGEST_SIZE for end in ends)


def _digest(scheme: bytes) -> bytes:
    return hashlib.md5(scheme.removesuffix(b"\n"), usedforsecurity=False).hexdigest().encode()


def _spell(value: int) -> bytes:
    if value < 2**6:
        return value.to_bytes(1, "big")
    if value < 2**14:
        return (value + (1 << 14)).to_bytes(2, "big")
    if value < 2**30:
        return (value + (2 << 30)).to_bytes(4, "big")
    return (value + (3 << 62)).to_bytes(8, "big")


class OpenedIds:
    """All ids that were opened, and the id up to which skipped ones count as opened (protocol: 5)."""

    def __init__(self) -> None:
        self.all: list[int] = []
        self._set: set[int] = set()
        self._runs = 0
        # All ids from the first one to this one count as opened.
        self._merged = 0

    @property
    def highest(self) -> int:
        return self.all[-1] if self.all else 0

    def add(self, stream_id: int) -> None:
        if not self.all or stream_id != self.all[-1] + 1:
            self._runs += 1
        self.all.append(stream_id)
        self._set.add(stream_id)
        if self._runs > MOST_RUNS:
            # Merge the two oldest runs: skip to the end of the first, over the gap, and to the end of the second.
            end = self._end_of_run(max(self._merged, self.all[0]))
            self._merged = self._end_of_run(next(known for known in self.all if known > end))
            self._runs -= 1

    def _end_of_run(self, stream_id: int) -> int:
        while stream_id + 1 in self._set:
            stream_id += 1
        return stream_id

    def __contains__(self, stream_id: int) -> bool:
        return stream_id in self._set or (bool(self.all) and self.all[0] <= stream_id <= self._merged)


class Model:
    """The common part of both ends.

    Attributes:
      state: the state of the end, by its name in the specification.
      streams: the open streams, and whether the server has accepted each.
      finished_here, finished_there: the open streams on which this end, or the peer, has sent STREAM_FIN.
      offered: the extensions that this end offers or accepts. `extensions` are those in force.
      send_window, receive_window: the credit that a stream begins with, for this end and for the peer.
      replies: the answers to the peer's frames.
      received: all bytes received. `frame_start` is the offset of the last frame.
      offended: whether the part of a frame received so far breaks a rule already. An end may raise at once, or when it
        has read the whole frame. The model does the latter.
      is_lost: set if, after the end of the connection, bytes arrive that cannot be separated into frames.
    """

    def __init__(self, state: str, offered: Collection[str] = ()) -> None:
        self.state = state
        self.version: int | None = None
        self.streams: dict[int, bool] = {}
        self.finished_here: set[int] = set()
        self.finished_there: set[int] = set()
        self.offered = frozenset(offered)
        self.extensions: frozenset[str] | None = None
        self.send_window: int | None = None
        self.receive_window: int | None = None
        self.replies: list[bytes] = []
        self.received = bytearray()
        self.frame_start = 0
        self.offended = False
        self.is_lost = False
        self.opened = OpenedIds()
        self._ping_outstanding = False
        self._ignoring = False
        self._taken = 0
        self._wanted: int | None = None
        self._reader = self._read()

    @property
    def has_ended(self) -> bool:
        return self.state in ("CLOSING", "CLOSED")

    @property
    def unconsumed(self) -> bytes:
        """The bytes from the offending frame on."""
        return bytes(self.received[self.frame_start :])

    @property
    def stream_states(self) -> dict[int, tuple[bool, bool, bool]]:
        """Whether each open stream is accepted, finished by this end, and finished by the peer."""
        return {
            stream_id: (is_accepted, stream_id in self.finished_here, stream_id in self.finished_there)
            for stream_id, is_accepted in self.streams.items()
        }

    def has(self, extension: str) -> bool:
        """Return whether an extension is in force."""
        return self.extensions is not None and extension in self.extensions

    def agree(self, extensions: Collection[str], window: int | None) -> None:
        """Put these extensions in force. The peer gives this credit to a stream (extensions: 1)."""
        self.extensions = frozenset(extensions)
        if "window" in extensions:
            self.send_window, self.receive_window = window, WINDOW

    def stream_state(self, stream_id: int) -> str:
        """`open`, `closed` or `idle`."""
        if stream_id in self.streams:
            return "open"
        return "closed" if stream_id in self.opened else "idle"

    # Receiving

    def receive(self, data: bytes) -> Iterator[Seen]:
        """Return the events of these bytes.

        Raises:
          Offence: they break a rule. Nothing can follow.
        """
        self.received += data
        position = 0
        while not self._ignoring:
            try:
                if self._wanted is None:
                    item = next(self._reader)
                elif position == len(data):
                    return
                else:
                    piece = data[position : position + self._wanted]
                    position += len(piece)
                    self._taken += len(piece)
                    item = self._reader.send(piece)
            except Offence:
                self._ignoring = True
                if not self.has_ended:
                    raise
                # After the end of the connection, a violation has no meaning.
                return
            self._wanted = item if isinstance(item, int) else None
            if not isinstance(item, int):
                yield item

    def stop_reading(self) -> None:
        """Ignore everything that follows: the end has raised an error."""
        self._ignoring = True

    # The reader requests up to n bytes by yielding n, and is sent at least one. Everything else that it yields is an
    # event.

    def _read(self) -> Generator[int | Seen, bytes, None]:
        while True:
            self.frame_start = self._taken
            self.offended = False
            yield from self._frame()

    def _integer(self, most: int = LAST_ID) -> Generator[int, bytes, int]:
        """Read an integer. Fail the authentication as soon as the integer must exceed `most`."""
        first = (yield 1)[0]
        value = first % 64
        for left in reversed(range((1, 2, 4, 8)[first // 64])):
            if value * 256**left > most:
                raise Offence("authentication")
            if left:
                value = value * 256 + (yield 1)[0]
        return value

    def _collect(self, size: int) -> Generator[int, bytes, bytes]:
        collected = b""
        while len(collected) < size:
            collected += yield size - len(collected)
        return collected

    def _skip(self, size: int) -> Generator[int, bytes, None]:
        while size:
            size -= len((yield size))

    def _frame(self) -> Generator[int | Seen, bytes, None]:
        kind = yield from self._integer()
        if kind > 0x10 and not self.has(_FRAMES.get(kind, "unknown")):
            # Frame types have no common length field, so nothing can be skipped. A frame of an extension that is not in
            # force is of an unknown type (extensions).
            raise Offence("violation")
        stream_id = yield from self._integer()
        if kind == 0x14:
            yield from self._goaway(stream_id)
            return
        if kind >= 0x08:
            if stream_id == 0:
                raise Offence("violation")
        elif stream_id != 0 and not (kind == 0x04 and stream_id == 6):
            raise Offence("violation")
        if kind > 0x10:
            yield from self._extension_frame(kind, stream_id)
        elif kind >= 0x08:
            yield from self._stream_frame(kind, stream_id)
        else:
            yield from self._control_frame(kind)

    def _mark(self, is_offence: bool) -> None:
        self.offended = is_offence and not self.has_ended

    def _insist(self, is_offence: bool) -> None:
        self._mark(is_offence)
        if self.offended:
            raise Offence("violation")

    def _control_frame(self, kind: int) -> Generator[int | Seen, bytes, None]:
        self._mark(self._is_out_of_place(kind))
        if kind == 0x00:
            self._insist(True)
            # After the end of the connection. The specification does not say whether the frame's hash and padding are
            # skipped or read as frames.
            self.is_lost = True
            self._ignoring = True
        elif kind == 0x02:
            code = yield from self._integer()
            self._insist(self._is_out_of_place(kind))
            self._end()
            yield "LEFT", 0, code if code <= 6 else 1
        elif kind == 0x05:
            length = yield from self._integer()
            self._insist(self._is_out_of_place(kind))
            yield from self._skip(length)
        elif kind == 0x07:
            self._insist(self._is_out_of_place(kind))
            if self.has_ended:
                return
            if self._ping_outstanding:
                self._ping_outstanding = False
                yield "PONG", 0, None
            else:
                self.replies.append(b"\x07\x00")
        else:
            length = yield from self._integer()
            if length > LIMIT:
                raise Offence("violation", "limit")
            block = yield from self._collect(length)
            self._insist(self._is_out_of_place(kind))
            if kind == 0x01:
                if not is_text(block):
                    raise Offence("violation")
                self._end()
                yield "ALERTED", 0, block.decode("ascii")
            elif not self.has_ended:
                yield self._block(kind, block)

    def _stream_frame(self, kind: int, stream_id: int) -> Generator[int | Seen, bytes, None]:
        if kind == 0x10:
            self._insist(self._is_out_of_place(kind) or stream_id not in self.opened)
            if self._is_open(stream_id):
                was_accepted, self.streams[stream_id] = self.streams[stream_id], True
                yield "REFRESHED" if was_accepted else "ACKNOWLEDGED", stream_id, None
            return
        opens, carries, resets = bool(kind & 4), bool(kind & 2), bool(kind & 1)
        length = 0
        self._mark(self._is_wrong_stream_frame(kind, stream_id, opens))
        if carries:
            length = yield from self._integer()
        self._insist(self._is_wrong_stream_frame(kind, stream_id, opens))
        if opens and not self.has_ended:
            self.opened.add(stream_id)
            self.streams[stream_id] = False
            yield "OPENED", stream_id, None
        if carries:
            # Reported at its header, too: it is a sign of life even before any payload arrives.
            if self._is_open(stream_id):
                yield "DATA", stream_id, b""
            while length:
                piece = yield length
                length -= len(piece)
                if self._is_open(stream_id):
                    yield "DATA", stream_id, piece
        if resets and self._is_open(stream_id):
            is_complete = not self.has("fin") or stream_id in self.finished_there
            name = self._closed_by_peer(self.streams[stream_id], is_complete=is_complete)
            self._forget(stream_id)
            yield name, stream_id, None
        if kind == 0x08 and self._is_open(stream_id):
            yield "REFRESHED", stream_id, None

    def _extension_frame(self, kind: int, stream_id: int) -> Generator[int | Seen, bytes, None]:
        number, text = 0, b""
        self._mark(stream_id not in self.opened)
        if kind != 0x12:
            number = yield from self._integer()
        if kind == 0x13:
            length = yield from self._integer()
            if length > LONGEST_REASON:
                raise Offence("violation")
            text = yield from self._collect(length)
        is_wrong = {
            0x11: number == 0,
            0x12: stream_id in self.finished_there,
            0x13: not is_text(text),
        }[kind]
        self._insist(is_wrong or stream_id not in self.opened)
        if not self._is_open(stream_id):
            return
        if kind == 0x11:
            yield "GRANTED", stream_id, number
        elif kind == 0x12:
            if stream_id in self.finished_here:
                self._forget(stream_id)
            else:
                self.finished_there.add(stream_id)
            yield "FINISHED", stream_id, None
        else:
            name = self._closed_by_peer(self.streams[stream_id], is_complete=False)
            self._forget(stream_id)
            shown = text.decode("ascii").replace("\n", "\\n")
            yield name, stream_id, (number if number <= LAST_CODE else 1, shown)

    def _goaway(self, stream_id: int) -> Generator[int | Seen, bytes, None]:
        if stream_id != 0:
            raise Offence("violation")
        self._mark(True)
        yield from self._integer()
        # Only servers send it.
        self._insist(True)

    def _forget(self, stream_id: int) -> None:
        del self.streams[stream_id]
        self.finished_here.discard(stream_id)
        self.finished_there.discard(stream_id)

    def _is_open(self, stream_id: int) -> bool:
        return stream_id in self.streams and not self.has_ended

    def _is_wrong_stream_frame(self, kind: int, stream_id: int, opens: bool) -> bool:
        # DATA after STREAM_FIN is wrong, too (extensions: 3).
        if self._is_out_of_place(kind) or (kind & 2 and stream_id in self.finished_there):
            return True
        return stream_id <= self.opened.highest if opens else stream_id not in self.opened

    def _is_out_of_place(self, kind: int) -> bool:
        """Return whether a frame of this type must not be sent to this end, or not in this state."""
        raise NotImplementedError

    def _block(self, kind: int, block: bytes) -> Seen:
        """Process a NEGO or PADDING_UPDATE_SCHEME frame that is legal in this state."""
        raise NotImplementedError

    def _closed_by_peer(self, was_accepted: bool, *, is_complete: bool) -> str:
        return "ENDED" if is_complete else "RESET"

    def _end(self) -> None:
        if self.state != "CLOSED":
            self.state = "CLOSING"

    # Actions of the application

    def ping(self) -> bytes:
        self._ping_outstanding = True
        return b"\x07\x00"

    def close_stream(self, stream_id: int) -> tuple[bytes, ...]:
        if stream_id not in self.streams:
            return self._closed(stream_id)
        sent: tuple[bytes, ...] = (b"\x09" + _spell(stream_id),)
        # RST alone refuses a stream, or cuts its data off (extensions: 3).
        if self.has("fin") and stream_id not in self.finished_here and not self._is_refusal(stream_id):
            fin = b"\x12" + _spell(stream_id)
            # No RST follows if both ends have sent STREAM_FIN.
            sent = (fin,) if stream_id in self.finished_there else (fin, *sent)
        self._forget(stream_id)
        return sent

    def finish_stream(self, stream_id: int) -> tuple[bytes, ...]:
        if not self.has("fin"):
            raise Misuse
        if stream_id not in self.streams:
            return self._closed(stream_id)
        if stream_id in self.finished_here:
            return ()
        if stream_id in self.finished_there:
            self._forget(stream_id)
        else:
            self.finished_here.add(stream_id)
        return (b"\x12" + _spell(stream_id),)

    def reset_stream(self, stream_id: int, code: int, text: str) -> tuple[bytes, ...]:
        if stream_id not in self.streams:
            return self._closed(stream_id)
        self._forget(stream_id)
        if not self.has("reset") or not (code or text):
            return (b"\x09" + _spell(stream_id),)
        return (b"\x13" + _spell(stream_id) + _spell(code) + _spell(len(text)) + text.encode("ascii"),)

    def _closed(self, stream_id: int) -> tuple[bytes, ...]:
        if stream_id not in self.opened:
            raise Misuse
        return ()

    def _is_refusal(self, stream_id: int) -> bool:
        """Return whether this end refuses a stream by closing it."""
        return False

    def leave(self) -> None:
        self._end()
        self.offended = False

    def transport_closed(self) -> None:
        self.state = "CLOSED"
        self.offended = False


class ServerModel(Model):
    """The server's end."""

    def __init__(self, state: str, passwords: Mapping[str, str], scheme: bytes, offered: Collection[str] = ()) -> None:
        super().__init__(state, offered)
        self.user: str | None = None
        self.identifier: str | None = None
        self._passwords = passwords
        self._scheme = scheme

    def _read(self) -> Generator[int | Seen, bytes, None]:
        if self.state == "WAIT_AUTH":
            yield from self._auth()
        yield from super()._read()

    def _auth(self) -> Generator[int | Seen, bytes, None]:
        # The type and the stream id, both 0.
        yield from self._integer(most=0)
        yield from self._integer(most=0)
        sent = yield from self._collect(32)
        users = {hashlib.sha256(password.encode()).digest(): name for name, password in self._passwords.items()}
        if sent not in users:
            raise Offence("authentication")
        length = yield from self._integer(most=LIMIT)
        yield from self._skip(length)
        if not self.has_ended:
            self.user = users[sent]
            self.state = "WAIT_NEGO"
            yield "AUTHENTICATED", 0, self.user

    def _is_out_of_place(self, kind: int) -> bool:
        if self.state == "WAIT_NEGO":
            return kind not in (0x03, 0x05)
        return kind in (0x00, 0x03, 0x04, 0x06, 0x10)

    def _block(self, kind: int, block: bytes) -> Seen:
        keys = key_values(block)
        if keys is None:
            raise Offence("violation")
        versions = keys.get(b"v", [])
        is_malformed = not versions or not all(_VERSION.fullmatch(version) for version in versions)
        identifiers = keys.get(b"client", [])
        digests = keys.get(b"padding-md5", [])
        is_malformed |= len(identifiers) != 1 or len(digests) != 1 or not _DIGEST.fullmatch(digests[0])
        if is_malformed:
            raise Offence("violation") if b"1" in versions or not versions else Offence("violation", "version")
        accepted = named_extensions(keys) & self.offered
        is_malformed = "window" in accepted and window_of(keys) is None
        if b"1" not in versions:
            raise Offence("version", *(["violation"] if is_malformed else []))
        if is_malformed:
            raise Offence("violation")
        self.identifier = identifiers[0].decode()
        self.version = 1
        self.state = "OPEN"
        self.agree(accepted, window_of(keys))
        answer = b"v=1\n"
        if accepted:
            answer += f"ext={','.join(sorted(accepted))}\n".encode()
        if "window" in accepted:
            answer += f"window={WINDOW}\n".encode()
        self.replies.append(b"\x04\x06" + _spell(len(answer)) + answer)
        if digests[0] != _digest(self._scheme):
            scheme = self._scheme.removesuffix(b"\n") + b"\n"
            self.replies.append(b"\x06\x00" + _spell(len(scheme)) + scheme)
        return "NEGOTIATED", 0, None

    def _is_refusal(self, stream_id: int) -> bool:
        return not self.streams[stream_id]

    def acknowledge(self, stream_id: int) -> bytes | None:
        if stream_id not in self.opened:
            raise Misuse
        if self.streams.get(stream_id, True):
            return None
        self.streams[stream_id] = True
        return b"\x10" + _spell(stream_id)

    def leave(self) -> None:
        self._lose()
        super().leave()

    def transport_closed(self) -> None:
        self._lose()
        super().transport_closed()

    def _lose(self) -> None:
        # The specification does not say how an AUTH frame is read that arrives, or continues, after the end.
        if self.state == "WAIT_AUTH":
            self._ignoring = self.is_lost = True


class ClientModel(Model):
    """The client's end."""

    def __init__(self, state: str, offered: Collection[str] = ()) -> None:
        super().__init__(state, offered)
        self.last_served = LAST_ID

    def _goaway(self, stream_id: int) -> Generator[int | Seen, bytes, None]:
        if stream_id != 0:
            raise Offence("violation")
        last_served = yield from self._integer()
        self._insist(last_served > self.last_served)
        if self.has_ended:
            return
        self.last_served = last_served
        for unserved in [one for one in self.streams if one > last_served]:
            self._forget(unserved)
        yield "GOING_AWAY", 0, last_served

    def _is_out_of_place(self, kind: int) -> bool:
        if kind == 0x04:
            return self.state == "CONFIRMED"
        return kind in (0x00, 0x03) or (0x08 <= kind <= 0x0F and bool(kind & 4))

    def _block(self, kind: int, block: bytes) -> Seen:
        if kind == 0x06:
            stop = scheme_stop(block)
            if stop is None:
                raise Offence("violation")
            if stop > MOST_DELIVERS:
                raise Offence("violation", "limit")
            return "SCHEME", 0, block.removesuffix(b"\n") + b"\n"
        keys = key_values(block)
        if keys is None or keys.get(b"v") != [b"1"]:
            raise Offence("violation")
        named = named_extensions(keys)
        if not named <= self.offered or ("window" in named and window_of(keys) is None):
            raise Offence("violation")
        self.version = 1
        self.state = "CONFIRMED"
        self.agree(named, window_of(keys))
        return "NEGOTIATED", 0, None

    def _closed_by_peer(self, was_accepted: bool, *, is_complete: bool) -> str:
        return super()._closed_by_peer(was_accepted, is_complete=is_complete) if was_accepted else "REFUSED"

    def open_stream(self) -> tuple[int, bytes]:
        stream_id = self.opened.highest + 1
        if stream_id > LAST_ID:
            raise Misuse
        self.opened.add(stream_id)
        self.streams[stream_id] = False
        return stream_id, b"\x0c" + _spell(stream_id)

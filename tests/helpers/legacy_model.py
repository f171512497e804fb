"""A second, independent implementation of both ends of the legacy format, as a model for tests (legacy: 2 and 3).

Like `protocol_model`, of which it uses the reading of bytes, it imports nothing from the package. It is written from
the description of the programs in the field. `stream_id`s may be used again, and nothing but SYN before Settings is a
violation.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Mapping

from .protocol_model import LARGEST_SIZE, MOST_DELIVERS, Misuse, Model, Offence, Seen

WASTE, SYN, PSH, FIN, SETTINGS, ALERT, UPDATE, SYNACK, HEART_REQUEST, HEART_RESPONSE, SERVER_SETTINGS = range(11)
#: The commands that have a text. That of all others is skipped.
WITH_TEXT = (SETTINGS, ALERT, UPDATE, SYNACK, SERVER_SETTINGS)
LAST_ID = 2**32 - 1

_SIZE = re.compile(rb"-?[0-9]{1,9}-(?:-?[0-9]{1,9})")


def frame(command: int, stream_id: int, data: bytes = b"") -> bytes:
    return bytes([command, *stream_id.to_bytes(4, "big"), *len(data).to_bytes(2, "big")]) + data


def pairs_of(text: bytes) -> dict[bytes, bytes]:
    """Return the pairs of a settings text: split at the first equals sign, the last of several wins."""
    found = {}
    for line in text.split(b"\n"):
        if b"=" in line:
            key, value = line.split(b"=", 1)
            found[key] = value
    return found


def version_of(text: bytes) -> int:
    """Return the version that a text announces, of which one byte is kept. 1 without a number."""
    value = pairs_of(text).get(b"v", b"")
    if not re.fullmatch(rb"[0-9]{1,9}", value):
        return 1
    return max(1, int(value) % 256)


def scheme_stop(text: bytes) -> int | None:
    """Return the `stop` of a scheme, None if it is refused."""
    pairs = pairs_of(text)
    stop = pairs.get(b"stop", b"")
    if not re.fullmatch(rb"[0-9]{1,10}", stop) or int(stop) > 2**30:
        return None
    for key, value in pairs.items():
        if re.fullmatch(rb"0|[1-9][0-9]{0,9}", key) and any(map(_is_too_large, value.split(b","))):
            return None
    return int(stop)


def _is_too_large(token: bytes) -> bool:
    """Return whether no Waste frame can have the size of this token."""
    if not _SIZE.fullmatch(token):
        return False
    dash = token.index(b"-", 1)
    ends = [int(token[:dash]), int(token[dash + 1 :])]
    return min(ends) > 0 and max(ends) > LARGEST_SIZE


def _one_line(text: str) -> str:
    """Return the text as it is shown: cut, and characters that are not printable escaped."""
    cut = text[:512] + "..." if len(text) > 512 else text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


class LegacyModel(Model):
    """The common part of both ends."""

    def __init__(self, state: str) -> None:
        super().__init__(state)
        # The format has none.
        self.extensions = frozenset()

    def stream_state(self, stream_id: int) -> str:
        return "open" if stream_id in self.streams else "idle"

    @property
    def has_version_2(self) -> bool:
        return self.version is not None and self.version >= 2

    def _frame(self) -> Generator[int | Seen, bytes, None]:
        header = yield from self._collect(7)
        command, stream_id = header[0], int.from_bytes(header[1:5], "big")
        length = int.from_bytes(header[5:], "big")
        if command == PSH:
            yield from self._data(stream_id, length)
            return
        text = b""
        if command in WITH_TEXT:
            text = yield from self._collect(length)
            length = 0
        # Everything else is acted upon at its header.
        if not self.has_ended:
            seen = self._act(command, stream_id, text)
            if seen is not None:
                yield seen
        yield from self._skip(length)

    def _data(self, stream_id: int, length: int) -> Generator[int | Seen, bytes, None]:
        is_empty = not length
        while length or is_empty:
            piece = b"" if is_empty else (yield length)
            is_empty = False
            length -= len(piece)
            if self._is_open(stream_id) and self._is_accepted_by_data(stream_id):
                if self.version is None:
                    # A server of version 2 has said so before.
                    self.version = 1
                    yield "NEGOTIATED", 0, None
                self.streams[stream_id] = True
                yield "ACKNOWLEDGED", stream_id, None
            if self._is_open(stream_id):
                yield "DATA", stream_id, piece

    def _act(self, command: int, stream_id: int, text: bytes) -> Seen | None:
        """Act on a frame other than PSH. Return its event, None if it has none."""
        if command == HEART_REQUEST:
            self.replies.append(frame(HEART_RESPONSE, stream_id))
        elif command == HEART_RESPONSE and self._ping_outstanding:
            self._ping_outstanding = False
            return "PONG", 0, None
        elif command == ALERT and text:
            self._end()
            return "ALERTED", 0, None
        elif command == FIN and stream_id in self.streams:
            return self._closed_by_peer(self.streams.pop(stream_id), is_complete=True), stream_id, None
        return None

    def _is_accepted_by_data(self, stream_id: int) -> bool:
        return False

    def ping(self) -> bytes:
        if not self.has_version_2:
            raise Misuse
        self._ping_outstanding = True
        return frame(HEART_REQUEST, 0)

    def close_stream(self, stream_id: int) -> tuple[bytes, ...]:
        return () if self.streams.pop(stream_id, None) is None else (frame(FIN, stream_id),)

    def reset_stream(self, stream_id: int, code: int, text: str) -> tuple[bytes, ...]:
        # There are no reasons.
        return self.close_stream(stream_id)


class LegacyServerModel(LegacyModel):
    """The server's end."""

    def __init__(self, state: str, passwords: Mapping[str, str], scheme: bytes) -> None:
        super().__init__(state)
        self.user: str | None = None
        self.identifier: str | None = None
        self._passwords = passwords
        self._scheme = scheme

    def _read(self) -> Generator[int | Seen, bytes, None]:
        if self.state == "WAIT_AUTH":
            sent = yield from self._collect(34)
            users = {hashlib.sha256(password.encode()).digest(): name for name, password in self._passwords.items()}
            if sent[:32] not in users:
                raise Offence("authentication")
            yield from self._skip(int.from_bytes(sent[32:], "big"))
            self.user = users[sent[:32]]
            self.state = "WAIT_NEGO"
            yield "AUTHENTICATED", 0, self.user
        yield from super()._read()

    def _act(self, command: int, stream_id: int, text: bytes) -> Seen | None:
        if command == SETTINGS and text:
            return self._settings(text)
        if command == SYN:
            self._insist(self.state == "WAIT_NEGO")
            is_known = stream_id in self.streams
            self.streams.setdefault(stream_id, False)
            if not is_known:
                self.opened.all.append(stream_id)
            return "REFRESHED" if is_known else "OPENED", stream_id, None
        if command == SYNACK:
            return ("REFRESHED", stream_id, None) if stream_id in self.streams else None
        return super()._act(command, stream_id, text)

    def _settings(self, text: bytes) -> Seen:
        pairs = pairs_of(text)
        version = version_of(text)
        self.version = min(version, 2)
        self.identifier = _one_line(pairs.get(b"client", b"").decode("utf-8", "replace"))
        if pairs.get(b"padding-md5") != hashlib.md5(self._scheme, usedforsecurity=False).hexdigest().encode():
            self.replies.append(frame(UPDATE, 0, self._scheme))
        if version >= 2:
            self.replies.append(frame(SERVER_SETTINGS, 0, b"v=2"))
        self.state = "OPEN"
        return "NEGOTIATED", 0, None

    def acknowledge(self, stream_id: int) -> bytes | None:
        if self.streams.get(stream_id, True):
            return None
        self.streams[stream_id] = True
        return frame(SYNACK, stream_id) if self.has_version_2 else None

    def leave(self) -> None:
        self._stop_in_preamble()
        super().leave()

    def transport_closed(self) -> None:
        self._stop_in_preamble()
        super().transport_closed()

    def _stop_in_preamble(self) -> None:
        if self.state == "WAIT_AUTH":
            self.stop_reading()


class LegacyClientModel(LegacyModel):
    """The client's end."""

    def _act(self, command: int, stream_id: int, text: bytes) -> Seen | None:
        if command == SYN:
            # Only clients open streams.
            self.replies.append(frame(FIN, stream_id))
            return None
        if command == SERVER_SETTINGS:
            version = version_of(text)
            is_new = self.state != "CONFIRMED" or version != self.version
            self.state, self.version = "CONFIRMED", version
            return ("NEGOTIATED", 0, None) if is_new else None
        if command == UPDATE:
            stop = scheme_stop(text)
            if stop is not None and stop > MOST_DELIVERS:
                raise Offence("limit")
            return None if stop is None else ("SCHEME", 0, text)
        if command == SYNACK:
            return self._synack(stream_id, text)
        if command == FIN and stream_id in self.streams and self.version is None:
            # As with data.
            self.version = 1
        return super()._act(command, stream_id, text)

    def _synack(self, stream_id: int, text: bytes) -> Seen | None:
        if stream_id not in self.streams:
            return None
        if text:
            del self.streams[stream_id]
            self.replies.append(frame(FIN, stream_id))
            return "REFUSED", stream_id, None
        was_accepted, self.streams[stream_id] = self.streams[stream_id], True
        return None if was_accepted else ("ACKNOWLEDGED", stream_id, None)

    def _is_accepted_by_data(self, stream_id: int) -> bool:
        # A server of version 1 sends no SYNACK.
        return not self.streams[stream_id] and not self.has_version_2

    def _closed_by_peer(self, was_accepted: bool, *, is_complete: bool) -> str:
        return "ENDED" if was_accepted else "REFUSED"

    def open_stream(self) -> tuple[int, bytes]:
        stream_id = self.opened.highest + 1
        self.opened.all.append(stream_id)
        self.streams[stream_id] = False
        return stream_id, frame(SYN, stream_id)

"""The content of HTTP/1 messages: finding its length, reading it and writing it (RFC 9112, sections 6 and 7).

If two recipients disagree on the end of a message, one of them takes the rest for a further message. Each message
therefore has exactly one length here: faulty messages are rejected or repaired as the RFC requires, and forwarded
messages are written from their parsed form.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Protocol

from attrs import evolve, frozen

from .http_heads import Answer, Fields, HTTPError, HTTPRequest, elements_of, parse_fields, values_of

# The most digits of Content-Length. 10**18 bytes are enough.
_MOST_DIGITS: Final = 18
# The limits for the line with a chunk's size and extensions, for all extensions together, and for trailers, in bytes.
_LONGEST_CHUNK_LINE: Final = 4096
_MOST_EXTENSIONS: Final = 64 * 1024
_LONGEST_TRAILERS: Final = 64 * 1024


class Incomplete(Exception):
    """A message ended before its content was complete."""


class Body(Protocol):
    """Reads the content of one message from received bytes, in any pieces.

    Attributes:
      done: whether the content is complete.
      rest: the bytes after it.
      trailers: the fields after it.
    """

    done: bool
    rest: bytes
    trailers: Fields

    def feed(self, data: bytes) -> bytes:
        """Return the content in these bytes.

        Raises:
          HTTPError: the bytes are invalid.
        """

    def end(self) -> None:
        """Handle the end of the connection.

        Raises:
          Incomplete: the content is incomplete.
        """


@frozen
class Framing:
    """The length of a message's content.

    Attributes:
      length: the size of the content in bytes, None if it is not known in advance.
      chunked: whether the content is sent in chunks. Without chunks and length, it ends with the connection.
      present: whether there is any content. The answer to HEAD has a length, and no content.
      codings: the transfer codings, in lower case.
      faulty: whether others may read the message differently, so that its connection must be closed after it.
    """

    length: int | None
    chunked: bool = False
    present: bool = True
    codings: Sequence[bytes] = ()
    faulty: bool = False

    @property
    def until_close(self) -> bool:
        """Whether the content ends with the connection."""
        return self.present and self.length is None and not self.chunked

    def for_http_1_0(self) -> Framing:
        """Return the framing for a recipient without transfer codings: the content ends with the connection.

        Raises:
          HTTPError: a transfer coding cannot be removed (502).
        """
        if any(coding != b"chunked" for coding in self.codings):
            raise HTTPError(502, "the answer has a transfer coding, which HTTP/1.0 does not know")
        return evolve(self, chunked=False, codings=())

    def body(self, status: int) -> Body:
        """Make the reader of the content. `status` is the status code of its errors."""
        if not self.present:
            return _LengthBody(0)
        if self.chunked:
            return _ChunkedBody(status)
        return _UntilCloseBody() if self.length is None else _LengthBody(self.length)


def request_framing(request: HTTPRequest) -> Framing:
    """Find the length of a request's content (RFC 9112, section 6.3).

    Raises:
      HTTPError: the length is invalid, or the transfer coding unknown.
    """
    length = _content_length(request.fields, 400)
    codings = _codings(request.fields)
    if not codings:
        if values_of(request.fields, b"transfer-encoding"):
            raise HTTPError(400, "Transfer-Encoding is empty")
        return Framing(length, present=length is not None)
    if request.minor < 1:
        # Section 6.1: the framing is faulty, since HTTP/1.0 has no chunks.
        raise HTTPError(400, "Transfer-Encoding in an HTTP/1.0 request")
    if codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
        raise HTTPError(400, "the content has no end: chunked is not the last transfer coding, or not the only time")
    if len(codings) > 1:
        raise HTTPError(501, f"transfer coding {codings[0].decode('latin-1')!a} is not supported")
    return Framing(None, chunked=True, codings=codings, faulty=length is not None)


def answer_framing(answer: Answer, method: bytes) -> Framing:
    """Find the length of an answer's content (RFC 9112, section 6.3).

    Raises:
      HTTPError: the length is invalid.
    """
    if answer.status < 200 or answer.status == 204:
        return Framing(None, present=False)
    codings = _codings(answer.fields)
    if codings.count(b"chunked") > 1 or (b"chunked" in codings and codings[-1] != b"chunked"):
        raise HTTPError(502, "the answer's transfer coding chunked is not the last one, or not the only time")
    present = method != b"HEAD" and answer.status != 304
    if codings:
        faulty = bool(values_of(answer.fields, b"content-length")) or answer.minor < 1
        chunked = codings[-1] == b"chunked"
        return Framing(None, chunked=chunked, present=present, codings=codings, faulty=faulty)
    return Framing(_content_length(answer.fields, 502), present=present)


def _content_length(fields: Fields, status: int) -> int | None:
    """Parse Content-Length. Several equal values count as one (RFC 9110, section 8.6)."""
    lines = values_of(fields, b"content-length")
    if not lines:
        return None
    values = {value.strip(b" \t") for line in lines for value in line.split(b",")}
    value = values.pop()
    if values or not _LENGTH.fullmatch(value):
        raise HTTPError(status, f"invalid Content-Length {b', '.join(lines)[:80].decode('latin-1')!a}")
    return int(value)


_LENGTH: Final = re.compile(rb"[0-9]{1,%d}" % _MOST_DIGITS)


def _codings(fields: Fields) -> list[bytes]:
    return [coding.lower() for coding in elements_of(fields, b"transfer-encoding")]


class _LengthBody:
    def __init__(self, length: int) -> None:
        self._left = length
        self.done = not length
        self.rest = b""
        self.trailers: Fields = []

    def feed(self, data: bytes) -> bytes:
        if len(data) < self._left:
            self._left -= len(data)
            return data
        content, self.rest = data[: self._left], self.rest + data[self._left :]
        self._left = 0
        self.done = True
        return content

    def end(self) -> None:
        if not self.done:
            raise Incomplete(f"{self._left} bytes of the content are missing")


class _UntilCloseBody:
    def __init__(self) -> None:
        self.done = False
        self.rest = b""
        self.trailers: Fields = []

    def feed(self, data: bytes) -> bytes:
        return data

    def end(self) -> None:
        self.done = True


class _ChunkedBody:
    """Reads chunks. Lines must end with CRLF: otherwise the next recipient may see different chunks."""

    def __init__(self, status: int) -> None:
        self._status = status
        # The bytes left of the current chunk, including the CRLF after it.
        self._left = 0
        # An incomplete line.
        self._line = bytearray()
        self._in_trailers = False
        self._extensions = 0
        self.done = False
        self.rest = b""
        self.trailers: Fields = []

    def feed(self, data: bytes) -> bytes:
        if self.done:
            self.rest += data
            return b""
        pieces: list[bytes] = []
        position = 0
        while position < len(data) and not self.done:
            if self._left > 2:
                piece = data[position : position + self._left - 2]
                pieces.append(piece)
                self._left -= len(piece)
                position += len(piece)
            elif self._left:
                if data[position] != b"\n\r"[self._left - 1]:
                    raise HTTPError(self._status, "a chunk is longer than its size")
                self._left -= 1
                position += 1
            else:
                position = self._read_line(data, position)
        self.rest = data[position:]
        return b"".join(pieces)

    def _read_line(self, data: bytes, position: int) -> int:
        """Read a line, or the available part of it. Return the position after it."""
        end = data.find(b"\n", position)
        stop = len(data) if end < 0 else end + 1
        limit = _LONGEST_TRAILERS if self._in_trailers else _LONGEST_CHUNK_LINE
        if len(self._line) + stop - position > limit:
            what = "the trailers are" if self._in_trailers else "the line of a chunk's size is"
            raise HTTPError(self._status, f"{what} longer than {limit} bytes")
        self._line += data[position:stop]
        if end >= 0:
            if self._in_trailers:
                self._read_trailers()
            else:
                self._read_size()
        return stop

    def _read_size(self) -> None:
        match = _CHUNK_LINE.fullmatch(self._line)
        if match is None:
            raise HTTPError(self._status, f"invalid size of a chunk {bytes(self._line[:80])!r}")
        self._extensions += len(match[2])
        if self._extensions > _MOST_EXTENSIONS:
            raise HTTPError(self._status, f"more than {_MOST_EXTENSIONS} bytes of chunk extensions")
        size = int(match[1], 16)
        self._line.clear()
        if size:
            self._left = size + 2
        else:
            self._in_trailers = True

    def _read_trailers(self) -> None:
        if self._line == b"\r\n" or self._line.endswith(b"\n\r\n"):
            text = bytes(self._line)
            if b"\0" in text or text.count(b"\r") != text.count(b"\r\n") or text.count(b"\n") != text.count(b"\r\n"):
                raise HTTPError(self._status, "bare CR or LF, or NUL, in the trailers")
            self.trailers = parse_fields(text.split(b"\r\n")[:-2], self._status)
            self._line.clear()
            self.done = True

    def end(self) -> None:
        if not self.done:
            raise Incomplete("the last chunk is missing")


# A size of up to 15 hex digits, whitespace that some programs write, and extensions, which are ignored.
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*((?:;[^\r\n\0]*)?)\r\n")


def write_chunk(content: bytes) -> bytes:
    """Write content as a chunk. Write nothing for no content."""
    return b"%x\r\n%b\r\n" % (len(content), content) if content else b""


def write_last_chunk(trailers: Fields) -> bytes:
    """Write the end of content in chunks."""
    return b"".join([b"0\r\n", *[name + b": " + value + b"\r\n" for name, value in trailers], b"\r\n"])

"""The heads of HTTP/1 messages: request line or status line, and the fields (RFC 9112, sections 2 to 5).

h11 does not suffice for a proxy: it changes the case of field names, rejects targets that are not ASCII, and rejects
answers that a proxy must repair. Forwarded heads are written from their parsed form and never copied, so that the next
recipient cannot parse a message differently from this proxy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from attrs import field, frozen

from trioanytls import AnyTLSError

#: Fields in their order, with the case of their names unchanged.
Fields = list[tuple[bytes, bytes]]


class HTTPError(AnyTLSError):
    """A message is invalid, or cannot be served.

    Attributes:
      status: the status code of the answer to the application.
      fields: further fields of that answer.
    """

    def __init__(self, status: int, text: str, fields: Fields | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.fields: list[tuple[bytes, bytes]] = fields or []


@frozen
class HTTPRequest:
    """The head of a request.

    Attributes:
      minor: the version is HTTP/1.`minor`.
    """

    method: bytes
    # May contain credentials, as may the fields (RFC 9110, sections 4.2.4 and 11.7.2).
    target: bytes = field(repr=False)
    minor: int
    fields: Fields = field(repr=False)


@frozen
class Answer:
    """The head of an answer; see `HTTPRequest`."""

    status: int
    reason: bytes
    minor: int
    # May contain Set-Cookie.
    fields: Fields = field(repr=False)


class HeadBuffer:
    """Collect received bytes until a head is complete.

    Empty lines in front of a head are dropped (RFC 9112, section 2.2).

    Attributes:
      limit: the size of the longest head, in bytes.
      of_answers: whether these are heads of answers.
    """

    def __init__(self, limit: int, *, of_answers: bool = False) -> None:
        self.limit = limit
        self.of_answers = of_answers
        self._data = bytearray()
        # The end of the head does not begin before this position.
        self._searched = 0

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes | bytearray) -> None:
        """Add received bytes."""
        self._data += data

    def take_head(self) -> bytes | None:
        """Take the next head, without the empty line at its end. Return None if it is incomplete.

        Raises:
          HTTPError: it is longer than `limit`.
        """
        self._drop_empty_lines()
        end = _END.search(self._data, self._searched)
        if (end.start() if end else len(self._data)) > self.limit:
            if self.of_answers:
                raise HTTPError(502, f"the head of the answer is longer than {self.limit} bytes")
            in_first_line = self._data.find(b"\n", 0, self.limit) < 0
            status, what = (414, "the request line") if in_first_line else (431, "the head of the request")
            raise HTTPError(status, f"{what} is longer than {self.limit} bytes")
        if end is None:
            # The last two bytes may be the start of the end.
            self._searched = max(0, len(self._data) - 2)
            return None
        head = bytes(self._data[: end.start()])
        del self._data[: end.end()]
        self._searched = 0
        return head

    def take_rest(self) -> bytes:
        """Take all remaining bytes."""
        rest = bytes(self._data)
        self._data.clear()
        self._searched = 0
        return rest

    @property
    def cannot_be_request(self) -> bool:
        """Whether the first byte cannot start a method, as in TLS or SOCKS. Such data may never contain a line end."""
        return bool(self._data) and not _TOKEN.fullmatch(self._data, 0, 1)

    def _drop_empty_lines(self) -> None:
        empty = _EMPTY_LINES.match(self._data)
        if empty is not None:
            del self._data[: empty.end()]
            self._searched = 0


_TOKEN: Final = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
# A single LF ends a line as well (RFC 9112, section 2.2).
_END: Final = re.compile(rb"\n\r?\n")
_EMPTY_LINES: Final = re.compile(rb"(?:\r?\n)+")
# RFC 3986 does not allow bytes of UTF-8 in a target, but they are in use, and harmless.
_REQUEST_LINE: Final = re.compile(rb"([-!#$%&'*+.^_`|~0-9A-Za-z]+) ([\x21-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])")
_STATUS_LINE: Final = re.compile(rb"HTTP/([0-9])\.([0-9]) ([1-9][0-9]{2})(?: (.*))?")


def parse_request(head: bytes) -> HTTPRequest:
    """Parse the head of a request.

    Raises:
      HTTPError: the head is invalid (400), or of another version of HTTP (505).
    """
    lines = _split_lines(head, 400)
    first = next(lines)
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise HTTPError(400, f"invalid request line {_shorten(first)}")
    method, target, major, minor = match.groups()
    if major != b"1":
        raise HTTPError(505, f"HTTP/{major.decode()}.{minor.decode()} is not supported: this is an HTTP/1.1 proxy")
    return HTTPRequest(method, target, int(minor), parse_fields(lines, 400))


def parse_answer(head: bytes) -> Answer:
    """Parse the head of an answer.

    Raises:
      HTTPError: the head is invalid (502).
    """
    lines = _split_lines(head, 502)
    first = next(lines)
    match = _STATUS_LINE.fullmatch(first)
    if match is None or match[1] != b"1":
        raise HTTPError(502, f"invalid status line {_shorten(first)}")
    return Answer(int(match[3]), match[4] or b"", int(match[2]), parse_fields(lines, 502))


def parse_fields(lines: Iterable[bytes], status: int) -> Fields:
    """Parse the lines of fields, without line ends. `status` is 400 for requests and 502 for answers.

    Raises:
      HTTPError: a line is invalid.
    """
    fields: Fields = []
    # The parts of the last value, which may be folded any number of times.
    parts: list[bytes] = []
    name = b""
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            # Obsolete line folding (RFC 9112, section 5.2).
            if not parts:
                raise HTTPError(status, "whitespace before the first field")
            parts.append(line.strip(b" \t"))
            continue
        if parts:
            fields.append((name, b" ".join(parts).strip(b" \t")))
        name, colon, value = line.partition(b":")
        if status != 400:
            # In an answer, a proxy must remove whitespace before the colon (RFC 9112, section 5.1).
            name = name.rstrip(b" \t")
        if not colon or not _TOKEN.fullmatch(name):
            raise HTTPError(status, f"invalid field line {_shorten(line)}")
        parts = [value.strip(b" \t")]
    if parts:
        fields.append((name, b" ".join(parts).strip(b" \t")))
    return fields


def _split_lines(head: bytes, status: int) -> Iterator[bytes]:
    """Split a head into lines, without their ends. CR and NUL within a line are invalid (RFC 9110, section 5.5)."""
    lines = [line[:-1] if line[-1:] == b"\r" else line for line in head.split(b"\n")]
    if b"\0" in head or any(b"\r" in line for line in lines):
        raise HTTPError(status, "bare CR, or NUL, in the head")
    return iter(lines)


def _shorten(line: bytes) -> str:
    return repr(line[:80])[1:] + ("..." if len(line) > 80 else "")


def values_of(fields: Fields, name: bytes) -> list[bytes]:
    """Collect the values of a field; `name` is in lower case."""
    return [value for key, value in fields if key.lower() == name]


def elements_of(fields: Fields, name: bytes) -> list[bytes]:
    """Collect the elements of a field that is a list, without the empty ones; `name` is in lower case."""
    parts = b",".join(values_of(fields, name)).split(b",")
    return [part for part in (part.strip(b" \t") for part in parts) if part]


def write_head(first: bytes, fields: Fields) -> bytes:
    """Write a head, with the empty line at its end."""
    return b"\r\n".join([first, *[name + b": " + value for name, value in fields], b"", b""])

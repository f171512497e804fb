"""Violations: each closes the connection, with a text that names the frame, the stream and the rule.

All of them are in one table, `VIOLATIONS`. A test searches the package for rules that the table lacks, and another one
compares it with the page for users, `docs/limits.md` (protocol: 4).
"""

from __future__ import annotations

import ast
import logging
import re
import ssl
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from attrs import field, frozen
from hypothesis import given
from hypothesis import strategies as st

import trioanytls
from trioanytls._connection import close_reason
from trioanytls._protocol import data_blocks
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.client import ClientProtocol
from trioanytls._protocol.anytls1.frames import FrameType, describe
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.credentials import hash_password
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._protocol.state_machine import CLIENT, SERVER, STREAM_WITH_FIN, ConnectionState, StreamState
from trioanytls._transport.handshake import handshake

from ..conftest import HOST, Serving
from ..helpers.connection_ends import (
    AUTH,
    HELLO,
    NEGO,
    PASSWORD,
    ROLES,
    USER,
    End,
    Role,
    client_that_heard,
    server_that_heard,
)
from ..helpers.extensions import ALL
from ..helpers.raw_peer import SERVER_NEGO, RawPeer, data
from ..helpers.wire_bytes import DEFAULT_DIGEST, client_in, frame, number, server_in, take

PACKAGE = Path(trioanytls.__file__).parent
PAGE = Path(__file__).parent.parent.parent / "docs" / "limits.md"

#: The text that no error and no record may contain: it is in payloads, and in data blocks as keys and values.
MARKER = b"marker-of-a-payload"
# The data after it, which would be the next violation, is not processed any more.
BEHIND = b"\x11" + MARKER
LIMIT = 64 * 1024

Clock = trio.testing.MockClock


@frozen
class Violation:
    """A row of the table. Rows of the same name are the same violation, by other frames.

    Attributes:
      name: what the peer does.
      by: who the peer is.
      sent: the bytes that it sends, after `before`.
      text: the text of the ALERT and of the log, with names of settings in braces in place of their values.
      code: the code of the end. If it is not 1, a CLOSE with it replaces the ALERT.
      config: settings of the end that detects the violation.
      before: None for an established connection on which stream 1 is open.
      unread: whether the peer does not read, and so does not receive the ALERT.
    """

    name: str
    by: Role
    sent: bytes
    text: str
    code: CloseCode = CloseCode.PROTOCOL_ERROR
    config: Mapping[str, object] = field(factory=dict)
    before: bytes | None = None
    unread: bool = False

    @property
    def settings(self) -> trioanytls.Config:
        return trioanytls.Config(**{"extensions": ALL, **dict[str, Any](self.config)})

    @property
    def told(self) -> str:
        """Return the text with the values of this row's settings."""
        answers = self.settings.max_pending_control + 2 * self.settings.max_streams
        return self.text.format(answers=answers, **self.config)


def of(by: Role, name: str, *rows: tuple[bytes, str], **more: Any) -> list[Violation]:
    return [Violation(name, by, sent, text, **more) for sent, text in rows]


def of_either(name: str, *rows: tuple[bytes, str], **more: Any) -> list[Violation]:
    return [violation for by in ROLES for violation in of(by, name, *rows, **more)]


def of_agreed(by: Role, name: str, *rows: tuple[bytes, str], **more: Any) -> list[Violation]:
    """Return the rows for a connection on which all extensions are in force."""
    return of(by, name, *rows, before=AGREED[by], **more)


def of_either_agreed(name: str, *rows: tuple[bytes, str], **more: Any) -> list[Violation]:
    return [violation for by in ROLES for violation in of_agreed(by, name, *rows, **more)]


def nego(*lines: bytes) -> bytes:
    return frame(0x03, 0, b"".join(line + b"\n" for line in lines))


def selected(*lines: bytes) -> bytes:
    return frame(0x04, 6, b"".join(line + b"\n" for line in lines))


def scheme(*lines: bytes) -> bytes:
    return frame(0x06, 0, b"".join(line + b"\n" for line in lines))


V, NAME, MD5 = b"v=1", b"client=" + MARKER, b"padding-md5=" + DEFAULT_DIGEST.encode()
PADDING = frame(0x05, 0, MARKER)
OPEN_5, RST_1 = b"\x0c\x05", b"\x09\x01"
EXTENSIONS = [b"ext=fin,goaway,reset,window", b"window=16384"]
#: By sender: an established connection on which all extensions are in force and stream 1 is open.
AGREED: dict[Role, bytes] = {
    "client": AUTH + nego(V, b"client=raw/1", MD5, *EXTENSIONS) + b"\x0c\x01" + data(1, MARKER),
    "server": selected(V, *EXTENSIONS),
}
EXTENSION_FRAMES = (FrameType.STREAM_WINDOW, FrameType.STREAM_FIN, FrameType.STREAM_RESET, FrameType.GOAWAY)
INVALID_WINDOWS = [
    [],
    [b"window=16383"],
    [b"window=2147483648"],
    [b"window=020000"],
    [b"window=20000,20000"],
    [b"window=" + MARKER],
]
INVALID_WINDOW = "the key 'window' is missing or not a number from 16384 to 2147483647"


def reset(stream_id: int, text: bytes, code: int = 1) -> bytes:
    return b"\x13" + number(stream_id) + number(code) + number(len(text)) + text


def window(stream_id: int, increment: int) -> bytes:
    return b"\x11" + number(stream_id) + number(increment)


def goaway(last_served: int) -> bytes:
    return b"\x14\x00" + number(last_served)


# Each breaks one of the rules of Appendix A.
BROKEN_BLOCKS = [
    ("a block that is empty", [], "the key-value block is empty"),
    ("a block with a byte order mark", [b"\xef\xbb\xbf" + V], "line 1: a byte order mark is not allowed"),
    ("a block with a duplicate key", [V, NAME, V], "line 3: duplicate key 'v'"),
    # The peer's text is not repeated: it may be long, and have any content.
    ("a block with a duplicate key", [MARKER + b"=1", MARKER + b"=2"], "line 2: duplicate key '...'"),
    ("a block with a duplicate key", [b"'\\=1", b"'\\=1"], "line 2: duplicate key '...'"),
    (
        "a block with a byte that is not printable",
        [V, b"a= " + MARKER],
        "line 2: the byte 0x20 is not allowed (expected 0x21 to 0x7e)",
    ),
    (
        "a block with a byte that is not printable",
        [b"v=\xe4"],
        "line 1: the byte 0xe4 is not allowed (expected 0x21 to 0x7e)",
    ),
    ("a block with a line that is not a pair", [V, MARKER], "line 2: the line has no equals sign"),
    ("a block with a line that is not a pair", [V, b"", NAME], "line 2: the line has no equals sign"),
    ("a block with an empty key", [b"=" + MARKER], "line 1: the key is empty"),
    ("a block with a comma in a key", [V, MARKER + b",b=1"], "line 2: a key must not contain a comma"),
    ("a block with an empty value", [b"v=1,"], "line 1: the key 'v' has an empty value"),
    ("a block with an empty value", [MARKER + b"="], "line 1: the key '...' has an empty value"),
]
# Each breaks one of the rules of padding schemes.
BROKEN_SCHEMES = [
    ("a scheme without `stop`", [b"1=1-2"], "the key 'stop' is missing"),
    ("a scheme with two values for `stop`", [b"stop=1,2"], "line 1: stop must have one value, not 2"),
    (
        "a scheme with another key",
        [b"stop=1", MARKER + b"=1"],
        "line 2: invalid key '...': expected 'stop' or the index of a deliver",
    ),
    (
        "a scheme with an invalid number",
        [b"stop=" + MARKER],
        "line 1: invalid number '...': expected an integer from 0 to 1073741824",
    ),
    (
        "a scheme with an invalid number",
        [b"stop=1", b"0=1-65536"],
        "line 2: invalid number '...': expected an integer from 0 to 65535",
    ),
    (
        "a scheme with an invalid size",
        [b"stop=1", b"0=" + MARKER.replace(b"-", b"_")],
        "line 2: invalid size '...': expected 'min-max' or the check mark 'c'",
    ),
]
STREAM_FRAMES = {
    b"\x08": "STREAM[]",
    b"\x09": "STREAM[RST]",
    b"\x0a": "STREAM[DATA]",
    b"\x0b": "STREAM[DATA+RST]",
    b"\x0c": "STREAM[OPEN]",
    b"\x0d": "STREAM[OPEN+RST]",
    b"\x0e": "STREAM[OPEN+DATA]",
    b"\x0f": "STREAM[OPEN+DATA+RST]",
    b"\x10": "STREAM_ACK",
}
NEVER_OPENED = "on stream {0}: the stream was never opened"


def never_opened(stream_id: int) -> list[tuple[bytes, str]]:
    told = NEVER_OPENED.format(stream_id)
    start = number(stream_id)
    return [
        (data(stream_id, MARKER), f"STREAM[DATA] {told}"),
        (data(stream_id, b""), f"STREAM[DATA] {told}"),
        (b"\x0b" + start + number(len(MARKER)) + MARKER, f"STREAM[DATA] {told}"),
        (b"\x08" + start, f"STREAM[] {told}"),
        (b"\x09" + start, f"STREAM[RST] {told}"),
    ]


#: The role that sends, the streams that it may open, and the settings.
BOTH_ROLES: list[tuple[Role, int, dict[str, int]]] = [("client", 1, {"max_streams": 1}), ("server", 1024, {})]
VIOLATIONS = [
    # Frames that cannot be decoded.
    *of_either(
        "a frame of an unknown type",
        (b"\x11", "unknown frame type 0x11"),
        (number(0x1F, 8), "unknown frame type 0x1f"),
        (number(2**62 - 1), "unknown frame type 0x3fffffffffffffff"),
    ),
    *of_either(
        "a frame of an extension that was not agreed upon",
        (window(1, 5), "unknown frame type 0x11"),
        (b"\x12\x01", "unknown frame type 0x12"),
        (reset(1, MARKER), "unknown frame type 0x13"),
        (goaway(5), "unknown frame type 0x14"),
    ),
    # Also by a server that has not answered yet.
    *of(
        "server",
        "a frame of an extension that was not agreed upon",
        (b"\x12\x01", "unknown frame type 0x12"),
        before=b"",
    ),
    *of_either(
        "a control frame on another stream",
        (b"\x07\x01", "PINGPONG on stream 1: must be sent on the control stream (stream 0)"),
        (b"\x00\x01", "AUTH on stream 1: must be sent on the control stream (stream 0)"),
        (b"\x01\x01", "ALERT on stream 1: must be sent on the control stream (stream 0)"),
        (b"\x02\x01", "CLOSE on stream 1: must be sent on the control stream (stream 0)"),
        (b"\x03\x06", "CLIENT_NEGO on stream 6: must be sent on the control stream (stream 0)"),
        (b"\x04\x05", "SERVER_NEGO on stream 5: must be sent on the control stream (stream 0)"),
        (b"\x05\x01", "PADDING on stream 1: must be sent on the control stream (stream 0)"),
        (
            b"\x06" + number(2**62 - 1),
            f"PADDING_UPDATE_SCHEME on stream {2**62 - 1}: must be sent on the control stream (stream 0)",
        ),
    ),
    *of_either_agreed(
        "a control frame on another stream",
        (b"\x14\x05\x05", "GOAWAY on stream 5: must be sent on the control stream (stream 0)"),
    ),
    *of_either(
        "a frame of a stream on stream 0",
        *(
            (kind + b"\x00", f"{name} on stream 0: must not be sent on the control stream")
            for kind, name in STREAM_FRAMES.items()
        ),
    ),
    *of_either_agreed(
        "a frame of a stream on stream 0",
        (window(0, 5), "STREAM_WINDOW on stream 0: must not be sent on the control stream"),
        (b"\x12\x00", "STREAM_FIN on stream 0: must not be sent on the control stream"),
        (reset(0, MARKER), "STREAM_RESET on stream 0: must not be sent on the control stream"),
    ),
    *of_either(
        "a block that is too long",
        (b"\x01\x00" + number(LIMIT + 1), "ALERT on stream 0: payload of 65537 bytes exceeds the limit of 65536"),
        (b"\x03\x00" + number(LIMIT + 1), "CLIENT_NEGO on stream 0: payload of 65537 bytes exceeds the limit of 65536"),
        (b"\x04\x06" + number(LIMIT + 1), "SERVER_NEGO on stream 6: payload of 65537 bytes exceeds the limit of 65536"),
        (
            b"\x06\x00" + number(2**62 - 1),
            f"PADDING_UPDATE_SCHEME on stream 0: payload of {2**62 - 1} bytes exceeds the limit of 65536",
        ),
    ),
    *of_either(
        "a block that is longer than this end accepts",
        (
            frame(0x01, 0, bytes(101)),
            "ALERT on stream 0: payload of 101 bytes exceeds the limit of {max_control_payload}",
        ),
        config={"max_control_payload": 100},
    ),
    *of_either(
        "a text with a control character",
        (
            frame(0x01, 0, MARKER + b"\n\x1b[31m"),
            "ALERT on stream 0: line 2: the control character 0x1b is not allowed",
        ),
        (frame(0x01, 0, b"\r\n"), "ALERT on stream 0: line 1: the control character 0x0d is not allowed"),
        (frame(0x01, 0, b"\x7f"), "ALERT on stream 0: line 1: the control character 0x7f is not allowed"),
    ),
    *of_either(
        "a text with a multi-byte character",
        (
            frame(0x01, 0, MARKER + "ä".encode()),
            "ALERT on stream 0: line 1: multi-byte UTF-8 characters are not allowed",
        ),
    ),
    *of_either(
        "a text with a byte order mark",
        (frame(0x01, 0, b"\n\n\xef\xbb\xbf"), "ALERT on stream 0: line 3: a byte order mark is not allowed"),
    ),
    *of_either(
        "a text that is not UTF-8",
        (frame(0x01, 0, b"\xff" + MARKER), "ALERT on stream 0: line 1: the text is not valid UTF-8"),
    ),
    *of_either_agreed(
        "a text with a control character",
        (reset(1, MARKER + b"\x1b[31m"), "STREAM_RESET on stream 1: line 1: the control character 0x1b is not allowed"),
        # Also on a stream that is closed.
        (
            RST_1 + reset(1, b"\n" + MARKER + b"\x1b[31m"),
            "STREAM_RESET on stream 1: line 2: the control character 0x1b is not allowed",
        ),
    ),
    *of_either_agreed(
        "a text with a multi-byte character",
        (reset(1, "ä".encode()), "STREAM_RESET on stream 1: line 1: multi-byte UTF-8 characters are not allowed"),
    ),
    *of_either_agreed(
        "a text with a byte order mark",
        (reset(1, b"\xef\xbb\xbf"), "STREAM_RESET on stream 1: line 1: a byte order mark is not allowed"),
    ),
    *of_either_agreed(
        "a text that is not UTF-8",
        (reset(1, b"\xff" + MARKER), "STREAM_RESET on stream 1: line 1: the text is not valid UTF-8"),
    ),
    *of_either_agreed(
        "a reason that is too long",
        (reset(1, b"x" * 513), "STREAM_RESET on stream 1: text of 513 bytes exceeds the limit of 512"),
        (
            b"\x13\x01\x01" + number(2**62 - 1),
            f"STREAM_RESET on stream 1: text of {2**62 - 1} bytes exceeds the limit of 512",
        ),
    ),
    # Frames that only the other end may send, or only once.
    *of(
        "client",
        "a frame that only servers send",
        (selected(V), "SERVER_NEGO on stream 6: only a server may send this frame"),
        (scheme(b"stop=1"), "PADDING_UPDATE_SCHEME on stream 0: only a server may send this frame"),
        (b"\x10\x01", "STREAM_ACK on stream 1: only a server may send this frame"),
        (b"\x10\x02", "STREAM_ACK on stream 2: only a server may send this frame"),
    ),
    *of_agreed(
        "client",
        "a frame that only servers send",
        (goaway(5), "GOAWAY on stream 0: only a server may send this frame"),
    ),
    *of(
        "client",
        "AUTH or NEGO a second time",
        (AUTH, "AUTH on stream 0: must not be sent twice"),
        (NEGO, "CLIENT_NEGO on stream 0: must not be sent twice"),
    ),
    *of(
        "server",
        "a frame that only clients send",
        (AUTH, "AUTH on stream 0: only a client may send this frame"),
        (NEGO, "CLIENT_NEGO on stream 0: only a client may send this frame"),
    ),
    *of(
        "server",
        "a stream is opened",
        (b"\x0c\x02", "STREAM[OPEN] on stream 2: only a client may open streams"),
        (b"\x0c\x01", "STREAM[OPEN] on stream 1: only a client may open streams"),
        (b"\x0f\x02" + number(len(MARKER)) + MARKER, "STREAM[OPEN] on stream 2: only a client may open streams"),
    ),
    *of(
        "server",
        "NEGO a second time",
        (SERVER_NEGO, "SERVER_NEGO on stream 6: must not be sent twice"),
        (frame(0x04, 0, b"v=1\n"), "SERVER_NEGO on stream 0: must not be sent twice"),
    ),
    # The client's NEGO.
    *of(
        "client",
        "a frame other than NEGO or PADDING directly after AUTH",
        (b"\x0c\x01", "STREAM[OPEN] on stream 1: expected NEGO directly after AUTH"),
        (data(1, MARKER), "STREAM[DATA] on stream 1: expected NEGO directly after AUTH"),
        (b"\x09\x01", "STREAM[RST] on stream 1: expected NEGO directly after AUTH"),
        (b"\x08\x01", "STREAM[] on stream 1: expected NEGO directly after AUTH"),
        (b"\x10\x01", "STREAM_ACK on stream 1: expected NEGO directly after AUTH"),
        (b"\x07\x00", "PINGPONG on stream 0: expected NEGO directly after AUTH"),
        (b"\x02\x00\x00", "CLOSE on stream 0: expected NEGO directly after AUTH"),
        (frame(0x01, 0, MARKER), "ALERT on stream 0: expected NEGO directly after AUTH"),
        (selected(V), "SERVER_NEGO on stream 6: expected NEGO directly after AUTH"),
        (scheme(b"stop=1"), "PADDING_UPDATE_SCHEME on stream 0: expected NEGO directly after AUTH"),
        before=AUTH + PADDING,
    ),
    *of(
        "client",
        "AUTH or NEGO a second time",
        (AUTH, "AUTH on stream 0: must not be sent twice"),
        before=AUTH,
    ),
    *of(
        "client",
        "no NEGO in time",
        (b"", "CLIENT_NEGO on stream 0: not received within auth_timeout"),
        (NEGO[:-1], "CLIENT_NEGO on stream 0: not received within auth_timeout"),
        (PADDING, "CLIENT_NEGO on stream 0: not received within auth_timeout"),
        before=AUTH,
    ),
    *(
        violation
        for name, lines, rule in BROKEN_BLOCKS
        for violation in of("client", name, (nego(*lines), f"CLIENT_NEGO on stream 0: {rule}"), before=AUTH)
    ),
    *of(
        "client",
        "NEGO without a list of versions",
        (nego(NAME, MD5), "CLIENT_NEGO on stream 0: the key 'v' is missing or not a list of version numbers"),
        (nego(b"v=1.0", NAME, MD5), "CLIENT_NEGO on stream 0: the key 'v' is missing or not a list of version numbers"),
        (
            nego(b"v=1,01", NAME, MD5),
            "CLIENT_NEGO on stream 0: the key 'v' is missing or not a list of version numbers",
        ),
        (
            nego(b"v=" + MARKER, NAME, MD5),
            "CLIENT_NEGO on stream 0: the key 'v' is missing or not a list of version numbers",
        ),
        before=AUTH,
    ),
    *of(
        "client",
        "NEGO without an identifier, or with two",
        (nego(V, MD5), "CLIENT_NEGO on stream 0: the key 'client' is missing or has more than one value"),
        (nego(V, NAME + b",b", MD5), "CLIENT_NEGO on stream 0: the key 'client' is missing or has more than one value"),
        before=AUTH,
    ),
    *of(
        "client",
        "NEGO without a digest, or with two",
        (nego(V, NAME), "CLIENT_NEGO on stream 0: the key 'padding-md5' is missing or has more than one value"),
        (
            nego(V, NAME, MD5 + b",b"),
            "CLIENT_NEGO on stream 0: the key 'padding-md5' is missing or has more than one value",
        ),
        before=AUTH,
    ),
    *of(
        "client",
        "NEGO with an invalid digest",
        (nego(V, NAME, MD5[:-1]), "CLIENT_NEGO on stream 0: invalid padding-md5: expected 32 lower-case hex digits"),
        (
            nego(V, NAME, MD5[:-1] + b"F"),
            "CLIENT_NEGO on stream 0: invalid padding-md5: expected 32 lower-case hex digits",
        ),
        (
            nego(V, NAME, b"padding-md5=" + MARKER),
            "CLIENT_NEGO on stream 0: invalid padding-md5: expected 32 lower-case hex digits",
        ),
        before=AUTH,
    ),
    *of(
        "client",
        "NEGO without a version that the server supports",
        (nego(b"v=2", NAME, MD5), "CLIENT_NEGO on stream 0: none of the offered versions is supported"),
        (nego(b"v=2,999999999", NAME, MD5), "CLIENT_NEGO on stream 0: none of the offered versions is supported"),
        before=AUTH,
        code=CloseCode.VERSION_NOT_SUPPORTED,
    ),
    *of(
        "client",
        "an extension `window` without a valid window",
        *(
            (nego(V, NAME, MD5, b"ext=window", *lines), f"CLIENT_NEGO on stream 0: {INVALID_WINDOW}")
            for lines in INVALID_WINDOWS
        ),
        before=AUTH,
    ),
    # The server's.
    *of(
        "server",
        "an extension `window` without a valid window",
        *(
            (selected(V, b"ext=window", *lines), f"SERVER_NEGO on stream 6: {INVALID_WINDOW}")
            for lines in INVALID_WINDOWS
        ),
        before=b"",
    ),
    *of(
        "server",
        "an extension that was not offered",
        (selected(V, b"ext=fin"), "SERVER_NEGO on stream 6: the extension 'fin' was not offered"),
        (
            selected(V, b"ext=goaway,window", b"window=" + MARKER),
            "SERVER_NEGO on stream 6: the extension 'window' was not offered",
        ),
        before=b"",
        config={"extensions": frozenset({"goaway", "reset"})},
    ),
    *(
        violation
        for name, lines, rule in BROKEN_BLOCKS
        for violation in of("server", name, (selected(*lines), f"SERVER_NEGO on stream 6: {rule}"), before=b"")
    ),
    *of(
        "server",
        "NEGO without a version",
        (selected(NAME), "SERVER_NEGO on stream 6: the key 'v' is missing or not a list of version numbers"),
        (selected(b"v=01"), "SERVER_NEGO on stream 6: the key 'v' is missing or not a list of version numbers"),
        before=b"",
    ),
    *of(
        "server",
        "NEGO with a version that was not offered, or with two",
        (selected(b"v=2"), "SERVER_NEGO on stream 6: the selected version was not offered"),
        (selected(b"v=1,1"), "SERVER_NEGO on stream 6: the selected version was not offered"),
        before=b"",
    ),
    # Its scheme.
    *(
        violation
        for name, lines, rule in BROKEN_BLOCKS + BROKEN_SCHEMES
        for violation in of("server", name, (scheme(*lines), f"PADDING_UPDATE_SCHEME on stream 0: {rule}"))
    ),
    *of(
        "server",
        "a scheme that is too long",
        (
            frame(0x06, 0, b"stop=1\n0=1-2" + b",1-9" * 16381),
            "PADDING_UPDATE_SCHEME on stream 0: scheme of 65537 bytes exceeds the limit of 65536",
        ),
    ),
    *of(
        "server",
        "a scheme that is longer than the client accepts",
        (
            scheme(b"stop=1"),
            "PADDING_UPDATE_SCHEME on stream 0: scheme of 7 bytes exceeds the limit of {max_scheme_size}",
        ),
        config={"max_scheme_size": 6},
        code=CloseCode.LIMIT_EXCEEDED,
    ),
    *of(
        "server",
        "a scheme for more shaped packets than the client accepts",
        (
            scheme(b"stop=10"),
            "PADDING_UPDATE_SCHEME on stream 0: the scheme's stop (10) exceeds the limit of {max_scheme_stop}",
        ),
        config={"max_scheme_stop": 9},
        code=CloseCode.LIMIT_EXCEEDED,
    ),
    *of(
        "server",
        "a scheme with a larger shaped packet than the client accepts",
        (
            scheme(b"stop=2", b"1=5-5,6-6"),
            (
                "PADDING_UPDATE_SCHEME on stream 0: "
                "the scheme's largest deliver (11) exceeds the limit of {max_scheme_deliver}"
            ),
        ),
        config={"max_scheme_deliver": 10},
        code=CloseCode.LIMIT_EXCEEDED,
    ),
    *of(
        "server",
        "a scheme with more bytes in total than the client accepts",
        (
            scheme(b"stop=3", b"1=5-5", b"2=6-6"),
            "PADDING_UPDATE_SCHEME on stream 0: the scheme's total (11) exceeds the limit of {max_scheme_total}",
        ),
        config={"max_scheme_total": 10},
        code=CloseCode.LIMIT_EXCEEDED,
    ),
    # Streams.
    *of("client", "a frame of a stream that was never opened", *never_opened(2), *never_opened(2**62 - 1)),
    *of("client", "a frame of a stream that was skipped", *((OPEN_5 + sent, text) for sent, text in never_opened(3))),
    *of(
        "server",
        "a frame of a stream that was never opened",
        *never_opened(2),
        *never_opened(2**62 - 1),
        (b"\x10\x02", "STREAM_ACK on stream 2: the stream was never opened"),
    ),
    *of_either_agreed(
        "a frame of a stream that was never opened",
        (window(2, 5), "STREAM_WINDOW on stream 2: the stream was never opened"),
        (b"\x12\x02", "STREAM_FIN on stream 2: the stream was never opened"),
        (reset(2, MARKER), "STREAM_RESET on stream 2: the stream was never opened"),
    ),
    *of_either_agreed(
        "data, or a second STREAM_FIN, after STREAM_FIN",
        (b"\x12\x01" + data(1, MARKER), "STREAM[DATA] on stream 1: the sender has sent STREAM_FIN before"),
        (b"\x12\x01" + data(1, b""), "STREAM[DATA] on stream 1: the sender has sent STREAM_FIN before"),
        (b"\x12\x01\x0b\x01\x00", "STREAM[DATA] on stream 1: the sender has sent STREAM_FIN before"),
        (b"\x12\x01\x12\x01", "STREAM_FIN on stream 1: the sender has sent STREAM_FIN before"),
    ),
    *of_either_agreed(
        "an increment of 0",
        (window(1, 0), "STREAM_WINDOW on stream 1: the increment must not be 0"),
        (RST_1 + window(1, 0), "STREAM_WINDOW on stream 1: the increment must not be 0"),
        (window(2, 0), "STREAM_WINDOW on stream 2: the increment must not be 0"),
    ),
    *of_either_agreed(
        "an increment that takes the credit above its limit",
        (
            window(1, 2**62 - 1),
            f"STREAM_WINDOW on stream 1: an increment of {2**62 - 1} takes the credit above {2**62 - 1}",
        ),
        (
            window(1, 2**62 - 1 - 16384) + window(1, 1),
            f"STREAM_WINDOW on stream 1: an increment of 1 takes the credit above {2**62 - 1}",
        ),
    ),
    *of_agreed(
        "server",
        "GOAWAY with a higher id than before",
        (goaway(5) + goaway(6), "GOAWAY on stream 0: the id 6 is higher than 5 in the one before"),
        (goaway(2**62 - 1) + goaway(0) + goaway(1), "GOAWAY on stream 0: the id 1 is higher than 0 in the one before"),
    ),
    *of(
        "client",
        "an id that was opened before",
        (b"\x0c\x01", "STREAM[OPEN] on stream 1: stream ids must be unique and increase"),
        (
            b"\x0e\x01" + number(len(MARKER)) + MARKER,
            "STREAM[OPEN] on stream 1: stream ids must be unique and increase",
        ),
        (OPEN_5 + b"\x0f\x01\x00", "STREAM[OPEN] on stream 1: stream ids must be unique and increase"),
        # Regardless of whether it is still open.
        (RST_1 + b"\x0c\x01", "STREAM[OPEN] on stream 1: stream ids must be unique and increase"),
    ),
    *of(
        "client",
        "an id that was skipped before",
        (OPEN_5 + b"\x0c\x04", "STREAM[OPEN] on stream 4: stream ids must increase, but 5 was opened before"),
        (OPEN_5 + b"\x0d\x02", "STREAM[OPEN] on stream 2: stream ids must increase, but 5 was opened before"),
    ),
    # Limits: CLOSE 5 instead of the ALERT.
    *of_either(
        "frames that carry nothing",
        (PADDING * 4, "PADDING on stream 0: more than {max_idle_frames} consecutive idle frames"),
        (data(1, b"") * 4, "STREAM[DATA] on stream 1: more than {max_idle_frames} consecutive idle frames"),
        (b"\x08\x01" * 4, "STREAM[] on stream 1: more than {max_idle_frames} consecutive idle frames"),
        (RST_1 * 5, "STREAM[RST] on stream 1: more than {max_idle_frames} consecutive idle frames"),
        config={"max_idle_frames": 3},
        code=CloseCode.LIMIT_EXCEEDED,
    ),
    *of(
        "server",
        "frames that carry nothing",
        (b"\x10\x01" * 4, "STREAM_ACK on stream 1: more than {max_idle_frames} consecutive idle frames"),
        config={"max_idle_frames": 3},
        code=CloseCode.LIMIT_EXCEEDED,
    ),
    *of_either_agreed(
        "frames that carry nothing",
        # The first one has granted what the stream had at its beginning.
        (window(1, 1) * 5, "STREAM_WINDOW on stream 1: more than {max_idle_frames} consecutive idle frames"),
        (RST_1 + window(1, 1) * 4, "STREAM_WINDOW on stream 1: more than {max_idle_frames} consecutive idle frames"),
        (RST_1 + b"\x12\x01" * 4, "STREAM_FIN on stream 1: more than {max_idle_frames} consecutive idle frames"),
        (reset(1, b"") * 5, "STREAM_RESET on stream 1: more than {max_idle_frames} consecutive idle frames"),
        config={"max_idle_frames": 3},
        code=CloseCode.LIMIT_EXCEEDED,
    ),
    *of_agreed(
        "server",
        "frames that carry nothing",
        (goaway(5) * 4, "GOAWAY on stream 0: more than {max_idle_frames} consecutive idle frames"),
        config={"max_idle_frames": 3},
        code=CloseCode.LIMIT_EXCEEDED,
    ),
    *of_either(
        "padding and nothing else",
        (PADDING * 3, "PADDING on stream 0: more than {max_idle_bytes} consecutive bytes of padding"),
        (frame(0x05, 0, bytes(51)), "PADDING on stream 0: more than {max_idle_bytes} consecutive bytes of padding"),
        config={"max_idle_bytes": 50},
        code=CloseCode.LIMIT_EXCEEDED,
    ),
    *(
        row
        for by, streams, config in BOTH_ROLES
        for row in of(
            by,
            "answers that are requested but not read",
            (b"\x07\x00" * (6 + 2 * streams + 1), "more than {answers} unread answers are queued"),
            config={"max_pending_control": 6, **config},
            code=CloseCode.LIMIT_EXCEEDED,
            unread=True,
        )
    ),
]


def ids(violation: Violation) -> str:
    return f"{violation.by}-{violation.name}".replace(" ", "_")


# Behaviour


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Collect all records of the package, at any level, and check that they contain no secret and no payload."""
    caplog.set_level(logging.DEBUG, "trioanytls")
    yield caplog
    secrets = [PASSWORD, hash_password(PASSWORD).hex(), repr(hash_password(PASSWORD))[2:-1], MARKER.decode()]
    records = caplog.get_records("call")
    assert records
    for record in records:
        said = f"{record.getMessage()} {record.args} {record.exc_text}"
        assert not [secret for secret in secrets if secret in said]


async def told(end: End, violation: Violation) -> list[tuple[int, int, object]]:
    """Return the data that the connection sends from the violation until it has closed the transport."""
    if violation.before == AGREED[violation.by]:
        end.peer.know(*EXTENSION_FRAMES)
    blocked = end.block() if violation.unread else None
    if violation.unread:
        # The transport holds one of the answers, and is blocked.
        await end.peer.send(b"\x07\x00")
        await trio.testing.wait_all_tasks_blocked()
    await end.peer.send(violation.sent)
    if violation.unread:
        await trio.testing.wait_all_tasks_blocked()
    if not violation.told.endswith("within auth_timeout"):
        await end.peer.send(BEHIND)
    if blocked is not None:
        await trio.testing.wait_all_tasks_blocked()
        blocked.set()
    # The peer does not close: the connection waits for that for close_timeout.
    return await end.peer.receive_all()  # type: ignore[return-value]  # as the original


async def check(end: End, violation: Violation, log: pytest.LogCaptureFixture) -> None:
    """Check that the peer gets the ALERT, the transport is closed, and the violation is logged once."""
    connection = end.connection
    sent = await told(end, violation)
    ends = [frame for frame in sent if frame[0] in (FrameType.ALERT, FrameType.CLOSE)]
    if violation.code is CloseCode.PROTOCOL_ERROR:
        assert ends == [(FrameType.ALERT, 0, violation.told.encode())]
    else:
        assert ends == [(FrameType.CLOSE, 0, violation.code)]
    # Nothing follows it, and `receive_all` has reached the end of the transport.
    assert sent[-1] is ends[0]
    await connection.wait_closed()
    reason = connection.close_reason
    assert reason is not None
    assert (reason.code, reason.reason) == (violation.code, violation.told)
    assert isinstance(reason.__cause__, trioanytls.ProtocolViolation)
    assert reason.__cause__.code is violation.code
    warnings = [record for record in log.records if record.levelno >= logging.WARNING]
    assert [(record.name, record.levelno) for record in warnings] == [("trioanytls.connection", logging.WARNING)]
    says = vars(warnings[0])
    where = f"connection {connection.connection_id}"
    if violation.by == "client":
        assert (says["connection"], says["peer"], says["user"]) == (connection.connection_id, "192.0.2.7:4711", USER)
        assert warnings[0].getMessage() == f"{where}, 192.0.2.7:4711, user {USER!r}: {violation.told}"
        assert end.service is not None
        assert end.service.counts.violations == 1
    else:
        assert (says["connection"], says["peer"], says["user"]) == (connection.connection_id, None, None)
        assert warnings[0].getMessage() == f"{where}: {violation.told}"


@pytest.mark.parametrize("violation", [row for row in VIOLATIONS if row.by == "client"], ids=ids)
async def test_a_client_is_told_of_its_violation_which_is_logged_once(
    violation: Violation, log: pytest.LogCaptureFixture, autojump_clock: Clock
) -> None:
    before = HELLO + b"\x0c\x01" + data(1, MARKER) if violation.before is None else violation.before
    async with server_that_heard(before, violation.settings) as end:
        await trio.testing.wait_all_tasks_blocked()
        assert not end.connection.closed
        await check(end, violation, log)


@pytest.mark.parametrize("violation", [row for row in VIOLATIONS if row.by == "server"], ids=ids)
async def test_a_server_is_told_of_its_violation_which_is_logged_once(
    violation: Violation, log: pytest.LogCaptureFixture, autojump_clock: Clock
) -> None:
    before = SERVER_NEGO if violation.before is None else violation.before
    async with client_that_heard(before, violation.settings, streams=1) as end:
        if before:
            await end.peer.send(data(1, MARKER))
            await trio.testing.wait_all_tasks_blocked()
        assert not end.connection.closed
        await check(end, violation, log)
        assert end.connection.server_padding_scheme is None


async def test_whoever_breaks_a_rule_over_tls_is_named_by_address(
    serving: Serving, client_context: ssl.SSLContext, log: pytest.LogCaptureFixture
) -> None:
    async with serving(users={USER: PASSWORD}) as port:
        transport = await trio.open_tcp_stream(HOST, port)
        address = transport.socket.getsockname()
        secured = await handshake(transport, client_context, timeout=10, server_hostname=HOST)
        peer = RawPeer(secured)
        await peer.send(HELLO, b"\x0c\x01", data(1, MARKER), b"\x0c\x01", BEHIND)
        answer = []
        while (received := await peer.receive()) is not None:
            answer.append(received)
            if received[0] == FrameType.ALERT:
                await secured.aclose()
                break
        assert answer[-1][2] == b"STREAM[OPEN] on stream 1: stream ids must be unique and increase"
    warnings = [record for record in log.records if record.levelno >= logging.WARNING]
    assert [vars(record)["peer"] for record in warnings] == [f"{HOST}:{address[1]}"]


# Texts


def test_every_text_names_its_frame_its_stream_and_its_rule() -> None:
    names = "|".join(re.escape(describe(kind)) for kind in range(0x15))
    for violation in VIOLATIONS:
        if violation.unread:
            # The answers to earlier frames are not read.
            continue
        assert re.fullmatch(rf"({names}) on stream \d+: .+|unknown frame type 0x[0-9a-f]+", violation.told)


def test_one_name_stands_for_one_rule() -> None:
    rules: dict[str, set[str]] = {}
    for violation in VIOLATIONS:
        rule = violation.text.partition(": ")[2] or violation.text
        rules.setdefault(violation.name, set()).add(re.sub(r"0x[0-9a-f]+|\d+|'[^']*'", "_", rule))
    assert [name for name, said in rules.items() if len(said) != 1] == []


def test_every_text_is_a_printable_line_and_short() -> None:
    for violation in VIOLATIONS:
        assert re.fullmatch("[ -~]{1,150}", violation.told)
        error = trioanytls.ProtocolViolation(violation.told)
        last_frame = close_reason.violated(error).last_frame(ClientProtocol(PASSWORD, PaddingScheme.DEFAULT))
        assert last_frame == frames.encode_alert(violation.told.encode())


printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E))
lines = st.sampled_from(["v=1", "client=a", "stop=3", "stop", "1=c", "1=", "="]) | printable
BLOCKS = st.lists(lines | st.builds("{}={}".format, lines, lines)).map("\n".join).map(str.encode) | st.binary()


@given(BLOCKS, st.sampled_from([0x01, 0x03, 0x04, 0x06]))
def test_whatever_a_block_says_its_text_is_a_printable_line_and_short(block: bytes, kind: int) -> None:
    by_client = kind == 0x03
    end = server_in(ConnectionState.WAIT_NEGO) if by_client else client_in(ConnectionState.OPEN)
    said = ""
    try:
        take(end, frame(kind, 0, block))
    except trioanytls.ProtocolViolation as error:
        said = str(error)
    assert re.fullmatch("[ -~]{0,200}", said)
    assert data_blocks.format_text(said) == said.encode()


@given(printable.map(str.encode), printable.map(str.encode), st.booleans())
def test_what_a_block_says_is_not_repeated(before: bytes, after: bytes, as_a_key: bool) -> None:
    wild = before + MARKER + after
    for line in [wild + b"=", wild + b"=1\n" + wild + b"=1"] if as_a_key else [b"stop=" + wild, b"0=" + wild]:
        for end, kind in (
            (server_in(ConnectionState.WAIT_NEGO), 0x03),
            (client_in(ConnectionState.OPEN), 0x04),
            (client_in(ConnectionState.OPEN), 0x06),
        ):
            with pytest.raises(trioanytls.ProtocolViolation) as caught:
                take(end, frame(kind, 0, b"stop=1\n" + line + b"\n"))
            assert MARKER.decode() not in str(caught.value)
            # Nor is it in the traceback with all causes.
            assert MARKER.decode() not in "".join(traceback.format_exception(caught.value))


# Completeness of the table

FIN_SENT = [StreamState.ESTABLISHED_FIN_SENT, StreamState.ESTABLISHED_FIN_RECEIVED]
SIDES: dict[Role, tuple[dict[ConnectionState, object], list[ConnectionState], list[StreamState]]] = {
    # By sender: the table of the other end, and the states of it in which frames arrive.
    "client": (
        dict(SERVER),
        [ConnectionState.WAIT_NEGO, ConnectionState.OPEN],
        [StreamState.IDLE, StreamState.OPENED, StreamState.ESTABLISHED, StreamState.CLOSED],
    ),
    "server": (
        dict(CLIENT),
        [ConnectionState.OPEN, ConnectionState.CONFIRMED],
        [StreamState.IDLE, StreamState.OPENING, StreamState.ESTABLISHED, StreamState.CLOSED],
    ),
}


@pytest.mark.parametrize("by", ROLES)
def test_every_rule_of_the_state_machines_is_in_the_table(by: Role) -> None:
    table, states, stream_states = SIDES[by]
    told = [row.told for row in VIOLATIONS if row.by == by]
    for state in states:
        for kind in FrameType:
            if kind in EXTENSION_FRAMES and state is ConnectionState.WAIT_NEGO:
                # The decoder does not know the frame yet.
                continue
            entries: list[Any] = [table[state][kind]]  # type: ignore[index]  # of a table
            if not isinstance(entries[0], str) and FrameType.STREAM <= kind < FrameType.GOAWAY:
                entries = [STREAM_WITH_FIN[stream_state][kind] for stream_state in stream_states + FIN_SENT]
            for rule in entries:
                if isinstance(rule, str):
                    text = rf"{re.escape(describe(kind))} on stream \d+: {re.escape(rule)}"
                    assert any(re.fullmatch(text, row) for row in told), f"{state!r}: {text}"


class Rules(ast.NodeVisitor):
    """Return the rules in the errors of a module, as patterns of their texts."""

    def __init__(self, path: Path) -> None:
        self.patterns: set[str] = set()
        self._tree = ast.parse(path.read_text(encoding="utf-8"))
        self._function: ast.AST = self._tree
        self.visit(self._tree)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        # The functions that write blocks, and the check of a server's own scheme, raise for the arguments of their own
        # caller.
        if not node.name.startswith(("format_", "check_for_")):
            before, self._function = self._function, node
            self.generic_visit(node)
            self._function = before

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]  # noqa: N815

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        called = ast.unparse(node.func)
        errors = "ProtocolViolation|LimitExceeded|VersionNotSupported|DataBlockError|SchemeError"
        if re.fullmatch(rf"({errors})(\.of)?|\w+\.violation", called) and node.args:
            self.patterns |= set(self._rules(node.args[-1]))

    def _rules(self, node: ast.expr) -> Iterator[str]:
        if isinstance(node, ast.Constant):
            yield re.escape(str(node.value))
        elif isinstance(node, ast.JoinedStr):
            yield "".join(
                re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+" for part in node.values
            )
        elif isinstance(node, ast.Name):
            # A text that the function has composed before.
            said = [
                other.value
                for other in ast.walk(self._function)
                if isinstance(other, ast.Assign) and ast.unparse(other.targets[0]) == node.id
            ]
            # Entries of the tables, and the arguments of `NegotiationKeys.violation`, are found elsewhere.
            assert said or node.id in ("after", "entry", "rule"), f"what is {node.id}?"
            for value in said:
                if node.id not in ("after", "entry"):
                    yield from self._rules(value)
        elif isinstance(node, ast.Call):
            # A function of the same module that returns the rule, or the text of an error raised elsewhere.
            called = ast.unparse(node.func)
            said = [
                statement.value
                for function in ast.walk(self._tree)
                if isinstance(function, ast.FunctionDef) and function.name == called
                for statement in ast.walk(function)
                if isinstance(statement, ast.Return) and statement.value is not None
            ]
            assert said or called in ("str", "data_blocks.redacted_rule"), f"what does {called} say?"
            for value in said:
                yield from self._rules(value)
        else:
            # The text of an error raised elsewhere, whole.
            assert ast.unparse(node) == "error.args[0]", f"what is {ast.unparse(node)}?"


def test_every_rule_of_the_package_is_in_the_table() -> None:
    # The rules of the legacy format have their own tests, in tests/protocol/legacy.
    legacy = PACKAGE / "_protocol" / "legacy"
    modules = [path for path in PACKAGE.rglob("*.py") if not path.is_relative_to(legacy)]
    patterns = {pattern: path.name for path in modules for pattern in Rules(path).patterns}
    # The modules found show that the search works.
    found = set(patterns.values())
    assert found == {
        "base.py",
        "client.py",
        "connection.py",
        "data_blocks.py",
        "end.py",
        "frame_decoder.py",
        "multiplexer.py",
        "negotiation.py",
        "padding_scheme.py",
        "reader.py",
        "server.py",
    }
    assert len(patterns) >= 30
    missing = [
        (module, pattern)
        for pattern, module in patterns.items()
        if not any(re.search(rf"(^|: ){pattern}$", row.told) for row in VIOLATIONS)
    ]
    assert missing == []


# The page


def rows_of_the_page(heading: str) -> list[list[str]]:
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return rows[2:]


def expected_rows() -> list[list[str]]:
    rows: dict[str, list[str]] = {}
    for violation in VIOLATIONS:
        names = {name: name for name in violation.config}
        # One example of each.
        if violation.name not in rows:
            ending = "ALERT" if violation.code is CloseCode.PROTOCOL_ERROR else f"CLOSE {violation.code.value}"
            text = violation.text.format(answers="max_pending_control + 2 * max_streams", **names)
            rows[violation.name] = [violation.name, violation.by, ending, f"`{text}`"]
        elif rows[violation.name][1] != violation.by:
            rows[violation.name][1] = "either"
    return [*rows.values()]


def test_the_page_has_every_violation() -> None:
    assert rows_of_the_page("Violations") == expected_rows()

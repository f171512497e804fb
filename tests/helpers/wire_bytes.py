"""Helpers for tests of the protocol: ways to split bytes, frames as bytes, and both ends in a given state.

Frames are written out byte by byte from the specification. Nothing in this file uses the package's encoders.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st

from trioanytls._protocol.anytls1.base import BaseProtocol
from trioanytls._protocol.anytls1.client import ClientProtocol
from trioanytls._protocol.anytls1.frame_decoder import FrameDecoder
from trioanytls._protocol.anytls1.server import ServerProtocol
from trioanytls._protocol.credentials import UserTable
from trioanytls._protocol.extensions import EXTENSIONS, MIN_WINDOW, Extension, ExtensionOffer
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._protocol.state_machine import ConnectionState

# Use the same examples in every run, so that a change passes or fails everywhere. With TRIOANYTLS_HYPOTHESIS=search in
# the environment, Hypothesis searches for new ones instead.
settings.register_profile("tests", deadline=None, derandomize=True, database=None)
settings.register_profile("search", deadline=None, max_examples=5000)
settings.load_profile(os.environ.get("TRIOANYTLS_HYPOTHESIS", "tests"))

# Pieces

Pieces = list[bytes]


def cut_at(data: bytes, positions: Iterable[int]) -> Pieces:
    """Split `data` at these positions."""
    return [data[start:end] for start, end in pairwise([0, *sorted(positions), len(data)])]


def byte_by_byte(data: bytes) -> Pieces:
    return cut_at(data, range(1, len(data)))


def ways(data: bytes) -> Iterator[Pieces]:
    """Yield `data` whole, byte by byte, with empty pieces between the bytes, and split in two at every position."""
    yield [data]
    yield byte_by_byte(data)
    yield [part for byte in byte_by_byte(data) for part in (b"", byte)] + [b""]
    for position in range(1, len(data)):
        yield cut_at(data, [position])


def cuts(data: bytes, most: int = 12) -> st.SearchStrategy[Pieces]:
    """Draw up to `most` cuts anywhere, including empty pieces."""
    return st.lists(st.integers(0, len(data)), max_size=most).map(lambda positions: cut_at(data, positions))


# Frames


def number(value: int, length: int | None = None) -> bytes:
    """Encode an integer of RFC 9000 section 16, in the shortest form or in `length` bytes."""
    if length is None:
        length = next(size for size in (1, 2, 4, 8) if value < 1 << (8 * size - 2))
    return (value | {1: 0, 2: 1, 4: 2, 8: 3}[length] << (8 * length - 2)).to_bytes(length, "big")


def frame(kind: int, stream_id: int = 0, payload: bytes | None = None) -> bytes:
    """Encode a frame without payload, or with a length-prefixed one."""
    header = number(kind) + number(stream_id)
    return header if payload is None else header + number(len(payload)) + payload


#: The test vector of AUTH: password `password`, padding of 30 zero bytes.
AUTH = bytes.fromhex("00005e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d81e") + bytes(30)
DEFAULT_DIGEST = "75cff2ad89aadf5e257059ee571ebe11"
CLIENT_NEGO_BLOCK = f"v=1\nclient=other/2.0\npadding-md5={DEFAULT_DIGEST}\n".encode()
CLIENT_NEGO = frame(0x03, 0, CLIENT_NEGO_BLOCK)
SERVER_NEGO = bytes.fromhex("040604763d310a")
PINGPONG = bytes.fromhex("0700")
OPEN_1 = bytes.fromhex("0c01")
HELLO_1 = bytes.fromhex("0a010568656c6c6f")
RST_1 = bytes.fromhex("0901")
ACK_1 = bytes.fromhex("1001")
# The frames of the extensions.
FIN_1 = bytes.fromhex("1201")
RESET_1 = bytes.fromhex("13010307") + b"refused"
WINDOW_1 = bytes.fromhex("110180010000")
GOAWAY_5 = bytes.fromhex("140005")

#: (frame type or event, stream id, payload)
Report = tuple[int, int, object]


def joined(reports: Iterable[Report]) -> list[Report]:
    """Join the events that depend on the cuts: the pieces of DATA, and the repeated events of PADDING."""
    result: list[Report] = []
    for kind, stream_id, payload in reports:
        if result and result[-1][:2] == (kind, stream_id):
            if kind == 0x0A:
                result[-1] = kind, stream_id, result[-1][2] + payload  # type: ignore[operator]
                continue
            if kind == 0x05:
                continue
        result.append((kind, stream_id, payload))
    return result


def decoded(pieces: Iterable[bytes], extension_frames: Iterable[int] = ()) -> list[Report]:
    """Return the frames that new decoders yield, with these frames of extensions in force.

    One of them joins the payloads of DATA, and must otherwise yield and count the same.
    """
    outcomes = []
    for join_data in (True, False):
        decoder = FrameDecoder(join_data=join_data)
        decoder.extension_frames = frozenset(extension_frames)
        reports = joined(report for piece in pieces for report in decoder.decode(piece))
        outcomes.append((reports, decoder.frames, decoder.payload_bytes))
    assert outcomes[0] == outcomes[1]
    return outcomes[0][0]


# The two ends

_P = TypeVar("_P", bound=BaseProtocol)

PASSWORD = "password"
USERS = UserTable({"alice": PASSWORD, "bob": "builder"})


def take(protocol: BaseProtocol, *pieces: bytes) -> list[Report]:
    """Feed the pieces. Return the events, with pieces of DATA joined."""
    return joined(event for piece in pieces for event in protocol.receive(piece))


def extension_lines(extensions: Collection[str], window: int = MIN_WINDOW) -> bytes:
    """Return the lines of a NEGO frame that name these extensions."""
    if not extensions:
        return b""
    lines = f"ext={','.join(name for name in EXTENSIONS if name in extensions)}\n"
    if "window" in extensions:
        lines += f"window={window}\n"
    return lines.encode()


def client_nego(extensions: Collection[str]) -> bytes:
    """Return the NEGO of a client that offers these extensions."""
    return frame(0x03, 0, CLIENT_NEGO_BLOCK + extension_lines(extensions))


def server_nego(extensions: Collection[str]) -> bytes:
    """Return the NEGO of a server that accepts these extensions."""
    return frame(0x04, 6, b"v=1\n" + extension_lines(extensions))


def client_in(
    state: ConnectionState,
    scheme: PaddingScheme = PaddingScheme.DEFAULT,
    extensions: Collection[Extension] = (),
) -> ClientProtocol:
    """Create a client in this state, without streams. It has not called `leave` if the state can be reached without.

    It offers the extensions. They are in force if the negotiation is done.
    """
    client = ClientProtocol(PASSWORD, scheme, offer=ExtensionOffer(frozenset(extensions)))
    if state is not ConnectionState.TLS:
        client.handshake_done()
    if state is ConnectionState.CONFIRMED:
        take(client, server_nego(extensions))
    return _ended(client, state)


def server_in(
    state: ConnectionState,
    scheme: PaddingScheme = PaddingScheme.DEFAULT,
    extensions: Collection[Extension] = (),
) -> ServerProtocol:
    """Create a server in this state, like `client_in`, without replies left to send."""
    server = ServerProtocol(USERS, scheme, offer=ExtensionOffer(frozenset(extensions)))
    if state is ConnectionState.TLS:
        return server
    server.handshake_done()
    if state is not ConnectionState.WAIT_AUTH:
        take(server, AUTH)
    if state not in (ConnectionState.WAIT_AUTH, ConnectionState.WAIT_NEGO):
        take(server, client_nego(extensions))
        server.replies.clear()
    return _ended(server, state)


def _ended(protocol: _P, state: ConnectionState) -> _P:
    if state in (ConnectionState.CLOSING, ConnectionState.CLOSED):
        protocol.leave()
    if state is ConnectionState.CLOSED:
        protocol.transport_closed()
    assert protocol.state is state
    return protocol


def client(extensions: Collection[Extension] = ()) -> ClientProtocol:
    """Create a client with an established connection, with these extensions in force and no streams."""
    return client_in(ConnectionState.CONFIRMED, extensions=extensions)


def server(extensions: Collection[Extension] = ()) -> ServerProtocol:
    """Create a server with an established connection, with these extensions in force and no streams."""
    return server_in(ConnectionState.OPEN, extensions=extensions)


class CountingBytearray(bytearray):
    """Counts the bytes that are copied out of it."""

    copied = 0

    def __bytes__(self) -> bytes:
        self.copied += len(self)
        return bytes(memoryview(self))

    def __getitem__(self, key: Any) -> Any:
        got = super().__getitem__(key)
        self.copied += len(got) if isinstance(key, slice) else 1
        return got

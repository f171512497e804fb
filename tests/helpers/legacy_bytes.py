"""Frames of the legacy format as bytes, written out from the specification without the encoders of the package."""

from __future__ import annotations

import hashlib

WASTE, SYN, PSH, FIN, SETTINGS, ALERT, UPDATE, SYNACK, HEART_REQUEST, HEART_RESPONSE, SERVER_SETTINGS = range(11)

PASSWORD = "password"
#: The vector of the preamble: password `password`, 30 bytes of padding.
PREAMBLE = bytes.fromhex("5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8001e") + bytes(30)
DEFAULT_SCHEME = b"""stop=8
0=30-30
1=100-400
2=400-500,c,500-1000,c,500-1000,c,500-1000,c,500-1000
3=9-9,500-1000
4=500-1000
5=500-1000
6=500-1000
7=500-1000"""
DEFAULT_DIGEST = "75cff2ad89aadf5e257059ee571ebe11"


def frame(command: int, stream_id: int = 0, data: bytes = b"") -> bytes:
    return bytes([command]) + stream_id.to_bytes(4, "big") + len(data).to_bytes(2, "big") + data


def waste(size: int) -> bytes:
    return frame(WASTE, 0, bytes(size))


def syn(stream_id: int) -> bytes:
    return frame(SYN, stream_id)


def psh(stream_id: int, data: bytes) -> bytes:
    return frame(PSH, stream_id, data)


def fin(stream_id: int) -> bytes:
    return frame(FIN, stream_id)


def synack(stream_id: int, text: str = "") -> bytes:
    return frame(SYNACK, stream_id, text.encode())


def settings(*lines: str) -> bytes:
    return frame(SETTINGS, 0, "\n".join(lines).encode())


def md5(scheme: bytes) -> str:
    return hashlib.md5(scheme, usedforsecurity=False).hexdigest()


#: What sing-box 1.14.4 sends: the client's name is empty.
CLIENT_SETTINGS = settings(f"padding-md5={DEFAULT_DIGEST}", "client=", "v=2")
VERSION_1 = settings("v=1", "client=old/1", f"padding-md5={DEFAULT_DIGEST}")
HELLO = PREAMBLE + CLIENT_SETTINGS
SERVER_SETTINGS_2 = bytes.fromhex("0a000000000003763d32")

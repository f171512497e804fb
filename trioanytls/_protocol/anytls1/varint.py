"""Variable-length integers (spec: Appendix C; RFC 9000 section 16).

The two most significant bits of the first byte give the length of the encoding as a power of two, the others
hold the value in network byte order. One value has up to four encodings: we write the shortest, and read any
(protocol: 1). The shaper makes use of the longer ones to hit a size exactly.
"""

from __future__ import annotations

#: The largest value that the eight-byte form holds.
MAX_VALUE = (1 << 62) - 1

#: The lengths an encoding can have, in bytes, shortest first.
LENGTHS = (1, 2, 4, 8)

#: length of the encoding -> the largest value it can hold.
CAPACITY = {length: (1 << (8 * length - 2)) - 1 for length in LENGTHS}

# length of the encoding -> the length bits in their place, to be or-ed into the big-endian integer.
_LENGTH_BITS = {length: code << (8 * length - 2) for code, length in enumerate(LENGTHS)}


def encode(value: int, length: int | None = None) -> bytes:
    """Encode `value`, in the shortest form or in the one of `length` bytes (1, 2, 4 or 8).

    Raises:
      ValueError: `value` is negative, above 2**62 - 1, or too large for `length` bytes.
    """
    if length is None:
        # What stream ids and lengths nearly always are.
        if 0 <= value < 0x40:
            return value.to_bytes(1)
        if 0 <= value < 0x4000:
            return (value | 0x4000).to_bytes(2)
        length = next((size for size in LENGTHS if value <= CAPACITY[size]), 8)
    elif length not in CAPACITY:
        raise ValueError(f"a variable-length integer has 1, 2, 4 or 8 bytes, not {length}")
    if not 0 <= value <= CAPACITY[length]:
        raise ValueError(f"{value} does not fit in a variable-length integer of {length} bytes")
    return (value | _LENGTH_BITS[length]).to_bytes(length)


def decode(data: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, int] | None:
    """Read the integer at `offset`: its value and the offset behind it, or None where `data` ends before it does."""
    if offset >= len(data):
        return None
    end = offset + (1 << (data[offset] >> 6))
    if end > len(data):
        return None
    return int.from_bytes(data[offset:end]) & CAPACITY[end - offset], end


def lower_bound(data: bytes | bytearray | memoryview, offset: int = 0) -> int:
    """The smallest value that an integer whose encoding begins at `offset` can have, however it goes on.

    Lets a reader refuse a number that is out of bounds before its last byte has arrived.
    """
    if offset >= len(data):
        return 0
    length = 1 << (data[offset] >> 6)
    known = data[offset : offset + length]
    return (int.from_bytes(known) << 8 * (length - len(known))) & CAPACITY[length]

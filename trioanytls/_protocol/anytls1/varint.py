"""Variable-length integers (spec: Appendix C; RFC 9000 section 16).

The two most significant bits of the first byte encode the length as a power of two. The other bits are the value in
network byte order. One value has up to four encodings: we write the shortest, and accept all (protocol: 1). The shaper
uses the longer ones to reach a size exactly.
"""

from __future__ import annotations

#: The largest value of the eight-byte form.
MAX_VALUE = (1 << 62) - 1

#: The lengths of an encoding, in bytes, shortest first.
LENGTHS = (1, 2, 4, 8)

#: Length of the encoding -> the largest value that fits.
CAPACITY = {length: (1 << (8 * length - 2)) - 1 for length in LENGTHS}

# Length of the encoding -> its length bits, shifted so that they can be or-ed into the integer.
_LENGTH_BITS = {length: code << (8 * length - 2) for code, length in enumerate(LENGTHS)}


def encode(value: int, length: int | None = None) -> bytes:
    """Encode `value` in the shortest form, or in `length` bytes (1, 2, 4 or 8).

    Raises:
      ValueError: `value` is negative, above 2**62 - 1, or too large for `length` bytes.
    """
    if length is None:
        # The fast path: nearly all stream ids and lengths.
        if 0 <= value < 0x40:
            return value.to_bytes(1)
        if 0 <= value < 0x4000:
            return (value | 0x4000).to_bytes(2)
        length = next((size for size in LENGTHS if value <= CAPACITY[size]), 8)
    elif length not in CAPACITY:
        raise ValueError(f"the length of a variable-length integer must be 1, 2, 4 or 8 bytes, not {length}")
    if not 0 <= value <= CAPACITY[length]:
        raise ValueError(f"{value} does not fit in a variable-length integer of {length} bytes")
    return (value | _LENGTH_BITS[length]).to_bytes(length)


def decode(data: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, int] | None:
    """Decode the integer at `offset`. Return its value and the offset after it, None if it is incomplete."""
    if offset >= len(data):
        return None
    end = offset + (1 << (data[offset] >> 6))
    if end > len(data):
        return None
    return int.from_bytes(data[offset:end]) & CAPACITY[end - offset], end


def lower_bound(data: bytes | bytearray | memoryview, offset: int = 0) -> int:
    """Return the smallest value that the integer at `offset` can still have, if it is incomplete.

    It allows a decoder to reject an integer that is too large before its last byte has arrived.
    """
    if offset >= len(data):
        return 0
    length = 1 << (data[offset] >> 6)
    known = data[offset : offset + length]
    return (int.from_bytes(known) << 8 * (length - len(known))) & CAPACITY[length]

"""Bytes that only look like a conversation, each the same for the same number."""

from __future__ import annotations

import random

from ..helpers import wire_bytes

#: What a client says behind AUTH, with something of everything that it may say.
CONVERSATION = b"".join(
    [
        wire_bytes.CLIENT_NEGO,
        wire_bytes.OPEN_1,
        wire_bytes.HELLO_1,
        wire_bytes.PINGPONG,
        wire_bytes.frame(0x05, 0, bytes(100)),
        wire_bytes.frame(0x0F, 2, b"open, data and reset"),
        wire_bytes.frame(0x0C, 70),
        wire_bytes.frame(0x0A, 70, bytes(300)),
        wire_bytes.frame(0x08, 70),
        wire_bytes.RST_1,
        wire_bytes.frame(0x02, 0) + wire_bytes.number(0),
    ]
)
#: What a server says.
ANSWERS = b"".join(
    [
        wire_bytes.SERVER_NEGO,
        wire_bytes.ACK_1,
        wire_bytes.HELLO_1,
        wire_bytes.PINGPONG,
        wire_bytes.frame(0x05, 0, bytes(100)),
        wire_bytes.frame(0x06, 0, b"stop=3\n0=30-30\n1=100-400,c,9-9\n"),
        wire_bytes.RST_1,
        wire_bytes.frame(0x01, 0, b"good bye"),
    ]
)


def garbage(number: int, conversation: bytes) -> bytes:
    """One of three sorts in turn: nothing but chance, a conversation with mistakes, one that breaks off."""
    draw = random.Random(number)
    if number % 3 == 0:
        return draw.randbytes(draw.choice([1, 3, 40, 500, 5000]))
    if number % 3 == 1:
        return mutated(conversation, draw)
    cut = conversation[: draw.randrange(1, len(conversation))]
    # Sometimes something follows that fills up what was announced, and goes on.
    return cut + draw.randbytes(draw.choice([0, 0, 10, 1000]))


def mutated(conversation: bytes, draw: random.Random) -> bytes:
    """With one to eight mistakes: bytes changed, left out, put in, and parts that come twice."""
    data = bytearray(conversation)
    for _ in range(draw.randint(1, 8)):
        at = draw.randrange(len(data))
        to = at + draw.choice([1, 2, 4, 50])
        match draw.randrange(4):
            case 0:
                data[at] = draw.randrange(256)
            case 1 if at:
                del data[at:to]
            case 2:
                data[at:at] = draw.randbytes(to - at)
            case _:
                data[at:at] = data[at:to]
    return bytes(data)

"""Bytes that only look like a conversation, each the same for the same number."""

from __future__ import annotations

import random

from tests import _feed

#: What a client says behind AUTH, with something of everything that it may say.
CONVERSATION = b"".join(
    [
        _feed.CLIENT_NEGO,
        _feed.OPEN_1,
        _feed.HELLO_1,
        _feed.PINGPONG,
        _feed.frame(0x05, 0, bytes(100)),
        _feed.frame(0x0F, 2, b"open, data and reset"),
        _feed.frame(0x0C, 70),
        _feed.frame(0x0A, 70, bytes(300)),
        _feed.frame(0x08, 70),
        _feed.RST_1,
        _feed.frame(0x02, 0) + _feed.number(0),
    ]
)
#: What a server says.
ANSWERS = b"".join(
    [
        _feed.SERVER_NEGO,
        _feed.ACK_1,
        _feed.HELLO_1,
        _feed.PINGPONG,
        _feed.frame(0x05, 0, bytes(100)),
        _feed.frame(0x06, 0, b"stop=3\n0=30-30\n1=100-400,c,9-9\n"),
        _feed.RST_1,
        _feed.frame(0x01, 0, b"good bye"),
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

"""Random bytes that resemble a conversation. The same number always yields the same bytes."""

from __future__ import annotations

import random

from ..helpers import wire_bytes

#: Valid data from a client after AUTH, with all its types of frames.
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
#: Valid data from a server.
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

_EXTENSIONS = ("fin", "goaway", "reset", "window")
#: The same with the extensions in force.
EXTENDED_CONVERSATION = b"".join(
    [
        wire_bytes.client_nego(_EXTENSIONS),
        wire_bytes.OPEN_1,
        wire_bytes.WINDOW_1,
        wire_bytes.HELLO_1,
        wire_bytes.FIN_1,
        wire_bytes.frame(0x0C, 2) + wire_bytes.frame(0x0A, 2, bytes(300)),
        wire_bytes.frame(0x11, 2) + wire_bytes.number(300),
        wire_bytes.frame(0x13, 2) + wire_bytes.number(8) + wire_bytes.number(4) + b"idle",
        wire_bytes.PINGPONG,
        wire_bytes.RST_1,
        wire_bytes.frame(0x02, 0) + wire_bytes.number(0),
    ]
)
EXTENDED_ANSWERS = b"".join(
    [
        wire_bytes.server_nego(_EXTENSIONS),
        wire_bytes.ACK_1,
        wire_bytes.WINDOW_1,
        wire_bytes.HELLO_1,
        wire_bytes.frame(0x14, 0) + wire_bytes.number(2**62 - 1),
        wire_bytes.PINGPONG,
        wire_bytes.GOAWAY_5,
        wire_bytes.FIN_1,
        wire_bytes.RESET_1,
        wire_bytes.frame(0x02, 0) + wire_bytes.number(6),
    ]
)


def garbage(number: int, conversation: bytes) -> bytes:
    """Return one of three kinds in turn: random bytes, a conversation with mistakes, or an incomplete one."""
    draw = random.Random(number)
    if number % 3 == 0:
        return draw.randbytes(draw.choice([1, 3, 40, 500, 5000]))
    if number % 3 == 1:
        return mutated(conversation, draw)
    cut = conversation[: draw.randrange(1, len(conversation))]
    # Sometimes, more bytes follow that complete the announced payload and continue.
    return cut + draw.randbytes(draw.choice([0, 0, 10, 1000]))


def mutated(conversation: bytes, draw: random.Random) -> bytes:
    """Make one to eight mistakes: change, remove or insert bytes, or repeat parts."""
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

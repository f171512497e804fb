"""The layout of legacy frames, by the vectors of what real programs send (legacy: 10)."""

from __future__ import annotations

import pytest

from trioanytls._protocol.legacy import frames
from trioanytls._protocol.legacy.frames import Command

ADDRESS = bytes.fromhex("017f0000010050")

VECTORS = {
    "SYN 1": (frames.encode(Command.SYN, 1), "01 00000001 0000"),
    'PSH 1 "hello"': (frames.encode(Command.PSH, 1, b"hello"), "02 00000001 0005 68656c6c6f"),
    "PSH 1 127.0.0.1:80": (frames.encode(Command.PSH, 1, ADDRESS), "02 00000001 0007 01 7f000001 0050"),
    "FIN 1": (frames.encode(Command.FIN, 1), "03 00000001 0000"),
    'Alert "bad"': (frames.encode(Command.ALERT, data=b"bad"), "05 00000000 0003 626164"),
    "SYNACK 1": (frames.encode(Command.SYNACK, 1), "07 00000001 0000"),
    'SYNACK 1 "bad"': (frames.encode(Command.SYNACK, 1, b"bad"), "07 00000001 0003 626164"),
    "HeartRequest": (frames.encode(Command.HEART_REQUEST), "08 00000000 0000"),
    "HeartResponse": (frames.encode(Command.HEART_RESPONSE), "09 00000000 0000"),
    "ServerSettings": (frames.encode(Command.SERVER_SETTINGS, data=b"v=2"), "0a 00000000 0003 763d32"),
    "Waste of 9": (frames.encode_waste(9), "00 00000000 0009" + " 00" * 9),
    "Waste of 9, by its size": (frames.encode_waste_of_size(16), "00 00000000 0009" + " 00" * 9),
    "the largest id": (frames.encode(Command.SYN, frames.MAX_STREAM_ID), "01 ffffffff 0000"),
}


@pytest.mark.parametrize(("frame", "vector"), VECTORS.values(), ids=VECTORS.keys())
def test_a_frame_is_what_real_programs_send(frame: bytes, vector: str) -> None:
    assert frame == bytes.fromhex(vector)


def test_a_data_frame_is_its_prefix_its_length_and_its_data() -> None:
    data = bytes(range(256)) * 255
    frame = frames.data_prefix(7) + frames.encode_length(len(data)) + data
    assert frame == frames.encode(Command.PSH, 7, data)
    assert len(frame) == frames.HEADER_SIZE + len(data)


def test_the_longest_data_fits_and_a_longer_one_does_not() -> None:
    assert len(frames.encode(Command.PSH, 1, bytes(frames.MAX_DATA))) == 7 + 65535
    with pytest.raises(OverflowError):
        frames.encode(Command.PSH, 1, bytes(frames.MAX_DATA + 1))


@pytest.mark.parametrize(("command", "name"), [(0, "Waste"), (1, "SYN"), (7, "SYNACK"), (10, "ServerSettings")])
def test_commands_are_named_as_the_field_names_them(command: int, name: str) -> None:
    assert frames.describe(command) == name


@pytest.mark.parametrize("command", [11, 200, 255])
def test_a_command_that_does_not_exist_has_a_name_for_texts(command: int) -> None:
    assert frames.describe(command) == "unknown command"

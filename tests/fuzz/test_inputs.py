"""The fuzzer works: its initial inputs pass, and it finds faults."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trioanytls._protocol.state_machine import StreamState

from ..helpers import legacy_bytes
from ..helpers.wire_bytes import FIN_1, HELLO_1, OPEN_1, PINGPONG, WINDOW_1, frame, number
from . import _inputs
from ._pair import Divergence, LegacyPair, Pair, check_memory

ROOT = Path(__file__).parents[2]


def test_what_the_fuzzer_begins_with_passes() -> None:
    for seed in _inputs.seeds():
        _inputs.one_input(seed)


@pytest.mark.parametrize("target", range(len(_inputs.TARGETS)))
def test_there_is_something_to_begin_with_for_every_target(target: int) -> None:
    assert any(seed[0] == target for seed in _inputs.seeds())


def test_short_inputs_are_inputs() -> None:
    for first in range(256):
        for rest in (b"", b"\x00", b"\xff", b"\x05\xc0"):
            _inputs.one_input(bytes([first]) + rest)


def test_a_replay_needs_no_atheris() -> None:
    command = [sys.executable, "-m", "tests.fuzz.fuzz_protocol", "--replay", "0200" + OPEN_1.hex()]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)


def test_an_answer_that_is_missing_is_seen() -> None:
    pair = Pair.of_server("OPEN")
    pair.end.ping()
    with pytest.raises(Divergence, match="reported"):
        pair.feed(PINGPONG)


def test_an_offence_that_is_not_noticed_is_seen() -> None:
    pair = Pair.of_server("OPEN")
    pair.end.opened_ids.add(1)
    with pytest.raises(Divergence, match="not noticed"):
        pair.feed(HELLO_1)


def test_an_unjustified_error_is_seen() -> None:
    pair = Pair.of_server("OPEN")
    pair.model.opened.add(1)
    with pytest.raises(Divergence, match="raised"):
        pair.feed(HELLO_1)


def test_a_stream_in_another_state_is_seen() -> None:
    pair = Pair.of_server("OPEN")
    pair.feed(OPEN_1)
    pair.end.streams[1] = StreamState.ESTABLISHED
    with pytest.raises(Divergence, match="streams"):
        pair.feed(PINGPONG)
    with pytest.raises(Divergence, match="acknowledge"):
        pair.acknowledge(1)


def test_an_extension_that_is_not_in_force_is_seen() -> None:
    pair = Pair.of_server("OPEN", extensions=("fin", "window"))
    pair.end.extensions = frozenset({"fin"})
    with pytest.raises(Divergence, match="extensions"):
        pair.feed(PINGPONG)


def test_an_end_of_a_stream_that_is_missed_is_seen() -> None:
    pair = Pair.of_server("OPEN", extensions=["fin"])
    pair.feed(OPEN_1)
    pair.feed(FIN_1)
    with pytest.raises(Divergence, match="close_stream"):
        # Accepted by the end alone: closing it is no refusal.
        pair.end.acknowledge(1)
        pair.close_stream(1)


def test_a_frame_of_an_extension_that_is_not_in_force_is_seen() -> None:
    pair = Pair.of_client("CONFIRMED", ["fin"])
    pair.open_stream()
    pair.end.decoder.extension_frames |= {0x11}
    with pytest.raises(Divergence, match=r"not noticed|reported"):
        pair.feed(WINDOW_1)


def test_bytes_that_are_lost_on_the_way_to_a_fallback_are_seen() -> None:
    pair = Pair.of_server("OPEN")
    pair.feed(b"\x0a")
    pair.model.received.insert(0, 0)
    with pytest.raises(Divergence, match="unconsumed"):
        pair.feed(b"\x01\x00")


def test_memory_that_grows_is_seen() -> None:
    pair = Pair.of_server("OPEN")
    # A payload of the maximum size without its last byte.
    pair.feed(b"\x01\x00" + number(65536) + b"x" * 65535)
    pair.end.decoder._kept += bytes(100)
    with pytest.raises(Divergence, match="keeps"):
        check_memory(pair.end, 0)


def test_a_difference_between_whole_and_pieces_is_seen() -> None:
    with pytest.raises(Divergence, match="in pieces"):
        _inputs.compare_pieces(lambda pieces: (len(pieces),), b"\x01", frame(0x01, 0, b"bad"))


def test_a_legacy_answer_that_is_missing_is_seen() -> None:
    pair = LegacyPair.of_server("OPEN")
    pair.end._handlers.pop(legacy_bytes.HEART_REQUEST)
    with pytest.raises(Divergence, match="replies"):
        pair.feed(legacy_bytes.frame(legacy_bytes.HEART_REQUEST))


def test_a_legacy_stream_that_is_not_open_is_seen() -> None:
    pair = LegacyPair.of_client("CONFIRMED")
    pair.end.streams[1] = StreamState.ESTABLISHED
    with pytest.raises(Divergence, match="reported"):
        pair.feed(legacy_bytes.psh(1, b"x"))


def test_an_unknown_legacy_command_is_no_action_of_the_application() -> None:
    """Found by the fuzzer: the actions of the application have numbers that are commands on the wire."""
    for command in range(11, 256):
        pair = LegacyPair.of_server("OPEN")
        pair.feed(legacy_bytes.frame(command, 1) + legacy_bytes.syn(2) + legacy_bytes.frame(command, 2))
        assert pair.end.streams.keys() == {2}


def test_a_format_that_is_not_chosen_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_inputs, "_selected", lambda _pieces: (None, True, b""))
    with pytest.raises(Divergence, match="chosen"):
        _inputs.one_port(b"\x00" + legacy_bytes.HELLO)

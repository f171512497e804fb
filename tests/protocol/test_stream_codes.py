"""The reasons for which a stream is refused or reset (extensions: 4)."""

from __future__ import annotations

import pytest

from trioanytls import StreamCode
from trioanytls._protocol.stream_codes import NO_REASON, StreamReason


def test_the_codes_are_those_of_the_page() -> None:
    assert [code.name for code in sorted(StreamCode)] == [
        "NOT_GIVEN",
        "GENERAL_FAILURE",
        "NOT_ALLOWED",
        "CONNECTION_REFUSED",
        "HOST_UNREACHABLE",
        "NETWORK_UNREACHABLE",
        "TIMED_OUT",
        "NOT_SUPPORTED",
        "IDLE",
        "STALLED",
        "LIMIT",
        "SHUTTING_DOWN",
        "INTERNAL_ERROR",
    ]
    assert [code.value for code in sorted(StreamCode)] == list(range(13))


@pytest.mark.parametrize(("value", "code"), [*((int(code), code) for code in StreamCode), (13, 1), (2**62 - 1, 1)])
def test_other_codes_count_as_a_general_failure(value: int, code: int) -> None:
    assert StreamCode.from_wire(value) == code


def test_a_reason_without_code_and_text_is_none() -> None:
    assert not NO_REASON
    assert StreamReason(StreamCode.IDLE)
    assert StreamReason(text="why")

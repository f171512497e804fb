"""The token bucket."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from trioanytls._server.rate_limit import TokenBucket


def test_a_bucket_gives_its_rate_at_once_and_then_a_part_of_it_at_a_time() -> None:
    bucket = TokenBucket(4)
    assert [bucket.take(100) for _ in range(6)] == [True] * 4 + [False] * 2
    assert [bucket.take(100.25) for _ in range(2)] == [True, False]
    assert [bucket.take(100.75) for _ in range(3)] == [True, True, False]
    # No more than that accumulates.
    assert [bucket.take(1000) for _ in range(5)] == [True] * 4 + [False]
    # A time in the past changes nothing.
    assert [bucket.take(now) for now in (1001, 1000, 900, 1001, 1001)] == [True] * 4 + [False]


def test_a_bucket_without_a_rate_gives_any_number() -> None:
    bucket = TokenBucket(math.inf)
    assert all(bucket.take(0) for _ in range(100_000))


@given(
    st.floats(1, 20),
    st.lists(st.tuples(st.floats(0, 3) | st.sampled_from([0, 0.1, 1]), st.integers(0, 30)), max_size=8),
)
def test_a_bucket_gives_no_more_than_its_rate(rate: float, steps: list[tuple[float, int]]) -> None:
    bucket = TokenBucket(rate)
    now = 1000.0
    given_at: list[float] = []
    for pause, tries in steps:
        now += pause
        granted = sum(bucket.take(now) for _ in range(tries))
        given_at += [now] * granted
        # After a pause of one second, the first streams are not refused.
        if pause >= 1.001:
            assert granted >= min(tries, int(rate))
    for start, first in enumerate(given_at):
        for end, last in enumerate(given_at[start:], start + 1):
            # In no second more than the rate, in addition to the burst.
            assert end - start <= rate + (last - first) * rate + 1e-6

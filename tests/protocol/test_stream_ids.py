"""The set of stream ids that were ever opened, in bounded memory (protocol: 5)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trioanytls._protocol.stream_ids import OpenedStreamIds

LAST = 2**62 - 1


def test_nothing_is_opened_at_first() -> None:
    ids = OpenedStreamIds()
    assert (ids.highest, ids.runs) == (0, 0)
    for stream_id in (0, 1, 6, LAST):
        assert stream_id not in ids


def test_ids_without_gaps_are_one_run_however_many() -> None:
    ids = OpenedStreamIds()
    for stream_id in range(1, 10_001):
        ids.add(stream_id)
    assert (ids.highest, ids.runs) == (10_000, 1)
    assert 0 not in ids
    assert 1 in ids
    assert 10_000 in ids
    assert 10_001 not in ids


def test_skipped_ids_are_not_opened() -> None:
    ids = OpenedStreamIds()
    for stream_id in (2, 3, 7, LAST):
        ids.add(stream_id)
    assert (ids.highest, ids.runs) == (LAST, 3)
    assert [stream_id for stream_id in range(10) if stream_id in ids] == [2, 3, 7]
    assert LAST in ids
    assert LAST - 1 not in ids


def test_memory_is_bounded_for_any_gaps() -> None:
    ids = OpenedStreamIds()
    for stream_id in range(1, 200_000, 2):
        ids.add(stream_id)
        assert ids.runs <= 1024
    assert all(stream_id in ids for stream_id in range(1, 200_000, 2))
    assert 200_000 not in ids
    # The newest ones are still distinguished.
    assert not any(stream_id in ids for stream_id in range(199_998, 198_000, -2))


def test_beyond_the_bound_the_two_oldest_runs_become_one() -> None:
    ids = OpenedStreamIds(max_runs=3)
    for stream_id in (1, 5, 10, 20):
        ids.add(stream_id)
    assert ids.runs == 3
    assert [stream_id for stream_id in range(25) if stream_id in ids] == [1, 2, 3, 4, 5, 10, 20]


GAPS = st.lists(st.integers(1, 4) | st.integers(1, 2**40), max_size=40)


@given(GAPS, st.integers(2, 50))
def test_it_is_a_set_as_long_as_the_runs_suffice_and_never_less(gaps: list[int], max_runs: int) -> None:
    ids = OpenedStreamIds(max_runs)
    opened: set[int] = set()
    runs = highest = 0
    for gap in gaps:
        runs += gap > 1 or not opened
        highest += gap
        ids.add(highest)
        opened.add(highest)
        assert ids.highest == highest
        assert ids.runs == min(runs, max_runs)
    assert all(stream_id in ids for stream_id in opened)
    neighbours = {stream_id + step for stream_id in opened for step in (-1, 1)} - opened
    assert 0 not in ids
    assert highest + 1 not in ids
    if runs <= max_runs:
        assert not any(stream_id in ids for stream_id in neighbours)

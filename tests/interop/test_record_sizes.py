"""Our client's records have the sizes of sing-box's, as far as 300 connections of each can tell."""

from __future__ import annotations

import pytest

from ._kolmogorov_smirnov import distance, p_value
from .record_sizes import LEAST_P, SESSIONS, format_table, run


async def test_the_sizes_do_not_tell_the_clients_apart() -> None:
    """In a run, one of ten sizes has p < 0.01 by chance in one of ten runs. So it must be the same one in two runs."""
    suspects = set(range(10))
    for seed in (1, 2):
        rows = await run(SESSIONS, seed)
        print(format_table(rows))
        suspects &= {index for index, row in enumerate(rows) if row.p <= LEAST_P}
        if not suspects:
            break
    assert not suspects


def test_equal_samples() -> None:
    assert distance([1, 2, 2, 3], [3, 2, 2, 1]) == 0
    assert p_value([1, 2, 2, 3], [3, 2, 2, 1]) == 1


def test_disjoint_samples() -> None:
    assert distance([1, 2], [3, 4, 5]) == 1
    assert p_value(range(300), range(300, 600)) < 1e-100


def test_the_largest_distance_may_be_in_the_middle() -> None:
    assert distance([1, 1, 1, 4], [1, 4, 4, 4]) == 0.5
    assert distance([1, 4, 4, 4], [1, 1, 1, 4]) == 0.5


@pytest.mark.parametrize(
    ("shift", "p"),
    # The critical values of tables for large samples: 1.224, 1.358 and 1.628, times the root of 2 / 20,000.
    [(0.01224 * 20_000, 0.1), (0.01358 * 20_000, 0.05), (0.01628 * 20_000, 0.01)],
)
def test_critical_values(shift: float, p: float) -> None:
    one = range(20_000)
    assert p_value(one, [value + round(shift) for value in one]) == pytest.approx(p, rel=0.05)

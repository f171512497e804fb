"""Medians, and the ratios to the bare ``trio.SSLStream``.

A ratio is made within a round, of two measurements that lie seconds apart, and what counts is the median over the
rounds; noise which is there for a minute does not get into it. A round that lacks one of the two gives no ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from .peers import BASE
from .results import Results
from .work import WORKS


@dataclass(frozen=True)
class Spread:
    """A median and the ends of what it is the median of."""

    median: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Of some values; ``None`` of none."""
        if not values:
            return None
        return cls(median(values), min(values), max(values), len(values))


def figure(results: Results, work: str, peer: str, key: str) -> Spread | None:
    """A figure over the rounds."""
    return Spread.of(list(results.by_round(work, peer, key).values()))


def ratio(
    results: Results, over: tuple[str, str, str], under: Sequence[tuple[str, str, str]], *, more_is_better: bool
) -> Spread | None:
    """A figure over the best of some others, round by round; each is given as (work, peer, key)."""
    others = [results.by_round(*one) for one in under]
    values = []
    for number, value in results.by_round(*over).items():
        rivals = [other[number] for other in others if number in other]
        if rivals and min(rivals) > 0:
            values.append(value / (max(rivals) if more_is_better else min(rivals)))
    return Spread.of(values)


def to_base(results: Results, work: str, peer: str) -> Spread | None:
    """The ratio of a work's first figure to that of the bare stream; ``None`` where there is none."""
    first = WORKS[work].figures[0]
    base = WORKS[work].base
    if base == "":
        return None
    return ratio(
        results,
        (work, peer, first.key),
        [(base or work, BASE, first.key)],
        more_is_better=first.more_is_better,
    )

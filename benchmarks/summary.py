"""Medians, and the ratios to the base peer of each work: the bare ``trio.SSLStream``, or sing-box for relays.

A ratio has two measurements of one round, which are seconds apart, so that noise that lasts a minute does not affect
it. The result is the median over the rounds. A round that lacks one of the two measurements has no ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from .results import Results
from .work import WORKS


@dataclass(frozen=True)
class Spread:
    """A median, and the least and the greatest of its values."""

    median: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Return the spread of some values, ``None`` if there are none."""
        if not values:
            return None
        return cls(median(values), min(values), max(values), len(values))


def figure(results: Results, work: str, peer: str, key: str) -> Spread | None:
    """Return the spread of a figure over the rounds."""
    return Spread.of(list(results.by_round(work, peer, key).values()))


def ratio(
    results: Results, over: tuple[str, str, str], under: Sequence[tuple[str, str, str]], *, more_is_better: bool
) -> Spread | None:
    """Divide a figure by the best of some others, round by round. Each is given as (work, peer, key)."""
    others = [results.by_round(*one) for one in under]
    values = []
    for number, value in results.by_round(*over).items():
        rivals = [other[number] for other in others if number in other]
        if rivals and min(rivals) > 0:
            values.append(value / (max(rivals) if more_is_better else min(rivals)))
    return Spread.of(values)


def to_base(results: Results, work: str, peer: str) -> Spread | None:
    """Return the ratio of a work's first figure to that of its base peer, ``None`` if it has none."""
    info = WORKS[work]
    first = info.figures[0]
    if info.base == "":
        return None
    return ratio(
        results,
        (work, peer, first.key),
        [(info.base or work, info.base_peer, first.key)],
        more_is_better=first.more_is_better,
    )

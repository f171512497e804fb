"""The results of a run: one outcome for each work, peer and round."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Outcome:
    """One measurement: its figures, the problem that prevented them, or both if it prevented some of them."""

    round: int
    figures: dict[str, float] = field(default_factory=dict)
    problem: str | None = None
    final: bool = False
    """Whether another attempt would have the same problem."""


@dataclass
class Results:
    """All outcomes of a run."""

    quick: bool
    outcomes: dict[tuple[str, str], list[Outcome]] = field(default_factory=lambda: defaultdict(list))
    """By work and peer."""
    seconds: float = 0.0
    rounds: int = 0
    """The number of complete rounds."""
    remarks: list[str] = field(default_factory=list)

    def add(self, work: str, peer: str, outcome: Outcome) -> None:
        """Add an outcome."""
        self.outcomes[work, peer].append(outcome)

    def of(self, work: str, peer: str) -> list[Outcome]:
        """Return the outcomes of one work and peer."""
        return self.outcomes.get((work, peer), [])

    def hopeless(self, work: str, peer: str) -> bool:
        """Return whether another attempt is useless."""
        outcomes = self.of(work, peer)
        failures = sum(outcome.problem is not None and not outcome.figures for outcome in outcomes)
        return failures > 1 or any(outcome.final for outcome in outcomes)

    def problem(self, work: str, peer: str) -> str | None:
        """Return the first problem."""
        return next((outcome.problem for outcome in self.of(work, peer) if outcome.problem), None)

    def by_round(self, work: str, peer: str, figure: str) -> dict[int, float]:
        """Return a figure in every round that has it."""
        return {o.round: o.figures[figure] for o in self.of(work, peer) if figure in o.figures}

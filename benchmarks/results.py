"""What has been measured: one outcome for each work, peer and round."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Outcome:
    """One measurement: figures, or what stood in the way of them; both, where it stood in the way of some."""

    round: int
    figures: dict[str, float] = field(default_factory=dict)
    problem: str | None = None
    final: bool = False
    """Whether the problem will not go away, so that there is no use in trying again."""


@dataclass
class Results:
    """All outcomes of a run."""

    quick: bool
    outcomes: dict[tuple[str, str], list[Outcome]] = field(default_factory=lambda: defaultdict(list))
    """By work and peer."""
    seconds: float = 0.0
    rounds: int = 0
    """Rounds that were done whole."""
    remarks: list[str] = field(default_factory=list)

    def add(self, work: str, peer: str, outcome: Outcome) -> None:
        """Note one more outcome."""
        self.outcomes[work, peer].append(outcome)

    def of(self, work: str, peer: str) -> list[Outcome]:
        """The outcomes of one work and peer."""
        return self.outcomes.get((work, peer), [])

    def hopeless(self, work: str, peer: str) -> bool:
        """Whether there is no use in trying again."""
        outcomes = self.of(work, peer)
        failures = sum(outcome.problem is not None and not outcome.figures for outcome in outcomes)
        return failures > 1 or any(outcome.final for outcome in outcomes)

    def problem(self, work: str, peer: str) -> str | None:
        """The first thing that stood in the way."""
        return next((outcome.problem for outcome in self.of(work, peer) if outcome.problem), None)

    def by_round(self, work: str, peer: str, figure: str) -> dict[int, float]:
        """A figure in every round that gave it."""
        return {o.round: o.figures[figure] for o in self.of(work, peer) if figure in o.figures}

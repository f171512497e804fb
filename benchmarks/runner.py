"""Rounds, the order of the peers, and the time budget.

In a round, each peer in turn does each work, so that the two measurements of a ratio are seconds apart. Each round
starts with another peer. Some works and some peers take part in the first rounds only. The works with thousands of
streams or connections are done once after the first round, in fresh processes. They are repeated after the last round
for the peers that are quick at them, as time allows. The peers that do not take part in all rounds do them once, last.

No measurement may run past the end of the budget, and no round begins that would not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from .pair import GRACE, Lost, Pairs, Unavailable
from .peers import PEERS
from .results import Outcome, Results
from .work import WORKS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .work import Work

RESERVE = 8.0
"""Seconds reserved for the plot, the JSON, and the exit of processes."""

CHEAP = 10.0
"""A heavy work is repeated for the peers that take less than this, in seconds."""


@dataclass(frozen=True)
class Plan:
    """The works to run, and the time for them."""

    peers: tuple[str, ...]
    works: tuple[str, ...]
    rounds: int
    quick: bool
    budget: float
    """Seconds for everything."""

    def seconds(self, work: Work) -> float:
        """Return the duration of the timed part of a work."""
        return work.seconds[self.quick]

    def limit(self, work: Work) -> float:
        """Return the timeout of a work."""
        return min(work.limit, 10.0 if work.fresh else 4.0) if self.quick else work.limit

    def works_that_are(self, *, heavy: bool) -> list[Work]:
        """Return the light or the heavy works, without those that are measured together with another one."""
        return [
            work
            for work in WORKS.values()
            if work.letter in self.works and work.heavy == heavy and work.together_with not in self.works
        ]

    def letters(self, work: Work) -> list[str]:
        """Return the works whose figures one measurement gives."""
        return [work.letter, *(one for one in self.works if WORKS[one].together_with == work.letter)]


def _takes_part(number: int, work: Work, peer: str) -> bool:
    """Return whether a peer does a work in a round."""
    info = PEERS[peer]
    return info.does(work.letter) and number <= min(info.rounds or number, work.rounds or number)


class Runner:
    """Runs a plan. `progress` is called with the next measurement and the share of the plan that is done."""

    def __init__(
        self, plan: Plan, pairs: Pairs, unavailable: dict[str, str], progress: Callable[[str, float], None]
    ) -> None:
        self.results = Results(quick=plan.quick)
        self._plan = plan
        self._pairs = pairs
        self._progress = progress
        self._start = trio.current_time()
        for peer, why in unavailable.items():
            for work in filter(PEERS[peer].does, plan.works):
                self.results.add(work, peer, Outcome(0, problem=f"not installed: {why}", final=True))

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self._start + self._plan.budget - RESERVE * (0.5 if self._plan.quick else 1) - trio.current_time()

    async def run(self) -> Results:
        """Run the plan."""
        plan = self._plan
        light = plan.works_that_are(heavy=False)
        heavy = plan.works_that_are(heavy=True)
        took = await self._round(1, light)
        doing = [(work.letter, peer) for work in heavy for peer in plan.peers if PEERS[peer].does(work.letter)]
        costs = {key: 0.0 for key in doing if PEERS[key[1]].rounds is None}
        await self._round(1, heavy, costs)
        self.results.rounds = 1
        for number in range(2, (plan.rounds if light else 1) + 1):
            if took * 1.1 > self.left:
                self.results.remarks.append(f"time for {number - 1} of {plan.rounds} rounds")
                break
            took = await self._round(number, light)
            self.results.rounds = number
        for number in range(2, plan.rounds + 1):
            wanted = {
                (letter, peer): cost
                for (letter, peer), cost in costs.items()
                if _takes_part(number, WORKS[letter], peer) and not self.results.hopeless(letter, peer)
            }
            cheap = {key: cost for key, cost in wanted.items() if cost < CHEAP}
            if not cheap or sum(cheap.values()) * 1.1 > self.left:
                break
            await self._round(number, heavy, cheap)
            # If there are light works, count their rounds. The heavy works are repeated as time allows.
            if not light and len(cheap) == len(wanted):
                self.results.rounds = number
        await self._round(1, heavy, {key: 0.0 for key in doing if key not in costs})
        self.results.seconds = trio.current_time() - self._start
        return self.results

    async def _round(
        self, number: int, works: Iterable[Work], costs: dict[tuple[str, str], float] | None = None
    ) -> float:
        """Have every peer do every work, and return the seconds. Of heavy works, do those in `costs`."""
        start = trio.current_time()
        turn = (number - 1) % len(self._plan.peers)
        for work in works:
            for peer in self._plan.peers[turn:] + self._plan.peers[:turn]:
                if costs is not None and (work.letter, peer) not in costs:
                    continue
                before = trio.current_time()
                await self._one(number, work, peer)
                if costs is not None:
                    costs[work.letter, peer] = trio.current_time() - before
        return trio.current_time() - start

    async def _one(self, number: int, work: Work, peer: str) -> None:
        info = PEERS[peer]
        if not _takes_part(number, work, peer) or self.results.hopeless(work.letter, peer):
            return
        self._progress(f"round {number}: ({work.letter}) {info.title}", 1 - self.left / self._plan.budget)
        limit = min(self._plan.limit(work), self.left - GRACE)
        if limit < 1:
            outcome = Outcome(number, problem="left out: no time")
        else:
            outcome = await self._outcome(number, work, peer, limit)
        for letter in self._plan.letters(work):
            self.results.add(letter, peer, outcome)

    async def _outcome(self, number: int, work: Work, peer: str, limit: float) -> Outcome:
        try:
            async with self._pairs.of(peer, PEERS[peer].environment, fresh=work.fresh, crowded=work.crowded) as pair:
                answer = await pair.measure(
                    work.letter, seconds=self._plan.seconds(work), quick=self._plan.quick, limit=limit
                )
                if "timeout" in answer or "error" in answer:
                    raise _Failed(answer)
        except _Failed as failure:
            error = failure.args[0].get("error")
            if error is not None:
                return Outcome(number, problem=f"failed: {error}")
            if limit < self._plan.limit(work):
                return Outcome(number, problem=f"left out: no time, not done in the last {limit:.0f} s")
            return Outcome(number, problem=f"did not finish in {limit:.0f} s", final=True)
        except Lost as error:
            return Outcome(number, problem=f"did not finish: {error}", final=True)
        except Unavailable as error:
            return Outcome(number, problem=f"not installed: {error}", final=True)
        if "not_applicable" in answer:
            return Outcome(number, problem=f"not applicable: {answer['not_applicable']}", final=True)
        return Outcome(number, answer["figures"], answer.get("problem"))


class _Failed(Exception):
    """The work was not done. The pair may be in any state, and must not be used again."""

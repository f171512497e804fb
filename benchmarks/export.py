"""The JSON file: every outcome of every round, the medians and ratios, the targets, and the machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import summary
from .results import Results
from .summary import Spread
from .targets import Verdict
from .work import WORKS


def _spread(spread: Spread | None) -> dict[str, float] | None:
    return None if spread is None else asdict(spread)


def document(results: Results, verdicts: list[Verdict], machine: dict[str, str]) -> dict[str, Any]:
    """Return all results of a run."""
    works: dict[str, Any] = {}
    for (letter, peer), outcomes in results.outcomes.items():
        work = WORKS[letter]
        entry = works.setdefault(
            letter,
            {
                "title": work.title,
                "units": {figure.key: figure.unit for figure in work.figures},
                "ratio_of": work.figures[0].key,
                "ratio_to_work": None if work.base == "" else work.base or letter,
                "ratio_to_peer": None if work.base == "" else work.base_peer,
                "peers": {},
            },
        )
        entry["peers"][peer] = {
            "figures": {
                figure.key: _spread(spread)
                for figure in work.figures
                if (spread := summary.figure(results, letter, peer, figure.key)) is not None
            },
            "ratio": _spread(summary.to_base(results, letter, peer)),
            "problem": results.problem(letter, peer),
            "rounds": [
                {
                    "round": outcome.round,
                    "figures": {
                        figure.key: outcome.figures[figure.key]
                        for figure in work.figures
                        if figure.key in outcome.figures
                    },
                    "problem": outcome.problem,
                }
                for outcome in outcomes
            ],
        }
    return {
        "machine": machine,
        "quick": results.quick,
        "rounds": results.rounds,
        "seconds": round(results.seconds, 1),
        "remarks": results.remarks,
        "works": works,
        "targets": [asdict(verdict) for verdict in verdicts],
    }


def write(path: Path, results: Results, verdicts: list[Verdict], machine: dict[str, str]) -> None:
    """Write the results to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document(results, verdicts, machine), indent=2) + "\n", encoding="utf-8")

"""The tables of docs/performance.md, and the run that they show.

`python -m benchmarks --page` keeps the outcomes of a whole run in `figures.json` and writes the tables from them, with
the same code that makes those on the terminal. A test compares the page with the file. After a change of a target or a
title, this writes the tables again, and measures nothing:

    python -m benchmarks.page
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from . import report, summary, targets
from .peers import PEERS
from .results import Outcome, Results
from .work import WORKS

FIGURES: Final = Path(__file__).with_name("figures.json")
PAGE: Final = Path(__file__).parents[1] / "docs" / "performance.md"
_DIGITS: Final = 5
"""The significant digits that are kept. Noise is greater by far."""
_TABLES: Final = re.compile(
    r"(?P<begin><!-- (?P<name>targets|figures): [^\n]* -->\n).*?(?P<end><!-- end of (?P=name) -->)", re.DOTALL
)


def keep(results: Results, machine: dict[str, str]) -> None:
    """Write the outcomes of a run into `figures.json`, and its tables into the page."""
    FIGURES.write_text(_dumped(results, machine), encoding="utf-8")
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), results, machine), encoding="utf-8")


def _dumped(results: Results, machine: dict[str, str]) -> str:
    """Return a run as JSON. Each work of each peer has a line, so that two runs can be compared."""
    head = {"machine": machine, "rounds": results.rounds, "seconds": round(results.seconds, 1)}
    lines = [f'  "{key}": {json.dumps(value)}' for key, value in head.items()]
    outcomes = (
        f'    "{work} {peer}": {json.dumps([_row(outcome) for outcome in results.of(work, peer)])}'
        for work, peer in _order(results)
    )
    return "{\n" + ",\n".join([*lines, '  "outcomes": {\n' + ",\n".join(outcomes) + "\n  }"]) + "\n}\n"


def _row(outcome: Outcome) -> dict[str, Any]:
    figures = {key: float(f"{value:.{_DIGITS}g}") for key, value in outcome.figures.items()}
    problem = {} if outcome.problem is None else {"problem": outcome.problem}
    return {"round": outcome.round, "figures": figures, **problem}


def kept(text: str) -> tuple[Results, dict[str, str]]:
    """Return the run of a `figures.json`, and the description of its machine."""
    contents = json.loads(text)
    results = Results(quick=False, rounds=contents["rounds"], seconds=contents["seconds"])
    for key, rows in contents["outcomes"].items():
        work, peer = key.split(" ")
        for row in rows:
            results.add(work, peer, Outcome(row["round"], row["figures"], row.get("problem")))
    return results, contents["machine"]


def with_tables(text: str, results: Results, machine: dict[str, str]) -> str:
    """Return the text of the page with the tables of a run."""
    tables = {"targets": f"{_description(machine)}\n{_targets(results)}", "figures": _figures(results)}
    return _TABLES.sub(lambda found: f"{found['begin']}\n{tables[found['name']]}\n{found['end']}", text)


def _description(machine: dict[str, str]) -> str:
    commit, *versions = (machine.get(key, "unknown") for key in ("commit", "python", "openssl", "trio"))
    names = ("Python", "", "Trio")
    parts = [f"Commit {commit}", *(f"{name} {version}".strip() for name, version in zip(names, versions, strict=True))]
    return f"{', '.join(parts)}, {machine.get('cores', 'unknown')} cores.\n"


def _targets(results: Results) -> str:
    met = {True: "yes", False: "**no**", None: ""}
    lines = [_line("target", "measured", "met"), _line(*["---"] * 3)]
    lines += [_line(one.target, one.figure, met[one.met]) for one in targets.evaluate(results)]
    return "".join(lines)


def _figures(results: Results) -> str:
    lines = [_line("work", "peer", "figure", "ratio", "rounds"), _line(*["---"] * 5)]
    for work, peer in _order(results):
        first = WORKS[work].figures[0]
        spread = summary.figure(results, work, peer, first.key)
        name = f"({work}) {WORKS[work].title}, {first.title}"
        if spread is None:
            lines.append(_line(name, PEERS[peer].title, results.problem(work, peer) or "not measured", "", ""))
            continue
        value = report.number(spread.median, first)
        to_base = summary.to_base(results, work, peer)
        ratio = "" if to_base is None else f"{to_base.median:.2f} ({to_base.least:.2f} to {to_base.most:.2f})"
        others = report.other_figures(results, work, peer)
        lines.append(_line(name, PEERS[peer].title, "; ".join(filter(None, (value, others))), ratio, spread.count))
    return "".join(lines)


def _order(results: Results) -> Iterator[tuple[str, str]]:
    """Yield the works in the order of their letters, each with its peers in the order of `PEERS`."""
    for work in sorted(WORKS):
        for peer in PEERS:
            if results.of(work, peer):
                yield work, peer


def _line(*cells: object) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |\n"


if __name__ == "__main__":
    keep(*kept(FIGURES.read_text(encoding="utf-8")))

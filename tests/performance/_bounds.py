"""What each kind of work costs now, and the tables of it: `bounds.json`, and one in docs/performance.md."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ._ends import Setting
from ._meter import Counts, MemoryMeter, Meter, Side, run
from ._works import HOLDINGS, WORKS, Work

_FILE = Path(__file__).with_name("bounds.json")
_PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
_SIDES: tuple[Side, ...] = ("client", "server", "shared")

#: The Python with which the numbers are written. Later ones enter somewhat fewer functions of the standard library.
PYTHON = "3.11"
#: The share by which measured memory may exceed its bound: the tables of dicts and sets grow in leaps.
MEMORY_SLACK = 0.01
#: The share by which a number may be lower than its bound, before the bound has to follow.
LEEWAY = 0.05
#: A few of the numbers vary in the fourth digit from run to run, as the kernel may cut data differently. A bound is the
#: greatest of this number of runs, and the least of as many is compared with it.
RUNS = 3

#: What a unit costs: "client own" for entries into functions of trioanytls, "client all" for all entries, "client
#: steps" for steps of tasks, likewise for the other sides; "passes" of the event loop; "client bytes" of memory.
Costs = dict[str, float]


def key_of(work: Work, setting: Setting) -> str:
    """Return the name of a work with a setting in `bounds.json`."""
    return f"{work.name} ({setting})"


def counts_of(work: Work, setting: Setting) -> tuple[Counts, Counts]:
    """Return the counts of two runs. The second has twice as many units."""

    async def main(meter: Meter) -> tuple[Counts, Counts]:
        async with work.prepare(setting) as do_units:
            await do_units(work.warm_up)
            return await meter.count(do_units, work.units), await meter.count(do_units, 2 * work.units)

    return run(main, Meter())


def costs_of(work: Work, setting: Setting) -> Costs:
    """Count what a unit of a work costs."""
    once, twice = counts_of(work, setting)
    costs: Costs = {}
    for side in _SIDES:
        costs[f"{side} own"] = twice.calls(side, own=True) - once.calls(side, own=True)
        costs[f"{side} all"] = twice.calls(side, own=False) - once.calls(side, own=False)
        costs[f"{side} steps"] = twice.steps_of(side) - once.steps_of(side)
    costs["passes"] = twice.passes - once.passes
    return {name: round(cost / work.units, 3) for name, cost in costs.items() if cost}


def memory_of(work: Work, setting: Setting) -> Costs:
    """Measure the memory that a unit of a work takes."""
    sizes, _ = measured_memory(work, setting)
    return {f"{side} bytes": round(size / work.units) for side, size in sorted(sizes.items())}


def measured_memory(work: Work, setting: Setting) -> tuple[Mapping[Side, int], MemoryMeter]:
    """Return the bytes that the units of a work take, by side, and the meter, which has the single allocations."""
    meter = MemoryMeter()

    async def main(_meter: MemoryMeter) -> Mapping[Side, int]:
        async with work.prepare(setting) as do_units:
            await do_units(work.warm_up)
            return await meter.measure(do_units, work.units)

    return run(main, meter), meter


def least(one: Costs, other: Costs) -> Costs:
    """Return the lower number of each cost."""
    return {name: min(one.get(name, 0), other.get(name, 0)) for name in {**one, **other}}


def greatest(one: Costs, other: Costs) -> Costs:
    """Return the higher number of each cost."""
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in {**one, **other}}


def chosen(works: Iterable[Work], part: str) -> Iterator[tuple[str, Work, Setting]]:
    """Find the works whose keys contain a text, each with its settings. Yield the keys, too."""
    for work in works:
        for setting in work.settings:
            if part in (key := key_of(work, setting)):
                yield key, work, setting


def all_costs(part: str = "", runs: int = 1) -> Iterator[tuple[str, Costs]]:
    """Measure the works whose keys contain a text. Yield the greatest numbers of some runs."""
    for works, measure in ((WORKS, costs_of), (HOLDINGS, memory_of)):
        for key, work, setting in chosen(works, part):
            yield key, reduce(greatest, (measure(work, setting) for _ in range(runs)))


def bounds() -> dict[str, Costs]:
    """Return the numbers of `bounds.json`."""
    costs: dict[str, Costs] = _contents()["costs"]
    return costs


def _contents() -> dict[str, Any]:
    contents: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return contents


def differences(measured: Costs, bound: Costs) -> tuple[list[str], list[str]]:
    """Compare costs with their bounds. Return what is dearer, and what is cheaper.

    The calls of other packages, and the memory, are compared only if the version of Trio is that of `bounds.json`.
    """
    same_trio = version("trio") == _contents()["trio"]
    dearer, cheaper = [], []
    for name in sorted({*measured, *bound}):
        new, old = measured.get(name, 0), bound.get(name, 0)
        if name.endswith((" all", " bytes")) and not same_trio:
            continue
        slack = MEMORY_SLACK * old if name.endswith(" bytes") else 0
        text = f"{name}: {new:,g}, and the bound is {old:,g}"
        if new > old + slack:
            dearer.append(text)
        elif new < old - slack:
            cheaper.append(text)
    return dearer, cheaper


def write(costs: Mapping[str, Costs]) -> None:
    """Write these costs into `bounds.json` and docs/performance.md. Keep the others."""
    assert sys.version.startswith(f"{PYTHON}."), f"the numbers are those of Python {PYTHON}"
    new = {**bounds(), **costs}
    lines = (f"    {json.dumps(key)}: {json.dumps(new[key])}" for key, _, _ in chosen((*WORKS, *HOLDINGS), ""))
    head = f'{{\n  "python": "{PYTHON}",\n  "trio": "{version("trio")}",\n  "costs": {{\n'
    _FILE.write_text(head + ",\n".join(lines) + "\n  }\n}\n", encoding="utf-8")
    tables = _TABLE.sub(lambda found: f"{found[1]}{table()}\n<!-- end of costs -->", page())
    _PAGE.write_text(tables, encoding="utf-8")


def page() -> str:
    """Return the text of docs/performance.md."""
    return _PAGE.read_text(encoding="utf-8")


_TABLE = re.compile(r"(<!-- costs: [^\n]* -->\n\n)(.*?)(\n?<!-- end of costs -->)", re.DOTALL)


def table_of_page() -> str:
    """Return the tables of costs in docs/performance.md."""
    found = _TABLE.search(page())
    assert found is not None, "docs/performance.md has no tables of costs"
    return found[2]


def table() -> str:
    """Return the tables of costs, as Markdown."""
    costs = bounds()
    parts = [_heading("work", "a unit", "ends", "own calls", "all calls", "task steps", "passes")]
    for key, work, setting in chosen(WORKS, ""):
        row = costs[key]
        pairs = (_pair(row, name) for name in ("own", "all", "steps"))
        parts.append(_line(work.name, work.unit, setting, *pairs, _short(row["passes"])))
    parts.append(f"\n{_heading('memory', 'state', 'ends', 'client', 'server')}")
    for key, work, setting in chosen(HOLDINGS, ""):
        sizes = (f"{costs[key][f'{side} bytes'] / 1024:.1f} KiB" for side in ("client", "server"))
        parts.append(_line(work.name, work.unit, setting, *sizes))
    return "".join(parts)


def _heading(*cells: str) -> str:
    return _line(*cells) + "|---" * len(cells) + "|\n"


def _line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |\n"


def _pair(row: Costs, name: str) -> str:
    return f"{_short(row.get(f'client {name}', 0))} / {_short(row.get(f'server {name}', 0))}"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"

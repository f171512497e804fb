"""Count the cost of each kind of work, and compare it with the bounds. See the package's docstring."""

from __future__ import annotations

import argparse
import sys

from ._bounds import RUNS, all_costs, bounds, chosen, counts_of, differences, measured_memory, write
from ._works import HOLDINGS, WORKS


def print_where(part: str) -> None:
    """Print the entries into each function, ordered by side and file, and the memory allocated by each line."""
    for key, work, setting in chosen(WORKS, part):
        print(f"\n{key}: entries into each function, for each unit")
        once, twice = counts_of(work, setting)
        for side, function in sorted(twice.entries, key=lambda entry: (entry[0], not entry[1].own, entry[1])):
            entries = twice.entries[side, function] - once.entries[side, function]
            if entries:
                print(f"{side:12} {entries / work.units:9.3f}  {function.name}  ({function.file})")
        print(f"\n{key}: steps of each task, for each unit")
        for side, name in sorted(twice.steps):
            steps = twice.steps[side, name] - once.steps[side, name]
            if steps:
                print(f"{side:12} {steps / work.units:9.3f}  {name}")
    for key, work, setting in chosen(HOLDINGS, part):
        print(f"\n{key}: bytes allocated by each line, for each unit, both ends together")
        _, meter = measured_memory(work, setting)
        assert meter.snapshot is not None
        for line in meter.snapshot.statistics("lineno"):
            if line.size >= work.units:
                print(f"{line.size / work.units:9.0f}  {line.traceback[0].filename}:{line.traceback[0].lineno}")


def main(arguments: list[str] | None = None) -> int:
    """Run the program. Return the exit code: 1 if something has become dearer."""
    parser = argparse.ArgumentParser(prog="python -m tests.performance", description=__doc__)
    parser.add_argument("work", nargs="?", default="", help="a part of the names of works; default: all")
    parser.add_argument(
        "--where", action="store_true", help="print the entries into each function, or the memory by line"
    )
    parser.add_argument("--update", action="store_true", help="write the numbers into bounds.json and the page")
    given = parser.parse_args(arguments)
    if given.where:
        print_where(given.work)
        return 0
    known = bounds()
    measured, worse = {}, False
    for key, costs in all_costs(given.work, RUNS if given.update else 1):
        measured[key] = costs
        dearer, cheaper = differences(costs, known.get(key, {}))
        worse = worse or bool(dearer)
        print(f"{key}: {'as before' if not dearer and not cheaper else ''}")
        for text, texts in (("DEARER", dearer), ("cheaper", cheaper)):
            for one in texts:
                print(f"  {text}: {one}")
    if given.update:
        write(measured)
        return 0
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())

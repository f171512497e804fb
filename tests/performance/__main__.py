"""Count the cost of each kind of work, and compare it with the bounds. See the package's docstring."""

from __future__ import annotations

import argparse
import sys

from ._bounds import RUNS, all_costs, bounds, counts_of, differences, key_of, write
from ._works import WORKS


def print_calls(chosen: str) -> None:
    """Print the entries into each function for a unit of work, ordered by side and file."""
    for work in WORKS:
        for setting in work.settings:
            if chosen not in (key := key_of(work, setting)):
                continue
            print(f"\n{key}: entries into each function, for each unit")
            once, twice = counts_of(work, setting)
            for side, function in sorted(twice.entries, key=lambda entry: (entry[0], not entry[1].own, entry[1])):
                entry = side, function
                count = (twice.entries[entry] - once.entries[entry]) / work.units
                if count:
                    print(f"{side:12} {count:9.3f}  {function.name}  ({function.file})")


def main(arguments: list[str] | None = None) -> int:
    """Run the program. Return the exit code: 1 if something has become dearer."""
    parser = argparse.ArgumentParser(prog="python -m tests.performance", description=__doc__)
    parser.add_argument("work", nargs="?", default="", help="a part of the names of works; default: all")
    parser.add_argument("--calls", action="store_true", help="print the entries into each function")
    parser.add_argument("--update", action="store_true", help="write the numbers into bounds.json and the page")
    given = parser.parse_args(arguments)
    if given.calls:
        print_calls(given.work)
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
        write({key: measured.get(key, known.get(key, {})) for key in {**known, **measured}})
        return 0
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())

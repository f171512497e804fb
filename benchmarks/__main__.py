"""``python -m benchmarks``: run the measurements, print the tables, write the files."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import trio
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from . import environment, export, page, plot, report, targets
from .pair import Pairs
from .peers import PEERS
from .results import Results
from .runner import Plan, Runner
from .work import GROUPS, WORKS

FULL_BUDGET = 585.0
QUICK_BUDGET = 57.0
LEFT_OUT_WHEN_QUICK = "lmnopqr"


def _some(known: Iterable[str]) -> partial[tuple[str, ...]]:
    return partial(_choice, tuple(known))


def _choice(known: tuple[str, ...], text: str) -> tuple[str, ...]:
    chosen = tuple(text.replace(" ", "").split(","))
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; expected {', '.join(known)}")
    return tuple(name for name in known if name in chosen)


def _rounds(text: str) -> int:
    try:
        rounds = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid number of rounds {text!r}") from None
    if rounds < 1:
        raise argparse.ArgumentTypeError(f"the number of rounds must be at least 1, not {rounds}")
    return rounds


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure trioanytls and other peers: two processes on loopback, TLS 1.3.",
        epilog="Work: "
        + "; ".join(f"({letter}) {WORKS[letter].title}" for letter in sorted(WORKS))
        + ". Groups: "
        + "; ".join(f"{group} ({', '.join(letters)})" for group, letters in GROUPS.items()),
    )
    parser.add_argument("--quick", action="store_true", help="take at most one minute instead of ten")
    parser.add_argument(
        "--only", type=_some(PEERS), metavar="PEER,...", help=f"measure these peers only, of {', '.join(PEERS)}"
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--work", type=_some(WORKS), metavar="LETTER,...", help="do these works only")
    chosen.add_argument(
        "--group",
        type=_some(GROUPS),
        metavar="GROUP,...",
        help=f"do the works of these groups only, of {', '.join(GROUPS)}",
    )
    parser.add_argument(
        "--rounds", type=_rounds, metavar="N", help="run at most this many rounds (default: 5, with --quick 2)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", default=environment.OUTPUT / "results.json")
    parser.add_argument("--plot", type=Path, metavar="FILE", default=environment.OUTPUT / "results.png")
    parser.add_argument(
        "--page",
        action="store_true",
        help="keep the figures of a whole run in benchmarks/figures.json and docs/performance.md",
    )
    parser.add_argument(
        "--prepare", action="store_true", help="create the environments of the peers, and measure nothing"
    )
    options = parser.parse_args(arguments)
    if options.page and (options.quick or options.only or options.work or options.group):
        parser.error("--page needs a whole run: without --quick, --only, --work and --group")
    return options


def _works(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the works to do, in the order in which they are done."""
    if options.work:
        return tuple(letter for letter in WORKS if letter in options.work)
    if options.group:
        return tuple(letter for letter in WORKS if WORKS[letter].group in options.group)
    return tuple(letter for letter in WORKS if not options.quick or letter not in LEFT_OUT_WHEN_QUICK)


def _peers(chosen: tuple[str, ...], works: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the chosen peers that do one of the works, and the peers with which they are compared."""
    doing = {peer: [letter for letter in works if PEERS[peer].does(letter)] for peer in chosen}
    bases = {WORKS[letter].base_peer for letters in doing.values() for letter in letters}
    return tuple(peer for peer in PEERS if doing.get(peer) or peer in bases)


def _prepare(console: Console, peers: tuple[str, ...]) -> tuple[dict[str | None, str], dict[str, str]]:
    """Return the Python of each environment, and the peers that cannot run with the reason.

    The first call takes a minute.
    """
    pythons: dict[str | None, str] = {None: sys.executable}
    unavailable: dict[str, str] = {}
    for name in sorted({PEERS[peer].environment or "" for peer in peers} - {""}):
        with console.status(f"environment for {name}"):
            try:
                pythons[name] = environment.make_environment(name)
            except (environment.NotInstalled, OSError) as error:
                unavailable.update({peer: str(error) for peer in peers if PEERS[peer].environment == name})
    return pythons, unavailable


async def _run(console: Console, plan: Plan, pythons: dict[str | None, str], unavailable: dict[str, str]) -> Results:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with tempfile.TemporaryDirectory() as directory, Progress(*columns, console=console, auto_refresh=False) as bar:
        row = bar.add_task("starting", total=1.0)

        def progress(what: str, done: float) -> None:
            """Draw the bar. This happens between measurements only, as redrawing would take time from a measurement."""
            bar.update(row, description=what, completed=done, refresh=True)

        pairs = Pairs(environment.make_credentials(Path(directory)), pythons)
        try:
            results = await Runner(plan, pairs, unavailable, progress).run()
        finally:
            await pairs.kill()
        progress("done", 1.0)
    return results


def main(arguments: list[str] | None = None) -> int:
    """Run the command. The exit code is 0 for all figures."""
    options = _arguments(arguments)
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    works = _works(options)
    peers = _peers(options.only or tuple(PEERS), works)
    pythons, unavailable = _prepare(console, peers)
    if options.prepare:
        for peer, why in unavailable.items():
            # Use `Text`: in a plain string, rich would interpret brackets in pip's message as markup.
            console.print(Text(f"{PEERS[peer].title}: not installed: {why}"))
        return 0
    plan = Plan(
        peers=peers,
        works=works,
        rounds=options.rounds or (2 if options.quick else 5),
        quick=options.quick,
        budget=QUICK_BUDGET if options.quick else FULL_BUDGET,
    )
    results = trio.run(_run, console, plan, pythons, unavailable)
    works = tuple(sorted(works))
    verdicts = [verdict for verdict in targets.evaluate(results) if verdict.work in works]
    report.show(console, results, peers, works)
    console.print(report.targets_table(verdicts))
    export.write(options.json, results, verdicts, environment.describe())
    plot.draw(options.plot, results, peers, works)
    if options.page:
        page.keep(results, environment.describe())
    console.print(Text(f"Written: {options.json}, {options.plot}"), soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

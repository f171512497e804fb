"""The tables on the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import summary
from .peers import BASE, PEERS, RELAY_BASE
from .results import Results
from .targets import Verdict
from .work import WORKS, Figure

PEER_WIDTH = max(len(peer.title) for peer in PEERS.values())
FIGURE_WIDTH = 26


def number(value: float, figure: Figure) -> str:
    """Return a value with the digits and the unit of its figure."""
    return f"{value:,.{figure.digits}f}{' ' + figure.unit if figure.unit else ''}"


def other_figures(results: Results, work: str, peer: str) -> str:
    """Return the medians of all figures but the first, as text."""
    parts = []
    for figure in WORKS[work].figures[1:]:
        spread = summary.figure(results, work, peer, figure.key)
        if spread is not None:
            parts.append(f"{figure.title} {number(spread.median, figure)}")
    return ", ".join(parts)


def _row(results: Results, work: str, peer: str) -> tuple[str | Text, ...]:
    first = WORKS[work].figures[0]
    spread = summary.figure(results, work, peer, first.key)
    # Use `Text`: in a plain string, rich would interpret brackets in an error as markup.
    notes = "; ".join(note for note in (other_figures(results, work, peer), results.problem(work, peer)) if note)
    if spread is None:
        return (PEERS[peer].title, Text("-"), "", "", "", Text(notes or "not measured", style="dim"))
    ratio = summary.to_base(results, work, peer)
    return (
        PEERS[peer].title,
        number(spread.median, first),
        "" if ratio is None else f"{ratio.median:.2f}",
        "" if ratio is None else f"{ratio.least:.2f} to {ratio.most:.2f}",
        str(spread.count),
        Text(notes),
    )


def work_table(results: Results, letter: str, peers: tuple[str, ...]) -> Table:
    """Return the table of one work: each peer's median, its ratio to the base peer, and remarks.

    A peer that does not do the work has no row.
    """
    work = WORKS[letter]
    first = work.figures[0]
    better = "more" if first.more_is_better else "less"
    table = Table(
        title=f"({letter}) {work.title}", title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("peer", no_wrap=True, width=PEER_WIDTH)
    table.add_column(f"{first.title} ({better} is better)", justify="right", no_wrap=True, width=FIGURE_WIDTH)
    table.add_column("ratio", justify="right", no_wrap=True, width=5)
    table.add_column("least to most", justify="right", no_wrap=True, width=15)
    table.add_column("rounds", justify="right", no_wrap=True, width=6)
    table.add_column("also", overflow="fold")
    for peer in peers:
        if not PEERS[peer].does(letter):
            continue
        table.add_row(*_row(results, letter, peer))
    return table


def targets_table(verdicts: list[Verdict]) -> Table:
    """Return the table of targets."""
    table = Table(title="Targets, medians of this run")
    table.add_column("target")
    table.add_column("figure")
    table.add_column("met", no_wrap=True)
    words = {True: Text("yes", style="green"), False: Text("no", style="red"), None: Text("-", style="dim")}
    for verdict in verdicts:
        table.add_row(verdict.target, verdict.figure, words[verdict.met])
    return table


def show(console: Console, results: Results, peers: tuple[str, ...], works: tuple[str, ...]) -> None:
    """Print the figures, and any remarks."""
    console.rule(f"Medians of {results.rounds} round{'s' if results.rounds != 1 else ''}, {results.seconds:.0f} s")
    for letter in works:
        console.print(work_table(results, letter, peers))
    console.print(
        f"Ratios are to {PEERS[BASE].title} in the same round, those of relays to {PEERS[RELAY_BASE].title}: their "
        f"median, least and most. (f) is compared with (h) of {PEERS[BASE].title}, which must connect. A peer without "
        "a figure has no ratio.\n"
    )
    for remark in results.remarks:
        console.print(f"Remark: {remark}.")

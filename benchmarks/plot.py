"""The picture: a panel of bars for each work, and lines for the cost of a message with other streams open."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import NullFormatter, ScalarFormatter

from . import summary
from .peers import BASE, PEERS, RELAY_BASE
from .results import Results
from .work import STREAM_COUNTS, WORKS

mpl.use("Agg")

COLOURS = {
    "ssl_stream": "#6b7280",
    "pump": "#343a40",
    "trioanytls": "#d9480f",
    "no-extensions": "#fab005",
    "trioanytls-legacy": "#f08c46",
    "tls_per_stream": "#b0b5bd",
    "h2_inline": "#1c7ed6",
    "h2_coalesced": "#74b8f0",
    "yamux_own": "#5c940d",
    "yamux_ssl": "#a9d46a",
    "sing-box": "#7048e8",
    "two-pumps": "#868e96",
    "relay": "#e8590c",
}
COLUMNS = 3


def _bars(axes: Axes, results: Results, letter: str, peers: tuple[str, ...]) -> None:
    work = WORKS[letter]
    peers = tuple(peer for peer in peers if PEERS[peer].does(letter))
    first = work.figures[0]
    top = max((s.most for p in peers if (s := summary.figure(results, letter, p, first.key))), default=1.0)
    for place, peer in enumerate(peers):
        spread = summary.figure(results, letter, peer, first.key)
        if spread is None:
            problem = (results.problem(letter, peer) or "not measured").split(":")[0]
            axes.text(0.01 * top, place, problem, va="center", fontsize=7, color="#868e96", style="italic")
            continue
        error = [[spread.median - spread.least], [spread.most - spread.median]]
        axes.barh(
            place, spread.median, xerr=error, color=COLOURS[peer], height=0.7, error_kw={"lw": 0.8, "ecolor": "#343a40"}
        )
        ratio = summary.to_base(results, letter, peer)
        label = f"{spread.median:,.{first.digits}f}"
        if ratio is not None and peer != work.base_peer:
            label += f"  ({ratio.median:.2f}x)"
        axes.text(spread.most + 0.015 * top, place, label, va="center", fontsize=7)
    axes.set_yticks(range(len(peers)), [PEERS[peer].title for peer in peers], fontsize=7)
    axes.set_ylim(len(peers) - 0.4, -0.6)
    axes.set_xlim(0, top * 1.35)
    better = "more is better" if first.more_is_better else "less is better"
    axes.set_xlabel(f"{first.title}, {first.unit}: {better}", fontsize=7)


def _lines(axes: Axes, results: Results, peers: tuple[str, ...]) -> None:
    for peer in peers:
        points = [
            (count, spread.median)
            for count in STREAM_COUNTS
            if (spread := summary.figure(results, "i", peer, f"at_{count}")) is not None
        ]
        if points:
            axes.plot(
                *zip(*points, strict=True), marker="o", ms=3, lw=1.4, color=COLOURS[peer], label=PEERS[peer].title
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("open streams", fontsize=7)
    axes.set_ylabel("us a message: less is better", fontsize=7)
    if axes.lines:
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
        least, most = axes.get_ylim()
        axes.set_ylim(least, most * 2)
        axes.legend(fontsize=6, frameon=False, ncols=3, loc="upper center")


def draw(path: Path, results: Results, peers: tuple[str, ...], works: tuple[str, ...]) -> None:
    """Draw the picture into a PNG file."""
    rows = -(-len(works) // COLUMNS)
    canvas = Canvas(figsize=(5.2 * COLUMNS, 2.7 * rows + 0.6), layout="constrained")
    grid = canvas.subplots(rows, COLUMNS, squeeze=False).flatten()
    for axes, letter in zip(grid, works, strict=False):
        if letter == "i":
            _lines(axes, results, peers)
        else:
            _bars(axes, results, letter, peers)
        axes.set_title(f"({letter}) {WORKS[letter].title}", fontsize=9, loc="left")
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(works) :]:
        axes.set_axis_off()
    canvas.suptitle(
        f"Two processes on loopback, TLS 1.3; medians of {results.rounds} rounds, ratios to {PEERS[BASE].title}, "
        f"of relays to {PEERS[RELAY_BASE].title}",
        fontsize=10,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=130)

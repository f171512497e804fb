"""`trioanytls scheme show --png`: the sizes of each deliver as a picture, from samples drawn as a connection does."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path

from attrs import frozen
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from trioanytls import Mark, PaddingScheme, SizeRange

from . import table

# How often each deliver is drawn; less often where there are so many sizes that it would take long.
_SAMPLES, _FEWEST_SAMPLES, _MOST_DRAWS = 20_000, 200, 1_000_000
# More rows than this make no picture that can be read.
_MOST_ROWS = 48
# At most so many steps between the smallest and the largest size of a distribution.
_STEPS = 40
# How much of its row the highest step takes.
_HEIGHT = 0.75
# The narrowest that a distribution is drawn, as a share of the axis: a size that is always the same is seen, too.
_NARROWEST = 0.006

# In inches.
_WIDTH, _ROW, _MARGINS = 11.0, 0.34, 1.7
_PIXELS_PER_INCH = 130

_COLOURS = ("#2f6690", "#d1603d")
_BAND, _GRID, _GREY = "#f1f3f5", "#dde1e4", "#5c5c5c"


@frozen
class _Deliver:
    """What was drawn for a deliver. Each size of its line is a row of the picture.

    Attributes:
      index: its number.
      row: its first row, counted from the top.
      labels: the sizes that have a row, as the scheme has them, with the check marks before them.
      sizes: how often each number of bytes came, for each of these.
      sums: the same for all sizes of the line together.
      mean: what these are to be on average.
    """

    index: int
    row: int
    labels: list[str]
    sizes: list[Counter[int]]
    sums: Counter[int]
    mean: float

    @property
    def end(self) -> int:
        """The row behind its last."""
        return self.row + len(self.sizes)


def draw(scheme: PaddingScheme, path: Path) -> None:
    """Draw the distribution of the sizes of each deliver that the scheme shapes.

    Raises:
      OSError: the file cannot be written.
    """
    indices = [index for index in sorted(scheme.lines) if table.is_reached(scheme, index)]
    lengths = {index: len(table.sizes_in_use(scheme, index)) for index in indices}
    sizes = sum(lengths.values())
    samples = min(_SAMPLES, max(_FEWEST_SAMPLES, _MOST_DRAWS // (sizes or 1)))
    delivers: list[_Deliver] = []
    rows = 0
    for index in indices:
        if lengths[index] and rows < _MOST_ROWS:
            delivers.append(_draw_samples(scheme, index, rows, samples))
            rows = delivers[-1].end

    figure = Figure(figsize=(_WIDTH, _MARGINS + _ROW * max(rows, 3)), dpi=_PIXELS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"Sizes asked for by padding scheme {scheme.digest}", fontsize=14, fontweight="bold")
    note = (
        f"{samples:,} draws of each deliver; height: frequency, each row to its own scale; black line and number: mean"
    )
    if rows < sizes:
        note += f"; the first {rows} of {sizes:,} sizes"
    figure.supxlabel(note, fontsize=9, color=_GREY)
    each, whole = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    _draw_each(each, delivers)
    _draw_whole(whole, delivers)
    # Rows are counted from the top.
    each.set_ylim(rows or 1, 0)
    if not rows:
        each.text(0.5, 0.5, "this scheme asks for no sizes", ha="center", va="center")
    figure.savefig(path, format="png")


def _draw_samples(scheme: PaddingScheme, index: int, row: int, samples: int) -> _Deliver:
    labels: list[str] = []
    marks = ""
    for part in scheme.lines[index]:
        if isinstance(part, SizeRange):
            labels.append(f"{marks}{part}")
            marks = ""
        else:
            marks += f"{part}, "
    in_use = table.sizes_in_use(scheme, index)
    labels = labels[: min(len(in_use), _MOST_ROWS - row)]
    sizes: list[Counter[int]] = [Counter() for _ in labels]
    sums: Counter[int] = Counter()
    for _ in range(samples):
        drawn = [size for size in scheme.draw(index) if size is not Mark.CHECK][: len(in_use)]
        sums[sum(drawn)] += 1
        for counts, size in zip(sizes, drawn, strict=False):
            counts[size] += 1
    return _Deliver(index, row, labels, sizes, sums, table.total(in_use).mean)


def _draw_each(axes: Axes, delivers: list[_Deliver]) -> None:
    _prepare(axes, "each size", delivers)
    largest = max((max(counts) for deliver in delivers for counts in deliver.sizes), default=0)
    _limit(axes, largest, 1.03)
    ticks, labels = [], []
    for deliver, colour in zip(delivers, itertools.cycle(_COLOURS), strict=False):
        for row, (label, counts) in enumerate(zip(deliver.labels, deliver.sizes, strict=True), deliver.row):
            _draw_distribution(axes, counts, row, row + 1, colour)
            name = f"deliver {deliver.index}" if deliver.index else "deliver 0, padding in AUTH"
            ticks.append(row + 0.5)
            labels.append(f"{name}:  {label}" if row == deliver.row else label)
    axes.set_yticks(ticks, labels, fontsize=9)


def _draw_whole(axes: Axes, delivers: list[_Deliver]) -> None:
    _prepare(axes, "the whole line together", delivers)
    # With room for the number behind the largest.
    _limit(axes, max((max(deliver.sums) for deliver in delivers), default=0), 1.15)
    for deliver, colour in zip(delivers, itertools.cycle(_COLOURS), strict=False):
        _draw_distribution(axes, deliver.sums, deliver.row, deliver.end, colour)
        place = (max(deliver.sums) + 0.5, (deliver.row + deliver.end) / 2)
        mean = table.format_mean(deliver.mean)
        axes.annotate(mean, place, (5, 0), textcoords="offset points", va="center", fontsize=8, color=_GREY)


def _prepare(axes: Axes, title: str, delivers: list[_Deliver]) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("bytes", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(axis="x", color=_GRID)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "right", "top"]].set_visible(False)
    for deliver in delivers[::2]:
        axes.axhspan(deliver.row, deliver.end, color=_BAND, zorder=0)


def _limit(axes: Axes, largest: int, room: float) -> None:
    """Let the axis begin a little before 0, so that the smallest sizes are seen."""
    axes.set_xlim(-0.01 * max(largest, 1), room * max(largest, 1))


def _draw_distribution(axes: Axes, counts: Counter[int], top: int, bottom: int, colour: str) -> None:
    """Draw how often each size came, between two rows."""
    low, high = min(counts), max(counts)
    start, end = low - 0.5, high + 0.5
    height = _HEIGHT * (bottom - top)
    mean = sum(size * count for size, count in counts.items()) / counts.total()
    narrowest = _NARROWEST * axes.get_xlim()[1]
    if end - start < narrowest:
        places, heights = [mean - narrowest / 2, mean + narrowest / 2], [height]
    else:
        step = math.ceil((high - low + 1) / _STEPS)
        edges = [*range(low, high + 1, step), high + 1]
        # The last step may be narrower: what counts is the share of each number of bytes in it.
        shares = [
            sum(counts[size] for size in range(*ends)) / (ends[1] - ends[0]) for ends in itertools.pairwise(edges)
        ]
        places = [edge - 0.5 for edge in edges]
        heights = [height * share / max(shares) for share in shares]
        axes.plot([mean, mean], [bottom, bottom - height], color="black", linewidth=1)
    axes.stairs([bottom - height for height in heights], places, baseline=bottom, fill=True, color=colour)

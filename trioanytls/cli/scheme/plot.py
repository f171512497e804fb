"""Draw the sizes of each shaped packet as a picture, from random samples like those of a connection."""

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

# The number of samples of each packet. A scheme with many sizes has fewer samples, to limit the time.
_SAMPLES, _MIN_SAMPLES, _MAX_DRAWS = 20_000, 200, 1_000_000
# A picture with more rows would be unreadable.
_MAX_ROWS = 48
# The maximum number of steps between the smallest and the largest size of a distribution.
_MAX_STEPS = 40
# The height of the highest step, as a share of its row.
_HEIGHT = 0.75
# The minimum width of a distribution, as a share of the axis, so that a constant size is visible.
_MIN_WIDTH = 0.006

# In inches.
_WIDTH, _ROW, _MARGINS = 11.0, 0.34, 1.7
_PIXELS_PER_INCH = 130

_COLOURS = ("#2f6690", "#d1603d")
_BAND, _GRID, _GREY = "#f1f3f5", "#dde1e4", "#5c5c5c"


@frozen
class _Packet:
    """The samples of a shaped packet. Each size of its line is a row of the picture.

    Attributes:
      index: the index of the packet.
      row: its first row, counted from the top.
      labels: the sizes that have a row, as in the scheme, with the check marks before them.
      sizes: the frequency of each number of bytes, for each of these sizes.
      sums: the same for the sum of all sizes of the line.
      mean: the expected mean of the sums.
    """

    index: int
    row: int
    labels: list[str]
    sizes: list[Counter[int]]
    sums: Counter[int]
    mean: float

    @property
    def end(self) -> int:
        """The row after its last one."""
        return self.row + len(self.sizes)


def draw(scheme: PaddingScheme, path: Path) -> None:
    """Draw the distribution of the sizes of each packet that the scheme shapes.

    Raises:
      OSError: the file cannot be written.
    """
    indices = [index for index in sorted(scheme.lines) if table.is_reached(scheme, index)]
    lengths = {index: len(table.sizes_in_use(scheme, index)) for index in indices}
    sizes = sum(lengths.values())
    samples = min(_SAMPLES, max(_MIN_SAMPLES, _MAX_DRAWS // (sizes or 1)))
    packets: list[_Packet] = []
    rows = 0
    for index in indices:
        if lengths[index] and rows < _MAX_ROWS:
            packets.append(_draw_samples(scheme, index, rows, samples))
            rows = packets[-1].end

    figure = Figure(figsize=(_WIDTH, _MARGINS + _ROW * max(rows, 3)), dpi=_PIXELS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"Sizes of padding scheme {scheme.digest}", fontsize=14, fontweight="bold")
    note = f"{samples:,} samples of each packet; height: frequency, with one scale per row; black line and number: mean"
    if rows < sizes:
        note += f"; the first {rows} of {sizes:,} sizes"
    figure.supxlabel(note, fontsize=9, color=_GREY)
    each, whole = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    _draw_each(each, packets)
    _draw_whole(whole, packets)
    # Rows are counted from the top.
    each.set_ylim(rows or 1, 0)
    if not rows:
        each.text(0.5, 0.5, "this scheme has no sizes", ha="center", va="center")
    figure.savefig(path, format="png")


def _draw_samples(scheme: PaddingScheme, index: int, row: int, samples: int) -> _Packet:
    labels: list[str] = []
    marks = ""
    for part in scheme.lines[index]:
        if isinstance(part, SizeRange):
            labels.append(f"{marks}{part}")
            marks = ""
        else:
            marks += f"{part}, "
    in_use = table.sizes_in_use(scheme, index)
    labels = labels[: min(len(in_use), _MAX_ROWS - row)]
    sizes: list[Counter[int]] = [Counter() for _ in labels]
    sums: Counter[int] = Counter()
    for _ in range(samples):
        drawn = [size for size in scheme.draw(index) if size is not Mark.CHECK][: len(in_use)]
        sums[sum(drawn)] += 1
        for counts, size in zip(sizes, drawn, strict=False):
            counts[size] += 1
    return _Packet(index, row, labels, sizes, sums, table.total(in_use).mean)


def _draw_each(axes: Axes, packets: list[_Packet]) -> None:
    _prepare(axes, "each size", packets)
    largest = max((max(counts) for packet in packets for counts in packet.sizes), default=0)
    _limit(axes, largest, 1.03)
    ticks, labels = [], []
    for packet, colour in zip(packets, itertools.cycle(_COLOURS), strict=False):
        for row, (label, counts) in enumerate(zip(packet.labels, packet.sizes, strict=True), packet.row):
            _draw_distribution(axes, counts, row, row + 1, colour)
            name = f"packet {packet.index}" if packet.index else "packet 0, padding in AUTH"
            ticks.append(row + 0.5)
            labels.append(f"{name}:  {label}" if row == packet.row else label)
    axes.set_yticks(ticks, labels, fontsize=9)


def _draw_whole(axes: Axes, packets: list[_Packet]) -> None:
    _prepare(axes, "sum of the line", packets)
    # With room for the number after the largest sum.
    _limit(axes, max((max(packet.sums) for packet in packets), default=0), 1.15)
    for packet, colour in zip(packets, itertools.cycle(_COLOURS), strict=False):
        _draw_distribution(axes, packet.sums, packet.row, packet.end, colour)
        place = (max(packet.sums) + 0.5, (packet.row + packet.end) / 2)
        mean = table.format_mean(packet.mean)
        axes.annotate(mean, place, (5, 0), textcoords="offset points", va="center", fontsize=8, color=_GREY)


def _prepare(axes: Axes, title: str, packets: list[_Packet]) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("bytes", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(axis="x", color=_GRID)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "right", "top"]].set_visible(False)
    for packet in packets[::2]:
        axes.axhspan(packet.row, packet.end, color=_BAND, zorder=0)


def _limit(axes: Axes, largest: int, room: float) -> None:
    """Begin the axis a little before 0, so that the smallest sizes are visible."""
    axes.set_xlim(-0.01 * max(largest, 1), room * max(largest, 1))


def _draw_distribution(axes: Axes, counts: Counter[int], top: int, bottom: int, colour: str) -> None:
    """Draw the frequency of each size, between two rows."""
    low, high = min(counts), max(counts)
    start, end = low - 0.5, high + 0.5
    height = _HEIGHT * (bottom - top)
    mean = sum(size * count for size, count in counts.items()) / counts.total()
    narrowest = _MIN_WIDTH * axes.get_xlim()[1]
    if end - start < narrowest:
        places, heights = [mean - narrowest / 2, mean + narrowest / 2], [height]
    else:
        step = math.ceil((high - low + 1) / _MAX_STEPS)
        edges = [*range(low, high + 1, step), high + 1]
        # The last step may be narrower, so the height is the mean frequency of the sizes in a step.
        shares = [
            sum(counts[size] for size in range(*ends)) / (ends[1] - ends[0]) for ends in itertools.pairwise(edges)
        ]
        places = [edge - 0.5 for edge in edges]
        heights = [height * share / max(shares) for share in shares]
        axes.plot([mean, mean], [bottom, bottom - height], color="black", linewidth=1)
    axes.stairs([bottom - height for height in heights], places, baseline=bottom, fill=True, color=colour)

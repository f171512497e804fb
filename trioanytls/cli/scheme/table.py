"""Print a padding scheme as a table."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trioanytls import Mark, PaddingScheme, SchemeError, SizeRange

_LEGEND = """\
Each connection draws each size min-max at random, excluding max. Line 0 is the length of the padding in AUTH.
c: a check mark. The packet ends there if no data is left to send.
Min, mean and max: the bytes of a packet that uses its whole line."""


@frozen
class Total:
    """The number of bytes of a line.

    Attributes:
      minimum, mean, maximum: those of the sum of its sizes.
    """

    minimum: int
    mean: float
    maximum: int


def show(scheme: PaddingScheme) -> None:
    """Print the scheme."""
    console = Console(highlight=False)
    console.print(f"digest  {scheme.digest}", soft_wrap=True)
    console.print(f"stop    {scheme.stop}", soft_wrap=True)
    console.print(f"legacy  {_describe_legacy(scheme)}", soft_wrap=True)
    table = Table(box=box.SIMPLE)
    table.add_column("Packet", justify="right", no_wrap=True)
    table.add_column("Sizes and check marks")
    for title in ("Min", "Mean", "Max"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    for row in _rows(scheme):
        table.add_row(*map(Text, row))
    console.print(table)
    console.print(_LEGEND, style="dim", soft_wrap=True)


def _describe_legacy(scheme: PaddingScheme) -> str:
    """Say whether a server can send the scheme to clients of the wire format "legacy"."""
    try:
        scheme.check_for_legacy()
    except SchemeError as error:
        return f"no: {error}"
    return "yes: servers can send this scheme to clients of the wire format legacy"


def sizes_in_use(scheme: PaddingScheme, index: int) -> list[SizeRange]:
    """Return the sizes that packet `index` may use: those of its line, or only the first one of line 0."""
    line = scheme.lines.get(index, ())
    return [part for part in (line if index else line[:1]) if isinstance(part, SizeRange)]


def is_reached(scheme: PaddingScheme, index: int) -> bool:
    """Return whether the line of packet `index` is ever used. Line 0 always is, for the padding in AUTH."""
    return index < scheme.stop or not index


def total(sizes: list[SizeRange]) -> Total:
    """Return the total of these sizes."""
    return Total(
        sum(size.low for size in sizes),
        sum(size.low + size.largest for size in sizes) / 2,
        sum(size.largest for size in sizes),
    )


def format_mean(mean: float) -> str:
    """Format a mean of sizes, which is an integer or ends in a half."""
    return f"{mean:,.1f}".removesuffix(".0")


def _rows(scheme: PaddingScheme) -> Iterator[tuple[str, ...]]:
    expected = 0
    for index in sorted(scheme.lines):
        yield from _gap(expected, min(index, scheme.stop))
        expected = index + 1
        sizes = total(sizes_in_use(scheme, index))
        line = ", ".join(map(str, scheme.lines[index]))
        numbers = (f"{sizes.minimum:,}", format_mean(sizes.mean), f"{sizes.maximum:,}")
        yield f"{index}", line, *numbers, _remark(scheme, index)
    yield from _gap(expected, scheme.stop)


def _gap(first: int, end: int) -> Iterator[tuple[str, ...]]:
    """Yield the row for the packets from `first` up to, but excluding, `end`, which have no line in the scheme."""
    if first < end:
        indices = f"{first}" if end - first == 1 else f"{first}-{end - 1}"
        yield indices, "no line", "", "", "", "one write each, unshaped"


def _remark(scheme: PaddingScheme, index: int) -> str:
    if not is_reached(scheme, index):
        return f"never reached: stop={scheme.stop}"
    if index:
        return ""
    first, *others = scheme.lines[0]
    if first is Mark.CHECK:
        return "no padding in AUTH: it begins with a check mark"
    return "padding in AUTH" + ("; only the first size counts" if others else "")

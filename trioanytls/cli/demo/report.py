"""The tables that `trioanytls demo` prints at its end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click
from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from trioanytls import ConnectionStats, Delivery, Mark, one_line

from .results import Fetched, Outcome

_LEGEND = """\
Packet 0 is AUTH, NEGO and the first OPEN. Its size in the scheme is the padding in AUTH.
c: a check mark. In parentheses: not used, since no data was left to send at the check mark.
rest: sent unshaped after the last size. A write of padding alone has an additional header."""


def show(outcome: Outcome) -> None:
    """Print the result of the upload, and its errors on the standard error."""
    console = Console(highlight=False)
    if outcome.stats is not None:
        console.print(_totals(outcome, outcome.stats))
        console.print(_packets(outcome.stats.deliveries))
        console.print(_LEGEND, style="dim", soft_wrap=True)
    print_errors("Could not be read", outcome.unreadable)
    print_errors("Error: not uploaded intact", outcome.failed)


def show_fetched(ways: Sequence[Fetched]) -> None:
    """Print the files fetched through the relay, and the errors on the standard error."""
    table = Table(title="Fetched through the relay", title_justify="left", box=box.SIMPLE)
    for name in ("", "Files", "Bytes", "Time", "Rate"):
        table.add_column(name, justify="left" if not name else "right")
    for way in ways:
        rate = f"{decimal(round(way.size / way.seconds))}/s" if way.seconds else ""
        table.add_row(way.how, f"{way.files:,}", f"{way.size:,}", f"{way.seconds:,.2f} s", rate)
    if table.row_count:
        Console(highlight=False).print(table)
    for way in ways:
        print_errors(f"Error: {way.how}: not fetched intact", way.failed)


def _totals(outcome: Outcome, stats: ConnectionStats) -> Table:
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column()
    seconds = outcome.seconds
    rate = f"{decimal(round(outcome.size / seconds))}/s" if seconds else ""
    table.add_row("Files", f"{outcome.files:,}", "uploaded, with matching SHA-256")
    table.add_row("Bytes", f"{outcome.size:,}", "in these files")
    table.add_row("Time", f"{seconds:,.2f} s", rate)
    table.add_row("Streams", f"{stats.streams_opened:,}", "over one connection")
    table.add_row("Frames", f"{sum(stats.frames_sent.values()):,}", f"sent: {_kinds(stats.frames_sent.items())}")
    received = stats.frames_received
    table.add_row("", f"{sum(received.values()):,}", f"received: {_kinds(received.items())}")
    table.add_row("Writes", f"{stats.writes:,}", f"to TLS, {stats.bytes_sent:,} bytes in total")
    return table


def _kinds(frames: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in frames)


def _packets(deliveries: Iterable[Delivery]) -> Table:
    table = Table(title="The first shaped packets, in bytes", title_justify="left", box=box.SIMPLE)
    table.add_column("Packet", justify="right")
    table.add_column("Sizes in the scheme")
    table.add_column("Sizes of the writes")
    for delivery in deliveries:
        table.add_row(Text(str(delivery.index)), Text(asked(delivery)), Text(written(delivery)))
    return table


def asked(delivery: Delivery) -> str:
    """Return the sizes and check marks of the scheme, with unused ones in parentheses."""
    end = _used(delivery)
    used, unused = (", ".join(map(str, parts)) for parts in (delivery.asked[:end], delivery.asked[end:]))
    if not delivery.index:
        used += " of padding"
    return f"{used} ({unused})" if unused else used


def written(delivery: Delivery) -> str:
    """Return the sizes of the writes."""
    sizes = len(delivery.written)
    if delivery.index:
        sizes = sum(1 for part in delivery.asked if part is not Mark.CHECK and part)
    parts = [str(size) for size in delivery.written[:sizes]]
    return ", ".join(parts + [f"rest {size}" for size in delivery.written[sizes:]])


def _used(delivery: Delivery) -> int:
    """Return how many sizes and check marks the packet used. Each size other than 0 is a write."""
    if not delivery.index:
        return len(delivery.asked)
    writes = 0
    for position, part in enumerate(delivery.asked):
        if part is Mark.CHECK or not part:
            continue
        if writes == len(delivery.written):
            return position
        writes += 1
    return len(delivery.asked)


def print_errors(title: str, lines: list[str]) -> None:
    """Print errors on the standard error, one line each, below a title with their number."""
    if lines:
        click.echo(f"{title}: {len(lines):,}", err=True)
        for line in sorted(lines):
            click.echo(f"  {one_line(line)}", err=True)

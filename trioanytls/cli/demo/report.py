"""What `trioanytls demo` says at its end."""

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
Deliver 0 is AUTH, NEGO and the first OPEN; what is asked for is the padding in AUTH.
c: a check mark. In brackets: not used, the check mark found nothing left to send.
rest: went out unshaped behind the last size. A Write of padding alone has its header on top."""


def show(outcome: Outcome) -> None:
    """Print the tables, and on the standard error what went wrong."""
    console = Console(highlight=False)
    if outcome.stats is not None:
        console.print(_totals(outcome, outcome.stats))
        console.print(_deliveries(outcome.stats.deliveries))
        console.print(_LEGEND, style="dim", soft_wrap=True)
    _complain("Could not be read", outcome.unreadable)
    _complain("Error: not uploaded intact", outcome.failed)


def show_fetched(ways: Sequence[Fetched]) -> None:
    """Print what came through the relay, and on the standard error what did not."""
    table = Table(title="Fetched through the relay", title_justify="left", box=box.SIMPLE)
    for name in ("", "Files", "Bytes", "Time", "Rate"):
        table.add_column(name, justify="left" if not name else "right")
    for way in ways:
        rate = f"{decimal(round(way.size / way.seconds))}/s" if way.seconds else ""
        table.add_row(way.how, f"{way.files:,}", f"{way.size:,}", f"{way.seconds:,.2f} s", rate)
    if table.row_count:
        Console(highlight=False).print(table)
    for way in ways:
        _complain(f"Error: {way.how}: not fetched intact", way.failed)


def _totals(outcome: Outcome, stats: ConnectionStats) -> Table:
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column()
    seconds = outcome.seconds
    rate = f"{decimal(round(outcome.size / seconds))}/s" if seconds else ""
    table.add_row("Files", f"{outcome.files:,}", "uploaded, each with the right SHA-256")
    table.add_row("Bytes", f"{outcome.size:,}", "in these files")
    table.add_row("Time", f"{seconds:,.2f} s", rate)
    table.add_row("Streams", f"{stats.streams_opened:,}", "over one connection")
    table.add_row("Frames", f"{sum(stats.frames_sent.values()):,}", f"sent: {_kinds(stats.frames_sent.items())}")
    received = stats.frames_received
    table.add_row("", f"{sum(received.values()):,}", f"received: {_kinds(received.items())}")
    table.add_row("Writes", f"{stats.writes:,}", f"to TLS, {stats.bytes_sent:,} bytes in all")
    return table


def _kinds(frames: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in frames)


def _deliveries(deliveries: Iterable[Delivery]) -> Table:
    table = Table(title="The first deliveries, in bytes", title_justify="left", box=box.SIMPLE)
    table.add_column("Deliver", justify="right")
    table.add_column("The scheme asked for")
    table.add_column("Went out as")
    for delivery in deliveries:
        table.add_row(Text(str(delivery.index)), Text(asked(delivery)), Text(written(delivery)))
    return table


def asked(delivery: Delivery) -> str:
    """The sizes that the scheme asked for, and its check marks; in brackets those that were not used."""
    end = _used(delivery)
    used, unused = (", ".join(map(str, parts)) for parts in (delivery.asked[:end], delivery.asked[end:]))
    if not delivery.index:
        used += " of padding"
    return f"{used} ({unused})" if unused else used


def written(delivery: Delivery) -> str:
    """The sizes of the Writes that were made."""
    sizes = len(delivery.written)
    if delivery.index:
        sizes = sum(1 for part in delivery.asked if part is not Mark.CHECK and part)
    parts = [str(size) for size in delivery.written[:sizes]]
    return ", ".join(parts + [f"rest {size}" for size in delivery.written[sizes:]])


def _used(delivery: Delivery) -> int:
    """How many of the sizes and check marks the deliver came to: each size that is not 0 is a Write."""
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


def _complain(title: str, lines: list[str]) -> None:
    if lines:
        click.echo(f"{title}: {len(lines):,}", err=True)
        for line in sorted(lines):
            click.echo(f"  {one_line(line)}", err=True)

"""The progress of a task: a bar on a terminal, or a few lines if there is no terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import click
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

#: Reports one more file, with its size in bytes.
Advance = Callable[[int], None]

# The number of lines if there is no terminal.
_LINES = 4


@contextlib.contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """Show on the standard error how many of `total` files are done, until the block is left."""
    console = Console(stderr=True)
    with _bar(console, title, total) if console.is_terminal else _lines(title, total) as advance:
        yield advance


@contextlib.contextmanager
def _bar(console: Console, title: str, total: int) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files  {task.fields[size]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total, size=decimal(0))
        done = 0

        def advance(size: int) -> None:
            nonlocal done
            done += size
            bar.update(task, advance=1, size=decimal(done))

        yield advance


@contextlib.contextmanager
def _lines(title: str, total: int) -> Iterator[Advance]:
    click.echo(f"{title}: {total:,} files", err=True)
    files = done = 0

    def advance(size: int) -> None:
        nonlocal files, done
        before = files * _LINES // total
        files += 1
        done += size
        if files * _LINES // total > before:
            click.echo(f"{title}: {files:,} of {total:,} files, {decimal(done)}", err=True)

    yield advance

"""Run a command on Trio. Ctrl-C closes all connections in order, and an expected error is printed as one line."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeVar

import click
import trio

from trioanytls import AnyTLSError, one_line
from trioanytls.relay.errors import leaves

from .exit_codes import after_signal

T = TypeVar("T")


class Interrupted(click.ClickException):
    """The user pressed Ctrl-C. The exit code is the one that a shell reports for it."""

    exit_code: ClassVar[int] = after_signal(signal.SIGINT)

    def __init__(self) -> None:
        super().__init__("interrupted")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy the error by its `__init__`, which takes no arguments."""
        return Interrupted, (), self.__dict__


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` to its end, from the main thread, and return its result.

    Ctrl-C cancels it, so that every connection does its close handshake. By default, Trio would raise KeyboardInterrupt
    in the task that happens to run.

    Raises:
      Interrupted: Ctrl-C was pressed.
      click.ClickException: `work` failed with an error of the network or the protocol.
    """
    results: list[T] = []
    interrupt = trio.Event()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(_cancel_on_interrupt, nursery.cancel_scope, interrupt)
            results.append(await work())
            nursery.cancel_scope.cancel()

    errors: list[BaseException] = []
    try:
        trio.run(main)
    except* (OSError, AnyTLSError) as group:
        errors.extend(leaves(group))
    if results:
        return results[0]
    # Cancelled work may fail because its connection has closed. Report the interruption instead.
    if interrupt.is_set() or not errors:
        raise Interrupted
    raise click.ClickException(one_line(str(errors[0]))) from errors[0]


async def _cancel_on_interrupt(
    scope: trio.CancelScope,
    interrupt: trio.Event,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            interrupt.set()
            scope.cancel()


def discard_standard_output() -> None:
    """Redirect the standard output to the null device, including output that is buffered.

    Otherwise, Python would try to write the buffer again at exit, fail, and exit with 120.
    """
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)

"""How a command runs on Trio: Ctrl-C closes everything in order, and an error that is no bug takes one line."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click
import trio

from trioanytls import AnyTLSError, one_line
from trioanytls.relay.errors import Restorable, leaves

from .exit_codes import after_signal

T = TypeVar("T")


class Interrupted(Restorable, click.ClickException):
    """The user pressed Ctrl-C; the exit code is the one that shells know for it."""

    exit_code = after_signal(signal.SIGINT)

    def __init__(self) -> None:
        super().__init__("interrupted")


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` to its end, from the main thread.

    Ctrl-C cancels it, so that every connection says goodbye. Trio alone would raise KeyboardInterrupt in whichever task
    is running.

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
    # What is cancelled may meet the end of a connection first: no news then.
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
    """Let what could not be written, and what is yet to come, go to the null device.

    Python would try again at its exit, fail, and exit with 120.
    """
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)

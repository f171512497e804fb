"""Counting the work of the two ends of a connection: entries into functions, steps of tasks, passes of the event loop.

Both ends run in one thread. The context of a task tells its side, and what the task does counts for that side. The
event loop itself counts for none.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import random
import re
import sys
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import CodeType, FrameType
from typing import Literal, TypeVar
from unittest import mock

import trio
import trio.testing
from attrs import Factory, define, frozen

import trioanytls

#: A task without a side is "shared": connections of both ends may use it. The "application" uses a relay.
Side = Literal["client", "server", "shared", "application"]

ResultT = TypeVar("ResultT")
InstrumentT = TypeVar("InstrumentT", bound=trio.abc.Instrument)

_side: ContextVar[Side] = ContextVar("side")
_PACKAGE = Path(trioanytls.__file__).parent.as_posix()
_HERE = Path(__file__).parent.as_posix()
# Python 3.12 inlines comprehensions, and 3.13 enters generators less often.
_DIFFER = {"<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"}
# The functions of this package and of what it works with, and the checks of types by `abc`: their number depends on the
# earlier ones of the process.
_NOT_COUNTED = re.compile(rf"{re.escape(_HERE)}/|<frozen abc>|.*/trio/_core/_(instrumentation|mock_clock)\.py")
_NOT_COUNTED_NAME = "UserDict.__contains__"  # of the instruments of Trio
# In seconds. Longer than a client's first frames wait for the first stream.
_SETTLE_TIME = 0.1


def _side_of(task: trio.lowlevel.Task) -> Side:
    return task.context[_side] if _side in task.context else "shared"  # noqa: SIM401 - mypy: `get` may return None


def on_side(side: Side) -> None:
    """Let the current task count for a side from its next step on, and the tasks that it starts from now on."""
    _side.set(side)


def _file_of(code: CodeType) -> str:
    return code.co_filename.replace("\\", "/")


async def settle() -> None:
    """Wait until all tasks wait, and what waits for more data before it is sent has been sent."""
    # The clock advances to the next deadline whenever all tasks wait.
    await trio.sleep(_SETTLE_TIME)


@frozen(order=True)
class Function:
    """A function.

    Attributes:
      file: its file, relative to the package if it belongs to trioanytls.
      name: its qualified name.
      own: whether it belongs to trioanytls.
    """

    file: str
    name: str
    own: bool

    @classmethod
    def of(cls, code: CodeType) -> Function:
        """Describe a function by its code. Methods that attrs has generated belong to the package of their class."""
        file = _file_of(code)
        own = file.startswith(_PACKAGE) or (file.startswith("<attrs generated") and "trioanytls" in file)
        return cls(file.removeprefix(_PACKAGE + "/"), code.co_qualname, own)


def _is_counted(code: CodeType) -> bool:
    return not (code.co_name in _DIFFER or code.co_qualname == _NOT_COUNTED_NAME or _NOT_COUNTED.match(_file_of(code)))


@define
class Counts:
    """The work of a run.

    Attributes:
      entries: how often each function was entered, by side. A coroutine is entered when it starts, and whenever it
        continues.
      steps: the steps of tasks, by side and by the task's name.
      passes: the passes of the event loop.
    """

    entries: Counter[tuple[Side, Function]] = Factory(Counter)
    steps: Counter[tuple[Side, str]] = Factory(Counter)
    passes: int = 0

    def calls(self, side: Side, *, own: bool) -> int:
        """Return the number of entries of a side: into functions of trioanytls, or all."""
        return sum(
            count for (its_side, function), count in self.entries.items() if its_side == side and function.own >= own
        )

    def steps_of(self, side: Side) -> int:
        """Return the number of steps of a side."""
        return sum(count for (its_side, _), count in self.steps.items() if its_side == side)


class Meter(trio.abc.Instrument):
    """Counts while `count` runs."""

    def __init__(self) -> None:
        # None during the work of the event loop.
        self._current: Side | None = None
        self._entries: Counter[tuple[Side, CodeType]] = Counter()
        self._counts: Counts | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._current = _side_of(task)
        if self._counts is not None:
            self._counts.steps[self._current, task.name] += 1

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._current = None

    def before_io_wait(self, timeout: float) -> None:
        if self._counts is not None:
            self._counts.passes += 1

    def _profile(self, frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and self._current is not None:
            self._entries[self._current, frame.f_code] += 1

    async def count(self, function: Callable[[int], Awaitable[object]], units: int) -> Counts:
        """Count the work of `function(units)`, until all tasks wait again."""
        await settle()
        self._counts = counts = Counts()
        self._entries.clear()
        before = sys.getprofile()
        sys.setprofile(self._profile)
        try:
            await function(units)
            await settle()
        finally:
            sys.setprofile(before)
            self._counts = None
        for (side, code), entries in self._entries.items():
            if _is_counted(code):
                counts.entries[side, Function.of(code)] += entries
        return counts


class MemoryMeter(trio.abc.Instrument):
    """Measures the memory of Python objects that stays, while `measure` runs.

    What is allocated or freed from a step of a task to the next step belongs to the task's side.

    Attributes:
      snapshot: the allocations at the end.
    """

    def __init__(self) -> None:
        self.snapshot: tracemalloc.Snapshot | None = None
        self._current: Side = "shared"
        self._last = 0
        self._sizes: Counter[Side] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._read()
        self._current = _side_of(task)

    def _read(self) -> None:
        size, _ = tracemalloc.get_traced_memory()
        self._sizes[self._current] += size - self._last
        self._last = size

    async def measure(self, function: Callable[[int], Awaitable[object]], units: int) -> dict[Side, int]:
        """Return the bytes that remain after `function(units)`, by side."""
        await settle()
        # This empties the lists of free objects, too: they are not traced.
        gc.collect()
        tracemalloc.start()
        try:
            self._last = 0
            self._sizes.clear()
            await function(units)
            await settle()
            self._read()
            self.snapshot = tracemalloc.take_snapshot()
        finally:
            tracemalloc.stop()
        return dict(self._sizes)


class _Middle(random.SystemRandom):
    """Draws the middle of each range, so that the sizes of shaped packets are the same in all runs."""

    def _randbelow(self, limit: int) -> int:
        return limit // 2


def _reverse() -> float:
    # Trio takes the ready tasks from the end. Before that it reverses them or not, depending on this number.
    return 0.0


@contextlib.contextmanager
def _reproducible() -> Iterator[None]:
    """Make runs repeat each other: tasks run in the order in which they became ready, and nothing is random."""
    logger = logging.getLogger("trioanytls")
    level, collecting = logger.level, gc.isenabled()
    with (
        mock.patch("secrets._sysrand", _Middle()),
        mock.patch.object(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", False),
        mock.patch.object(trio._core._run._r, "random", _reverse),
    ):
        logger.setLevel(logging.WARNING)
        gc.disable()
        try:
            yield
        finally:
            logger.setLevel(level)
            if collecting:
                gc.enable()


def run(main: Callable[[InstrumentT], Awaitable[ResultT]], instrument: InstrumentT) -> ResultT:
    """Run a task of the client with an instrument. The clock advances only while all tasks wait."""

    async def run_as_client() -> ResultT:
        on_side("client")
        return await main(instrument)

    with _reproducible():
        clock = trio.testing.MockClock(autojump_threshold=0)
        return trio.run(run_as_client, clock=clock, instruments=[instrument])

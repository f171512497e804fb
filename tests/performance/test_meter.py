"""The meters count what tasks do, by the side of each task, and the comparison notices one call more."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Mapping
from importlib.metadata import version
from unittest import mock

import pytest
import trio
from attrs import evolve

from trioanytls._protocol.anytls1 import varint

from . import _bounds
from ._bounds import MEMORY_SLACK, Costs, counts_of, differences
from ._ends import Setting
from ._meter import Counts, MemoryMeter, Side, on_side, run
from ._works import MEMORY, TLS, WORKS, DoUnits, Work

PING_PONG = next(work for work in WORKS if work.name == "ping-pong")


@contextlib.asynccontextmanager
async def encoding(_setting: Setting) -> AsyncIterator[DoUnits]:
    """Prepare calling one function of the package for each unit, twice on the server, with a checkpoint after each."""

    async def encode(count: int) -> None:
        for _ in range(count):
            varint.encode(7)
            await trio.lowlevel.checkpoint()

    async def encode_on_server(count: int) -> None:
        on_side("server")
        await trio.lowlevel.checkpoint()
        await encode(count)

    async def encode_on_both(units: int) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(encode, units)
            nursery.start_soon(encode_on_server, 2 * units)

    yield encode_on_both


ENCODING = Work("encoding", "an integer", encoding, 5)


def test_calls_steps_and_passes_are_counted_by_side() -> None:
    costs = _bounds.costs_of(ENCODING, MEMORY)
    assert {name: cost for name, cost in costs.items() if not name.endswith(" all")} == {
        "client own": 1,
        "client steps": 1,
        "server own": 2,
        "server steps": 2,
        "passes": 2,
    }
    # Trio's functions count among all: the checkpoint is entered, and entered again when it continues.
    assert costs["server all"] == 2 * costs["client all"] >= 2 * 3


def test_each_function_has_its_name_and_its_file() -> None:
    once, twice = counts_of(ENCODING, MEMORY)
    own = {entry: count for entry, count in twice.entries.items() if entry[1].own}
    assert {(side, function.name, function.file): count for (side, function), count in own.items()} == {
        ("client", "encode", "_protocol/anytls1/varint.py"): 10,
        ("server", "encode", "_protocol/anytls1/varint.py"): 20,
    }
    assert once.calls("server", own=True) == 10


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(TLS, marks=pytest.mark.skipif(sys.platform == "win32", reason="needs Unix sockets")),
        MEMORY,
    ],
    ids=str,
)
def test_runs_repeat_each_other(setting: Setting) -> None:
    def entries() -> tuple[Counts, Counts]:
        return counts_of(PING_PONG, setting)

    assert entries() == entries()


def test_memory_is_measured_by_side() -> None:
    kept: list[bytes] = []

    async def keep(size: int) -> None:
        kept.append(bytes(size))
        await trio.lowlevel.checkpoint()

    async def keep_on_server(size: int) -> None:
        on_side("server")
        await trio.lowlevel.checkpoint()
        await keep(size)

    async def keep_on_both(size: int) -> None:
        bytes(10 * size)  # freed at once
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep, size)
            nursery.start_soon(keep_on_server, 2 * size)

    async def main(meter: MemoryMeter) -> Mapping[Side, int]:
        return await meter.measure(keep_on_both, 1_000_000)

    sizes = run(main, MemoryMeter())
    assert sizes["client"] == pytest.approx(1_000_000, abs=20_000)
    assert sizes["server"] == pytest.approx(2_000_000, abs=20_000)


def test_one_call_more_is_dearer() -> None:
    bound: Costs = {"client own": 51, "client all": 103, "passes": 4}
    assert differences(bound, bound) == ([], [])
    dearer, cheaper = differences({"client own": 52, "client all": 103, "passes": 3, "shared steps": 1}, bound)
    assert dearer == ["client own: 52, and the bound is 51", "shared steps: 1, and the bound is 0"]
    assert cheaper == ["passes: 3, and the bound is 4"]


def test_memory_has_a_little_slack() -> None:
    bound: Costs = {"client bytes": 30_000}
    assert differences({"client bytes": 30_000 * (1 + MEMORY_SLACK)}, bound) == ([], [])
    assert differences({"client bytes": 30_000 * (1 - MEMORY_SLACK)}, bound) == ([], [])
    assert differences({"client bytes": 30_000 * (1 + MEMORY_SLACK) + 1}, bound)[0]


@pytest.mark.parametrize(("of_table", "compared"), [(version("trio"), True), ("0.0", False)])
def test_calls_of_another_trio_are_not_compared(of_table: str, compared: bool) -> None:
    with mock.patch.object(_bounds, "_contents", return_value={"trio": of_table}):
        assert bool(differences({"client all": 104}, {"client all": 103})[0]) is compared
        assert differences({"client own": 52}, {"client own": 51})[0]


def test_a_work_warms_up_before_it_is_counted() -> None:
    units: list[int] = []

    @contextlib.asynccontextmanager
    async def prepare(_setting: Setting) -> AsyncIterator[DoUnits]:
        async def note(count: int) -> None:
            units.append(count)
            await trio.lowlevel.checkpoint()

        yield note

    counts_of(evolve(ENCODING, prepare=prepare, warm_up=7), MEMORY)
    assert units == [7, 5, 10]

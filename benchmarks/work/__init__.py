"""The measurements, one subject a module. ``WORKS`` lists them with the figures of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.peer import Peer

    Measure = Callable[["Task"], Awaitable[dict[str, float]]]


class NotApplicable(Exception):
    """The peer cannot do this work by its design. The message gives the reason."""


@dataclass(frozen=True)
class Task:
    """The arguments of a measurement."""

    peer: Peer
    port: int
    seconds: float
    """The approximate duration of the timed part."""
    quick: bool
    problems: list[str] = field(default_factory=list)
    """Filled by the measurement: the reasons why some of its figures are missing."""


@dataclass(frozen=True)
class Figure:
    """One number of a work."""

    key: str
    title: str
    unit: str
    more_is_better: bool = False
    digits: int = 0


@dataclass(frozen=True)
class Work:
    """One kind of work."""

    letter: str
    title: str
    function: str
    """Its ``module.function`` in this package."""
    figures: tuple[Figure, ...]
    """Its figures. Ratios use the first one."""
    base: str | None = None
    """The work of the bare stream to compare with, if it is another one. "" for no ratio."""
    together_with: str | None = None
    """Another work, whose measurement gives these figures too."""
    heavy: bool = False
    """Whether it takes long and needs fresh processes."""
    limit: float = 12.0
    """Its timeout, in seconds."""

    def load(self) -> Measure:
        """Import the module and return the function that measures."""
        module, _, name = self.function.partition(".")
        measure: Measure = getattr(import_module(f"{__name__}.{module}"), name)
        return measure


def _rate(unit: str) -> Figure:
    return Figure("rate", "rate", unit, more_is_better=True)


_P50 = Figure("p50", "p50", "us")
_P99 = Figure("p99", "p99", "us")

STREAM_COUNTS = (1, 10, 100, 1_000, 10_000)
"""The numbers of open streams with which (i) measures the cost of a message."""

WORKS: dict[str, Work] = {
    work.letter: work
    for work in (
        Work("a", "bulk, one stream, 64 KiB writes", "bulk.one", (_rate("MB/s"),)),
        Work("b", "bulk, 16 streams", "bulk.sixteen", (_rate("MB/s"),)),
        Work("c", "64-byte one-way messages, one stream", "messages.one", (_rate("/s"),)),
        Work("d", "64-byte one-way messages, 100 streams", "messages.hundred", (_rate("/s"),)),
        Work("e", "ping-pong of 64 bytes", "latency.ping", (_P50, _P99)),
        Work("f", "open a stream, first byte back", "latency.open_stream", (_P50, _P99, _rate("/s")), base="h"),
        Work("h", "connect, first byte back", "latency.connect", (_P50, _P99)),
        Work(
            "k",
            "ping of a ninth stream beside 8 bulk streams",
            "fairness.ninth",
            (_P50, _P99, Figure("bulk", "bulk beside it", "MB/s", True), Figure("ahead", "bytes ahead", "KiB")),
            base="",
        ),
        Work("l", "bulk both ways, 4 streams", "bulk.both_ways", (_rate("MB/s"),), limit=8.0),
        Work(
            "g",
            "memory per idle stream",
            "streams.crowd",
            (
                Figure("client", "client", "KiB", digits=2),
                Figure("client_task", "client, a reading task each", "KiB", digits=2),
                Figure("server", "server, a handler task each", "KiB", digits=2),
                Figure("streams", "streams", "", True),
                Figure("open", "time to open them", "s", digits=2),
            ),
            base="",
            heavy=True,
            limit=75.0,
        ),
        Work(
            "i",
            "cost of a message beside open streams",
            "streams.crowd",
            (
                Figure("growth", "most / with 1 open", "x", digits=2),
                *(Figure(f"at_{count}", f"message, {count:,} open", "us", digits=1) for count in STREAM_COUNTS),
                *(Figure(f"ping_{count}", f"ping, any of {count:,}", "us") for count in STREAM_COUNTS),
            ),
            base="",
            together_with="g",
            heavy=True,
            limit=75.0,
        ),
        Work(
            "j",
            "many connections, one stream each",
            "connections.many",
            (
                _rate("MB/s"),
                Figure("connections", "connections", "", True),
                Figure("open", "time to open them", "s", digits=2),
                Figure("client", "client, each", "KiB", digits=1),
                Figure("server", "server, each", "KiB", digits=1),
            ),
            heavy=True,
            limit=45.0,
        ),
    )
}
"""In the order in which they are done, the light ones first."""

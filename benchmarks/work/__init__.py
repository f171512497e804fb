"""The measurements, one subject a module. ``WORKS`` lists them with the figures of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

from benchmarks.peers import BASE, RELAY_BASE

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
    group: str
    title: str
    function: str
    """Its ``module.function`` in this package."""
    figures: tuple[Figure, ...]
    """Its figures. Ratios use the first one."""
    base: str | None = None
    """The work of the base peer to compare with, if it is another one. "" for no ratio."""
    base_peer: str = BASE
    """The peer to compare with."""
    together_with: str | None = None
    """Another work, whose measurement gives these figures too."""
    fresh: bool = False
    """Whether it needs fresh processes, because earlier work leaves memory behind."""
    crowded: bool = False
    """Whether the server must allow 10,000 streams on a connection."""
    heavy: bool = False
    """Whether it takes long, and is repeated only as time allows."""
    rounds: int | None = None
    """The number of rounds in which it is done, or ``None`` for all."""
    seconds: tuple[float, float] = (0.6, 0.12)
    """The duration of its timed part, in seconds, and that with ``--quick``. If it opens many: the timeout for that."""
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
        Work("a", "bulk", "bulk, one stream, 64 KiB writes", "bulk.one", (_rate("MB/s"),)),
        Work("b", "bulk", "bulk, 16 streams", "bulk.sixteen", (_rate("MB/s"),)),
        Work("c", "messages", "64-byte one-way messages, one stream", "messages.one", (_rate("/s"),)),
        Work("d", "messages", "64-byte one-way messages, 100 streams", "messages.hundred", (_rate("/s"),)),
        Work("e", "latency", "ping-pong of 64 bytes", "latency.ping", (_P50, _P99)),
        Work(
            "f", "latency", "open a stream, first byte back", "latency.open_stream", (_P50, _P99, _rate("/s")), base="h"
        ),
        Work("h", "latency", "connect, first byte back", "latency.connect", (_P50, _P99)),
        Work(
            "k",
            "latency",
            "ping of a ninth stream beside 8 bulk streams",
            "fairness.ninth",
            (_P50, _P99, Figure("bulk", "bulk beside it", "MB/s", True), Figure("ahead", "bytes ahead", "KiB")),
            base="",
        ),
        Work("l", "bulk", "bulk both ways, 4 streams", "bulk.both_ways", (_rate("MB/s"),), rounds=3, limit=8.0),
        Work(
            "g",
            "streams",
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
            fresh=True,
            crowded=True,
            heavy=True,
            rounds=3,
            seconds=(20.0, 4.0),
            limit=75.0,
        ),
        Work(
            "i",
            "streams",
            "cost of a message beside open streams",
            "streams.crowd",
            (
                Figure("growth", "most / with 1 open", "x", digits=2),
                *(Figure(f"at_{count}", f"message, {count:,} open", "us", digits=1) for count in STREAM_COUNTS),
                *(Figure(f"ping_{count}", f"ping, any of {count:,}", "us") for count in STREAM_COUNTS),
            ),
            base="",
            together_with="g",
            fresh=True,
            crowded=True,
            heavy=True,
            rounds=3,
            seconds=(20.0, 4.0),
            limit=75.0,
        ),
        Work(
            "j",
            "connections",
            "many connections, one stream each",
            "connections.many",
            (
                _rate("MB/s"),
                Figure("connections", "connections", "", True),
                Figure("open", "time to open them", "s", digits=2),
                Figure("client", "client, each", "KiB", digits=1),
                Figure("server", "server, each", "KiB", digits=1),
            ),
            fresh=True,
            heavy=True,
            seconds=(15.0, 4.0),
            limit=45.0,
        ),
        Work(
            "m",
            "connections",
            "ping-pong of 64 bytes on 300 connections, after the shaped packets",
            "connections.pings",
            (Figure("pings", "rate", "/s", more_is_better=True),),
            fresh=True,
            limit=20.0,
        ),
        Work(
            "n",
            "connections",
            "exchanges from the first byte on, 20 on each of 300 connections",
            "connections.pings",
            (Figure("first_pings", "rate", "/s", more_is_better=True),),
            together_with="m",
            fresh=True,
            limit=20.0,
        ),
        Work(
            "o",
            "connections",
            "connections opened a second, first byte back, 300 at a time",
            "connections.pings",
            (Figure("connects", "rate", "/s", more_is_better=True),),
            together_with="m",
            fresh=True,
            limit=20.0,
        ),
        Work(
            "p",
            "connections",
            "memory per connection, 1,000 connections",
            "connections.memory",
            (
                Figure("client", "client", "KiB", digits=1),
                Figure("server", "server", "KiB", digits=1),
                Figure("connections", "connections", "", True),
                Figure("open", "time to open them", "s", digits=2),
            ),
            fresh=True,
            rounds=2,
            seconds=(15.0, 4.0),
            limit=20.0,
        ),
        Work(
            "q",
            "relay",
            "download of 200 MB through SOCKS",
            "relay.downloads",
            (
                Figure("one", "rate", "MB/s", more_is_better=True),
                Figure("one_cpu", "processor time of both ends", "s/GB", digits=2),
            ),
            base_peer=RELAY_BASE,
            fresh=True,
            limit=30.0,
        ),
        Work(
            "r",
            "relay",
            "8 downloads of 50 MB at once through SOCKS",
            "relay.downloads",
            (
                Figure("eight", "rate", "MB/s", more_is_better=True),
                Figure("eight_cpu", "processor time of both ends", "s/GB", digits=2),
            ),
            base_peer=RELAY_BASE,
            together_with="q",
            fresh=True,
            limit=30.0,
        ),
    )
}
"""In the order in which they are done, except that the heavy ones follow the first round."""

GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(letter for letter, work in sorted(WORKS.items()) if work.group == group)
    for group in dict.fromkeys(work.group for work in WORKS.values())
}
"""The letters of the works in each group."""

"""The project's targets, and whether a run meets them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import summary
from .peers import BASE, RELAY_BASE
from .results import Results
from .summary import Spread
from .work import STREAM_COUNTS, WORKS

OURS = "trioanytls"
LEGACY = "trioanytls-legacy"
NO_EXTENSIONS = "no-extensions"
PUMP = "pump"
RELAY = "relay"
TWO_PUMPS = "two-pumps"
EXTENSIONS = (
    *((work, "rate") for work in "abcd"),
    *((work, "p50") for work in "efh"),
    ("g", "client"),
    ("g", "server"),
    ("i", f"at_{STREAM_COUNTS[-1]}"),
)
"""The figures that are compared with and without extensions."""
MANY = {"m": 1.5, "n": 1.3, "o": 0.85}
H2 = ("h2_inline", "h2_coalesced")
YAMUX = ("yamux_own", "yamux_ssl")


@dataclass(frozen=True)
class Verdict:
    """A target, the figure, and whether it is met. ``None``: it was not measured, or is only reported."""

    target: str
    figure: str
    met: bool | None

    @property
    def work(self) -> str:
        """The letter of its work."""
        return self.target[1]


def _at_least(
    results: Results, work: str, peers: tuple[str, ...], name: str, wanted: float, *, ours: str = OURS
) -> Verdict:
    key = WORKS[work].figures[0].key
    spread = summary.ratio(results, (work, ours, key), [(work, peer, key) for peer in peers], more_is_better=True)
    met = None if spread is None else spread.median >= wanted
    return Verdict(f"({work}) at least {wanted:g} times {name}", _times(spread), met)


def _at_most(
    results: Results, work: str, under: list[tuple[str, str]], text: str, wanted: float, *, strictly: bool = False
) -> Verdict:
    spread = summary.ratio(
        results, (work, OURS, "p50"), [(other, peer, "p50") for other, peer in under], more_is_better=False
    )
    met = None if spread is None else spread.median < wanted if strictly else spread.median <= wanted
    return Verdict(f"({work}) {text}", _times(spread), met)


def _legacy(results: Results, work: str, key: str) -> Verdict:
    spread = summary.ratio(results, (work, LEGACY, key), [(work, OURS, key)], more_is_better=key == "rate")
    met = None if spread is None else 0.8 <= spread.median <= 1.2
    return Verdict(f"({work}) legacy within 0.8 to 1.2 times anytls1", _times(spread), met)


def _extensions(results: Results, work: str, key: str) -> Verdict:
    """Compare a figure with extensions to that without them. They may cost 3 %."""
    (figure,) = (figure for figure in WORKS[work].figures if figure.key == key)
    spread = summary.ratio(
        results, (work, OURS, key), [(work, NO_EXTENSIONS, key)], more_is_better=figure.more_is_better
    )
    limit, text = (0.97, "at least 0.97") if figure.more_is_better else (1.03, "at most 1.03")
    met = None if spread is None else spread.median >= limit if figure.more_is_better else spread.median <= limit
    of_which = f", {figure.title}" if figure is not WORKS[work].figures[0] else ""
    return Verdict(f"({work}) {text} times extensions off{of_which}", _times(spread), met)


def _times(spread: Spread | None) -> str:
    if spread is None:
        return "not measured"
    return f"{spread.median:.2f} times [{spread.least:.2f} to {spread.most:.2f}]"


def _value(
    results: Results, work: str, key: str, text: str, unit: str, holds: Callable[[float], bool], *, ours: str = OURS
) -> Verdict:
    spread = summary.figure(results, work, ours, key)
    if spread is None:
        return Verdict(text, "not measured", None)
    return Verdict(text, f"{spread.median:.2f} {unit}", holds(spread.median))


def _opening(results: Results) -> Verdict:
    text = f"(g) {STREAM_COUNTS[-1]:,} streams open in under 3 s"
    count = summary.figure(results, "g", OURS, "streams")
    taken = summary.figure(results, "g", OURS, "open")
    if count is None or taken is None:
        return Verdict(text, "not measured", None)
    met = taken.median < 3 if count.least >= STREAM_COUNTS[-1] else None
    return Verdict(text, f"{count.median:,.0f} in {taken.median:.2f} s", met)


def _growth(results: Results) -> Verdict:
    verdict = _value(
        results, "i", "growth", f"(i) within 1.3 times from 1 to {STREAM_COUNTS[-1]:,}", "times", lambda x: x <= 1.3
    )
    if verdict.met is not None and summary.figure(results, "i", OURS, f"at_{STREAM_COUNTS[-1]}") is None:
        return Verdict(verdict.target, f"{verdict.figure}, but with fewer streams", None)
    return verdict


def _fairness(results: Results) -> Verdict:
    text = "(k) a ninth's ping beside 8 bulk streams"
    spreads = [summary.figure(results, "k", OURS, key) for key in ("p50", "p99", "bulk", "ahead")]
    if None in spreads:
        return Verdict(text, "not measured", None)
    p50, p99, bulk, ahead = (spread.median for spread in spreads if spread is not None)
    return Verdict(text, f"p50 {p50:,.0f} us, p99 {p99:,.0f} us, {bulk:,.0f} MB/s, {ahead:,.0f} KiB ahead", None)


def _connections(results: Results) -> Verdict:
    text = "(j) many connections, one stream each"
    spreads = [summary.figure(results, "j", OURS, key) for key in ("connections", "rate", "client", "server")]
    if None in spreads:
        return Verdict(text, "not measured", None)
    count, rate, client, server = (spread.median for spread in spreads if spread is not None)
    return Verdict(text, f"{count:,.0f}: {rate:,.0f} MB/s, {client:.1f} KiB and {server:.1f} KiB each", None)


def _pumps(results: Results, work: str, key: str) -> Verdict:
    """Compare the processor time of the relay to that without multiplexing. It is only reported."""
    spread = summary.ratio(results, (work, RELAY, key), [(work, TWO_PUMPS, key)], more_is_better=False)
    return Verdict(f"({work}) processor time to that of two pumps", _times(spread), None)


def evaluate(results: Results) -> list[Verdict]:
    """Compare a run with all targets."""
    verdicts = []
    for work, base, rivals in (
        ("a", 1.45, (2.5, 2.5)),
        ("b", 1.4, (2.5, 2.5)),
        ("c", 4.5, (2, 10)),
        ("d", 4, (2, 10)),
    ):
        verdicts.append(_at_least(results, work, (BASE,), "the bare stream", base))
        verdicts.append(_at_least(results, work, H2, "h2 at its best", rivals[0]))
        verdicts.append(_at_least(results, work, YAMUX, "yamux at its best", rivals[1]))
    verdicts += [
        *(_extensions(results, work, key) for work, key in EXTENSIONS),
        *(_legacy(results, work, key) for work, key in (("a", "rate"), ("c", "rate"), ("e", "p50"))),
        _at_least(results, "a", (PUMP,), "the pump", 0.9),
        _at_most(results, "e", [("e", BASE)], "at most 1.05 times the bare stream", 1.05),
        _at_most(results, "e", [("e", peer) for peer in H2], "below h2 at its best", 1, strictly=True),
        _at_most(results, "e", [("e", peer) for peer in YAMUX], "below yamux at its best", 1, strictly=True),
        _at_most(results, "f", [("e", OURS)], "at most 1.5 times our own (e)", 1.5),
        _at_most(results, "f", [("h", BASE)], "at most a sixth of (h) of the bare stream", 1 / 6),
        _value(results, "g", "client", "(g) at most 5 KiB a stream, client", "KiB", lambda kib: kib <= 5),
        _value(results, "g", "server", "(g) at most 5 KiB a stream, server and task", "KiB", lambda kib: kib <= 5),
        _opening(results),
        _growth(results),
        _at_least(results, "j", (BASE,), "the bare stream", 1),
        _connections(results),
        _fairness(results),
        *(_at_least(results, work, (BASE,), "the bare stream", wanted) for work, wanted in MANY.items()),
        _value(results, "p", "client", "(p) at most 54 KiB a connection, client", "KiB", lambda kib: kib <= 54),
        _value(results, "p", "server", "(p) at most 37 KiB a connection, server", "KiB", lambda kib: kib <= 37),
        _at_least(results, "q", (RELAY_BASE,), "sing-box", 1.2, ours=RELAY),
        _at_least(results, "r", (RELAY_BASE,), "sing-box", 1, ours=RELAY),
        _value(results, "r", "eight_cpu", "(r) at most 1.7 s a GB", "s/GB", lambda taken: taken <= 1.7, ours=RELAY),
        _pumps(results, "q", "one_cpu"),
        _pumps(results, "r", "eight_cpu"),
    ]
    return verdicts

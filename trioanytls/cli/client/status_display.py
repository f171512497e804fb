"""The status of a running client, drawn on the terminal below the lines of its log.

The lines are never wider than `_WIDTH`: a terminal that becomes narrower wraps its rows, and wrapped rows cannot be
erased.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Mapping
from typing import Final

import trio
from attrs import define, field
from rich.console import Console
from rich.live import Live
from rich.text import Text

import trioanytls
from trioanytls.relay import Upstream

# How often the status is drawn, and how often the round-trip time is measured, in seconds.
_INTERVAL: Final = 0.5
_PING_INTERVAL: Final = 5.0
# The maximum width of a line, in columns: it fits into a terminal with 40 columns.
_WIDTH: Final = 39
# How many characters of a scheme's digest are shown: enough to distinguish schemes.
_DIGITS: Final = 16


def find_terminal(environment: Mapping[str, str] = os.environ) -> Console | None:
    """Return a console on the terminal of the standard error, which has the log, or of the standard output.

    Return None if neither is a terminal, or if the terminal cannot move its cursor.
    """
    if environment.get("TERM", "") in ("", "dumb", "unknown"):
        return None
    if sys.stderr.isatty():
        return Console(stderr=True)
    return Console() if sys.stdout.isatty() else None


async def show(upstream: Upstream, server: trioanytls.ServerURI, console: Console) -> None:
    """Draw the status until cancelled, then erase it.

    All output to the standard streams on the terminal appears above the status.
    """
    view = View(upstream, f"{server.host}:{server.port}")
    live = Live(
        view.draw(console.width),
        console=console,
        auto_refresh=False,
        transient=True,
        vertical_overflow="crop",
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=sys.stderr.isatty(),
    )
    with live:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(view.measure)
            while True:
                await trio.sleep(_INTERVAL)
                view.advance(trio.current_time())
                live.update(view.draw(console.width), refresh=True)


@define
class View:
    """The values that the status shows.

    Attributes:
      up, down: bytes per second, over the last interval.
      round_trip: the round-trip time in seconds; nan if it is unknown.
    """

    _upstream: Upstream
    _server: str
    up: float = field(init=False, default=0.0)
    down: float = field(init=False, default=0.0)
    round_trip: float = field(init=False, default=math.nan)
    _last: tuple[float, int, int] | None = field(init=False, default=None)

    def advance(self, now: float) -> None:
        """Compute the rates since the last call."""
        if self._last is not None and now > self._last[0]:
            then, up, down = self._last
            self.up = (self._upstream.up - up) / (now - then)
            self.down = (self._upstream.down - down) / (now - then)
        self._last = (now, self._upstream.up, self._upstream.down)

    async def measure(self) -> None:
        """Measure the round-trip time every few seconds, if there is a connection.

        Do not measure it in the legacy format: the programs in the field never ping, so that a ping would show.
        """
        while True:
            connection = self._upstream.client.newest_connection
            if connection is None or connection.protocol == "legacy":
                self.round_trip = math.nan
            else:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    self.round_trip = await connection.ping()
            await trio.sleep(_PING_INTERVAL)

    def draw(self, width: int = _WIDTH) -> Text:
        """Return the lines of the status for a terminal with `width` columns.

        The lines have no trailing spaces, so that a `^C` that the terminal echoes after the last line fits into it.
        """
        stats = self._upstream.client.stats
        round_trip = "-" if math.isnan(self.round_trip) else f"{self.round_trip * 1000:.1f} ms"
        lines = []
        for name, value in (
            ("server", self._server),
            ("protocol", self._upstream.client.protocol),
            ("connections", f"{stats.connections}, {stats.idle} idle, {stats.connecting} new"),
            ("streams", f"{stats.streams} of {stats.streams_opened}, {stats.waiting} waiting"),
            ("up", _rate(self.up)),
            ("down", _rate(self.down)),
            ("round trip", round_trip),
            ("scheme", self._upstream.client.padding_scheme.digest[:_DIGITS]),
        ):
            line = Text.assemble((f"{name:<13}", "dim"), value)
            # Some terminals wrap after a character in the last column, so leave it empty.
            line.truncate(max(min(width - 1, _WIDTH), 1), overflow="ellipsis")
            lines.append(line)
        return Text("\n", no_wrap=True, overflow="crop").join(lines)


def _rate(rate: float) -> str:
    for unit in ("B/s", "kB/s", "MB/s"):
        if rate < 1000:
            return f"{rate:.0f} {unit}" if unit == "B/s" else f"{rate:.1f} {unit}"
        rate /= 1000
    return f"{rate:.1f} GB/s"

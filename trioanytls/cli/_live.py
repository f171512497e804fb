"""What the client shows on a terminal while it runs."""

from __future__ import annotations

import contextlib
import math
from typing import Final

import trio
from attrs import define, field
from rich.console import Console
from rich.live import Live
from rich.table import Table

import trioanytls

from ._gateway import Gateway

# How often it is drawn, and how often the round-trip time is measured, in seconds.
_INTERVAL: Final = 0.5
_PING_INTERVAL: Final = 5.0


async def show(gateway: Gateway, server: trioanytls.ServerURI) -> None:
    """Draw until cancelled."""
    view = View(gateway, f"{server.host}:{server.port}")
    with Live(view.draw(), console=Console(), auto_refresh=False, transient=True) as live:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(view.measure)
            while True:
                await trio.sleep(_INTERVAL)
                view.advance(trio.current_time())
                live.update(view.draw(), refresh=True)


@define
class View:
    """The figures.

    Attributes:
      up, down: bytes a second, over the last interval.
      round_trip: in seconds, nan where it is not known.
    """

    _gateway: Gateway
    _server: str
    up: float = field(init=False, default=0.0)
    down: float = field(init=False, default=0.0)
    round_trip: float = field(init=False, default=math.nan)
    _last: tuple[float, int, int] | None = field(init=False, default=None)

    def advance(self, now: float) -> None:
        """Take the rates since the last call."""
        if self._last is not None and now > self._last[0]:
            then, up, down = self._last
            self.up = (self._gateway.up - up) / (now - then)
            self.down = (self._gateway.down - down) / (now - then)
        self._last = (now, self._gateway.up, self._gateway.down)

    async def measure(self) -> None:
        """Ask for the round-trip time from time to time, where there is a connection."""
        while True:
            connection = self._gateway.client.newest_connection
            if connection is None:
                self.round_trip = math.nan
            else:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    self.round_trip = await connection.ping()
            await trio.sleep(_PING_INTERVAL)

    def draw(self) -> Table:
        """As a table of two columns."""
        stats = self._gateway.client.stats
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column()
        round_trip = "-" if math.isnan(self.round_trip) else f"{self.round_trip * 1000:.1f} ms"
        for name, value in (
            ("server", self._server),
            ("connections", f"{stats.connections} ({stats.idle} idle, {stats.connecting} being made)"),
            ("streams", f"{stats.streams} open, {stats.streams_opened} so far, {stats.waiting} waiting"),
            ("rates", f"up {_rate(self.up)}, down {_rate(self.down)}"),
            ("round trip", round_trip),
            ("scheme", self._gateway.client.padding_scheme.digest),
        ):
            table.add_row(name, value)
        return table


def _rate(rate: float) -> str:
    for unit in ("B/s", "kB/s", "MB/s"):
        if rate < 1000:
            return f"{rate:.0f} {unit}" if unit == "B/s" else f"{rate:.1f} {unit}"
        rate /= 1000
    return f"{rate:.1f} GB/s"

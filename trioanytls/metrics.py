"""The counters of a server for Prometheus. This needs the extra `metrics`: `pip install 'trioanytls[metrics]'`."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Iterable, Mapping
from typing import Protocol

import trio

from trioanytls._checks import check_methods
from trioanytls._server.control import NotRunningError
from trioanytls._server.stats import COUNTERS, CounterInfo, ServerStats
from trioanytls._transport.listeners import open_listeners

try:
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

    from trioanytls._metrics_endpoint import MetricsEndpoint
except ImportError as _error:
    raise ImportError(
        f"trioanytls.metrics needs {_error.name}; install it with: python3 -m pip install 'trioanytls[metrics]'"
    ) from _error

__all__ = ["ServerCollector", "StatsSource", "serve_metrics"]


class StatsSource(Protocol):
    """A source of counters: a `ServerControl`, a `WorkersControl`, or a custom object."""

    def snapshot(self) -> ServerStats | Awaitable[ServerStats]:
        """Return the current counters. An awaitable result is awaited."""


class ServerCollector(Collector):
    """A `prometheus_client` collector of the counters of a server, for a custom registry.

    If it is created in a Trio task, other threads may collect from it too, as the HTTP server of `prometheus_client`
    does: the source is called in the Trio thread, which must not wait for the other thread.

    A control that is not attached to a server yet gives no samples.

    Args:
      source: a `ServerControl`, a `WorkersControl`, or another object with a method `snapshot` that returns
        `ServerStats`. If the method is async, `collect` in the Trio thread itself returns the result of the last
        `refresh`.
    """

    def __init__(self, source: StatsSource) -> None:
        self._source = source
        self._refreshed: ServerStats | None = None
        try:
            self._trio: trio.lowlevel.TrioToken | None = trio.lowlevel.current_trio_token()
        except RuntimeError:
            self._trio = None

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without samples. A registry calls this when the collector is registered."""
        return _families(None)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics.

        Raises:
          RuntimeError: the source is async, and `refresh` has not been called.
        """
        if self._trio is not None and not self._in_trio():
            return _families(trio.from_thread.run(_ask, self._source, trio_token=self._trio))
        try:
            stats = self._source.snapshot()
        except NotRunningError:
            return _families(None)
        if isinstance(stats, ServerStats):
            return _families(stats)
        if inspect.iscoroutine(stats):
            stats.close()
        if self._refreshed is None:
            raise RuntimeError("the source is async: call `await collector.refresh()` first")
        return _families(self._refreshed)

    async def refresh(self) -> None:
        """Get the counters from the source, for the next `collect` in this thread."""
        self._refreshed = await _ask(self._source)

    def _in_trio(self) -> bool:
        try:
            return trio.lowlevel.current_trio_token() is self._trio
        except RuntimeError:
            return False


async def serve_metrics(
    source: StatsSource,
    port: int,
    *,
    host: str | bytes | None = "127.0.0.1",
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the counters at `/metrics` over HTTP, for Prometheus, until cancelled.

    The format is OpenMetrics or the Prometheus text format, as the client requests. There is no TLS and no password:
    any client that can connect sees the counters. Each connection gets one response. At most 16 may be open at once. A
    client that has not sent its request within 10 seconds is disconnected.

    Args:
      source: a `ServerControl`, a `WorkersControl` (its counters are up to a second old), or another object with a
        method `snapshot`, async or not, that returns `ServerStats`.
      port: the TCP port; 0 for one that the system chooses.
      host: the address to listen on; None: all addresses.
      task_status: `nursery.start` returns the list of `trio.SocketListener`.

    Raises:
      TypeError: an argument has the wrong type.
      OSError: it is impossible to listen on the port.

    Cancellation: responses that are being sent are cut off.
    """
    check_methods("source", source, "snapshot")
    endpoint = _endpoint(source)
    listeners = await open_listeners(port, host)
    await trio.serve_listeners(endpoint.serve, listeners, task_status=task_status)


def _endpoint(source: StatsSource) -> MetricsEndpoint:
    async def render(accept: str) -> tuple[bytes, str]:
        registry = CollectorRegistry()
        registry.register(_Snapshot(await _ask(source)))
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):
            # The Accept header names an invalid version.
            encode, content_type = choose_encoder("")
        return encode(registry), content_type

    return MetricsEndpoint(render)


async def _ask(source: StatsSource) -> ServerStats | None:
    """Get the counters, or None if the source is not attached to a server yet."""
    try:
        stats = source.snapshot()
        return stats if isinstance(stats, ServerStats) else await stats
    except NotRunningError:
        return None


# The metrics


class _Snapshot(Collector):
    """A collector of counters that have been obtained already."""

    def __init__(self, stats: ServerStats | None) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        return _families(self._stats)


def _families(stats: ServerStats | None) -> list[Metric]:
    """Return all metrics, without samples if there are no counters."""
    return [
        _family(name, counter, None if stats is None else getattr(stats, name)) for name, counter in COUNTERS.items()
    ]


def _family(name: str, counter: CounterInfo, value: int | Mapping[str, int] | None) -> Metric:
    """Return one metric with its samples. `prometheus_client` appends "_total" to the names of counters."""
    kind = GaugeMetricFamily if counter.momentary else CounterMetricFamily
    labels = [] if counter.label is None else [counter.label]
    family = kind(f"trioanytls_{counter.metric or name}", counter.help, labels=labels, unit=counter.unit)
    if isinstance(value, Mapping):
        for key in sorted({*counter.known, *value}):
            family.add_metric([key], value.get(key, 0))
    elif value is not None:
        family.add_metric([], value)
    return family

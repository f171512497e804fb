"""The counters of a server for Prometheus. It needs the extra `metrics`: `pip install 'trioanytls[metrics]'`."""

from __future__ import annotations

import datetime as dt
import email.utils
import http
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol
from urllib.parse import urlsplit

import trio
from attrs import define, field, frozen

from trioanytls._connection.stream import StreamEnd
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._server.control import NotRunningError
from trioanytls._server.stats import ServerStats
from trioanytls._transport.listeners import open_listeners

try:
    import h11
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        f"trioanytls.metrics needs {error.name}; install it with: python3 -m pip install 'trioanytls[metrics]'"
    ) from error

__all__ = ["ServerCollector", "StatsSource", "serve_metrics"]

_log = logging.getLogger("trioanytls.metrics")

# How many connections there may be at once, and how long one may take to say what it wants, and again for the answer;
# in seconds.
_MAX_CONNECTIONS = 16
_TIMEOUT = 10.0
# How many bytes a request may have, without its body, which nobody reads.
_MAX_REQUEST = 16 * 1024
# What a client may still send when it has its answer: bytes, seconds.
_LINGER_BYTES = 64 * 1024
_LINGER = 1.0


class StatsSource(Protocol):
    """What knows the counters: a `ServerControl`, a `WorkersControl`, or something of your own."""

    def snapshot(self) -> ServerStats | Awaitable[ServerStats]:
        """The counters as they stand; what is awaitable is awaited."""


class ServerCollector(Collector):
    """A collector of `prometheus_client` for the counters of a server, for a registry of your own.

    Where it is made in a Trio task, other threads may collect from it, too, as the HTTP server of `prometheus_client`
    does: the source is asked in the Trio thread, which must not wait for that thread.

    A source that no server has yet gives no samples.

    Args:
      source: a `ServerControl`, or whatever else has a method `snapshot` that returns `ServerStats`. If that is async,
        as in `WorkersControl`, `collect` in the Trio thread itself gives what the last `refresh` has found.
    """

    def __init__(self, source: StatsSource) -> None:
        self._source = source
        self._refreshed: ServerStats | None = None
        try:
            self._trio: trio.lowlevel.TrioToken | None = trio.lowlevel.current_trio_token()
        except RuntimeError:
            self._trio = None

    def describe(self) -> Iterable[Metric]:
        """The metrics without samples: what a registry wants to know when the collector is registered."""
        return _families(None)

    def collect(self) -> Iterable[Metric]:
        """The metrics.

        Raises:
          RuntimeError: the source has to be awaited, and there was no `refresh`.
        """
        if self._trio is not None and not self._in_trio():
            return _families(trio.from_thread.run(self._ask, trio_token=self._trio))
        try:
            stats = self._source.snapshot()
        except NotRunningError:
            return _families(None)
        if isinstance(stats, ServerStats):
            return _families(stats)
        if inspect.iscoroutine(stats):
            stats.close()
        if self._refreshed is None:
            raise RuntimeError("the source has to be awaited: call `await collector.refresh()` first")
        return _families(self._refreshed)

    async def refresh(self) -> None:
        """Ask the source, for the next `collect` in this thread."""
        self._refreshed = await self._ask()

    async def _ask(self) -> ServerStats | None:
        try:
            stats = self._source.snapshot()
            return stats if isinstance(stats, ServerStats) else await stats
        except NotRunningError:
            return None

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

    The format is that of OpenMetrics, or Prometheus' own one, as the client asks for it. There is no TLS and no
    password: whoever can connect sees the counters. Each connection has one answer; 16 of them may be open at once, and
    who has not said within 10 seconds what it wants is disconnected.

    Args:
      source: a `ServerControl`, a `WorkersControl`, or whatever else has a method `snapshot`, async or not, that
        returns `ServerStats`.
      port: the TCP port; 0 for one that the system chooses.
      host: the address to listen on; None: all.
      task_status: `nursery.start` returns the list of `trio.SocketListener`.

    Raises:
      OSError: the port cannot be listened on.

    Cancellation: answers that have been begun are cut off.
    """
    endpoint = _Endpoint(ServerCollector(source)._ask)
    listeners = await open_listeners(port, host)
    await trio.serve_listeners(endpoint.serve, listeners, task_status=task_status)


# The metrics


@frozen
class _Description:
    """How a field of `ServerStats` appears.

    Attributes:
      name: of the metric.
      help: what it says.
      kind: the type.
      label: what the keys of a field with several counts are called.
      known: keys that are there from the beginning, so that the first count of each is seen as an increase.
      unit: what is counted, if it has a unit: the end of the name.
    """

    name: str
    help: str
    kind: type[GaugeMetricFamily | CounterMetricFamily] = CounterMetricFamily
    label: str | None = None
    known: tuple[str, ...] = ()
    unit: str = ""

    def family(self, value: int | Mapping[str, int] | None) -> Metric:
        """The metric, with its samples."""
        labels = [] if self.label is None else [self.label]
        family = self.kind(f"trioanytls_{self.name}", self.help, labels=labels, unit=self.unit)
        if isinstance(value, Mapping):
            for key in sorted({*self.known, *value}):
                family.add_metric([key], value.get(key, 0))
        elif value is not None:
            family.add_metric([], value)
        return family


_REASONS = (*(code.name for code in CloseCode), "LOST", "UNAUTHENTICATED", "FALLBACK", "HANDSHAKE")

#: By the field. Counters get "_total" at the end of their names.
_METRICS = {
    "draining": _Description("draining", "1 when no more connections and streams are taken.", GaugeMetricFamily),
    "connections": _Description("connections", "Connections open now, fallbacks included.", GaugeMetricFamily),
    "unauthenticated": _Description(
        "unauthenticated_connections", "Connections open now that have not authenticated yet.", GaugeMetricFamily
    ),
    "fallback_connections": _Description(
        "fallback_connections", "Connections open now that are with the fallback.", GaugeMetricFamily
    ),
    "streams": _Description("streams", "Streams whose handlers run now.", GaugeMetricFamily),
    "connections_accepted": _Description("connections_accepted", "Connections that TCP has accepted."),
    "connections_refused": _Description(
        "connections_refused",
        "Connections closed as they came, by the limit that stood against them.",
        label="limit",
        known=("max_connections", "max_unauthenticated", "max_unauthenticated_per_address"),
    ),
    "connections_closed": _Description(
        "connections_closed",
        "Connections that have ended, by the code of the CLOSE that ended them, or what else did.",
        label="reason",
        known=_REASONS,
    ),
    "handshakes_failed": _Description(
        "handshakes_failed", "TLS handshakes, and headers of the PROXY protocol, that failed or took too long."
    ),
    "authentications": _Description("authentications", "Clients that have authenticated."),
    "authentications_failed": _Description("authentications_failed", "Clients that have not authenticated."),
    "fallbacks": _Description("fallbacks", "Connections that the fallback was given."),
    "fallbacks_refused": _Description(
        "fallbacks_refused",
        "Connections that the fallback was not given, by the limit that was reached.",
        label="limit",
        known=("max_fallbacks", "max_fallbacks_per_address"),
    ),
    "fallbacks_displaced": _Description(
        "fallbacks_displaced", "Idle connections with the fallback that were closed to make room for others."
    ),
    "violations": _Description(
        "violations", "Connections ended because the client broke the protocol, or went beyond a limit of it."
    ),
    "streams_opened": _Description("streams_opened", "Streams that were opened, those that were refused included."),
    "streams_refused": _Description(
        "streams_refused",
        "Streams that were refused, by the limit that stood against them, or because the server is drained.",
        label="limit",
        known=("max_streams", "max_stream_rate", "drain"),
    ),
    "streams_timed_out": _Description(
        "streams_timed_out",
        "Streams that were closed because nothing happened on them, or nobody read from them.",
        label="reason",
        known=(StreamEnd.IDLE.name, StreamEnd.STALLED.name),
    ),
    "handlers_failed": _Description(
        "handlers_failed", "Handlers that raised something else than that their stream was broken."
    ),
    "bytes_received": _Description(
        "received_bytes", "Bytes received from clients under TLS, without those for fallbacks.", unit="bytes"
    ),
    "bytes_sent": _Description(
        "sent_bytes", "Bytes sent to clients under TLS, without those of fallbacks.", unit="bytes"
    ),
}


def _families(stats: ServerStats | None) -> list[Metric]:
    """All metrics; without samples where there are no counters."""
    return [
        description.family(None if stats is None else getattr(stats, name)) for name, description in _METRICS.items()
    ]


class _Snapshot(Collector):
    """Counters that have been asked for."""

    def __init__(self, stats: ServerStats | None) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        return _families(self._stats)


# HTTP


@frozen
class _Answer:
    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def error(cls, status: int, text: str, *headers: tuple[str, str]) -> _Answer:
        return cls(status, f"{text}\n".encode(), headers=headers)


@define(eq=False)
class _Endpoint:
    """Answers each connection once."""

    _ask: Callable[[], Awaitable[ServerStats | None]]
    _open: int = field(init=False, default=0)

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Serve a connection. Nothing is raised: that would end the others."""
        self._open += 1
        try:
            await self._serve(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # It has gone.
            pass
        except Exception:  # noqa: BLE001 - whatever it is: logged
            _log.exception("internal error")
        finally:
            self._open -= 1
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_REQUEST)
        if self._open > _MAX_CONNECTIONS:
            # It does not get the time to say what it wants.
            with trio.move_on_after(_LINGER):
                await _send(stream, connection, _Answer.error(503, "too many connections"))
            return
        request: h11.Request | None = None
        answer = _Answer.error(408, "the request took too long")
        try:
            with trio.move_on_after(_TIMEOUT):
                request = await _receive(stream, connection)
                if request is None:
                    return
        except h11.RemoteProtocolError as error:
            answer = _Answer.error(error.error_status_hint, f"this is no request: {error}")
        if request is not None:
            answer = await self._answer(request)
        with trio.move_on_after(_TIMEOUT):
            await _send(stream, connection, answer, head=request is not None and request.method == b"HEAD")
            await _linger(stream)

    async def _answer(self, request: h11.Request) -> _Answer:
        if not request.http_version.startswith(b"1."):
            return _Answer.error(505, "this is HTTP/1.1")
        if _path(request) != "/metrics":
            return _Answer.error(404, "the metrics are at /metrics")
        if request.method not in (b"GET", b"HEAD"):
            return _Answer.error(405, "the metrics can be read only", ("Allow", "GET, HEAD"))
        try:
            with trio.fail_after(_TIMEOUT):
                stats = await self._ask()
        except Exception:  # noqa: BLE001 - whatever the source raises: logged, and told to the client
            _log.exception("the counters cannot be had")
            return _Answer.error(500, "the counters cannot be had")
        registry = CollectorRegistry()
        registry.register(_Snapshot(stats))
        accepted = ", ".join(value.decode("latin-1") for name, value in request.headers if name == b"accept")
        try:
            encode, content_type = choose_encoder(accepted)
        except (TypeError, ValueError):
            # Of a version that is none.
            encode, content_type = choose_encoder("")
        return _Answer(200, encode(registry), content_type)


async def _receive(stream: trio.abc.ReceiveStream, connection: h11.Connection) -> h11.Request | None:
    """What the client wants; None where it wants nothing."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if isinstance(event, h11.ConnectionClosed):
            return None
        connection.receive_data(bytes(await stream.receive_some(_MAX_REQUEST)))


def _path(request: h11.Request) -> str:
    target = request.target.decode("latin-1")
    if not target.startswith("/"):
        # As proxies get it. Also with a host that is none.
        try:
            return urlsplit(target).path
        except ValueError:
            return ""
    return target.partition("?")[0]


async def _send(
    stream: trio.abc.SendStream, connection: h11.Connection, answer: _Answer, *, head: bool = False
) -> None:
    headers = [
        ("Date", email.utils.format_datetime(dt.datetime.now(dt.UTC), usegmt=True)),
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        ("Connection", "close"),
        *answer.headers,
    ]
    response = h11.Response(
        status_code=answer.status,
        reason=http.HTTPStatus(answer.status).phrase.encode("ascii"),
        headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in headers],
    )
    body = [] if head else [h11.Data(data=answer.body)]
    await stream.send_all(b"".join(connection.send(event) or b"" for event in (response, *body, h11.EndOfMessage())))


async def _linger(stream: trio.abc.HalfCloseableStream) -> None:
    """Let the client have its answer: what it has sent that nobody has read would destroy it when TCP is closed."""
    await stream.send_eof()
    size = 0
    with trio.move_on_after(_LINGER):
        while size < _LINGER_BYTES and (data := await stream.receive_some(_MAX_REQUEST)):
            size += len(data)

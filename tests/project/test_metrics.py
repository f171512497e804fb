"""The metrics for Prometheus: over HTTP, and in a custom registry."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

import trioanytls
from trioanytls import ServerControl, ServerStats, WorkersControl, metrics
from trioanytls._server.stats import COUNTERS

from ..conftest import HOST, Connecting, Serving

Clock = trio.testing.MockClock

FIELDS = attrs.fields_dict(ServerStats)


def distinct() -> ServerStats:
    """Return counters with a different number in each field."""
    values: dict[str, Any] = {}
    for number, (name, field) in enumerate(FIELDS.items(), start=10):
        default = getattr(ServerStats(), name)
        values[name] = True if isinstance(default, bool) else number if default == 0 else {"a key": number}
        assert field.init
    return ServerStats(**values)


class Fixed:
    """A source that always returns the same counters, and records the threads that call it."""

    def __init__(self, stats: ServerStats | Exception | None = None) -> None:
        self.stats = stats or ServerStats()
        self.threads: list[int] = []

    def snapshot(self) -> ServerStats:
        self.threads.append(threading.get_ident())
        if isinstance(self.stats, Exception):
            raise self.stats
        return self.stats


class Awaited(Fixed):
    async def snapshot(self) -> ServerStats:  # type: ignore[override] # either is a source
        await trio.lowlevel.checkpoint()
        return super().snapshot()


class Silent:
    async def snapshot(self) -> ServerStats:
        await trio.sleep_forever()
        raise AssertionError


@attrs.frozen
class Answer:
    status: int
    headers: dict[str, str]
    body: str

    @classmethod
    def parse(cls, data: bytes) -> Answer:
        head, _, body = data.partition(b"\r\n\r\n")
        first, *rest = head.decode().split("\r\n")
        protocol, status, reason = first.split(" ", 2)
        assert protocol == "HTTP/1.1"
        assert reason
        headers = dict(line.split(": ", 1) for line in rest)
        return cls(int(status), {name.lower(): value for name, value in headers.items()}, body.decode())

    @property
    def samples(self) -> dict[tuple[str, ...], float]:
        """The samples: (name, label values ...) -> value."""
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in parse(self.body)
            for sample in family.samples
        }


async def receive_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([bytes(data) async for data in stream])


async def exchange(stream: trio.abc.Stream, request: bytes) -> Answer:
    async with stream:
        await stream.send_all(request)
        answer = Answer.parse(await receive_all(stream))
    assert answer.headers["connection"] == "close"
    assert "date" in answer.headers
    return answer


def request(method: str = "GET", target: str = "/metrics", *headers: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {HOST}", *headers, "", ""]).encode("latin-1")


@contextlib.asynccontextmanager
async def metrics_of(source: metrics.StatsSource) -> AsyncIterator[int]:
    """Run `serve_metrics`, and yield the port."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(functools.partial(metrics.serve_metrics, source, 0))
        host, port = listeners[0].socket.getsockname()
        assert host == HOST
        yield port
        nursery.cancel_scope.cancel()


async def ask(source: metrics.StatsSource, asked: bytes = request()) -> Answer:
    async with metrics_of(source) as port:
        with trio.fail_after(10):
            return await exchange(await trio.open_tcp_stream(HOST, port), asked)


#: `stream = connect()`: a connection to the endpoint in memory.
Connect = Callable[[], trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]]


@pytest.fixture
def connect(nursery: trio.Nursery) -> Connect:
    endpoint = metrics._endpoint(Fixed())

    def start() -> trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]:
        ours, theirs = trio.testing.memory_stream_pair()
        nursery.start_soon(endpoint.serve, theirs)
        return ours

    return start


# The metrics


async def test_a_server_that_runs(serving: Serving, connecting: Connecting) -> None:
    control = ServerControl()
    async with serving(control=control) as port, connecting(port) as connection, metrics_of(control) as metrics_port:
        stream = await connection.open_stream()
        await stream.send_all(b"hello")
        assert await stream.receive_some()
        answer = await exchange(await trio.open_tcp_stream(HOST, metrics_port), request())
        assert answer.status == 200
        samples = answer.samples
        assert samples["trioanytls_connections",] == samples["trioanytls_connections_accepted_total",] == 1
        assert samples["trioanytls_streams",] == samples["trioanytls_streams_opened_total",] == 1
        assert samples["trioanytls_authentications_total",] == 1
        assert samples["trioanytls_received_bytes_total",] == control.snapshot().bytes_received > 0
        assert samples["trioanytls_connections_closed_total", "NO_ERROR"] == 0
        await connection.aclose()
        while control.snapshot().connections:  # noqa: ASYNC110 - there is no event for it
            await trio.sleep(0.01)
        samples = (await exchange(await trio.open_tcp_stream(HOST, metrics_port), request())).samples
        assert samples["trioanytls_connections_closed_total", "NO_ERROR"] == 1
        assert samples["trioanytls_connections",] == 0


@pytest.mark.parametrize("name", FIELDS)
async def test_each_field_appears(name: str) -> None:
    stats = distinct()
    value = getattr(stats, name)
    expected = next(iter(value.values())) if isinstance(value, dict) else value
    (family,) = [
        family
        for family in parse((await ask(Fixed(stats))).body)
        if any(sample.value == expected for sample in family.samples)
    ]
    assert family.name.startswith("trioanytls_")
    assert family.documentation.endswith(".")
    gauge = COUNTERS[name].momentary
    assert family.type == ("gauge" if gauge else "counter")
    assert all(sample.name.endswith("_total") is not gauge for sample in family.samples)
    (sample,) = [sample for sample in family.samples if sample.value == expected]
    assert list(sample.labels.values()) == (["a key"] if isinstance(value, dict) else [])


async def test_counters_start_from_zero() -> None:
    """To Prometheus, a metric that appears with its first count has not increased."""
    samples = (await ask(Fixed())).samples
    assert set(samples.values()) == {0}
    for labelled in (
        ("trioanytls_connections_refused_total", "max_connections"),
        ("trioanytls_connections_closed_total", "SHUTTING_DOWN"),
        ("trioanytls_connections_closed_total", "HANDSHAKE"),
        ("trioanytls_streams_refused_total", "drain"),
        ("trioanytls_streams_timed_out_total", "IDLE"),
    ):
        assert labelled in samples


async def test_keys_may_have_any_character() -> None:
    odd = 'a "quoted"\nline \\ and ü'
    answer = await ask(Fixed(ServerStats(streams_refused={odd: 3})))
    assert answer.samples["trioanytls_streams_refused_total", odd] == 3


OPENMETRICS = "application/openmetrics-text"


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ([], "text/plain; version=0.0.4; charset=utf-8"),
        (["Accept: */*"], "text/plain; version=0.0.4; charset=utf-8"),
        ([f"Accept: {OPENMETRICS};version=1.0.0,text/plain;q=0.5"], f"{OPENMETRICS}; version=1.0.0"),
        (["Accept: text/html", f"Accept: {OPENMETRICS}"], f"{OPENMETRICS}; version=1.0.0"),
        # prometheus_client itself raises an exception for these.
        ([f"Accept: {OPENMETRICS};version=abc"], "text/plain; version=0.0.4; charset=utf-8"),
        (["Accept: text/plain;version=1.\xff"], "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
async def test_the_client_chooses_the_format(accept: list[str], content_type: str) -> None:
    answer = await ask(Fixed(distinct()), request("GET", "/metrics", *accept))
    assert answer.status == 200
    assert answer.headers["content-type"].startswith(content_type)
    if content_type.startswith(OPENMETRICS):
        families = list(parse_openmetrics(answer.body))  # type: ignore[no-untyped-call]
        assert {family.unit for family in families} == {"", "bytes"}
    else:
        families = list(parse(answer.body))
    assert len(families) == len(FIELDS)
    assert int(answer.headers["content-length"]) == len(answer.body.encode())


async def test_a_source_that_is_awaited() -> None:
    answer = await ask(Awaited(ServerStats(connections=7)))
    assert answer.samples["trioanytls_connections",] == 7


@pytest.mark.parametrize("control", [ServerControl, WorkersControl])
async def test_a_control_without_a_server_has_no_samples(control: Callable[[], metrics.StatsSource]) -> None:
    answer = await ask(control())
    assert answer.status == 200
    assert answer.samples == {}
    assert len(list(parse(answer.body))) == len(FIELDS)


@pytest.mark.parametrize("source", [Fixed, Awaited])
async def test_a_source_that_fails(source: type[Fixed], caplog: pytest.LogCaptureFixture) -> None:
    answer = await ask(source(LookupError("secret")))
    assert answer.status == 500
    assert "secret" not in answer.body
    assert "LookupError: secret" in caplog.text


async def test_a_source_that_does_not_answer(
    autojump_clock: Clock, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    nursery.start_soon(metrics._endpoint(Silent()).serve, theirs)
    begin = trio.current_time()
    assert (await exchange(ours, request())).status == 500
    assert trio.current_time() - begin == pytest.approx(10)
    assert "TooSlowError" in caplog.text


# HTTP


async def test_head() -> None:
    answer = await ask(Fixed(), request("HEAD"))
    assert answer.status == 200
    assert answer.body == ""
    assert int(answer.headers["content-length"]) > 1000
    assert answer.headers["content-type"].startswith("text/plain")


async def test_head_of_nothing() -> None:
    answer = await ask(Fixed(), request("HEAD", "/"))
    assert (answer.status, answer.body) == (404, "")


@pytest.mark.parametrize("target", ["/metrics?name[]=x", f"http://{HOST}/metrics", "http://other.test:1/metrics?x"])
async def test_other_ways_to_ask_for_the_metrics(target: str) -> None:
    assert (await ask(Fixed(), request("GET", target))).status == 200


@pytest.mark.parametrize(
    "target", ["/", "/metrics/", "//metrics", "/Metrics", "*", "metrics?", "http://[/metrics", "/%6detrics", "host:80"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "CONNECT"])
async def test_other_paths_do_not_exist(connect: Connect, method: str, target: str) -> None:
    answer = await exchange(connect(), request(method, target))
    assert answer.status == 404
    assert answer.body == "the metrics are at /metrics\n"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "get"])
async def test_other_methods_are_refused(connect: Connect, method: str) -> None:
    answer = await exchange(connect(), request(method))
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\r\n\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),  # without Host
        (b"GET /metrics HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nno header\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: y\r\n\r\n", 501),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100), 400),  # TLS
        (b"GET /" + b"x" * 20_000, 431),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 20_000, 431),
    ],
    ids=lambda value: repr(value)[:50],
)
async def test_invalid_requests(data: bytes, status: int) -> None:
    assert (await ask(Fixed(), data)).status == status


async def test_an_unread_body_does_not_destroy_the_response() -> None:
    answer = await ask(Fixed(), request("POST", "/metrics", "Content-Length: 40000") + bytes(40_000))
    assert answer.status == 405


async def test_a_connection_that_ends_in_the_middle(connect: Connect) -> None:
    stream = connect()
    await stream.send_all(b"GET /met")
    await stream.send_eof()
    assert Answer.parse(await receive_all(stream)).status == 400


@pytest.mark.parametrize("said", [b"", request()])
async def test_a_connection_that_is_reset(connect: Connect, said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    stream = connect()
    if said:
        await stream.send_all(said)
    await stream.aclose()
    await trio.testing.wait_all_tasks_blocked()
    assert caplog.text == ""


async def test_a_connection_without_a_request(connect: Connect) -> None:
    stream = connect()
    await stream.send_eof()
    assert await receive_all(stream) == b""


async def test_the_second_request_of_a_connection_is_not_answered(connect: Connect) -> None:
    stream = connect()
    await stream.send_all(request() * 2)
    await stream.send_eof()
    assert (await receive_all(stream)).count(b"HTTP/1.1") == 1


async def test_a_request_in_pieces(connect: Connect, autojump_clock: Clock) -> None:
    async with connect() as stream:
        for byte in request():
            await trio.sleep(0.1)
            await stream.send_all(bytes([byte]))
        assert Answer.parse(await receive_all(stream)).status == 200


@pytest.mark.parametrize("said", [b"", b"GET /metrics HTTP/1.1\r\nX: "])
async def test_a_slow_client_gets_a_timeout_response(connect: Connect, autojump_clock: Clock, said: bytes) -> None:
    begin = trio.current_time()
    async with connect() as stream, trio.open_nursery() as nursery:

        async def drip() -> None:
            while True:
                await stream.send_all(said)
                await trio.sleep(1)

        nursery.start_soon(drip)
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive_some()
        assert trio.current_time() - begin == pytest.approx(10)
        assert Answer.parse(data).status == 408
        nursery.cancel_scope.cancel()


async def test_a_client_that_does_not_read_is_disconnected(autojump_clock: Clock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()

    async def never() -> None:
        await trio.sleep_forever()

    theirs.send_stream.send_all_hook = never
    begin = trio.current_time()
    await ours.send_all(request())
    await metrics._endpoint(Fixed()).serve(theirs)
    assert trio.current_time() - begin == pytest.approx(10)
    with pytest.raises(trio.BrokenResourceError):
        await ours.send_all(b"x")


async def test_an_internal_error_does_not_end_the_other_connections(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = trio.testing.memory_stream_pair()

    async def fail() -> None:
        raise LookupError("a bug")

    theirs.send_stream.send_all_hook = fail
    await ours.send_all(request())
    await metrics._endpoint(Fixed()).serve(theirs)
    assert "LookupError: a bug" in caplog.text


async def test_a_client_that_does_not_close_is_disconnected(connect: Connect, autojump_clock: Clock) -> None:
    begin = trio.current_time()
    stream = connect()
    await stream.send_all(request())
    await receive_all(stream)
    with contextlib.suppress(trio.BrokenResourceError):
        while True:
            await stream.send_all(b"x")
            await trio.sleep(0.1)
    assert trio.current_time() - begin == pytest.approx(1, abs=0.2)


async def test_there_are_16_connections_at_most() -> None:
    async with metrics_of(Fixed()) as port, contextlib.AsyncExitStack() as stack:
        waiting = []
        for _ in range(16):
            waiting.append(await stack.enter_async_context(await trio.open_tcp_stream(HOST, port)))
            await trio.testing.wait_all_tasks_blocked()
        async with await trio.open_tcp_stream(HOST, port) as one_more:
            assert Answer.parse(await receive_all(one_more)).status == 503
        # The others are not affected. When one of them has closed, another client can connect.
        assert (await exchange(waiting.pop(), request())).status == 200
        assert (await exchange(await trio.open_tcp_stream(HOST, port), request())).status == 200


async def test_a_port_that_is_in_use() -> None:
    async with metrics_of(Fixed()) as port:
        with pytest.raises(OSError, match="in use"):
            await metrics.serve_metrics(Fixed(), port)


# Custom registries


def value_of(registry: CollectorRegistry, name: str = "trioanytls_connections") -> float | None:
    return registry.get_sample_value(name)


def test_a_collector_may_be_registered_before_there_is_a_server() -> None:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(metrics.ServerCollector(ServerControl()))
    assert value_of(registry) is None
    assert b"# TYPE trioanytls_connections gauge" in generate_latest(registry)


async def test_a_collector_in_its_own_thread() -> None:
    registry = CollectorRegistry()
    registry.register(metrics.ServerCollector(source := Fixed(ServerStats(connections=3))))
    assert value_of(registry) == 3
    assert source.threads == [threading.get_ident()]


@pytest.mark.parametrize("source", [Fixed, Awaited])
async def test_a_collector_that_another_thread_asks(source: type[Fixed]) -> None:
    asked = source(ServerStats(connections=3))
    registry = CollectorRegistry()
    registry.register(metrics.ServerCollector(asked))
    server, thread = start_http_server(0, HOST, registry)
    try:
        url = f"http://{HOST}:{server.server_port}/metrics"

        def get() -> str:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return str(answer.read(), "utf-8")

        assert "trioanytls_connections 3.0" in await trio.to_thread.run_sync(get)
        # The source is called in the Trio thread.
        assert asked.threads == [threading.get_ident()]
        asked.stats = trioanytls.NotRunningError()
        assert "trioanytls_connections 3.0" not in await trio.to_thread.run_sync(get)
    finally:
        await trio.to_thread.run_sync(server.shutdown)
        server.server_close()
        thread.join()


async def test_a_collector_whose_source_is_awaited() -> None:
    collector = metrics.ServerCollector(source := Awaited(ServerStats(connections=3)))
    registry = CollectorRegistry()
    registry.register(collector)
    with pytest.raises(RuntimeError, match="refresh"):
        generate_latest(registry)
    await collector.refresh()
    assert value_of(registry) == 3
    source.stats = ServerStats(connections=4)
    assert value_of(registry) == 3
    await collector.refresh()
    assert value_of(registry) == 4


def test_a_collector_without_trio() -> None:
    registry = CollectorRegistry()
    registry.register(metrics.ServerCollector(Fixed(ServerStats(connections=3))))
    assert value_of(registry) == 3


# Requirements


@pytest.mark.parametrize("missing", ["h11", "prometheus_client"])
def test_the_error_without_the_extra_names_what_is_missing(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; import trioanytls; import trioanytls.metrics"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: trioanytls.metrics needs {missing}")
    assert "'trioanytls[metrics]'" in last


def test_the_library_does_not_need_it() -> None:
    program = "import sys, trioanytls; print({'h11', 'prometheus_client'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "set()\n"

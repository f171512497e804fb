"""The log of a server: each line with its logger, its level and the connection that it names.

`python -m tests.connection.test_logging` prints the table as Markdown.
"""

from __future__ import annotations

import ast
import functools
import logging
import re
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Literal

import pytest
import trio
import trio.testing
from attrs import define, field, frozen

import trioanytls
from trioanytls import Config
from trioanytls._connection.logging import ConnectionLoggerAdapter, LogThrottle
from trioanytls._protocol import data_blocks
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.credentials import hash_password
from trioanytls.testing import StreamQueue, echo

from ..conftest import HOST
from ..helpers.raw_peer import NEGO, data
from ..helpers.server_harness import CLOSE_6, Running, eventually, last_frames, running

Clock = trio.testing.MockClock
Start = Callable[..., AbstractAsyncContextManager[Running]]


@frozen
class Line:
    """A line of the log.

    Attributes:
      logger, levels: the name of the logger, and the levels.
      template: the format string in the code, after the identity of the connection.
      text: the same for readers, with names in place of the arguments.
      meaning: when it is logged.
    """

    logger: str
    levels: tuple[int, ...]
    template: str
    text: str
    meaning: str

    @property
    def has_connection(self) -> bool:
        """Whether its records name their connection."""
        return self.logger != "trioanytls.fallback"


AUTHENTICATED = "authenticated (protocol %s)"

LINES = [
    Line(
        "trioanytls.server",
        (logging.WARNING, logging.DEBUG),
        "refused: %s is reached",
        "refused: LIMIT is reached",
        "A connection was closed as it came; LIMIT is the field of Config. WARNING once a minute, DEBUG in between.",
    ),
    Line(
        "trioanytls.server",
        (logging.INFO,),
        "%s: %s",
        "TCP / PROXY header / TLS: REASON",
        "A connection did not get as far as ANYTLS.",
    ),
    Line(
        "trioanytls.connection",
        (logging.INFO,),
        AUTHENTICATED,
        "authenticated (protocol PROTOCOL)",
        "The client is a user; from here on, the lines name it.",
    ),
    Line(
        "trioanytls.connection",
        (logging.INFO,),
        "authentication failed: %s%s",
        "authentication failed: REASON[; to the fallback]",
        "The client is not one.",
    ),
    Line(
        "trioanytls.connection",
        (logging.WARNING,),
        "%s%s",
        "VIOLATION[; to the fallback]",
        "The client broke the protocol, or a limit; the text names the frame and the rule.",
    ),
    Line(
        "trioanytls.server",
        (logging.ERROR, logging.INFO),
        "the handler of stream %d failed: %r",
        "the handler of stream NUMBER failed: ERROR",
        "ERROR, with a traceback; INFO, without one, where all that has happened is that the stream was broken.",
    ),
    Line(
        "trioanytls.connection",
        (logging.INFO,),
        "closed: %s; %d streams, %d bytes received, %d bytes sent",
        "closed: REASON; N streams, N bytes received, N bytes sent",
        "A connection has ended; what it has carried in all.",
    ),
    Line(
        "trioanytls.server",
        (logging.INFO,),
        "closed: the server is shutting down",
        "closed: the server is shutting down",
        "A client completed its TLS handshake while the server was drained.",
    ),
    Line(
        "trioanytls.connection",
        (logging.DEBUG,),
        "stream %d reset: %s",
        "stream NUMBER reset: REASON",
        "A timer has closed a stream, which was idle, or not read while others waited.",
    ),
    Line(
        "trioanytls.connection",
        (logging.INFO,),
        "fallback limit (%s) reached",
        "fallback limit (LIMIT) reached",
        "The fallback is not given a connection, which ends as if there were none.",
    ),
    Line(
        "trioanytls.connection",
        (logging.INFO,),
        "closed to make room at the fallback",
        "closed to make room at the fallback",
        "A connection with the fallback was idle, and another one needed its place.",
    ),
    Line(
        "trioanytls.connection",
        (logging.ERROR,),
        "the fallback failed: %r",
        "the fallback failed: ERROR",
        "The fallback raised; with a traceback.",
    ),
    Line(
        "trioanytls.fallback",
        (logging.ERROR, logging.DEBUG),
        "fallback service %s:%d is unreachable: %s",
        "fallback service HOST:PORT is unreachable: REASON",
        "The service of relay_to is not there, or has not accepted in 10 seconds; DEBUG within a minute of the last.",
    ),
    Line(
        "trioanytls.connection",
        (logging.ERROR,),
        "internal error",
        "internal error",
        "A mistake in trioanytls, or in a transport; with a traceback. It ends the connection, and no other.",
    ),
]

PACKAGE = Path(trioanytls.__file__).parent
# The modules that log them.
MODULES = ["_server/server", "_server/connection", "_connection/connection", "_server/fallback_service"]


def as_markdown() -> str:
    """Return the table of the lines, for the documentation."""
    rows = [("logger", "level", "message", "when"), ("---",) * 4]
    for line in LINES:
        levels = ", ".join(logging.getLevelName(level) for level in line.levels)
        rows.append((f"`{line.logger}`", levels, f"`{line.text}`", line.meaning))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


#: A `logging.LogRecord` with the attributes that the package adds: `connection`, `peer`, `user`.
Record = Any


def find(record: Record) -> Line:
    """Return the table's line of a record."""
    template = str(record.msg).removeprefix("connection %s: ")
    found = [line for line in LINES if (line.logger, line.template) == (record.name, template)]
    assert len(found) == 1, f"{record.name} {record.msg!r} is not in the table"
    return found[0]


# Two users. The name of one is an attack on the log format.
PASSWORD, PERCENT_PASSWORD = "a-secret-password", "another-secret"
PERCENT = "100% %s %d %(user)s\n{0}"
USERS = {"alice": PASSWORD, PERCENT: PERCENT_PASSWORD}
AUTH = frames.encode_auth(hash_password(PASSWORD), 30)
HELLO = AUTH + NEGO
PAYLOAD = b"what nobody else is to read"

# Texts that no record may contain: passwords, their hashes in any form, and the payload of streams.
SECRETS = [PAYLOAD.decode()]
for _password in (*USERS.values(), "a-wrong-password"):
    _hash = hash_password(_password)
    SECRETS += [_password, _hash.hex(), _hash.hex()[:16], repr(_hash)[2:-1]]


@define
class Log:
    """The records of the package in a test."""

    records: list[Record] = field(factory=list)

    def of(self, template: str) -> list[Record]:
        return [record for record in self.records if find(record).template == template]

    def only(self, template: str) -> Record:
        (record,) = self.of(template)
        return record


class _Collector(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.records.append(record)


@pytest.fixture
def log() -> Iterator[Log]:
    """Collect all records of the package, and check each against the table."""
    logger = logging.getLogger("trioanytls")
    log = Log()
    collector = _Collector(log)
    level = logger.level
    logger.addHandler(collector)
    logger.setLevel(logging.DEBUG)
    try:
        yield log
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)
    for record in log.records:
        check(record)


def check(record: Record) -> None:
    line = find(record)
    assert record.levelno in line.levels
    # The record names the module of the event, and not that of the logger adapter.
    assert Path(record.pathname).relative_to(PACKAGE).with_suffix("").as_posix() in MODULES
    text = logging.Formatter().format(record)
    for secret in SECRETS:
        assert secret not in text
        assert secret not in str(vars(record))
    message = record.getMessage()
    assert "\n" not in message
    assert len(message) < 2000
    if line.has_connection:
        # The text agrees with the attributes.
        assert isinstance(record.connection, int)
        who = f"connection {record.connection}"
        who += f", {record.peer}" if record.peer else ""
        who += f", user {record.user!r}" if record.user else ""
        assert message.startswith(f"{who}: ")
        assert record.user in (None, *USERS)


@pytest.fixture
def start(server_context: ssl.SSLContext, client_context: ssl.SSLContext, log: Log) -> Start:
    return functools.partial(running, server_context, client_context, users=USERS)


# The table

_said: set[str] = set()


def says(*templates: str) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Mark a test with the lines of the table that it covers."""
    _said.update(templates)
    return lambda test: test


def test_each_line_of_the_table_is_heard_by_a_test() -> None:
    assert _said == {line.template for line in LINES}


def test_the_table_has_each_line_of_the_code() -> None:
    templates = set()
    for module in MODULES:
        path = PACKAGE / f"{module}.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_log(node.func):
                arguments = node.args[1:] if node.func.attr == "log" else node.args
                assert isinstance(arguments[0], ast.Constant)
                templates.add(arguments[0].value)
    assert templates == {line.template for line in LINES}


def is_log(function: ast.Attribute) -> bool:
    return function.attr in ("debug", "info", "warning", "error", "exception", "critical", "log") and bool(
        re.search(r"\b_?log$|ConnectionLoggerAdapter\(.*\)$", ast.unparse(function.value))
    )


def test_the_table_as_markdown() -> None:
    rows = as_markdown().splitlines()
    assert len(rows) == len(LINES) + 2
    assert {row.count("|") for row in rows} == {5}
    assert rows[2].startswith("| `trioanytls.server` | WARNING, DEBUG | `refused: LIMIT is reached` |")


# Before ANYTLS


@says("refused: %s is reached")
async def test_refusals_are_said_once_a_minute(start: Start, log: Log, mock_clock: Clock) -> None:
    async with start(config=Config(max_unauthenticated_per_address=1)) as server:
        await server.tcp()
        await eventually(lambda: server.stats.connections == 1)

        async def refused() -> Record:
            before = len(log.records)
            transport = await server.tcp()
            assert await transport.receive_some() == b""
            assert log.records[before].peer == "{}:{}".format(*transport.socket.getsockname())
            return log.records[before]

        first = await refused()
        assert first.getMessage().endswith(": refused: max_unauthenticated_per_address is reached")
        assert first.name == "trioanytls.server"
        assert first.user is None
        assert first.levelno == logging.WARNING
        assert [(await refused()).levelno for _ in range(3)] == [logging.DEBUG] * 3
        mock_clock.jump(29)
        assert (await refused()).levelno == logging.DEBUG
        # The first connection has ended by now, and another one has taken its slot.
        mock_clock.jump(2)
        await eventually(lambda: server.stats.connections == 0)
        await server.tcp()
        await eventually(lambda: server.stats.connections == 1)
        mock_clock.jump(28.9)
        assert (await refused()).levelno == logging.DEBUG
        mock_clock.jump(0.2)
        assert [(await refused()).levelno for _ in range(3)] == [logging.WARNING, logging.DEBUG, logging.DEBUG]


@says("%s: %s")
async def test_what_is_no_tls(start: Start, log: Log) -> None:
    async with start() as server:
        transport = await server.tcp()
        await transport.send_all(b"GET / HTTP/1.1\r\n\r\n" + PAYLOAD)
        await eventually(lambda: server.stats.handshakes_failed == 1)
        record = log.only("%s: %s")
        assert ": TLS: the TLS handshake failed: " in record.getMessage()
        assert record.peer == "{}:{}".format(*transport.socket.getsockname())
        assert (record.levelno, record.name, record.user) == (logging.INFO, "trioanytls.server", None)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\x16\x03\x01", "invalid beginning of a PROXY header: b'\\x16'"),
        (b"PROXY TCP4 %s", "invalid beginning of the source IPv4 address: '%'"),
        (b"PROXY TCP4 198.51.100.7 203.0.113.1 1\n", "invalid beginning of the source port: '1\\n'"),
    ],
)
async def test_what_is_no_proxy_header(start: Start, log: Log, sent: bytes, reason: str) -> None:
    async with start(trusted_proxies=[HOST]) as server:
        transport = await server.tcp()
        await transport.send_all(sent)
        await eventually(lambda: server.stats.handshakes_failed == 1)
        record = log.only("%s: %s")
        assert record.getMessage().endswith(f": PROXY header: {reason}")
        # The proxy's address, since no other one is known.
        assert record.peer == "{}:{}".format(*transport.socket.getsockname())


async def test_a_header_that_is_late_or_cut_off(start: Start, log: Log, mock_clock: Clock) -> None:
    async with start(trusted_proxies=[HOST]) as server:
        await server.tcp()
        await eventually(lambda: server.stats.connections == 1)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(31)
        await eventually(lambda: server.stats.handshakes_failed == 1)
        await (await server.tcp()).aclose()
        await eventually(lambda: server.stats.handshakes_failed == 2)
        late, cut_off = log.of("%s: %s")
        assert late.getMessage().endswith(": PROXY header: not complete within handshake_timeout")
        assert cut_off.getMessage().endswith(": PROXY header: the connection ended before the header was complete")


async def test_behind_a_proxy_the_peer_is_the_client(start: Start, log: Log) -> None:
    async with start(trusted_proxies=[HOST]) as server:
        transport = await server.tcp()
        await transport.send_all(b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n")
        await server.raw(HELLO, transport=transport)
        await eventually(lambda: server.stats.authentications == 1)
        assert log.only(AUTHENTICATED).peer == "[2001:db8::7]:56324"


async def test_a_peer_that_has_gone_already(start: Start, log: Log) -> None:
    async with start() as server:
        # No checkpoint between the two: the connection can be accepted, and is closed already. Health checks of load
        # balancers end like this.
        gone = socket.create_connection((HOST, server.port))
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
        await eventually(lambda: server.stats.handshakes_failed == 1)
        record = log.only("%s: %s")
        assert record.getMessage() == f"connection {record.connection}: TCP: the peer disconnected before the handshake"
        assert record.peer is None


# Connections


@says(AUTHENTICATED, "closed: %s; %d streams, %d bytes received, %d bytes sent")
async def test_who_comes_and_goes(start: Start, log: Log) -> None:
    async with start() as server:
        transport = await server.tcp()
        peer = await server.raw(
            HELLO + frames.encode_open(1) + data(1, PAYLOAD) + frames.encode_close(0), transport=transport
        )
        assert await peer.receive() is None
        await peer.transport.aclose()
        await eventually(lambda: server.stats.connections == 0)
        came, went = log.only(AUTHENTICATED), log.of(LINES[6].template)[0]
        for record in (came, went):
            assert record.peer is not None
            assert (record.connection, record.user) == (came.connection, "alice")
            assert (record.levelno, record.name) == (logging.INFO, "trioanytls.connection")
            assert record.exc_info is None
        who = f"connection {came.connection}, {came.peer}, user 'alice'"
        assert came.getMessage() == f"{who}: authenticated (protocol anytls1)"
        stats = server.stats
        assert went.getMessage() == (
            f"connection {came.connection}, {came.peer}, user 'alice': closed: the peer closed the connection; "
            f"1 streams, {stats.bytes_received} bytes received, {stats.bytes_sent} bytes sent"
        )


async def test_connections_have_numbers_of_their_own(start: Start, log: Log) -> None:
    async with start() as server:
        for _ in range(3):
            await server.raw(HELLO)
        await eventually(lambda: server.stats.authentications == 3)
        assert len({record.connection for record in log.of(AUTHENTICATED)}) == 3


@says("authentication failed: %s%s")
@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (frames.encode_auth(hash_password("a-wrong-password"), 0) + PAYLOAD, "no user has this password"),
        (b"GET /" + PAYLOAD, "not an AUTH frame from byte 0 on"),
        (None, "the connection ended before AUTH was complete"),
    ],
)
@pytest.mark.parametrize("with_fallback", [False, True])
async def test_who_is_not_let_in(start: Start, log: Log, hello: bytes | None, reason: str, with_fallback: bool) -> None:
    async def fallback(stream: trioanytls.FallbackStream) -> None:
        """Says nothing."""

    async with start(fallback=fallback if with_fallback else None) as server:
        peer = await server.raw(hello or AUTH[:20])
        if hello is None:
            await peer.transport.aclose()
        await eventually(lambda: server.stats.connections == 0)
        record = log.only("authentication failed: %s%s")
        end = "; to the fallback" if with_fallback else ""
        assert (
            record.getMessage()
            == f"connection {record.connection}, {record.peer}: authentication failed: {reason}{end}"
        )
        assert (record.levelno, record.name, record.user) == (logging.INFO, "trioanytls.connection", None)


@says("%s%s")
@pytest.mark.parametrize("on_violation", ["alert", "fallback"])
async def test_violations_are_warnings(start: Start, log: Log, on_violation: Literal["alert", "fallback"]) -> None:
    async def fallback(stream: trioanytls.FallbackStream) -> None:
        """Says nothing."""

    async with start(fallback=fallback, config=Config(on_violation=on_violation)) as server:
        peer = await server.raw(HELLO + data(1, PAYLOAD))
        await last_frames(peer)
        await eventually(lambda: server.stats.connections == 0)
        record = log.only("%s%s")
        assert (record.levelno, record.name, record.user) == (logging.WARNING, "trioanytls.connection", "alice")
        assert ": STREAM[DATA] on stream 1: " in record.getMessage()
        assert record.getMessage().endswith("; to the fallback") is (on_violation == "fallback")
        assert record.exc_info is None


async def test_what_a_peer_says_is_one_short_line(start: Start, log: Log) -> None:
    # It must not look like other lines of the log, and must not fill the log.
    lie = f"\nconnection 1, user 'alice': authenticated\n{'x' * 60_000}"
    async with start(StreamQueue()) as server:
        streams = b"".join(frames.encode_open(number) for number in (1, 2))
        peer = await server.raw(HELLO + streams + frames.encode_alert(data_blocks.format_text(lie)))
        await peer.transport.aclose()
        await eventually(lambda: bool(log.of(LINES[6].template)))
        message = log.only(LINES[6].template).getMessage()
        assert message.startswith("connection ")
        assert ": closed: the peer sent an ALERT: " in message
        assert "...; 2 streams, " in message


async def test_a_handler_that_meets_such_an_end_repeats_it_shortly(start: Start, log: Log) -> None:
    async with start() as server:
        peer = await server.with_streams(hello=HELLO)
        await peer.send(frames.encode_alert(b"\n" + b"x" * 60_000))
        await peer.transport.aclose()
        await eventually(lambda: server.stats.connections == 0)
        record = log.only("the handler of stream %d failed: %r")
        assert record.levelno == logging.INFO
        assert (
            ": the handler of stream 1 failed: ConnectionClosed('the peer sent an ALERT: \\nxxx" in record.getMessage()
        )


# Handlers


@says("the handler of stream %d failed: %r")
async def test_handlers_that_fail_have_a_traceback(start: Start, log: Log) -> None:
    async def handler(stream: trioanytls.Stream) -> None:
        raise LookupError("a mistake: 100%")

    async with start(handler) as server:
        await server.raw(HELLO + frames.encode_open(1) + data(1, PAYLOAD))
        await eventually(lambda: server.stats.handlers_failed == 1)
        record = log.only("the handler of stream %d failed: %r")
        assert (record.levelno, record.name, record.user) == (logging.ERROR, "trioanytls.server", "alice")
        assert record.getMessage().endswith(": the handler of stream 1 failed: LookupError('a mistake: 100%')")
        assert record.exc_info is not None
        assert "in handler\n" in logging.Formatter().format(record)


@says("stream %d reset: %s")
async def test_a_stream_that_a_timer_closes(start: Start, log: Log) -> None:
    async with start(config=trioanytls.Config(stream_idle_timeout=0.05)) as server:
        await server.raw(HELLO + frames.encode_open(1))
        await eventually(lambda: bool(server.stats.streams_timed_out))
        record = log.only("stream %d reset: %s")
        assert (record.levelno, record.name, record.user) == (logging.DEBUG, "trioanytls.connection", "alice")
        assert record.getMessage().endswith(": stream 1 reset: the stream was idle for longer than stream_idle_timeout")


async def test_a_single_error_in_a_group_is_named_alone(start: Start, log: Log) -> None:
    async def handler(stream: trioanytls.Stream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo, None)  # type: ignore[arg-type] # an error is what is tested

    async with start(handler) as server:
        await server.raw(HELLO + frames.encode_open(1))
        await eventually(lambda: server.stats.handlers_failed == 1)
        assert "failed: TypeError(" in log.only("the handler of stream %d failed: %r").getMessage()


async def test_that_a_client_goes_away_is_no_error(start: Start, log: Log) -> None:
    async with start() as server:
        peer = await server.raw(HELLO + frames.encode_open(1) + data(1, PAYLOAD))
        await eventually(lambda: server.stats.streams == 1)
        await trio.aclose_forcefully(peer.transport)
        await eventually(lambda: server.stats.connections == 0)
        for record in log.of("the handler of stream %d failed: %r"):
            assert record.levelno == logging.INFO
            assert record.exc_info is None
        assert not [record for record in log.records if record.levelno > logging.INFO]


# Fallbacks


@says("the fallback failed: %r")
async def test_fallbacks_that_fail_have_a_traceback(start: Start, log: Log) -> None:
    async def fallback(stream: trioanytls.FallbackStream) -> None:
        raise LookupError("a mistake")

    async with start(fallback=fallback) as server:
        await server.raw(PAYLOAD)
        await eventually(lambda: server.stats.connections == 0)
        record = log.only("the fallback failed: %r")
        assert (record.levelno, record.name) == (logging.ERROR, "trioanytls.connection")
        assert record.getMessage().endswith(": the fallback failed: LookupError('a mistake')")
        assert "in fallback\n" in logging.Formatter().format(record)


@says("fallback service %s:%d is unreachable: %s")
async def test_a_service_that_is_not_there(start: Start, log: Log) -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
    async with start(fallback=trioanytls.relay_to(HOST, port)) as server:
        await server.raw(PAYLOAD)
        await eventually(lambda: server.stats.connections == 0)
        record = log.only("fallback service %s:%d is unreachable: %s")
        assert (record.levelno, record.name) == (logging.ERROR, "trioanytls.fallback")
        assert record.getMessage().startswith(f"fallback service {HOST}:{port} is unreachable: ")


async def test_a_service_that_does_not_answer(
    start: Start, log: Log, mock_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = trio.open_tcp_stream

    async def open_tcp_stream(host: str, port: int, **options: Any) -> trio.SocketStream:
        if port == 9:
            await trio.sleep_forever()
        return await connect(host, port, **options)

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    async with start(fallback=trioanytls.relay_to(HOST, 9)) as server:
        await server.raw(PAYLOAD)
        await eventually(lambda: server.stats.fallbacks == 1)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(11)
        await eventually(lambda: server.stats.connections == 0)
        record = log.only("fallback service %s:%d is unreachable: %s")
        assert (record.levelno, record.name) == (logging.ERROR, "trioanytls.fallback")
        assert record.getMessage().endswith(": it does not answer")


@says("fallback limit (%s) reached")
async def test_fallbacks_beyond_their_limit(start: Start, log: Log) -> None:
    async def fallback(stream: trioanytls.FallbackStream) -> None:
        await trio.sleep_forever()

    async with start(fallback=fallback, config=Config(max_fallbacks=1)) as server:
        await server.raw(PAYLOAD)
        await eventually(lambda: server.stats.fallback_connections == 1)
        await server.raw(PAYLOAD)
        await eventually(lambda: server.stats.connections == 1)
        record = log.only("fallback limit (%s) reached")
        assert record.getMessage().endswith(": fallback limit (max_fallbacks) reached")
        assert (record.levelno, record.name) == (logging.INFO, "trioanytls.connection")
        # It did not go to the fallback, and its end is logged once.
        assert server.stats.connections_closed == {"UNAUTHENTICATED": 1}
        log.only("closed: %s; %d streams, %d bytes received, %d bytes sent")


@says("closed to make room at the fallback")
async def test_an_idle_fallback_makes_room(start: Start, log: Log, mock_clock: trio.testing.MockClock) -> None:
    async def fallback(stream: trioanytls.FallbackStream) -> None:
        await trio.sleep_forever()

    async with start(fallback=fallback, config=Config(max_fallbacks=1)) as server:
        await server.raw(PAYLOAD)
        await eventually(lambda: server.stats.fallback_connections == 1)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(6)
        await server.raw(PAYLOAD)
        await eventually(lambda: server.stats.fallbacks_displaced == 1)
        record = log.only("closed to make room at the fallback")
        assert (record.levelno, record.name) == (logging.INFO, "trioanytls.connection")


# The end, and errors that must not occur


@says("closed: the server is shutting down")
async def test_draining_is_said_of_each_connection(start: Start, log: Log) -> None:
    # With GOAWAY, a client that is about to connect would be served first.
    config = Config(extensions=Config().extensions - {"goaway"})
    async with start(config=config) as server, trio.open_nursery() as nursery:
        transport = await server.tcp()
        peer = await server.with_streams(hello=HELLO)
        await eventually(lambda: server.stats.connections == 2)
        await server.draining(nursery, 10)
        await server.raw(transport=transport)
        await peer.send(frames.encode_rst(1))
        assert (await last_frames(peer))[-1] == CLOSE_6
        await server.returned.wait()
        late = log.only("closed: the server is shutting down")
        assert (late.levelno, late.name, late.user) == (logging.INFO, "trioanytls.server", None)
        assert ": closed: the server is shutting down; 1 streams, " in log.only(LINES[6].template).getMessage()


@says("internal error")
async def test_a_mistake_in_a_transport_has_a_traceback(log: Log) -> None:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise LookupError("a mistake")

    near, far = trio.testing.memory_stream_pair()
    far.receive_stream.receive_some_hook = fail
    far.receive_stream.put_data(b"x")
    await near.aclose()
    await trioanytls.serve_connection(far, echo, users=USERS)
    record = log.only("internal error")
    assert (record.levelno, record.name) == (logging.ERROR, "trioanytls.connection")
    # The peer of a custom transport is unknown.
    assert record.peer is None
    assert record.getMessage() == f"connection {record.connection}: internal error"
    assert "LookupError: a mistake" in logging.Formatter().format(record)


async def test_percent_signs_in_names_of_users(start: Start, log: Log) -> None:
    async def handler(stream: trioanytls.Stream) -> None:
        raise LookupError("50%")

    async with start(handler) as server:
        peer = await server.raw(frames.encode_auth(hash_password(PERCENT_PASSWORD), 0) + NEGO + frames.encode_open(1))
        await eventually(lambda: server.stats.handlers_failed == 1)
        await peer.send(data(7, PAYLOAD))
        await last_frames(peer)
        await eventually(lambda: server.stats.connections == 0)
        who = f", user {PERCENT!r}: "
        templates = [AUTHENTICATED, "the handler of stream %d failed: %r", "%s%s", LINES[6].template]
        for template in templates:
            record = log.only(template)
            assert record.user == PERCENT
            assert who in record.getMessage()
        assert log.only(AUTHENTICATED).getMessage().endswith(f"{who}authenticated (protocol anytls1)")


# The log itself


@frozen
class Subject:
    """The identity of a connection in the log."""

    connection_id: int = 7
    peer_address: tuple[str, int] | None = ("fe80::1%eth0", 443)
    user: str | None = None


def test_a_line_without_arguments_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    log = ConnectionLoggerAdapter("tests.logs", Subject(user="100%"))
    log.info("as it is")
    log.info("of %s", "100%")
    log.log(logging.DEBUG, "loud as %r", "asked")
    assert [record.getMessage() for record in caplog.records] == [
        "connection 7, [fe80::1%eth0]:443, user '100%': as it is",
        "connection 7, [fe80::1%eth0]:443, user '100%': of 100%",
        "connection 7, [fe80::1%eth0]:443, user '100%': loud as 'asked'",
    ]
    assert {(record.filename, record.funcName) for record in caplog.records} == {
        ("test_logging.py", "test_a_line_without_arguments_is_left_as_it_is")
    }


def test_nothing_is_made_of_what_nobody_hears(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)

    class Unasked:
        @property
        def connection_id(self) -> int:
            raise AssertionError

        peer_address = user = connection_id

    ConnectionLoggerAdapter("tests.logs", Unasked()).info("unheard")  # type: ignore[arg-type]  # a stand-in, or what is tested
    assert caplog.records == []


def test_an_argument_is_one_line_and_not_a_long_one(caplog: pytest.LogCaptureFixture) -> None:
    log = ConnectionLoggerAdapter("tests.logs", Subject())
    log.warning("%s, %r, %s, %d", "a\nb\r\n", LookupError("c\nd"), "e" * 100_000, 100_000)
    (record,) = caplog.records
    assert record.getMessage() == (
        "connection 7, [fe80::1%eth0]:443: a\\nb\\r\\n, LookupError('c\\nd'), " + "e" * 512 + "..., 100000"
    )


if __name__ == "__main__":
    print(as_markdown(), end="")


def test_what_is_said_seldom_is_said_in_each_event_loop() -> None:
    seldom = LogThrottle()

    async def levels() -> list[int]:
        start = trio.current_time()
        return [seldom.level(logging.ERROR, start + seconds) for seconds in (0, 59, 60, 61)]

    # The second clock is earlier than the first, as is the case half of the time.
    for start in (1000, 0):
        clock = trio.testing.MockClock()
        clock.jump(start)
        assert trio.run(levels, clock=clock) == [logging.ERROR, logging.DEBUG, logging.ERROR, logging.DEBUG]

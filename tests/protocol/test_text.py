"""Text from a peer in logs, errors and on terminals: a short line of printable characters."""

from __future__ import annotations

import io
import logging
import re
import sys
import unicodedata
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
import trio
import trio.testing
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import trioanytls
from trioanytls import AnyTLSError, CloseCode, one_line
from trioanytls._connection import close_reason
from trioanytls._connection.logging import LOGGERS
from trioanytls._protocol import exceptions
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.client import ClientProtocol
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._protocol.text import MAX_TEXT
from trioanytls._server.handshake import HandshakeError
from trioanytls.cli.common import runner
from trioanytls.cli.common.logging import JSONFormatter, LogSettings, TextFormatter
from trioanytls.cli.demo import report
from trioanytls.cli.server import client_uri
from trioanytls.destination import Destination
from trioanytls.relay.http_heads import HTTPError
from trioanytls.relay.logging import StreamLog
from trioanytls.relay.reply_codes import ReplyCode
from trioanytls.relay.upstream import Unreachable

from ..helpers.pool_harness import client_of, memory_server
from ..helpers.raw_peer import SERVER_NEGO, raw_client, raw_server

#: Looks like a second line of a log, clears a terminal, and reverses and hides text.
FORGED = "bye\n2026-01-01 ERROR alice: all is lost\r\x1b[2J\x1b]0;title\x07\u2028\u2029\x85\u202e\u200b\x00\x7f[bold]"
#: The part that an ALERT can contain: a text block allows LF (spec: Appendix B).
ALERT = "bye\n2026-01-01 ERROR alice: all is lost [bold]"


def is_one_line(text: str) -> bool:
    return text.isprintable() and len(text.splitlines()) == 1


# The function


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("as it is, with Umläuten, 漢字 and [bold]", "as it is, with Umläuten, 漢字 and [bold]"),
        ("a\nb\r\nc", r"a\nb\r\nc"),
        ("\x1b[2J\x1b[31m", r"\x1b[2J\x1b[31m"),
        ("\x00\x07\x08\t\x7f\x9b", r"\x00\x07\x08\t\x7f\x9b"),
        ("\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", r"\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"),
        ("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f", None),
        ("\u200b\ufeff\U000e0001", r"\u200b\ufeff\U000e0001"),
        ("\ud800\udc80", r"\ud800\udc80"),
    ],
)
def test_one_line(text: str, expected: str | None) -> None:
    assert is_one_line(one_line(text)) or not text
    assert one_line(text) == (text.encode("unicode_escape").decode() if expected is None else expected)


def test_one_line_is_not_long() -> None:
    assert one_line("x" * MAX_TEXT) == "x" * MAX_TEXT
    assert one_line("x" * (MAX_TEXT + 1)) == "x" * MAX_TEXT + "..."
    assert one_line("\n" * 1_000_000) == r"\n" * MAX_TEXT + "..."
    assert one_line("abcdef", 3) == "abc..."
    assert one_line("x" * 100_000, None) == "x" * 100_000


@given(st.text(st.characters(), max_size=50))
def test_any_text_becomes_one_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert not {unicodedata.category(character) for character in line} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert one_line(line, None) == line


# Errors


def subclasses(error: type[AnyTLSError]) -> Iterator[type[AnyTLSError]]:
    yield error
    for one in error.__subclasses__():
        yield from subclasses(one)


def made(error: Any, text: str) -> AnyTLSError:
    if error is trioanytls.ConnectionClosed:
        return error(CloseCode.PROTOCOL_ERROR, text)
    if error is trioanytls.SideBroken:
        return error("near", LookupError(text))
    if error is Unreachable:
        return error(ReplyCode.GENERAL_FAILURE, text)
    if error is HTTPError:
        return error(400, text)
    if error is HandshakeError:
        return error("TLS", text)
    return error(1, text) if error is trioanytls.DataBlockError else error(text)


@pytest.mark.parametrize("error", sorted(subclasses(AnyTLSError), key=str))
def test_the_text_of_each_error_is_one_line(error: type[AnyTLSError]) -> None:
    assert is_one_line(str(made(error, FORGED)))
    assert r"bye\n2026" in str(made(error, FORGED))
    assert len(str(made(error, "x" * 100_000))) < 2000
    # As in a traceback.
    assert is_one_line(repr(made(error, FORGED)))


@pytest.mark.parametrize("text", [FORGED, "x" * 100_000])
def test_the_reason_of_an_end_is_one_line(text: str) -> None:
    for error in (
        trioanytls.ConnectionClosed(None, text),
        close_reason.peer_alerted(text).error(),
        close_reason.transport_lost(text).error(),
        close_reason.violated(exceptions.ProtocolViolation(text)).error(),
    ):
        assert is_one_line(error.reason)
        assert is_one_line(str(error))
        assert len(error.reason) < 2000


async def test_the_reason_that_an_application_meets_is_one_line() -> None:
    async with raw_server() as (client, peer):
        stream = await client.open_stream()
        await peer.send(SERVER_NEGO, frames.encode_alert(ALERT.encode()))
        with pytest.raises(trioanytls.ConnectionClosed) as caught:
            await stream.receive_some()
        for error in (caught.value, client.close_reason):
            assert error is not None
            assert error.reason == r"the peer sent an ALERT: bye\n2026-01-01 ERROR alice: all is lost [bold]"
            assert str(error) == f"{error.reason} (code 1, PROTOCOL_ERROR)"


def test_a_rule_does_not_say_what_a_long_block_has_in_it() -> None:
    # The text of an error is cut. The rest must not reveal the text that the peer chose.
    with pytest.raises(trioanytls.SchemeError) as caught:
        PaddingScheme.parse(b"stop=1\n" + b"k" * 60_000 + b"=1-2\n")
    assert len(str(caught.value)) < 2000
    for block in (b"stop=1\n" + b"k" * 60_000 + b"=1-2\n", b"stop=1\n" + b"k" * 60_000 + b"=\n"):
        protocol = ClientProtocol("password", PaddingScheme.DEFAULT)
        protocol.handshake_done()
        sent = SERVER_NEGO + frames.encode_padding_update_scheme(block)
        with pytest.raises(trioanytls.ProtocolViolation) as violation:
            list(protocol.receive(sent))
        assert "kk" not in str(violation.value.args)
        assert "'...'" in str(violation.value)


# The log


@pytest.mark.parametrize("name", LOGGERS)
@pytest.mark.parametrize(
    "argument",
    [FORGED, LookupError(FORGED), OSError(5, FORGED), [FORGED], Destination("x", 1), FORGED.encode(), None],
    ids=lambda argument: type(argument).__name__,
)
def test_each_record_of_the_package_is_one_line(name: str, argument: object, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "trioanytls")
    log = logging.getLogger(f"trioanytls.{name}")
    log.info("%s and %r, %d, %.1f", argument, argument, 5, 2.5)
    log.info("%(one)s", {"one": argument})
    log.info(FORGED)
    log.info("%s", "x" * 100_000)
    assert all(is_one_line(message) for message in caplog.messages)
    assert caplog.messages[0].endswith(", 5, 2.5")
    assert len(caplog.messages[-1]) < 1000


def test_each_logger_of_the_package_is_named() -> None:
    found = set()
    for path in Path(trioanytls.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r'(?:getLogger|ConnectionLoggerAdapter)\("trioanytls\.(\w+)"', text))
    assert found == set(LOGGERS)


async def test_what_a_server_says_is_one_line_of_the_clients_log(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trioanytls")
    async with memory_server() as server, trio.open_nursery() as nursery:

        async def dial(_timeout: float) -> trio.abc.Stream:
            near, far = trio.testing.memory_stream_pair()

            async def answer() -> None:
                await far.receive_some()
                # Without NEGO, it counts as a failed attempt.
                await far.send_all(frames.encode_alert(ALERT.encode()))

            nursery.start_soon(answer)
            return near

        async with client_of(server, dial=dial, pool=trioanytls.PoolConfig(open_timeout=2)) as client:
            stream = await client.open_stream()
            with pytest.raises(trioanytls.ConnectionClosed):
                await stream.receive_some()
    said = [message for message in caplog.messages if "all is lost" in message]
    assert any("the server did not answer" in message for message in said)
    assert all(is_one_line(message) for message in caplog.messages)


async def test_an_error_of_an_attempt_is_one_line_everywhere(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trioanytls")
    async with memory_server() as server:

        async def dial(_timeout: float) -> trio.abc.Stream:
            raise trio.BrokenResourceError(FORGED)

        async with client_of(server, dial=dial, pool=trioanytls.PoolConfig(open_timeout=2)) as client:
            with pytest.raises(trioanytls.ConnectFailed) as caught:
                await client.open_stream()
    assert is_one_line(str(caught.value))
    assert r"bye\n2026" in str(caught.value)
    assert caplog.messages
    assert all(is_one_line(message) for message in caplog.messages)


async def test_what_a_relay_says_of_a_stream_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "trioanytls")
    streams = []

    async def handler(stream: trioanytls.Stream) -> None:
        streams.append(stream)
        await stream.wait_closed()

    async with raw_client(handler) as (peer, _):
        await peer.send(frames.encode_open(1))
        await trio.testing.wait_all_tasks_blocked()
        await peer.send(frames.encode_alert(ALERT.encode()))
        await trio.testing.wait_all_tasks_blocked()
        log = StreamLog(streams[0])
        log.debug("stream broke before the destination was received: %s", streams[0].connection.close_reason)
        log.info("refused: %s", FORGED)
        log.debug("relaying to %s from local address %s", Destination("host.example", 1), FORGED)
    said = [message for message in caplog.messages if ", stream 1: " in message]
    assert len(said) == 3
    assert all(is_one_line(message) for message in caplog.messages)


async def test_a_percent_sign_in_the_name_of_a_user_is_only_that(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="trioanytls.relay")
    streams: list[trioanytls.Stream] = []

    async def handler(stream: trioanytls.Stream) -> None:
        streams.append(stream)

    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        users = {"100% %s": "password"}
        nursery.start_soon(partial(trioanytls.serve_connection, far, handler, users=users))
        async with (
            trioanytls.wrap_client(near, password="password") as client,
            await client.open_stream() as stream,
        ):
            await stream.wait_acknowledged()
    log = StreamLog(streams[0])
    log.info("without arguments")
    log.info("with %s", "one")
    assert [text.partition(", user ")[2] for text in caplog.messages] == [
        "'100% %s', stream 1: without arguments",
        "'100% %s', stream 1: with one",
    ]


def test_why_a_destination_was_not_reached_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    error = close_reason.peer_alerted(FORGED).error()
    unreachable = Unreachable(ReplyCode.GENERAL_FAILURE, str(error))
    assert is_one_line(str(unreachable))
    logging.getLogger("trioanytls.relay").warning("SOCKS: %s: %s", Destination("x", 1), unreachable)
    assert is_one_line(caplog.messages[0])


# The command line


@pytest.mark.parametrize("formatter", [TextFormatter(show_process=True, traceback=True), JSONFormatter()])
def test_no_line_of_a_traceback_looks_like_a_record(formatter: logging.Formatter) -> None:
    try:
        raise LookupError(FORGED)
    except LookupError:
        record = logging.LogRecord("trioanytls.cli", logging.ERROR, __file__, 1, "%s", (FORGED,), sys.exc_info())
    lines = formatter.format(record).split("\n")
    assert all(is_one_line(line) for line in lines)
    assert all(line.startswith("  ") for line in lines[1:])
    assert not any(line.startswith("2026-01-01 ERROR alice") for line in lines)


def test_the_log_of_a_command_is_one_line_a_record() -> None:
    logger = logging.getLogger("trioanytls")
    before = logger.level, logger.handlers[:], logging.raiseExceptions
    out = io.StringIO()
    try:
        LogSettings().set_up(out)
        logging.getLogger("trioanytls.client").warning("%s", FORGED)
        logging.getLogger("trioanytls").warning(FORGED)
    finally:
        logger.setLevel(before[0])
        logger.handlers[:] = before[1]
        logging.raiseExceptions = before[2]
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert all(is_one_line(line) for line in lines)


@pytest.mark.parametrize(
    "error", [OSError(FORGED), trioanytls.ConnectionClosed(None, FORGED), trioanytls.TLSError(FORGED)]
)
def test_the_error_of_a_command_is_one_line(error: Exception) -> None:
    async def fail() -> None:
        raise error

    @click.command()
    def command() -> None:
        runner.run(fail)

    lines = CliRunner().invoke(command).output.splitlines()
    assert len(lines) == 1
    assert is_one_line(lines[0])
    assert lines[0].startswith(r"Error: bye\n2026")


def test_what_a_demo_complains_of_is_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    report.print_errors("Error", [f"name: {FORGED}", "another"])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(is_one_line(line) for line in lines)
    # No markup is interpreted.
    assert "[bold]" in lines[2]


def test_a_user_has_one_line_of_the_list_of_uris(capsys: pytest.CaptureFixture[str]) -> None:
    client_uri.announce(
        {f"alice{FORGED}": trioanytls.ServerURI("x", "a"), "bob": trioanytls.ServerURI("x", "b")}, qr=None
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line[0] for line in lines] == ["#", "a", "#", "a"]
    assert all(is_one_line(line) for line in lines)

"""Handlers and fallbacks that raise: a lost peer is not a bug, in any exception group."""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable

import pytest
import trio

import trioanytls
from trioanytls import CloseCode, ConnectionClosed
from trioanytls._exceptions import has_cancelled, without_broken
from trioanytls._protocol.anytls1.frame_decoder import Frame
from trioanytls._protocol.anytls1.frames import FrameType

from ..helpers.server_harness import CLOSE_6, eventually, running

HANDLER = "the handler of stream %d failed: %r"
FALLBACK = "the fallback failed: %r"

#: A handler, or a fallback.
Function = Callable[[trio.abc.Stream], Awaitable[None]]


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "trioanytls")
    return caplog


def only(log: pytest.LogCaptureFixture, template: str) -> logging.LogRecord:
    (record,) = [record for record in log.records if str(record.msg).endswith(template)]
    return record


async def send(stream: trio.abc.Stream) -> None:
    while True:
        await stream.send_all(bytes(100_000))


async def receive(stream: trio.abc.Stream) -> None:
    while await stream.receive_some():
        pass


async def send_and_receive(stream: trio.abc.Stream) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, stream)
        nursery.start_soon(receive, stream)


async def nested(stream: trio.abc.Stream) -> None:
    async with trio.open_nursery() as outer:
        outer.start_soon(send, stream)
        async with trio.open_nursery() as inner:
            inner.start_soon(receive, stream)


async def lose(_stream: trio.abc.Stream) -> None:
    raise trio.BrokenResourceError("gone")


async def fail(_stream: trio.abc.Stream) -> None:
    raise LookupError("a mistake")


async def fail_otherwise(_stream: trio.abc.Stream) -> None:
    raise KeyError("another")


def in_nursery(*functions: Function) -> Function:
    """Run all of them at once, and one that fails in a nursery of its own, after the peer has closed."""

    async def function(stream: trio.abc.Stream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await receive(stream)
        async with trio.open_nursery() as outer:
            outer.start_soon(lose, stream)
            async with trio.open_nursery() as inner:
                for one in functions:
                    inner.start_soon(one, stream)

    return function


def gone() -> ConnectionClosed:
    return ConnectionClosed(CloseCode.NO_ERROR, "gone")


GOING = [send_and_receive, nested]
MISTAKES = [
    pytest.param(in_nursery(fail, lose), "LookupError('a mistake')", id="one"),
    pytest.param(in_nursery(fail, lose, fail_otherwise), "ExceptionGroup('Exceptions from Trio nursery', [", id="two"),
]


@pytest.mark.parametrize("handler", GOING)
async def test_a_handler_whose_tasks_all_meet_the_end_has_made_no_mistake(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, log: pytest.LogCaptureFixture, handler: Function
) -> None:
    async with running(server_context, client_context, handler) as server:
        peer = await server.with_streams(1)
        await trio.aclose_forcefully(peer.transport)
        await eventually(lambda: not server.stats.connections)
        assert server.stats.handlers_failed == 0
    record = only(log, HANDLER)
    assert (record.levelno, record.exc_info) == (logging.INFO, None)
    # One line that names a single error, and no group.
    assert ": the handler of stream 1 failed: ConnectionClosed(" in record.getMessage()


@pytest.mark.parametrize(("handler", "error"), MISTAKES)
async def test_what_else_is_in_a_handlers_group_counts(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    log: pytest.LogCaptureFixture,
    handler: Function,
    error: str,
) -> None:
    async with running(server_context, client_context, handler) as server:
        peer = await server.with_streams(1)
        await trio.aclose_forcefully(peer.transport)
        await eventually(lambda: not server.stats.connections)
        assert server.stats.handlers_failed == 1
    record = only(log, HANDLER)
    assert record.levelno == logging.ERROR
    assert f": the handler of stream 1 failed: {error}" in record.getMessage()
    text = logging.Formatter().format(record)
    assert "Traceback" in text
    # The errors of a lost peer are not in it.
    assert "BrokenResourceError" not in text


@pytest.mark.parametrize(("fallback", "error"), [*((one, None) for one in GOING), *MISTAKES])
async def test_the_same_holds_for_fallbacks(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    log: pytest.LogCaptureFixture,
    fallback: Function,
    error: str | None,
) -> None:
    async with running(server_context, client_context, fallback=fallback) as server:
        peer = await server.raw(b"GET / HTTP/1.1\r\n")
        await eventually(lambda: server.stats.fallback_connections == 1)
        # Unread bytes make TCP reset the connection, which breaks both directions of the fallback at once.
        await peer.transport.send_all(b"x")
        await trio.aclose_forcefully(peer.transport)
        await eventually(lambda: not server.stats.connections)
    record = only(log, FALLBACK)
    if error is None:
        assert (record.levelno, record.exc_info) == (logging.INFO, None)
        assert ": the fallback failed: BrokenResourceError(" in record.getMessage()
    else:
        assert (record.levelno, record.exc_info is None) == (logging.ERROR, False)
        assert f": the fallback failed: {error}" in record.getMessage()


@pytest.mark.parametrize("fails", [False, True])
async def test_a_handler_that_is_cancelled_in_a_group_looks_finished_to_no_peer(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, log: pytest.LogCaptureFixture, fails: bool
) -> None:
    async def handler(stream: trio.abc.Stream) -> None:
        try:
            await receive(stream)
        except trio.Cancelled as error:
            # As in a nursery, which takes one more pass of the event loop.
            raise group(error, *([MISTAKE] if fails else [])) from None

    # Many times, since the order of cancellation is random.
    for _ in range(20):
        async with running(server_context, client_context, handler) as server:
            peer = await server.with_streams(3)
            server.scope.cancel()
            frames: list[Frame] = await peer.receive_all()
            await peer.transport.aclose()
            await eventually(server.returned.is_set)
        assert [frame for frame in frames if frame[0] == FrameType.STREAM_RST] == []
        assert frames[-1] == CLOSE_6
        assert server.stats.handlers_failed == 3 * fails
    assert len([record for record in log.records if record.levelno >= logging.ERROR]) == 60 * fails


GONE = trio.BrokenResourceError("gone")
MISTAKE = LookupError("a mistake")


def group(*errors: BaseException) -> BaseExceptionGroup[BaseException]:
    return BaseExceptionGroup("some", errors)


def leaves(error: BaseException | None) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in leaves(part)]
    return [] if error is None else [error]


@pytest.mark.parametrize(
    ("error", "rest"),
    [
        (GONE, []),
        (gone(), []),
        (trioanytls.StreamRefused("no"), []),
        (trioanytls.StreamTimeout("late"), []),
        (group(GONE), []),
        (group(GONE, group(group(gone()), GONE)), []),
        (MISTAKE, [MISTAKE]),
        (group(MISTAKE), [MISTAKE]),
        (group(GONE, group(MISTAKE, GONE)), [MISTAKE]),
        (group(GONE, KeyboardInterrupt()), [KeyboardInterrupt]),
        # Closed on this side, and not by the peer.
        (trio.ClosedResourceError("closed"), [trio.ClosedResourceError]),
        (group(trio.ClosedResourceError("closed"), GONE), [trio.ClosedResourceError]),
    ],
)
def test_what_is_left_of_an_error_without_the_peers_going_away(error: BaseException, rest: list[object]) -> None:
    left = leaves(without_broken(error))
    assert [leaf if leaf is MISTAKE else type(leaf) for leaf in left] == rest


async def test_a_cancellation_is_found_in_groups() -> None:
    caught: list[BaseException] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            caught.append(error)
            raise
    (cancelled,) = caught
    assert has_cancelled(cancelled)
    assert has_cancelled(group(GONE, group(MISTAKE, cancelled)))
    assert not has_cancelled(MISTAKE)
    assert not has_cancelled(group(GONE, group(MISTAKE)))

"""The notifications of a client."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import ClientEvents, PaddingScheme, PoolConfig

from ..helpers.pool_harness import SINGLE, Clock, MemoryServer, client_of, memory_server, work

OTHER = PaddingScheme.parse(b"stop=2\n")
HOOKS = ["on_connect", "on_connect_failed", "on_close", "on_stream", "on_scheme"]


class Notes(ClientEvents):
    """Records each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def on_connect(self, connection: trioanytls.Connection) -> None:
        self.calls.append(("connect", connection))

    def on_connect_failed(self, error: Exception, attempt: int) -> None:
        self.calls.append(("connect failed", error, attempt))

    def on_close(self, connection: trioanytls.Connection, reason: trioanytls.ConnectionClosed | None) -> None:
        self.calls.append(("close", connection, reason))

    def on_stream(self, stream: trioanytls.Stream) -> None:
        self.calls.append(("stream", stream))

    def on_scheme(self, scheme: PaddingScheme) -> None:
        self.calls.append(("scheme", scheme))


class Failing(ClientEvents):
    """Raises an exception in each call."""


for hook in HOOKS:

    def fail(self: Failing, *_arguments: object, hook: str = hook) -> None:
        raise ZeroDivisionError(hook)

    setattr(Failing, hook, fail)


async def one_of_each(server: MemoryServer, events: object) -> None:
    """Run a client through everything that it notifies of."""
    server.padding_scheme = OTHER
    server.kill()
    async with client_of(server, pool=PoolConfig(retry_delay=0.4), events=events) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, client)
            await trio.sleep(0.5)
            server.start()
        await trio.sleep(1)
        server.links[-1].lose()
        await trio.testing.wait_all_tasks_blocked()
        await work(client)


def test_every_hook_is_here() -> None:
    assert [name for name in vars(ClientEvents) if name.startswith("on_")] == HOOKS


async def test_each_event_is_told_in_its_order(autojump_clock: Clock) -> None:
    notes = Notes()
    async with memory_server() as server:
        await one_of_each(server, notes)
    kinds = [call[0] for call in notes.calls]
    failures = kinds.count("connect failed")
    assert kinds == [
        *["connect failed"] * failures,
        "connect",
        "stream",
        "scheme",
        "close",
        "connect",
        "stream",
        "close",
    ]
    assert [(type(call[1]), call[2]) for call in notes.calls[:failures]] == [
        (ConnectionRefusedError, number) for number in range(1, failures + 1)
    ]
    (_, first), (_, stream), (_, scheme), (_, lost, why), (_, second), (_, other), (_, closed, reason) = notes.calls[
        failures:
    ]
    assert first is stream.connection is lost  # type: ignore[attr-defined]  # of the class that the test uses
    assert second is other.connection is closed is not first  # type: ignore[attr-defined]  # of the class that the test uses
    assert scheme == OTHER
    assert isinstance(why, trioanytls.ConnectionClosed)
    assert "without a CLOSE frame" in why.reason
    # Closed by the client, at its end.
    assert reason.code is trioanytls.CloseCode.NO_ERROR  # type: ignore[attr-defined]  # of the class that the test uses


async def test_a_scheme_that_several_connections_bring_is_told_once(autojump_clock: Clock) -> None:
    notes = Notes()
    async with (
        memory_server(padding_scheme=OTHER) as server,
        client_of(server, pool=SINGLE, events=notes) as client,
        trio.open_nursery() as nursery,
    ):
        for _ in range(3):
            nursery.start_soon(work, client)
    assert len(server.links) == 3
    assert [call for call in notes.calls if call[0] == "scheme"] == [("scheme", OTHER)]


async def test_what_a_hook_raises_is_logged_and_harms_nothing(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_server() as server:
        await one_of_each(server, Failing())
    logged = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert {record.name for record in logged} == {"trioanytls.client"}
    assert {record.getMessage().split()[0] for record in logged} == set(HOOKS)
    assert all("ZeroDivisionError: on_" in str(record.exc_text) for record in logged)


async def test_an_object_that_does_not_know_them_harms_nothing_either(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_server() as server:
        await one_of_each(server, object())
    assert "AttributeError" in caplog.text


async def test_what_is_not_overridden_does_nothing(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    async with memory_server() as server:
        await one_of_each(server, ClientEvents())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_hook_sees_the_client_as_it_is_then(autojump_clock: Clock) -> None:
    seen: dict[str, trioanytls.ClientStats] = {}

    class Looking(ClientEvents):
        def on_connect(self, _connection: trioanytls.Connection) -> None:
            seen["connect"] = client.stats

        def on_stream(self, _stream: trioanytls.Stream) -> None:
            seen["stream"] = client.stats

        def on_close(self, _connection: trioanytls.Connection, _reason: trioanytls.ConnectionClosed | None) -> None:
            seen["close"] = client.stats

    async with memory_server() as server, client_of(server, events=Looking()) as client:
        await work(client)
    assert (seen["connect"].connections, seen["connect"].connections_made) == (1, 1)
    assert (seen["stream"].streams, seen["stream"].streams_opened) == (1, 1)
    assert (seen["close"].connections, seen["close"].connections_closed) == (0, {"closed": 1})

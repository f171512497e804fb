"""What a client tells and counts."""

from __future__ import annotations

import logging
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import ClientEvents, PaddingScheme, PoolConfig

from ..helpers.pool_harness import Clock, MemoryServer, client_of, memory_server, use, work

OTHER = PaddingScheme.parse(b"stop=2\n")
SINGLE = PoolConfig(max_streams_per_connection=1)
HOOKS = ["on_connect", "on_connect_failed", "on_close", "on_stream", "on_scheme"]


class Notes(ClientEvents):
    """Remembers each call."""

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
    """Fails at each call."""


for hook in HOOKS:

    def fail(self: Failing, *_arguments: object, hook: str = hook) -> None:
        raise ZeroDivisionError(hook)

    setattr(Failing, hook, fail)


async def one_of_each(server: MemoryServer, events: object) -> None:
    """A life in which everything happens that can be told."""
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
    assert first is stream.connection is lost
    assert second is other.connection is closed is not first
    assert scheme == OTHER
    assert isinstance(why, trioanytls.ConnectionClosed)
    assert "without a CLOSE frame" in why.reason
    # By the client, at its end.
    assert reason.code is trioanytls.CloseCode.NO_ERROR


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
    assert all("ZeroDivisionError: on_" in record.exc_text for record in logged)


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


# Counters


async def test_each_counter_counts(autojump_clock: Clock) -> None:
    pool = PoolConfig(
        max_streams_per_connection=1,
        max_connections=2,
        min_idle=0,
        idle_timeout=50,
        max_lifetime=400,
        acknowledge_timeout=10,
        open_timeout=5,
        retry_delay=100,
        max_retry_delay=100,
    )
    async with memory_server() as server:
        async with client_of(server, pool=pool) as client:
            expected = {field.name: 0 for field in attrs.fields(trioanytls.ClientStats)} | {"connections_closed": {}}
            reached: set[str] = set()

            def changed(**changes: Any) -> None:
                """These counters have changed, and no others."""
                expected.update(changes)
                reached.update(changes)
                assert attrs.asdict(client.stats) == expected

            changed()
            async with trio.open_nursery() as nursery:
                server.latency = 1
                nursery.start_soon(work, client)
                await trio.sleep(0.5)
                changed(connecting=1, waiting=1)
            changed(connecting=0, waiting=0, connections=1, idle=1, connections_made=1, streams_opened=1)

            # Two at once are as many as there may be.
            first, second = await client.open_stream(), await client.open_stream()
            changed(connections=2, idle=0, streams=2, connections_made=2, streams_opened=3)
            with pytest.raises(trioanytls.ConnectFailed):
                await client.open_stream()
            changed(streams_failed=1)
            with trio.move_on_after(1):
                await client.open_stream()
            # Who was cancelled is in no counter.
            changed()
            await first.aclose()
            await second.aclose()
            changed(idle=2, streams=0)

            # One is asked, and then, as it does not answer, the other one, which does.
            client._leases.connections[-1].connection._transport.swallows = True
            await work(client)
            await trio.testing.wait_all_tasks_blocked()
            changed(connections=1, idle=1, verified=2, streams_opened=4, connections_closed={"silent": 1})

            await trio.sleep(60)
            changed(connections=0, idle=0, connections_closed={"silent": 1, "idle": 1})

            # A server that neither accepts nor refuses.
            server.config = trioanytls.Config(acknowledge="manual")
            stream = await client.open_stream()
            changed(connections=1, streams=1, connections_made=3, streams_opened=5)
            await trio.sleep(0.1)
            await use(stream)
            with pytest.raises(trioanytls.StreamTimeout):
                await stream.receive_some()
            changed(idle=1, streams=0, streams_unacknowledged=1)
            server.config = trioanytls.Config()

            client._leases.connections[0].connection._transport.lose()
            await trio.testing.wait_all_tasks_blocked()
            changed(connections=0, idle=0, connections_closed={"silent": 1, "idle": 1, "lost": 1})

            server.kill()
            with pytest.raises(trioanytls.ConnectFailed):
                await client.open_stream()
            # It pauses, and will find that nobody waits any more.
            changed(connecting=1, streams_failed=2, connections_failed=1)
            await trio.sleep(100)
            changed(connecting=0)
            server.start()

            server.resumes = True
            stream = await client.open_stream()
            changed(connections=1, streams=1, connections_made=4, connections_resumed=1, streams_opened=6)
            await use(stream)
            for _ in range(5):
                await trio.sleep(90)
                await use(stream)
            # Beyond its time, it ends with its stream.
            await stream.aclose()
            await trio.testing.wait_all_tasks_blocked()
            changed(
                connections=0,
                streams=0,
                connections_closed={"silent": 1, "idle": 1, "lost": 1, "lifetime": 1},
            )
            server.resumes = False
            await work(client)
            changed(connections=1, idle=1, connections_made=5, streams_opened=7)
        changed(
            connections=0, idle=0, connections_closed={"silent": 1, "idle": 1, "lost": 1, "lifetime": 1, "closed": 1}
        )
    assert reached == set(expected)


async def test_stats_are_of_one_moment(autojump_clock: Clock) -> None:
    async with memory_server() as server, client_of(server) as client:
        before = client.stats
        await work(client)
        assert before.connections_made == 0
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            before.connections_made = 3

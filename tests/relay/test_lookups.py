"""Resolving in real threads: slow names of one user do not delay those of other users."""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

import trioanytls
from trioanytls import Config, Connection
from trioanytls.destination import Destination, encode
from trioanytls.relay import dial, udp_over_tcp
from trioanytls.relay import lookups as lookups_module
from trioanytls.relay.address_policy import AddressPolicy, parse_network
from trioanytls.relay.handler import RelayHandler
from trioanytls.relay.lookups import Lookups, TooManyLookups
from trioanytls.relay.refusal_reasons import RefusalReasons
from trioanytls.relay.reply_codes import ReplyCode
from trioanytls.relay.udp_over_tcp import Datagram, DatagramDecoder, UOTRequest, encode_datagram, encode_request
from trioanytls.relay.udp_relay import UDPRelay
from trioanytls.testing import memory_connection_pair

from ..conftest import HOST, Connecting, Serving
from ..helpers.refusals import refusal_of
from ..helpers.udp_sockets import shouting, until

HERE = AddressPolicy([parse_network("127.0.0.0/8")])
TWO_USERS = {"alice": "password", "bob": "another password"}


class Resolver:
    """The system's resolver: names that begin with "slow" block their thread until `answer` is set.

    Attributes:
      waiting: how many threads are blocked now.
    """

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.waiting = 0
        self._lock = threading.Lock()
        self._original = socket.getaddrinfo

    def __call__(
        self,
        host: str | bytes | None,
        port: int,
        family: int = 0,
        type: int = 0,  # noqa: A002 - as in socket
        proto: int = 0,
        flags: int = 0,
    ) -> list[tuple[object, ...]]:
        name = host.decode() if isinstance(host, bytes) else host
        if name is None or not name.endswith(".example") or flags & socket.AI_NUMERICHOST:
            return self._original(host, port, family, type, proto, flags)  # type: ignore[return-value]  # as the original
        if name.startswith("slow"):
            with self._lock:
                self.waiting += 1
            # The thread ends even if the test fails.
            self.answer.wait(30)
            with self._lock:
                self.waiting -= 1
        return self._original(HOST, port, family, type, proto, flags)  # type: ignore[return-value]  # as the original


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    fake = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", fake)
    yield fake
    fake.answer.set()


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(functools.partial(trio.serve_tcp, trio.aclose_forcefully, 0, host=HOST))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def relaying(serving: Serving, relay: RelayHandler | None = None, **options: Any) -> AsyncIterator[int]:
    config = Config(acknowledge="manual", max_streams=5000)
    # Longer than any test, so that no prompt result has waited for it.
    relay = relay or RelayHandler(HERE, connect_timeout=1000)
    async with serving(relay, users=TWO_USERS, config=config, **options) as port:
        yield port


async def ask_for(client: Connection, count: int, port: int = 80) -> list[trioanytls.Stream]:
    """Open streams to slow names."""
    streams = []
    for number in range(count):
        streams.append(stream := await client.open_stream())
        await stream.send_all(encode(Destination(f"slow{number}.example", port)))
    return streams


async def is_prompt(client: Connection, name: str, port: int) -> None:
    with trio.fail_after(10):
        stream = await client.open_stream()
        await stream.send_all(encode(Destination(name, port)))
        await stream.wait_acknowledged()
        await stream.aclose()


async def test_another_users_names_are_resolved_promptly(
    serving: Serving, connecting: Connecting, resolver: Resolver
) -> None:
    async with (
        listening() as destination,
        relaying(serving) as port,
        connecting(port) as alice,
        connecting(port, password=TWO_USERS["bob"]) as bob,
    ):
        await ask_for(alice, 100)
        await until(lambda: resolver.waiting >= lookups_module._CONNECTION.running)
        await is_prompt(bob, "here.example", destination)
        await ask_for(bob, 5)
        await is_prompt(bob, "here.example", destination)
        # Trio's own threads are free for other work.
        assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
        with trio.fail_after(10):
            assert await trio.to_thread.run_sync(Path(__file__).exists)
        resolver.answer.set()


async def test_many_connections_of_one_user_have_no_more_than_the_user(
    serving: Serving, connecting: Connecting, resolver: Resolver
) -> None:
    async with listening() as destination, relaying(serving) as port, contextlib.AsyncExitStack() as stack:
        for _ in range(6):
            await ask_for(await stack.enter_async_context(connecting(port)), 30)
        await until(lambda: resolver.waiting >= lookups_module._USER.running)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert resolver.waiting == lookups_module._USER.running
        bob = await stack.enter_async_context(connecting(port, password=TWO_USERS["bob"]))
        await is_prompt(bob, "here.example", destination)
        resolver.answer.set()


async def test_another_connection_of_the_same_user_gets_its_share(
    serving: Serving, connecting: Connecting, resolver: Resolver
) -> None:
    async with (
        listening() as destination,
        relaying(serving) as port,
        connecting(port) as telephone,
        connecting(port) as laptop,
    ):
        await ask_for(telephone, 100)
        await until(lambda: resolver.waiting >= lookups_module._CONNECTION.running)
        await is_prompt(laptop, "here.example", destination)
        resolver.answer.set()


async def test_the_probers_page_does_not_wait_for_users(
    serving: Serving, connecting: Connecting, resolver: Resolver, client_context: ssl.SSLContext
) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(b"the page")

    async with trio.open_nursery() as nursery:
        (web,) = await nursery.start(functools.partial(trio.serve_tcp, answer, 0, host=HOST))
        fallback = trioanytls.relay_to("web.example", web.socket.getsockname()[1])
        async with relaying(serving, fallback=fallback) as port, connecting(port) as alice:
            await ask_for(alice, 100)
            await until(lambda: resolver.waiting >= lookups_module._CONNECTION.running)
            prober = trio.SSLStream(
                await trio.open_tcp_stream(HOST, port), client_context, server_hostname=HOST, https_compatible=True
            )
            await prober.send_all(b"GET / HTTP/1.1\r\n\r\n")
            with trio.fail_after(10):
                assert await prober.receive_some() == b"the page"
            await trio.aclose_forcefully(prober)
            resolver.answer.set()
        nursery.cancel_scope.cancel()


async def test_too_many_that_wait_are_refused(
    serving: Serving, connecting: Connecting, resolver: Resolver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trioanytls.relay")
    room = lookups_module._CONNECTION.running + lookups_module._CONNECTION.waiting
    relay = RelayHandler(HERE, connect_timeout=1000)
    async with listening() as destination, relaying(serving, relay) as port, connecting(port) as alice:
        streams = await ask_for(alice, room, destination)
        await until(lambda: sum(map(len, relay.dialer.lookups._queues.values())) == lookups_module._CONNECTION.waiting)
        (one_too_many,) = await ask_for(alice, 1)
        with trio.fail_after(10):
            assert await refusal_of(one_too_many) is ReplyCode.GENERAL_FAILURE
        # The waiting lookups then run.
        resolver.answer.set()
        for stream in streams:
            with trio.fail_after(10):
                await stream.wait_acknowledged()
        await is_prompt(alice, "here.example", destination)
    (line,) = caplog.messages
    assert "cannot connect to slow0.example:80: the name was not resolved: " in line
    assert f"{lookups_module._CONNECTION.waiting} names of the same connection wait to be resolved" in line


async def test_waiting_for_a_thread_counts_within_the_connect_timeout(
    resolver: Resolver, autojump_clock: trio.testing.MockClock
) -> None:
    """A thread counts until it has ended, even if its caller was cancelled."""
    relay = RelayHandler(HERE, connect_timeout=7)
    lookups = relay.dialer.lookups
    # In memory, so that no data is in transit when the clock jumps.
    async with memory_connection_pair(relay, server_config=Config(acknowledge="manual")) as (client, _):
        streams = await ask_for(client, lookups_module._CONNECTION.running + 5)
        await trio.sleep(5)
        assert lookups._threads == lookups_module._CONNECTION.running
        assert sum(map(len, lookups._queues.values())) == 5
        await trio.sleep(5)
        for stream in streams:
            assert await refusal_of(stream) is ReplyCode.TIMED_OUT
        assert not lookups._queues
        assert lookups._threads == lookups_module._CONNECTION.running
        resolver.answer.set()
        await until(lambda: lookups._threads == 0)
        assert not lookups._running
        assert not lookups._waiting


async def test_names_of_datagrams_are_within_the_same_limits(
    serving: Serving, connecting: Connecting, resolver: Resolver
) -> None:
    reasons = RefusalReasons()
    relay = RelayHandler(HERE, 1000, {}, reasons)
    relay = RelayHandler(
        HERE, 1000, {udp_over_tcp.HOST: UDPRelay(HERE, 1000, reasons, relay.dialer)}, reasons, relay.dialer
    )
    async with (
        shouting() as destination,
        relaying(serving, relay) as port,
        connecting(port) as alice,
        connecting(port, password=TWO_USERS["bob"]) as bob,
    ):
        for number in range(10):
            stream = await alice.open_stream()
            await stream.send_all(encode(Destination(udp_over_tcp.HOST, 0)) + encode_request(ANY))
            for one in range(4):
                slow = Destination(f"slow{number}-{one}.example", 53)
                await stream.send_all(encode_datagram(Datagram(slow, b"x")))
        await until(lambda: resolver.waiting >= lookups_module._CONNECTION.running)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert resolver.waiting == lookups_module._CONNECTION.running
        here = Destination("here.example", destination.port)
        stream = await bob.open_stream()
        await stream.send_all(encode(Destination(udp_over_tcp.HOST, 0)) + encode_request(ANY))
        await stream.send_all(encode_datagram(Datagram(here, b"hello")))
        decoder = DatagramDecoder(None)
        with trio.fail_after(10):
            while (answer := decoder.take()) is None:
                decoder.feed(await stream.receive_some())
        assert answer.data == b"HELLO"
        resolver.answer.set()


ANY = UOTRequest(False, Destination("0.0.0.0", 0))


async def test_no_thread_is_a_refusal(
    serving: Serving, connecting: Connecting, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run_sync(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    control = trioanytls.ServerControl()
    async with relaying(serving, control=control) as port, connecting(port) as alice:
        (stream,) = await ask_for(alice, 1)
        assert await refusal_of(stream) is ReplyCode.GENERAL_FAILURE
        assert control.snapshot().handlers_failed == 0


# Sharing, without threads


class Connected:
    """The part of a connection that `Lookups` uses."""

    def __init__(self, user: str | None) -> None:
        self.user = user


def place(lookups: Lookups, connection: Connected) -> lookups_module._Lookup:
    return lookups_module._Lookup(lookups, connection, connection.user)  # type: ignore[arg-type]  # a stand-in, or what is tested


async def test_a_user_without_a_lookup_gets_a_thread_when_all_that_are_shared_are_taken() -> None:
    lookups = Lookups()
    users = lookups_module._SHARED // lookups_module._CONNECTION.running
    for number in range(users):
        connection = Connected(f"user {number}")
        for _ in range(lookups_module._CONNECTION.running):
            await lookups.enter(place(lookups, connection))
    # A second lookup of the same user waits.
    late = Connected("late")
    first = place(lookups, late)
    await lookups.enter(first)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lookups.enter, place(lookups, late))
        await trio.testing.wait_all_tasks_blocked()
        assert lookups._threads == lookups_module._SHARED + 1
        lookups.leave(first)
        # It runs now, since the user has no other running lookup.
    assert lookups._threads == lookups_module._SHARED + 1


async def test_there_is_a_limit_to_all_threads() -> None:
    lookups = Lookups()
    places = [
        place(lookups, Connected(f"user {number}"))
        for number in range(lookups_module._SHARED + lookups_module._RESERVED)
    ]
    for one in places:
        await lookups.enter(one)
    with trio.move_on_after(0) as scope:
        await lookups.enter(place(lookups, Connected("one more")))
    assert scope.cancelled_caught
    assert not lookups._waiting
    for one in places:
        lookups.leave(one)
    assert lookups._threads == 0
    assert not lookups._running


async def test_the_queue_of_a_user_is_bounded_over_all_connections() -> None:
    lookups = Lookups()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            connection = Connected("alice")
            for _ in range(50):
                with contextlib.suppress(TooManyLookups):
                    nursery.start_soon(waits, lookups, connection)
        await trio.testing.wait_all_tasks_blocked()
        assert lookups._threads == lookups_module._USER.running
        assert lookups._waiting["alice"] == lookups_module._USER.waiting
        with pytest.raises(TooManyLookups, match=f"{lookups_module._USER.waiting} names of the same user"):
            await lookups.enter(place(lookups, Connected("alice")))
        nursery.cancel_scope.cancel()
    assert not lookups._waiting
    assert not lookups._queues


async def waits(lookups: Lookups, connection: Connected) -> None:
    with contextlib.suppress(TooManyLookups):
        await lookups.enter(place(lookups, connection))


async def test_one_that_is_cancelled_when_its_turn_has_come_gives_the_thread_on() -> None:
    lookups = Lookups()
    connection = Connected("alice")
    running = [place(lookups, connection) for _ in range(lookups_module._CONNECTION.running)]
    for one in running:
        await lookups.enter(one)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lookups.enter, place(lookups, connection))
            await trio.testing.wait_all_tasks_blocked()
            lookups.leave(running.pop())
            scope.cancel()
    # A task whose event is set is no longer cancelled, or returns its thread. Both are correct, and counted.
    assert lookups._threads in (len(running), len(running) + 1)
    assert sum(lookups._running.values()) == 2 * lookups._threads
    assert not lookups._queues


@given(st.lists(st.tuples(st.sampled_from("ELC"), st.integers(0, 3), st.integers(0, 2)), max_size=120))
# The last lookup of a user ends while another user is next to get the thread: a reserved one remains.
@example(
    [
        *([("E", 0, 0)] * 4),
        ("E", 0, 1),
        ("E", 2, 0),
        ("L", 0, 0),
        *([("E", 1, 0)] * 2),
        ("E", 2, 0),
        ("L", 0, 0),
        ("L", 1, 0),
    ]
)
def test_counts_agree_in_any_order_of_events(steps: list[tuple[str, int, int]]) -> None:
    small = {"_CONNECTION": (2, 3), "_USER": (3, 4)}

    async def main() -> None:
        lookups = Lookups()
        connections = [[Connected(f"user {user}") for _ in range(3)] for user in range(4)]
        running: list[lookups_module._Lookup] = []
        scopes: list[trio.CancelScope] = []

        async def enter(one: lookups_module._Lookup) -> None:
            with trio.CancelScope() as scope:
                scopes.append(scope)
                try:
                    await lookups.enter(one)
                except TooManyLookups:
                    return
                running.append(one)

        async with trio.open_nursery() as nursery:
            for kind, user, number in steps:
                if kind == "E":
                    nursery.start_soon(enter, place(lookups, connections[user][number]))
                elif kind == "L" and running:
                    lookups.leave(running.pop(user % len(running)))
                elif kind == "C" and scopes:
                    scopes.pop(number % len(scopes)).cancel()
                await trio.testing.wait_all_tasks_blocked()
                assert lookups._threads == len(running) <= 6
                per_user: dict[str | None, int] = {}
                for one in running:
                    per_user[one.connection.user] = per_user.get(one.connection.user, 0) + 1
                assert all(count <= 3 for count in per_user.values())
                for user_, queue in lookups._queues.items():
                    # No waiting lookup could run.
                    assert not any(lookups._may_run(waiting) for waiting in queue)
                    assert per_user.get(user_) or lookups._threads == 6  # type: ignore[call-overload]  # any address
                    assert len(queue) <= 4
            nursery.cancel_scope.cancel()
        while running:
            lookups.leave(running.pop())
        assert not lookups._running
        assert not lookups._waiting
        assert not lookups._queues

    with pytest.MonkeyPatch.context() as patch:
        for name, (most, queued) in small.items():
            patch.setattr(lookups_module, name, lookups_module._LookupLimits(most, queued))
        patch.setattr(lookups_module, "_SHARED", 5)
        patch.setattr(lookups_module, "_RESERVED", 1)
        trio.run(main)


def test_the_documentation_has_the_limits() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "limits.md").read_text(encoding="utf-8")
    section = page.partition("## Names that a relay resolves")[2].partition("\n## ")[0]
    connection, user = lookups_module._CONNECTION, lookups_module._USER
    for row in (
        f"| names of a connection that are resolved at the same time | {connection.running} |",
        f"| names of a user, over all connections | {user.running} |",
        f"| names of all users together | {lookups_module._SHARED} |",
        f"gets one of {lookups_module._RESERVED} more threads",
        f"| names of a connection that wait | {connection.waiting} |",
        f"| names of a user that wait | {user.waiting} |",
    ):
        assert row in section


async def test_names_without_a_user_have_separate_threads(resolver: Resolver) -> None:
    """Destinations to which a client connects directly."""
    async with trio.open_nursery() as nursery:
        for number in range(dial._MOST_THREADS + 10):
            nursery.start_soon(dial.resolve, Destination(f"slow{number}.example", 1))
        await until(lambda: resolver.waiting == dial._MOST_THREADS)
        assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
        resolver.answer.set()
    found = await dial.resolve(Destination("here.example", 1))
    assert [target.sockaddr for target in found] == [(HOST, 1)]


async def test_a_name_in_other_than_ascii_characters_goes_as_browsers_have_it(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def look_up(host: str | bytes, *arguments: object, **options: Any) -> list[tuple[object, ...]]:
        asked.append(host)
        return resolver(host, *arguments, **options)  # type: ignore[arg-type]  # a stand-in, or what is tested

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    await dial.resolve(Destination("stra\xdfe.example", 1))
    assert asked[-1] == b"xn--strae-oqa.example"
    with pytest.raises(dial.DialError, match="the name cannot be resolved: "):
        await dial.resolve(Destination("\xdf" * 64 + ".example", 1))

"""Relaying from the fallback to a TCP service: both directions, their ends, and the timeouts."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import FallbackStream
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.credentials import hash_password
from trioanytls._server.relay_to import _CONNECT_TIMEOUT, _Limits, _relay
from trioanytls._transport.tls_stream import TLSStream

from ..conftest import HOST, Connecting, Serving
from ..helpers.fallback_harness import (
    END_METHODS,
    GET,
    Dialling,
    Relaying,
    check_echo,
    facing,
    patient_service,
    receive_all,
    receive_exactly,
    reset,
    service_listener,
)

Clock = trio.testing.MockClock

MIB = 1024 * 1024
FOR_EVER = _Limits(math.inf, math.inf, math.inf)
WRONG_AUTH = frames.encode_auth(hash_password("not the password"), 300)

# Relaying


@pytest.mark.parametrize("end", END_METHODS)
async def test_a_client_that_has_ended_its_side_still_gets_the_answer(
    relaying: Relaying, end: Callable[[TLSStream], Awaitable[None]]
) -> None:
    answer = os.urandom(MIB)
    async with relaying() as relayed:
        await relayed.client.send_all(b" and the rest")
        await end(relayed.client)
        assert await receive_all(relayed.service) == b" and the rest"
        async with trio.open_nursery() as nursery:

            async def give() -> None:
                await relayed.service.send_all(answer)
                await relayed.service.aclose()

            nursery.start_soon(give)
            assert await receive_all(relayed.client) == answer


async def test_a_service_that_has_ended_its_side_still_gets_what_the_client_sends(relaying: Relaying) -> None:
    body = os.urandom(MIB)
    async with relaying() as relayed:
        client, service = relayed.client, relayed.service
        await service.send_all(b"answer")
        await service.send_eof()
        # TLS ends orderly, and then TCP.
        assert await receive_all(client) == b"answer"
        assert await client.transport.receive_some() == b""
        async with trio.open_nursery() as nursery:

            async def give() -> None:
                await client.send_all(body)
                await client.send_eof()

            nursery.start_soon(give)
            assert await receive_all(service) == body


async def test_nothing_is_lost_if_the_service_half_closes_during_an_upload(relaying: Relaying) -> None:
    body = os.urandom(3 * MIB)
    async with relaying() as relayed:
        client, service = relayed.client, relayed.service
        async with trio.open_nursery() as nursery:

            async def give() -> None:
                await client.send_all(body)
                await client.send_eof()

            nursery.start_soon(give)
            received = await receive_exactly(service, MIB)
            await service.send_all(b"enough")
            await service.send_eof()
            received += await receive_all(service)
            assert received == body
            assert await receive_all(client) == b"enough"


async def test_a_megabyte_passes_both_ways_at_once(relaying: Relaying) -> None:
    bodies = os.urandom(MIB), os.urandom(MIB)
    async with relaying() as relayed, trio.open_nursery() as nursery:
        ends = relayed.client, relayed.service

        async def give(end: trio.abc.HalfCloseableStream, body: bytes) -> None:
            await end.send_all(body)
            await end.send_eof()

        async def check(end: trio.abc.ReceiveStream, body: bytes) -> None:
            assert hashlib.sha256(await receive_all(end)).digest() == hashlib.sha256(body).digest()

        for end, sent, expected in zip(ends, bodies, bodies[::-1], strict=True):
            nursery.start_soon(give, end, sent)  # type: ignore[arg-type]  # a stand-in, or what is tested
            nursery.start_soon(check, end, expected)


async def test_an_answer_that_is_cut_off_by_a_reset_does_not_look_whole(relaying: Relaying) -> None:
    async with relaying() as relayed:
        await relayed.service.send_all(b"half of an ans")
        assert await receive_exactly(relayed.client, 14) == b"half of an ans"
        reset(relayed.service)
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await relayed.client.receive_some()


async def test_a_client_that_is_gone_leaves_the_service(relaying: Relaying) -> None:
    async with relaying() as relayed:
        await relayed.service.send_all(b"answer")
        assert await receive_exactly(relayed.client, 6) == b"answer"
        reset(relayed.client.transport)  # type: ignore[arg-type]  # a stand-in, or what is tested
        # As if it had connected itself: what it has sent may be incomplete.
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await relayed.service.receive_some()


async def test_an_answer_that_stops_after_the_question_does_not_look_whole(
    relaying: Relaying, mock_clock: Clock
) -> None:
    async with relaying() as relayed:
        await relayed.client.send_eof()
        assert await receive_all(relayed.service) == b""
        await relayed.service.send_all(b"half of an ans")
        assert await receive_exactly(relayed.client, 14) == b"half of an ans"
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(31)
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await relayed.client.receive_some()


async def test_an_answer_that_is_cut_off_by_a_limit_does_not_look_whole(
    serving: Serving, dialling: Dialling, mock_clock: Clock
) -> None:
    async with service_listener() as (listener, _):
        port_of_service = listener.socket.getsockname()[1]
        async with serving(fallback=trioanytls.relay_to(HOST, port_of_service, idle_timeout=20)) as port:
            client = await dialling(port)
            await client.send_all(b"GET")
            async with await listener.accept() as service:
                await service.send_all(b"half of an ans")
                assert await receive_exactly(client, 14) == b"half of an ans"
                await trio.testing.wait_all_tasks_blocked(0.01)
                mock_clock.jump(21)
                with pytest.raises(trio.BrokenResourceError):
                    await client.receive_some()
            await trio.aclose_forcefully(client)


async def test_an_early_answer_of_the_service_is_relayed(autojump_clock: Clock) -> None:
    client, near = trio.testing.memory_stream_pair()
    far, service = trio.testing.memory_stream_pair()
    # The service accepts no more data, so that the next byte fails. Its answer is still to come.
    service.receive_stream.close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_relay, FallbackStream(near, b"POST"), far, FOR_EVER)
        await client.send_all(b"more")
        await trio.testing.wait_all_tasks_blocked()
        await service.send_all(b"too much")
        await service.send_stream.aclose()
        assert await receive_all(client) == b"too much"


async def test_one_direction_may_be_silent_for_a_while_when_the_other_has_ended(autojump_clock: Clock) -> None:
    client, near = trio.testing.memory_stream_pair()
    far, service = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_relay, FallbackStream(near, b"GET"), far, FOR_EVER)
        # As long as neither direction has ended, only the service's timeouts apply.
        await trio.sleep(10_000)
        await client.send_eof()
        for _ in range(10):
            await trio.sleep(29)
            await service.send_all(b"x")
        assert await receive_exactly(client, 10) == b"x" * 10
        start = trio.current_time()
        await nursery.start(wait_until_empty, nursery)
        assert trio.current_time() - start == pytest.approx(30)


async def wait_until_empty(nursery: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
    """Return when no task of the nursery runs."""
    while nursery.child_tasks:  # noqa: ASYNC110 - a nursery has no event for that
        await trio.sleep(0.01)
    task_status.started()


async def test_cancelling_the_server_ends_a_relay_on_both_sides(serving: Serving, dialling: Dialling) -> None:
    async with service_listener() as (listener, fallback):
        async with serving(fallback=fallback) as port:
            client = await dialling(port)
            await client.send_all(b"GET")
            service = await listener.accept()
            assert await receive_exactly(service, 3) == b"GET"
        with trio.fail_after(5):
            assert await service.receive_some() == b""
            assert await client.receive_some() == b""
        await service.aclose()
        await client.aclose()


async def test_draining_lets_a_relay_go_on_until_its_timeout(
    mock_clock: Clock, serving: Serving, dialling: Dialling
) -> None:
    control = trioanytls.ServerControl()
    async with service_listener() as (listener, fallback), trio.open_nursery() as nursery:
        config = trioanytls.Config(drain_timeout=20)
        async with serving(fallback=fallback, control=control, config=config) as port:
            client = await dialling(port)
            await client.send_all(b"GET")
            service = await listener.accept()
            nursery.start_soon(control.drain)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(19)
            await service.send_all(b"answer")
            assert await receive_exactly(client, 6) == b"answer"
            assert control.running
            assert control.snapshot().fallback_connections == 1
            mock_clock.jump(2)
            assert await receive_all(service) == b"GET"
            # The answer may be incomplete.
            with pytest.raises(trio.BrokenResourceError):
                await client.receive_some()
        await service.aclose()
        await client.aclose()
    assert not control.running
    assert control.snapshot().fallback_connections == 0


async def test_draining_ends_at_once_when_the_last_relay_has_ended(
    mock_clock: Clock, serving: Serving, dialling: Dialling
) -> None:
    control = trioanytls.ServerControl()
    async with (
        service_listener() as (listener, fallback),
        serving(fallback=fallback, control=control) as port,
        trio.open_nursery() as nursery,
    ):
        client = await dialling(port)
        await client.send_all(b"GET")
        service = await listener.accept()
        nursery.start_soon(control.drain)
        await service.aclose()
        await client.receive_some()
        await client.aclose()


async def test_a_service_that_cannot_be_reached_is_logged_and_the_connection_closed(
    serving: Serving, dialling: Dialling, connecting: Connecting, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as bound:
        # Bound, so that no other program uses the port, and not listening.
        bound.bind((HOST, 0))
        closed_port = bound.getsockname()[1]
        async with serving(fallback=trioanytls.relay_to(HOST, closed_port)) as port:
            client = await dialling(port)
            await client.send_all(GET)
            assert await receive_all(client) == b""
            await client.aclose()
            await check_echo(connecting, port)
    (record,) = [record for record in caplog.records if record.name == "trioanytls.fallback"]
    assert record.levelno == logging.ERROR
    assert f"{HOST}:{closed_port} is unreachable" in record.getMessage()


async def test_a_service_that_does_not_accept_times_out(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def open_tcp_stream(*_: object, **__: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    async with facing(trioanytls.relay_to("192.0.2.1", 80)) as client:
        await client.send_all(GET)
        assert await receive_all(client) == b""
        assert trio.current_time() == pytest.approx(_CONNECT_TIMEOUT)
    assert "192.0.2.1:80 is unreachable: it does not answer" in caplog.text


async def test_an_unreachable_service_is_logged_once_a_minute(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def open_tcp_stream(*_: object, **__: object) -> None:
        raise OSError("refused")

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    caplog.set_level(logging.DEBUG, "trioanytls.fallback")
    fallback = trioanytls.relay_to("192.0.2.1", 80)
    levels = []
    for pause in (0, 1, 58, 1, 59):
        await trio.sleep(pause)
        caplog.clear()
        async with facing(fallback) as client:
            await client.send_all(GET)
            assert await receive_all(client) == b""
        levels += [record.levelno for record in caplog.records if record.name == "trioanytls.fallback"]
    assert levels == [logging.ERROR, logging.DEBUG, logging.DEBUG, logging.ERROR, logging.DEBUG]


# Timeouts of a relayed connection


@contextlib.asynccontextmanager
async def relayed_in_memory(
    *limits: float,
) -> AsyncIterator[
    tuple[
        trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream],
        trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream],
        trio.Event,
    ]
]:
    """Yield the client's end, the service's end, and an event for the relay's end, after the client has sent "GET"."""
    client, near = trio.testing.memory_stream_pair()
    far, service = trio.testing.memory_stream_pair()
    ended = trio.Event()

    async def relay() -> None:
        await _relay(FallbackStream(near, b"GET"), far, _Limits(*limits))
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay)
        await receive_exactly(service, 3)
        yield client, service, ended
        nursery.cancel_scope.cancel()


async def test_an_idle_relayed_connection_ends(autojump_clock: Clock) -> None:
    async with relayed_in_memory(300, math.inf, math.inf) as (client, service, ended):
        for _ in range(5):
            await trio.sleep(299)
            await service.send_all(b"x")
            await trio.sleep(299)
            await client.send_all(b"y")
        await receive_exactly(client, 5)
        assert not ended.is_set()
        start = trio.current_time()
        await ended.wait()
        assert trio.current_time() - start == pytest.approx(300)


async def test_data_that_the_other_end_does_not_accept_does_not_count(autojump_clock: Clock) -> None:
    _client, far = trio.testing.lockstep_stream_pair()
    side, service = trio.testing.memory_stream_pair()
    await service.send_all(b"an answer that is not read")
    start = trio.current_time()
    await _relay(FallbackStream(far, b""), side, _Limits(300, math.inf, math.inf))
    assert trio.current_time() - start == pytest.approx(300)


@pytest.mark.parametrize("trickle", [False, True])
async def test_a_service_that_does_not_answer_is_not_waited_for(autojump_clock: Clock, trickle: bool) -> None:
    async with relayed_in_memory(300, 120, math.inf) as (client, _service, ended):
        start = trio.current_time()
        while not ended.is_set() and trickle:
            with trio.move_on_after(10):
                await ended.wait()
            if not ended.is_set():
                await client.send_all(b"x")
        await ended.wait()
        assert trio.current_time() - start == pytest.approx(120, abs=1)


async def test_long_uploads_and_slow_answers_work(autojump_clock: Clock) -> None:
    async with relayed_in_memory(300, 120, math.inf) as (client, service, ended):
        for _ in range(20):
            await trio.sleep(100)
            await client.send_all(bytes(64 * 1024))
            await receive_exactly(service, 64 * 1024)
        await trio.sleep(119)
        assert not ended.is_set()
        await service.send_all(b"answer")
        assert await receive_exactly(client, 6) == b"answer"
        # After an answer, silence is not limited by answer_timeout.
        await trio.sleep(290)
        assert not ended.is_set()


async def test_data_before_the_first_answer_is_bounded(autojump_clock: Clock) -> None:
    async with relayed_in_memory(math.inf, math.inf, 1000) as (client, service, ended):
        await client.send_all(bytes(997))
        await receive_exactly(service, 997)
        await trio.testing.wait_all_tasks_blocked()
        assert not ended.is_set()
        await client.send_all(b"x")
        await ended.wait()
    async with relayed_in_memory(math.inf, math.inf, 1000) as (client, service, ended):
        await service.send_all(b"100 Continue")
        await receive_exactly(client, 12)
        await client.send_all(bytes(10_000))
        await receive_exactly(service, 10_000)
        assert not ended.is_set()


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        *((value, ValueError, "a positive number, or math.inf, not ") for value in (0, -1, math.nan)),
        *((value, TypeError, "int or float, not ") for value in (True, "60", None)),
    ],
)
@pytest.mark.parametrize("name", ["idle_timeout", "answer_timeout", "max_unanswered"])
def test_the_limits_of_a_relay_are_checked(name: str, value: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"{name} must be {text}"):
        trioanytls.relay_to(HOST, 80, **{name: value})


async def test_a_relay_ends_with_its_limits_over_sockets(
    serving: Serving, dialling: Dialling, mock_clock: Clock
) -> None:
    control = trioanytls.ServerControl()
    async with patient_service() as service:
        fallback = trioanytls.relay_to(HOST, service, answer_timeout=50)
        async with serving(fallback=fallback, control=control) as port:
            client = await dialling(port)
            await client.send_all(b"GET / HTTP/1.1\r\n")
            while not control.snapshot().fallbacks:
                await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked(0.05)
            mock_clock.jump(51)
            # An orderly end without data, as of web servers.
            assert await receive_all(client) == b""
            await client.aclose()

"""Attempts to connect: they serve all callers, and failures slow them down."""

from __future__ import annotations

import contextlib
import logging
import math

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import PoolConfig

from ..helpers.pool_harness import (
    SINGLE,
    Clock,
    Link,
    client_of,
    memory_server,
    pooled,
    settle,
    work,
)

# Attempts


async def test_an_attempt_goes_on_for_those_who_still_wait(autojump_clock: Clock) -> None:
    async with pooled(latency=5) as (client, server):
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(3):
                nursery.start_soon(work, client)
                await client.open_stream()
        assert trio.current_time() == pytest.approx(5)
        assert len(server.dials) == 1


async def test_a_connection_that_nobody_waits_for_any_more_serves_the_next_one(autojump_clock: Clock) -> None:
    async with pooled(latency=5) as (client, server):
        with trio.move_on_after(3):
            await client.open_stream()
        await trio.sleep(3)
        assert client.stats.idle == 1
        await work(client)
        assert len(server.dials) == 1


async def test_attempts_end_when_nobody_waits(autojump_clock: Clock) -> None:
    async with pooled(error=OSError("no")) as (client, server):
        with trio.move_on_after(3):
            await client.open_stream()
        attempts = len(server.dials)
        assert attempts > 3
        await trio.sleep(100)
        assert len(server.dials) == attempts
        assert client.stats.connecting == 0


async def test_one_attempt_at_a_time_however_many_wait(autojump_clock: Clock, full_pauses: None) -> None:
    pool = PoolConfig(max_streams_per_connection=1, retry_delay=1, max_retry_delay=100)
    async with pooled(pool=pool, error=OSError("no"), latency=0.01) as (client, server):
        failed = 0

        async def caller() -> None:
            nonlocal failed
            with pytest.raises(trioanytls.ConnectFailed):
                await client.open_stream()
            failed += 1

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(caller)
            await trio.sleep(0.5)
            # These were under way when the first one failed.
            assert len(server.dials) == 20
            assert client.stats.connecting == 1
        assert failed == 20
        # They count as one failure and not as twenty.
        assert server.dials[20:] == pytest.approx([1, 3, 7, 15], abs=0.1)


async def test_an_attempt_has_a_time_of_its_own(autojump_clock: Clock) -> None:
    pool = PoolConfig(connect_timeout=4, open_timeout=9)
    async with pooled(pool=pool, latency=math.inf) as (client, server):
        with pytest.raises(trioanytls.ConnectFailed, match="connecting took longer than 4 s") as caught:
            await client.open_stream()
        assert type(caught.value.__cause__) is TimeoutError
        assert len(server.dials) == 3


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (trioanytls.CertificateError("not the one that was meant"), logging.INFO),
        (UnicodeError("not the one that was meant"), logging.ERROR),
    ],
)
async def test_what_can_have_no_other_outcome_is_not_tried_again(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture, error: Exception, level: int
) -> None:
    caplog.set_level(logging.INFO, "trioanytls.client")
    async with pooled(error=error, latency=1) as (client, server):

        async def caller() -> None:
            with pytest.raises(trioanytls.ConnectFailed, match=r"^not the one that was meant$") as caught:
                await client.open_stream()
            assert caught.value.__cause__ is error

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(caller)
        assert trio.current_time() == pytest.approx(1)
        assert len(server.dials) == 1
        # A later caller gets an attempt at once: the fault may have been repaired.
        await caller()
        assert server.dials == pytest.approx([0, 1])
        server.start()
        await work(client)
    record = next(record for record in caplog.records if "attempt 1 to connect failed: not the" in record.message)
    assert (record.levelno, bool(record.exc_info)) == (level, level == logging.ERROR)


# Servers that do not answer


async def test_a_wrong_password_ends_each_stream_and_nothing_goes_hot(autojump_clock: Clock) -> None:
    async with pooled(password="wrong") as (client, server):
        for operation in (trioanytls.Stream.receive_some, trioanytls.Stream.wait_acknowledged):
            stream = await client.open_stream()
            await stream.send_all(b"x")
            with pytest.raises(trioanytls.ConnectionClosed):
                await operation(stream)
            with pytest.raises(trioanytls.ConnectionClosed):
                await stream.send_all(b"x")
        assert len(server.links) == 2
        # Without callers there are no attempts.
        await trio.sleep(1000)
        assert len(server.links) == 2


async def test_a_wrong_password_as_its_stream_meets_it(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trioanytls.client")
    async with pooled(password="wrong") as (client, _):
        stream = await client.open_stream()
        with pytest.raises(trioanytls.ConnectionClosed, match="without a CLOSE frame") as caught:
            await stream.receive_some()
        assert caught.value.code is None
    assert "the server did not answer" in caplog.text
    assert "it may not know the password" in caplog.text
    assert "wrong" not in caplog.text


@pytest.mark.parametrize("password", ["password", "wrong"])
async def test_an_application_that_tries_again_and_again_is_slowed_down(
    autojump_clock: Clock, full_pauses: None, password: str
) -> None:
    async with pooled(password=password, pool=SINGLE) as (client, server):
        server.speaks = password == "wrong"

        async def application() -> None:
            while True:
                with contextlib.suppress(trioanytls.ConnectionClosed):
                    await work(client)

        with trio.move_on_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(application)
        # The attempts that were under way when the first one failed, and then one after each pause.
        assert 60 < len(server.dials) < 90
        # As soon as the server answers, the pauses end.
        server.speaks, server.users = True, {"alice": password}
        await trio.sleep(1)
        start = trio.current_time()
        for _ in range(100):
            await work(client)
        assert trio.current_time() == start


class GoneAtOnce(Link):
    """A transport that is broken when it is first read."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        raise trio.BrokenResourceError("gone")


async def test_a_connection_that_ends_before_a_stream_is_on_it_is_a_failed_attempt(
    autojump_clock: Clock, full_pauses: None
) -> None:
    async with memory_server() as server:

        async def dial_in_vain(_timeout: float) -> Link:
            link = GoneAtOnce(*trio.testing.memory_stream_pair())
            server.links.append(link)
            server.dials.append(trio.current_time())
            return link

        pool = PoolConfig(retry_delay=1, max_retry_delay=1, open_timeout=10)
        async with client_of(server, pool=pool, dial=dial_in_vain) as client:
            for _ in range(3):
                # Depending on which of two tasks runs first, the stream is opened before the connection closes.
                with pytest.raises((trioanytls.ConnectFailed, trioanytls.ConnectionClosed)) as caught:
                    await (await client.open_stream()).receive_some()
                if isinstance(caught.value, trioanytls.ConnectFailed):
                    assert "no connection could be made: the connection broke" in str(caught.value)
                    assert isinstance(caught.value.__cause__, trioanytls.ConnectionClosed)
            assert len(server.dials) <= 35
            # No closed connection remains.
            await settle()
            assert client.stats.connections == 0
            client._connector.dial = server.dial
            await trio.sleep(1)
            await work(client)

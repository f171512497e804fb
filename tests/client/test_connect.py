"""`open_connection` and `wrap_client`: limits of time, invalid arguments, and the end of the block."""

from __future__ import annotations

import math
import ssl

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls._client.connect import Endpoint

from ..conftest import HOST
from ..helpers.pool_harness import Clock


@pytest.mark.parametrize("port", [-1, 0, 65536, 70_000])
async def test_an_invalid_port_is_refused_at_once(port: int) -> None:
    for opened in (trioanytls.open_connection, trioanytls.open_client):
        with pytest.raises(ValueError, match=rf"^invalid port {port}: must be between 1 and 65535$"):
            async with opened(HOST, port, password="x"):
                pytest.fail("the block was run")


async def never(*_arguments: object) -> trio.abc.Stream:
    await trio.sleep_forever()
    raise AssertionError


async def test_a_tcp_connect_that_takes_too_long_is_a_timeout_error(
    autojump_clock: Clock, client_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trioanytls._client.connect.open_tcp_stream", never)
    endpoint = Endpoint(HOST, 8443, client_context, None, None)
    with pytest.raises(TimeoutError, match=rf"^no TCP connection to {HOST}:8443 within 3 s$"):
        await endpoint.dial(math.inf, 3)
    assert trio.current_time() == 3


@pytest.mark.parametrize(("handshake_timeout", "connect_timeout"), [(2, 10), (10, 2)])
async def test_the_shorter_limit_ends_the_handshake(
    autojump_clock: Clock,
    client_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    handshake_timeout: float,
    connect_timeout: float,
) -> None:
    near, _far = trio.testing.memory_stream_pair()

    async def connect(*_arguments: object) -> trio.abc.Stream:
        return near

    monkeypatch.setattr("trioanytls._client.connect.open_tcp_stream", connect)
    endpoint = Endpoint(HOST, 8443, client_context, None, None)
    with pytest.raises(trioanytls.TLSError):
        await endpoint.dial(handshake_timeout, connect_timeout)
    assert trio.current_time() == 2


@pytest.mark.parametrize(
    "arguments",
    [{"password": "\udc80"}, {"password": "x", "config": trioanytls.Config(max_streams=3)}],
    ids=["password", "config"],
)
async def test_an_invalid_value_closes_the_transport_of_wrap_client(arguments: dict[str, object]) -> None:
    near, far = trio.testing.memory_stream_pair()
    with pytest.raises(ValueError):  # noqa: PT011 - the texts are tested elsewhere
        async with trioanytls.wrap_client(near, **arguments):  # type: ignore[arg-type]  # two cases of keywords
            pytest.fail("the block was run")
    assert await far.receive_some() == b""


async def test_a_cancelled_block_still_runs_and_its_connection_is_closed(autojump_clock: Clock) -> None:
    near, far = trio.testing.memory_stream_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with trioanytls.wrap_client(near, password="x") as client:
            # The tasks of the connection run, so that it can be closed properly.
            assert not client.closed
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert client.closed
    assert await far.receive_some() != b""


async def test_an_error_of_the_block_is_raised_as_it_is(autojump_clock: Clock) -> None:
    near, far = trio.testing.memory_stream_pair()
    with pytest.raises(ZeroDivisionError):
        async with trioanytls.wrap_client(near, password="x") as client:
            raise ZeroDivisionError
    assert client.closed
    await far.aclose()

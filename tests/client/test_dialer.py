"""TLS sessions: tickets are taken only for connections that will resume them, and rarely if taking one leaks."""

from __future__ import annotations

import contextlib
import math
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme
from attrs import define, field

from trioanytls._client import dialer
from trioanytls._client.connect import Endpoint
from trioanytls._client.dialer import Dialer
from trioanytls._transport import tls_stream
from trioanytls._transport.handshake import handshake
from trioanytls._transport.tls_stream import TLSStream

from ..conftest import HOST
from ..helpers.programs.many_connections import FIRST

Clock = trio.testing.MockClock


@pytest.fixture(params=[True, False], ids=["leaking", "sound"])
def leaks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether reading a session is assumed to leak, regardless of the Python version."""
    monkeypatch.setattr(tls_stream, "SESSION_READ_LEAKS", request.param)
    return bool(request.param)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[ssl.SSLSession | None]:
    """Record the sessions that are read."""
    made: list[ssl.SSLSession | None] = []
    read = TLSStream._read_session

    def note(transport: TLSStream) -> ssl.SSLSession | None:
        made.append(read(transport))
        return made[-1]

    monkeypatch.setattr(TLSStream, "_read_session", note)
    return made


@define
class Server:
    """A server in memory that only does handshakes and sends one byte on each connection."""

    contexts: list[ssl.SSLContext]
    _dialer: Dialer = field(init=False)
    _nursery: trio.Nursery = field(init=False)

    async def connect(self, *_: object) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        # The contexts take turns, as the workers of a server do.
        self.contexts.append(self.contexts.pop(0))
        self._nursery.start_soon(self._serve, far, self.contexts[0])
        return near

    async def _serve(self, transport: trio.abc.Stream, context: ssl.SSLContext) -> None:
        secured = await handshake(transport, context, timeout=math.inf, server_side=True)
        await secured.send_all(b"x")
        await secured.receive_some()
        await secured.aclose()

    async def dial(self, *, close: bool = True) -> bool:
        """Make a connection, use it and, if `close`, close it. Return whether it has resumed an earlier session."""
        transport = await self._dialer.dial(math.inf)
        resumed = transport.resumed
        assert await transport.receive_some() == b"x"
        if close:
            await transport.aclose()
        return resumed


@pytest.fixture
async def server(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Server]:
    server = Server([server_context])
    server._dialer = Dialer(Endpoint(HOST, 1, client_context, None, None), math.inf)
    monkeypatch.setattr("trioanytls._client.connect.open_tcp_stream", server.connect)
    async with trio.open_nursery() as nursery:
        server._nursery = nursery
        yield server
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("close", [True, False])
async def test_every_connection_but_the_first_resumes(
    server: Server, reads: list[ssl.SSLSession | None], leaks: bool, close: bool
) -> None:
    assert [await server.dial(close=close) for _ in range(20)] == [False] + [True] * 19
    tickets = {session.id for session in reads}
    # One ticket for each connection, unless reading it leaks.
    assert len(reads) == len(tickets) == (1 if leaks else 20 if close else 19)


async def test_a_ticket_is_used_for_an_hour(
    mock_clock: Clock, server: Server, reads: list[ssl.SSLSession | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_stream, "SESSION_READ_LEAKS", True)
    resumed = []
    for _ in range(9):
        resumed.append(await server.dial())
        mock_clock.jump(1000)
    # Connections at 0, 1000, ... s: a ticket is taken at 1000 and used until 4600. The next one is taken at 6000.
    assert resumed == [False, True, True, True, True, False, True, True, True]
    assert len(reads) == 2


async def test_a_server_without_tickets_is_asked_for_them_more_and_more_seldom(
    server: Server, reads: list[ssl.SSLSession | None], leaks: bool
) -> None:
    server.contexts[0].num_tickets = 0
    assert not any([await server.dial() for _ in range(200)])
    assert 5 <= len(reads) <= 8
    assert set(reads) == {None}
    # Now the server issues tickets.
    server.contexts[0].num_tickets = 2
    for _ in range(dialer._MAX_SKIP + 1):
        await server.dial()
    assert [await server.dial() for _ in range(3)] == [True] * 3


async def test_tickets_that_no_other_worker_accepts_are_taken_more_and_more_seldom(
    server: Server, reads: list[ssl.SSLSession | None], leaks: bool, authority: trustme.CA
) -> None:
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(other)
    server.contexts.append(other)
    assert not any([await server.dial() for _ in range(200)])
    assert 5 <= len(reads) <= 9
    # One accepted ticket resets the count.
    server.contexts.pop()
    for _ in range(dialer._MAX_SKIP + 1):
        await server.dial()
    assert [await server.dial() for _ in range(3)] == [True] * 3
    assert server._dialer._misses == 0


async def test_a_connection_whose_ticket_nobody_wants_is_closed_without_reading_it(
    server: Server, reads: list[ssl.SSLSession | None], client_context: ssl.SSLContext
) -> None:
    address = Endpoint(HOST, 1, client_context, None, None)
    transport = await address.dial(math.inf)
    assert await transport.receive_some() == b"x"
    await transport.aclose()
    assert reads == []
    assert transport.take_session() is None


async def test_a_transport_that_was_closed_during_its_handshake_has_no_session(
    client_context: ssl.SSLContext, autojump_clock: Clock
) -> None:
    near, _ = trio.testing.memory_stream_pair()
    transport = TLSStream(near, client_context, server_hostname=HOST)
    transport.keep_session = True
    with trio.move_on_after(1):
        await transport.do_handshake()
    assert transport.take_session() is None
    await trio.aclose_forcefully(transport)
    assert transport.take_session() is None


async def test_connections_at_once_have_one_chosen_among_them(
    server: Server, reads: list[ssl.SSLSession | None], leaks: bool
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(5):
            transport = await server._dialer._endpoint.dial(math.inf)
            server._dialer._choose(transport)
            stack.push_async_callback(transport.aclose)
            assert await transport.receive_some() == b"x"
    # Read when the connections were closed.
    assert len(reads) == 1
    assert await server.dial()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the size of a process is read as Linux has it")
@pytest.mark.parametrize("way", ["single", "pool"])
def test_a_process_does_not_grow_with_the_connections_it_has_made(way: str) -> None:
    command = [sys.executable, "-m", "tests.helpers.programs.many_connections", way, str(500 - FIRST)]
    done = subprocess.run(
        command, cwd=Path(__file__).parent.parent.parent, capture_output=True, text=True, check=True, timeout=120
    )
    # Reading the session of each connection would take about 7000 KB.
    assert float(done.stdout) < 2000

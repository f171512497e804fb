"""The first bytes of a client: AUTH and NEGO, regardless of what happens before they are sent (spec: Authentication;
Version Negotiation).

The server of these tests speaks first, so that the writer may answer without its task.
"""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

import trioanytls
from trioanytls import Connection, PaddingScheme
from trioanytls._protocol.anytls1.negotiation import IDENTIFIER
from trioanytls.testing import RecordedTransport

from ..helpers.extensions import ALL, NO_EXTENSIONS
from ..helpers.wire_bytes import ACK_1, AUTH, HELLO_1, OPEN_1, PINGPONG, RST_1, SERVER_NEGO, frame
from .test_writer import _tls_pair

# None of them shapes anything after delivery 0, so that all bytes are known.
SCHEMES = [b"stop=0\n0=30-30", b"stop=1\n0=30-30", b"stop=8\n0=30-30"]


@pytest.fixture(autouse=True, params=[NO_EXTENSIONS, ALL], ids=["version 1", "extensions"])
def extensions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> frozenset[str]:
    """Run each test with and without extensions. The server has none."""
    offered: frozenset[str] = request.param
    monkeypatch.setattr("trioanytls._config.default_extensions", offered)
    return offered


def waiting() -> trioanytls.Config:
    """Return settings with which nothing is sent because of a timeout."""
    return trioanytls.Config(initial_flush_delay=1000)


def hello(scheme: bytes) -> bytes:
    digest = hashlib.md5(scheme, usedforsecurity=False).hexdigest()
    block = f"v=1\nclient={IDENTIFIER}\npadding-md5={digest}\n"
    if trioanytls.Config().extensions:
        block += "ext=fin,goaway,reset,window\nwindow=65536\n"
    return AUTH + frame(0x03, 0, block.encode())


class PromptTransport(RecordedTransport):
    """A transport that accepts bytes without waiting, like `TLSStream`. The other end does not receive those."""

    def send_nowait(self, data: bytes) -> bool:
        self.sent.append(data)
        return True

    def estimate_round_trip(self) -> float | None:
        return None

    async def send_eof(self) -> None:
        assert isinstance(self.transport, trio.StapledStream)
        await self.transport.send_eof()


@contextlib.asynccontextmanager
async def greeted(
    monkeypatch: pytest.MonkeyPatch, scheme: bytes, config: trioanytls.Config, *said: bytes
) -> AsyncIterator[tuple[Connection, PromptTransport]]:
    """Open a client whose server has sent `said` before the client has sent anything."""
    near, far = trio.testing.memory_stream_pair()
    transport = PromptTransport(near)
    monkeypatch.setattr("trioanytls._connection.connection.TLSStream", PromptTransport)
    async with trioanytls.wrap_client(
        transport, password="password", padding_scheme=PaddingScheme.parse(scheme), config=config
    ) as connection:
        await wait_all_tasks_blocked()
        assert not transport.sent
        await far.send_all(b"".join(said))
        await wait_all_tasks_blocked()
        yield connection, transport
        await far.aclose()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("said", "answer"),
    [
        pytest.param(PINGPONG, PINGPONG, id="PINGPONG"),
        pytest.param(PINGPONG * 3, PINGPONG * 3, id="PINGPONG three times"),
        pytest.param(SERVER_NEGO + PINGPONG, PINGPONG, id="NEGO, PINGPONG"),
        pytest.param(
            SERVER_NEGO + frame(0x06, 0, b"stop=1\n") + PINGPONG, PINGPONG, id="NEGO, PADDING_UPDATE_SCHEME, PINGPONG"
        ),
    ],
)
async def test_an_answer_comes_behind_auth_and_nego(
    monkeypatch: pytest.MonkeyPatch, scheme: bytes, said: bytes, answer: bytes
) -> None:
    async with greeted(monkeypatch, scheme, waiting(), said) as (_, transport):
        assert b"".join(transport.sent) == hello(scheme) + answer
        assert transport.sent[0] == hello(scheme)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("said", "alert"),
    [
        pytest.param(b"\x11", b"unknown frame type 0x11", id="an unknown frame"),
        pytest.param(
            PINGPONG + ACK_1, b"STREAM_ACK on stream 1: the stream was never opened", id="PINGPONG, STREAM_ACK"
        ),
    ],
)
async def test_an_alert_comes_behind_auth_and_nego(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object, scheme: bytes, said: bytes, alert: bytes
) -> None:
    async with greeted(monkeypatch, scheme, waiting(), said) as (_, transport):
        answers = PINGPONG if PINGPONG in said else b""
        assert b"".join(transport.sent) == hello(scheme) + answers + frame(0x01, 0, alert)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_close_because_of_a_limit_comes_behind_auth_and_nego(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object, scheme: bytes
) -> None:
    config = trioanytls.Config(initial_flush_delay=1000, max_scheme_stop=9)
    said = SERVER_NEGO + frame(0x06, 0, b"stop=10\n")
    async with greeted(monkeypatch, scheme, config, said) as (_, transport):
        assert b"".join(transport.sent) == hello(scheme) + b"\x02\x00\x05"


async def _ping(connection: Connection) -> None:
    with trio.move_on_after(1):
        await connection.ping()


async def _open(connection: Connection) -> None:
    await connection.open_stream()


async def _open_and_send(connection: Connection) -> None:
    await (await connection.open_stream()).send_all(b"hello")


async def _open_and_close(connection: Connection) -> None:
    await (await connection.open_stream()).aclose()


async def _open_send_and_close(connection: Connection) -> None:
    stream = await connection.open_stream()
    await stream.send_all(b"hello")
    await stream.aclose()


async def _leave(connection: Connection) -> None:
    await connection.aclose()


async def _open_and_leave(connection: Connection) -> None:
    await (await connection.open_stream()).send_all(b"hello")
    await connection.aclose()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("act", "sent"),
    [
        (_ping, PINGPONG),
        (_open, OPEN_1),
        (_open_and_send, OPEN_1 + HELLO_1),
        (_open_and_close, OPEN_1 + RST_1),
        (_open_send_and_close, OPEN_1 + HELLO_1 + RST_1),
        (_leave, b"\x02\x00\x00"),
        (_open_and_leave, OPEN_1 + HELLO_1 + b"\x02\x00\x00"),
    ],
)
async def test_what_the_application_does_comes_behind_auth_and_nego(
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: object,
    scheme: bytes,
    act: Callable[[Connection], Awaitable[None]],
    sent: bytes,
) -> None:
    async with greeted(monkeypatch, scheme, waiting(), SERVER_NEGO) as (connection, transport):
        assert not transport.sent
        await act(connection)
        await wait_all_tasks_blocked()
        assert b"".join(transport.sent) == hello(scheme) + sent


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_the_reset_of_a_stream_comes_behind_auth_and_nego(monkeypatch: pytest.MonkeyPatch, scheme: bytes) -> None:
    async with greeted(monkeypatch, scheme, waiting(), SERVER_NEGO) as (connection, transport):
        await trio.aclose_forcefully(await connection.open_stream())
        await wait_all_tasks_blocked()
        # Trio decides whether the writer runs before the reset. After it, there is no stream to announce.
        assert b"".join(transport.sent) in (hello(scheme), hello(scheme) + OPEN_1 + RST_1)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_keep_alive_comes_behind_auth_and_nego(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object, scheme: bytes
) -> None:
    config = trioanytls.Config(initial_flush_delay=1000, keepalive_interval=5, keepalive_timeout=500)
    async with greeted(monkeypatch, scheme, config, SERVER_NEGO) as (_, transport):
        await trio.sleep(6)
        assert b"".join(transport.sent) == hello(scheme) + PINGPONG


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_the_end_by_a_timer_comes_behind_auth_and_nego(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object, scheme: bytes
) -> None:
    config = trioanytls.Config(initial_flush_delay=1000, idle_timeout=5)
    async with greeted(monkeypatch, scheme, config, SERVER_NEGO) as (_, transport):
        await trio.sleep(6)
        assert b"".join(transport.sent) == hello(scheme) + b"\x02\x00\x03"


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_server_that_speaks_first_over_tls_gets_auth_and_nego(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, scheme: bytes
) -> None:
    near, far = await _tls_pair(server_context, client_context)
    await far.send_all(PINGPONG)
    expected = hello(scheme) + PINGPONG
    received = b""
    config = trioanytls.Config(initial_flush_delay=1000, close_timeout=0.01)
    async with trioanytls.wrap_client(
        near, password="password", padding_scheme=PaddingScheme.parse(scheme), config=config
    ):
        while len(received) < len(expected):
            received += await far.receive_some()
            assert expected.startswith(received)
        await trio.aclose_forcefully(far)

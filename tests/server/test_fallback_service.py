"""The service of a fallback: resolving its name, and connecting to it."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Iterator

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import FallbackStream
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.credentials import hash_password
from trioanytls._server.relay_to import _Limits

from ..conftest import HOST, Serving
from ..helpers.fallback_harness import (
    GET,
    Dialling,
    patient_service,
    receive_all,
    receive_exactly,
)

Clock = trio.testing.MockClock

MIB = 1024 * 1024
FOR_EVER = _Limits(math.inf, math.inf, math.inf)
WRONG_AUTH = frames.encode_auth(hash_password("not the password"), 300)

# Resolving the name of the service


class Names:
    """The system's resolver for names that end with ".example", in real threads.

    Attributes:
      addresses: the addresses of these names.
      may_answer: cleared to block the threads.
      asked: the number of lookups.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses = [HOST]
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked = 0
        self._original = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._look_up)

    def _look_up(self, host: object, port: int, *rest: object, **options: int) -> list[tuple[object, ...]]:
        name = host if isinstance(host, bytes) else str(host).encode()
        if not name.endswith(b".example") or options.get("flags", 0) & socket.AI_NUMERICHOST:
            return self._original(host, port, *rest, **options)  # type: ignore[arg-type, return-value]  # a stand-in, or what is tested
        self.asked += 1
        self.may_answer.wait(30)
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [found for address in self.addresses for found in self._original(address, port, *rest, **options)]  # type: ignore[arg-type]  # a stand-in, or what is tested


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names(monkeypatch)
    yield names
    names.may_answer.set()


async def visit(port: int, dialling: Dialling) -> bytes:
    client = await dialling(port)
    await client.send_all(GET)
    with trio.fail_after(10):
        answer = await client.receive_some()
    await trio.aclose_forcefully(client.transport)
    return bytes(answer)


async def test_a_name_is_resolved_once_a_minute_in_the_background(
    serving: Serving, dialling: Dialling, names: Names, mock_clock: Clock
) -> None:
    async with patient_service() as service:
        fallback = trioanytls.relay_to("web.example", service)
        async with serving(fallback=fallback) as port:
            for _ in range(3):
                assert await visit(port, dialling) == b"the page"
            assert names.asked == 1
            mock_clock.jump(61)
            # The resolver hangs, and then no longer knows the name. Clients do not notice.
            names.may_answer.clear()
            assert await visit(port, dialling) == b"the page"
            assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
            names.addresses = []
            names.may_answer.set()
            assert await visit(port, dialling) == b"the page"
            assert names.asked >= 2


async def test_the_first_clients_share_one_lookup(serving: Serving, dialling: Dialling, names: Names) -> None:
    names.may_answer.clear()
    async with (
        patient_service() as service,
        serving(fallback=trioanytls.relay_to("web.example", service)) as port,
        trio.open_nursery() as nursery,
    ):
        for _ in range(10):
            nursery.start_soon(visit, port, dialling)
        while not names.asked:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked(0.05)
        names.may_answer.set()
        while nursery.child_tasks:
            await trio.lowlevel.checkpoint()
    assert names.asked == 1


async def test_a_service_that_has_moved_is_found(
    serving: Serving, dialling: Dialling, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    async with patient_service() as service, serving(fallback=trioanytls.relay_to("web.example", service)) as port:
        # No server listens on the first address.
        names.addresses = ["127.0.0.2"]
        client = await dialling(port)
        await client.send_all(GET)
        assert await receive_all(client) == b""
        await client.aclose()
        assert f"fallback service web.example:{service} is unreachable" in caplog.text
        names.addresses = [HOST]
        assert await visit(port, dialling) == b"the page"
        names.addresses = ["127.0.0.2", HOST]
        assert await visit(port, dialling) == b"the page"


async def test_a_service_whose_name_is_unknown(
    serving: Serving, dialling: Dialling, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    names.addresses = []
    async with serving(fallback=trioanytls.relay_to("web.example", 80)) as port:
        client = await dialling(port)
        await client.send_all(GET)
        assert await receive_all(client) == b""
        await client.aclose()
    assert "fallback service web.example:80 is unreachable: " in caplog.text


async def test_the_second_address_of_a_service(serving: Serving, dialling: Dialling, names: Names) -> None:
    names.addresses = ["127.0.0.2", HOST]
    async with patient_service() as service, serving(fallback=trioanytls.relay_to("web.example", service)) as port:
        assert await visit(port, dialling) == b"the page"


def test_a_fallback_serves_several_event_loops(names: Names) -> None:
    """In turn, or in threads: each event loop has separate times and locks."""
    fallback = trioanytls.relay_to("web.example", 9, idle_timeout=7)

    async def main() -> None:
        client, near = trio.testing.memory_stream_pair()
        with pytest.MonkeyPatch.context() as patch:
            far, service = trio.testing.memory_stream_pair()

            async def connect(
                *_: object,
            ) -> trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]:
                return far

            patch.setattr(trio, "open_tcp_stream", connect)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fallback, FallbackStream(near, b"GET"))
                assert await receive_exactly(service, 3) == b"GET"
                nursery.cancel_scope.cancel()
        await client.aclose()

    for _ in range(2):
        trio.run(main)
    assert names.asked == 2

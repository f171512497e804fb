"""Unauthenticated clients that never complete their requests to the fallback service."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from trioanytls._transport.handshake import handshake
from trioanytls._transport.tls_stream import TLSStream

from ..conftest import HOST
from ._harness import CONNECTION, SLACK, TIMEOUT, Attack

PEERS = 60
PER_ADDRESS = 20
BOUND = PEERS * CONNECTION + SLACK

HALF = b"GET / HTTP/1.1\r\nHost: "
REQUEST = HALF + b"localhost\r\n\r\n"

# The service's time to answer, and the interval between two bytes of the clients, in seconds.
_TIMEOUT = 2.0
_PAUSE = 0.3


@contextlib.asynccontextmanager
async def patient_service() -> AsyncIterator[int]:
    """Run a service that waits for the rest of a request forever. Return its port."""

    async def serve(stream: trio.SocketStream) -> None:
        request = b""
        with contextlib.suppress(trio.BrokenResourceError):
            while not request.endswith(b"\r\n\r\n"):
                piece = await stream.receive_some()
                if not piece:
                    return
                request += piece
            await stream.send_all(b"the page")

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(functools.partial(trio.serve_tcp, serve, 0, host=HOST))
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def dial_from(address: str, port: int, attack: Attack) -> TLSStream:
    transport = await trio.open_tcp_stream(HOST, port, local_address=address)
    return await handshake(transport, attack.context, timeout=TIMEOUT, server_hostname=HOST)


@pytest.mark.skipif(sys.platform != "linux", reason="needs more addresses of loopback than one")
@pytest.mark.parametrize("trickle", [False, True])
async def test_one_address_with_as_many_as_it_can(attack: Attack, trickle: bool) -> None:
    limits: dict[str, Any] = {"max_fallbacks": 2 * PER_ADDRESS, "max_fallbacks_per_address": PER_ADDRESS}
    async with patient_service() as port:
        service = {"port": port, "answer_timeout": _TIMEOUT}
        async with attack.on_server(bound=BOUND, service=service, **limits) as target:

            async def one() -> None:
                with trio.fail_after(TIMEOUT), contextlib.suppress(trio.BrokenResourceError):
                    client = await dial_from("127.0.0.2", target.port, attack)
                    async with client, trio.open_nursery() as nursery:
                        nursery.start_soon(send, client)
                        # It is disconnected, and learns nothing.
                        assert await client.receive_some() == b""
                        nursery.cancel_scope.cancel()

            async def send(client: TLSStream) -> None:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await client.send_all(HALF)
                    while trickle:
                        await trio.sleep(_PAUSE)
                        await client.send_all(b"x")

            async with trio.open_nursery() as nursery:
                for _ in range(PEERS):
                    nursery.start_soon(one)
                await target.until(lambda report: report["stats"]["fallback_connections"] >= PER_ADDRESS)
                # The service serves others meanwhile.
                with trio.fail_after(TIMEOUT):
                    prober = await dial_from("127.0.0.3", target.port, attack)
                    await prober.send_all(REQUEST)
                    assert await prober.receive_some() == b"the page"
                    await trio.aclose_forcefully(prober)
                await target.still_answers()
            report = await target.until_alone(PEERS)
            assert report["stats"]["fallback_connections"] == 0
            assert report["stats"]["fallbacks"] <= PEERS + 1

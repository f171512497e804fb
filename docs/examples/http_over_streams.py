"""Send HTTP requests through a relay. Each HTTP connection is a stream of one ANYTLS connection.

    python http_over_streams.py serve CERTIFICATE KEY
    python http_over_streams.py fetch 'anytls://secret@localhost:8443/?proto=anytls1' http://localhost:8000/ ...

The relay connects to any destination, including those that only the relay's machine can reach. Only the password
protects it. For real use, run `trioanytls server`.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Awaitable, Callable
from functools import partial

import httpcore
import trio

import trioanytls
from trioanytls.contrib.httpcore import AnyTLSBackend
from trioanytls.destination import DestinationDecoder


async def relay(stream: trioanytls.Stream) -> None:
    """Connect a stream to the destination at its beginning. Serve this handler with `acknowledge="manual"`."""
    decoder = DestinationDecoder()
    while decoder.destination is None:
        data = await stream.receive_some()
        if not data:
            return
        decoder.feed(data)
    try:
        service = await trio.open_tcp_stream(decoder.destination.host, decoder.destination.port)
    except OSError:
        await stream.refuse()
        return
    async with service:
        await stream.acknowledge()
        await service.send_all(decoder.rest)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(copy, stream, service, nursery.cancel_scope)
            await copy(service, stream, nursery.cancel_scope)


async def copy(source: trio.abc.Stream, sink: trio.abc.Stream, both: trio.CancelScope) -> None:
    """Copy until the source ends. HTTP does not need half-close, so this ends both directions."""
    async for data in source:
        await sink.send_all(data)
    both.cancel()


async def fetch(client: trioanytls.Client, urls: list[str]) -> dict[str, httpcore.Response]:
    """Fetch all URLs at the same time."""
    responses: dict[str, httpcore.Response] = {}

    async with httpcore.AsyncConnectionPool(network_backend=AnyTLSBackend(client)) as http:

        async def get(url: str) -> None:
            responses[url] = await http.request("GET", url)

        async with trio.open_nursery() as nursery:
            for url in urls:
                nursery.start_soon(get, url)
    return responses


async def main_serve(certificate: str, key: str) -> None:
    """Serve on port 8443."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    serve = partial(trioanytls.serve, ssl_context=context, users={"me": "secret"})
    await serve(relay, 8443, config=trioanytls.Config(acknowledge="manual"))


async def main_fetch(uri: str, *urls: str) -> None:
    """Print the status and the size of each response."""
    async with trioanytls.open_client_uri(uri) as client:
        for url, response in (await fetch(client, list(urls))).items():
            print(response.status, len(response.content), url)


if __name__ == "__main__":
    commands: dict[str, Callable[..., Awaitable[None]]] = {"serve": main_serve, "fetch": main_fetch}
    trio.run(commands[sys.argv[1]], *sys.argv[2:])

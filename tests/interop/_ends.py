"""The two ends of a connection, of which one is sing-box: the pairs that the tests run."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Literal

import trio
import trustme
from attrs import define, field, frozen

import trioanytls
from trioanytls.relay import AddressPolicy, RelayHandler, Upstream, serve_socks

from ..conftest import HOST, USERS
from ..helpers.cli_process import program
from ._sing_box import client_configuration, server_configuration, sing_box

#: A relay may connect to loopback.
POLICY = AddressPolicy(allow=[ipaddress.ip_network("127.0.0.0/8")])

#: Runs a server on a port, 0 for any, and yields its port.
RunServer = Callable[[int], AbstractAsyncContextManager[int]]
#: Runs a client of the server on a port, and yields its own port, for SOCKS5.
RunClient = Callable[[int], AbstractAsyncContextManager[int]]


@frozen
class Files:
    """The files of a test, and the contexts for TLS that go with them.

    Attributes:
      directory: a directory for configurations.
      authority: a file with the certificate that signs the server's.
      certificate: a file with the server's certificate and key.
    """

    directory: Path
    authority: Path
    certificate: Path

    @classmethod
    def make(cls, directory: Path, authority: trustme.CA) -> Files:
        """Write the files."""
        files = cls(directory, directory / "authority.pem", directory / "certificate.pem")
        authority.cert_pem.write_to_path(str(files.authority))
        issued = authority.issue_cert("localhost", HOST)
        issued.private_key_and_cert_chain_pem.write_to_path(str(files.certificate))
        return files

    def server_context(self) -> ssl.SSLContext:
        """Return the context of a server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return the context of a client."""
        return ssl.create_default_context(cafile=self.authority)


@contextlib.asynccontextmanager
async def sing_box_server(files: Files, port: int, padding_scheme: Sequence[str] = ()) -> AsyncIterator[int]:
    """Run sing-box as the server."""
    async with sing_box(server_configuration(port, files.certificate, padding_scheme), files.directory) as running:
        yield running.port


@contextlib.asynccontextmanager
async def sing_box_client(files: Files, server: int) -> AsyncIterator[int]:
    """Run sing-box as the client."""
    async with sing_box(client_configuration(server, files.authority), files.directory) as running:
        yield running.port


@contextlib.asynccontextmanager
async def our_server(files: Files, port: int, padding_scheme: Sequence[str] = ()) -> AsyncIterator[int]:
    """Run the server of the library, with the relay as its handler."""
    scheme = trioanytls.PaddingScheme.parse("\n".join(padding_scheme).encode()) if padding_scheme else None
    async with trio.open_nursery() as nursery:
        serve = partial(
            trioanytls.serve,
            RelayHandler.with_udp(POLICY),
            port,
            host=HOST,
            ssl_context=files.server_context(),
            users=USERS,
            padding_scheme=scheme,
            protocols=("anytls1", "legacy"),
            config=trioanytls.Config(acknowledge="manual"),
        )
        listeners = await nursery.start(serve)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def our_client(files: Files, server: int) -> AsyncIterator[int]:
    """Run the client of the library, with the relay's SOCKS5 front end."""
    context = files.client_context()
    async with (
        trioanytls.open_client(HOST, server, password=USERS["alice"], ssl_context=context, protocol="legacy") as client,
        trio.open_nursery() as nursery,
    ):
        listeners = await nursery.start(partial(serve_socks, Upstream(client), 0))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def our_server_command(files: Files, port: int, padding_scheme: Sequence[str] = ()) -> AsyncIterator[int]:
    """Run `trioanytls server`."""
    options = ["--listen", f"{HOST}:{port}", "--allow", "127.0.0.0/8", "--cert", files.certificate, "--print-uri"]
    if padding_scheme:
        path = files.directory / "scheme"
        path.write_text("\n".join(padding_scheme), encoding="utf-8")
        options += ["--padding-scheme", path]
    environment = {"TRIOANYTLS_PASSWORD": USERS["alice"]}
    async with program("server", *options, environment=environment) as server:
        uri = trioanytls.parse_uri(await server.out.find("anytls://"))
        yield uri.port


@contextlib.asynccontextmanager
async def our_client_command(files: Files, server: int) -> AsyncIterator[int]:
    """Run `trioanytls client` with a URI that any program would print."""
    uri = f"anytls://{USERS['alice']}@{HOST}:{server}/?sni=localhost&insecure=0"
    # The authority takes the place of the system's.
    environment = {"TRIOANYTLS_SERVER": uri, "SSL_CERT_FILE": str(files.authority)}
    async with program("client", "--socks", f"{HOST}:0", environment=environment) as client:
        yield int((await client.out.find("SOCKS5 on ")).rpartition(":")[2])


@define(eq=False)
class Server:
    """A server that can be stopped and started again on the same port.

    Attributes:
      port: its port.
    """

    _run: RunServer
    _nursery: trio.Nursery
    port: int = 0
    _stop: trio.Event = field(init=False, factory=trio.Event)
    _stopped: trio.Event = field(init=False, factory=trio.Event)

    async def start(self) -> None:
        """Start it."""
        self._stop, self._stopped = trio.Event(), trio.Event()
        self.port = await self._nursery.start(self._serve)

    async def _serve(self, *, task_status: trio.TaskStatus[int]) -> None:
        async with self._run(self.port) as port:
            task_status.started(port)
            await self._stop.wait()
        self._stopped.set()

    async def stop(self) -> None:
        """Stop it, and wait until it has ended."""
        self._stop.set()
        await self._stopped.wait()


@frozen
class Pair:
    """The two programs of a pair, by the side that each is.

    Attributes:
      server, client: run each.
      sing_box: the side that sing-box is.
    """

    server: Callable[..., AbstractAsyncContextManager[int]]
    client: Callable[[Files, int], AbstractAsyncContextManager[int]]
    sing_box: Literal["client", "server"]


#: The pairs by name.
PAIRS = {
    "sing-box to our server": Pair(our_server, sing_box_client, sing_box="client"),
    "our client to sing-box": Pair(sing_box_server, our_client, sing_box="server"),
    "sing-box to our server command": Pair(our_server_command, sing_box_client, sing_box="client"),
    "our client command to sing-box": Pair(sing_box_server, our_client_command, sing_box="server"),
}


@frozen
class Running:
    """A pair that runs.

    Attributes:
      pair: the pair.
      server: the server.
      socks: the port of the client, for SOCKS5.
    """

    pair: Pair
    server: Server
    socks: int


@contextlib.asynccontextmanager
async def running(pair: Pair, files: Files) -> AsyncIterator[Running]:
    """Run a pair."""
    async with trio.open_nursery() as nursery:
        server = Server(partial(pair.server, files), nursery)
        await server.start()
        async with pair.client(files, server.port) as socks:
            yield Running(pair, server, socks)
        await server.stop()

"""The relay as users run it: server and client are separate processes, and a tool connects through both."""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h11
import pytest
import trio
from attrs import define, frozen

from ..conftest import HOST
from .cli_process import Program, program

#: The time for one run of a tool, in seconds. A tool that takes longer hangs.
TOOL_PATIENCE = 60


@define(eq=False)
class Relaying:
    """A running server and client.

    Attributes:
      server, client: the two processes.
      uri: the URI of the server.
      socks, http: the ports of the client.
      forwards: the ports of its forwards, in the order of the destinations.
    """

    server: Program
    client: Program
    uri: str
    socks: int
    http: int
    forwards: list[int]


@contextlib.asynccontextmanager
async def served(state: Path, *options: object, port: int = 0) -> AsyncIterator[tuple[Program, str]]:
    """Run a server that may connect to loopback, and yield it and its URI, which is the same for the same state."""
    listen = ["--listen", f"{HOST}:{port}", "--allow", "127.0.0.0/8", "--self-signed", "--state-dir", state]
    async with program("server", *listen, *options) as server:
        yield server, await server.out.find("anytls://")


@contextlib.asynccontextmanager
async def relaying(
    state: Path, *options: object, forwards: Sequence[int] = (), client_options: Sequence[object] = ()
) -> AsyncIterator[Relaying]:
    """Run both, with SOCKS5, an HTTP proxy, and forwards to ports of loopback. They must exit without an error.

    Args:
      options: further options of the server.
    """
    doors = ["--socks", f"{HOST}:0", "--http", f"{HOST}:0"]
    for port in forwards:
        doors += ["--forward", f"0={HOST}:{port}"]
    async with served(state, *options) as (server, uri):
        environment = {"TRIOANYTLS_SERVER": uri}
        # Draining is tested elsewhere.
        quick = ("--drain-timeout", "0.1")
        async with program("client", *doors, *quick, *client_options, environment=environment) as client:
            socks = port_of(await client.out.find("SOCKS5 on "))
            http = port_of(await client.out.find("HTTP proxy on "))
            opened = [port_of(await client.out.find(f"forward to {HOST}:{port} on ")) for port in forwards]
            yield Relaying(server, client, uri, socks, http, opened)
            await ends(client)
        # The server may have been replaced by another one.
        if server.running:
            await ends(server)


def port_of(text: str) -> int:
    return int(text.rpartition(":")[2])


async def ends(running: Program) -> None:
    running.signal(signal.SIGTERM)
    assert await running.wait() == 0


def environment(**variables: object) -> dict[str, str]:
    """Return the environment without proxy settings."""
    ours = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return ours | {name: str(value) for name, value in variables.items()}


async def run(*command: object, stdin: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a tool to its end, and ignore its exit code."""
    options = {"env": environment(), **options}
    with trio.fail_after(TOOL_PATIENCE):
        return await trio.run_process(
            [str(argument) for argument in command],
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            start_new_session=True,
            deliver_cancel=_kill,
            **options,
        )


async def _kill(process: trio.Process) -> None:
    """Kill a tool that hangs, and the processes that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def succeeds(*command: object, **options: Any) -> bytes:
    """Run a tool that must succeed. Return its output."""
    done = await run(*command, **options)
    assert done.returncode == 0, (command, done.returncode, done.stdout[-1000:], done.stderr[-2000:])
    return done.stdout


@frozen
class Request:
    """A request to an origin."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@frozen
class Answer:
    """An answer of an origin."""

    body: bytes = b""
    status: int = 200
    headers: Sequence[tuple[str, str]] = ()


Answering = Callable[[Request], Awaitable[Answer]]


@contextlib.asynccontextmanager
async def origin(answering: Answering, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Run a web server on loopback, over TLS if there is a context, and yield its port."""

    async def serve(stream: trio.abc.Stream) -> None:
        # Tools may close in any way.
        with contextlib.suppress(trio.BrokenResourceError, h11.RemoteProtocolError):
            await _serve_http(stream, answering)

    async with listening(serve, tls) as port:
        yield port


@contextlib.asynccontextmanager
async def listening(serve: Callable[..., Awaitable[None]], tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve on loopback, and yield the port."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        port = listeners[0].socket.getsockname()[1]
        if tls is None:
            nursery.start_soon(partial(trio.serve_listeners, serve, listeners))
        else:
            wrapped = [trio.SSLListener(one, tls, https_compatible=True) for one in listeners]
            nursery.start_soon(partial(trio.serve_listeners, serve, wrapped))
        yield port
        nursery.cancel_scope.cancel()


async def _serve_http(stream: trio.abc.Stream, answering: Answering) -> None:
    http = h11.Connection(h11.SERVER)

    async def send(event: h11.Event) -> None:
        if data := http.send(event):
            await stream.send_all(data)

    async def receive() -> object:
        while (event := http.next_event()) is h11.NEED_DATA:
            if http.they_are_waiting_for_100_continue:
                await send(h11.InformationalResponse(status_code=100, headers=[]))
            http.receive_data(bytes(await stream.receive_some()))
        return event

    while isinstance(head := await receive(), h11.Request):
        body = bytearray()
        while isinstance(event := await receive(), h11.Data):
            body += event.data
        headers = {name.decode(): value.decode() for name, value in head.headers}
        answer = await answering(Request(head.method.decode(), head.target.decode(), headers, bytes(body)))
        length = ("content-length", str(len(answer.body)))
        await send(h11.Response(status_code=answer.status, headers=[*answer.headers, length]))
        await send(h11.Data(data=answer.body))
        await send(h11.EndOfMessage())
        if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
            break
        http.start_next_cycle()
    await stream.aclose()


def missing(tool: object, package: str) -> pytest.MarkDecorator:
    """Skip the test if a tool is not installed."""
    return pytest.mark.skipif(not tool, reason=f"{package} is not installed: apt-get install {package}")

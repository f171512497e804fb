"""The two processes of one peer, for the harness."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from .peer import Credentials

START_LIMIT = 20.0
"""Timeout for the start of a process, in seconds."""

GRACE = 2.0
"""Seconds after its limit in which a client must report that it has not finished, before it is killed."""


class Unavailable(Exception):
    """The peer cannot run here. The message gives the reason."""


class Lost(Exception):
    """A process has exited or does not answer."""


class _Worker:
    """One process. It sends and receives JSON, one object a line."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._pending = b""

    @classmethod
    async def start(cls, python: str, side: str, peer: str, credentials: Credentials, *more: str) -> _Worker:
        files = ["--authority", credentials.authority, "--certificate", credentials.certificate]
        files += ["--key", credentials.key]
        process = await trio.lowlevel.open_process(
            [python, "-m", f"{__package__}.worker", side, peer, *files, *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
        return cls(process)

    async def hear(self, limit: float) -> dict[str, Any]:
        """Return the next message of the process."""
        assert self.process.stdout is not None
        with trio.move_on_after(limit):
            while b"\n" not in self._pending:
                data = await self.process.stdout.receive_some()
                if not data:
                    raise Lost("the process has ended")
                self._pending += data
            line, self._pending = self._pending.split(b"\n", 1)
            message: dict[str, Any] = json.loads(line)
            if "unavailable" in message:
                raise Unavailable(message["unavailable"])
            return message
        raise Lost("the process has fallen silent")

    async def tell(self, message: dict[str, Any]) -> None:
        """Send a message to the process."""
        assert self.process.stdin is not None
        try:
            await self.process.stdin.send_all(json.dumps(message).encode() + b"\n")
        except trio.BrokenResourceError:
            raise Lost("the process has ended") from None

    async def kill(self) -> None:
        """Kill the process."""
        with trio.CancelScope(shield=True):
            self.process.kill()
            await self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    await trio.aclose_forcefully(pipe)


@dataclass
class Pair:
    """A running server and client."""

    server: _Worker
    client: _Worker

    @classmethod
    async def start(cls, python: str, peer: str, credentials: Credentials, *, crowded: bool) -> Pair:
        """Start both processes and wait until they are ready."""
        server = await _Worker.start(python, "serve", peer, credentials, *["--crowded"] * crowded)
        try:
            port = (await server.hear(START_LIMIT))["port"]
            client = await _Worker.start(python, "drive", peer, credentials, "--port", str(port))
            try:
                await client.hear(START_LIMIT)
            except BaseException:
                await client.kill()
                raise
        except BaseException:
            await server.kill()
            raise
        return cls(server, client)

    async def measure(self, work: str, *, seconds: float, quick: bool, limit: float) -> dict[str, Any]:
        """Have the client do one work. Return its answer, see `benchmarks.worker`."""
        await self.client.tell({"work": work, "seconds": seconds, "quick": quick, "limit": limit})
        return await self.client.hear(limit + GRACE)

    async def kill(self) -> None:
        """Kill both processes."""
        await self.client.kill()
        await self.server.kill()


class Pairs:
    """The running pairs, one for each peer, started on first use."""

    def __init__(self, credentials: Credentials, pythons: dict[str | None, str]) -> None:
        self._credentials = credentials
        self._pythons = pythons
        self._running: dict[str, Pair] = {}

    @asynccontextmanager
    async def of(
        self, peer: str, environment: str | None, *, fresh: bool, crowded: bool = False
    ) -> AsyncIterator[Pair]:
        """Give a pair for one measurement. It is not used again if it is `fresh`, or after an error.

        With `crowded`, which needs a `fresh` one, the server allows 10,000 streams on a connection.
        """
        pair = None if fresh else self._running.pop(peer, None)
        if pair is None:
            pair = await Pair.start(
                self._pythons.get(environment, sys.executable), peer, self._credentials, crowded=crowded
            )
        try:
            yield pair
        except BaseException:
            await pair.kill()
            raise
        if fresh:
            await pair.kill()
        else:
            self._running[peer] = pair

    async def discard(self, peer: str) -> None:
        """Kill a peer's pair, if one is running."""
        pair = self._running.pop(peer, None)
        if pair is not None:
            await pair.kill()

    async def kill(self) -> None:
        """Kill all pairs."""
        for peer in tuple(self._running):
            await self.discard(peer)

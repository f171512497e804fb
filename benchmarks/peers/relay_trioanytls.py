"""The relay of trioanytls: `trioanytls server` and `trioanytls client`, with their default settings."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from benchmarks.peer import HOST

from . import _relay


class Peer(_relay.Peer):
    """The two commands."""

    @asynccontextmanager
    async def run_ends(self) -> AsyncIterator[tuple[int, Sequence[int]]]:
        command = [sys.executable, "-m", "trioanytls"]
        with tempfile.TemporaryDirectory() as state:
            server = [*command, "server", "--listen", f"{HOST}:0", "--allow", f"{HOST}/32"]
            server += ["--self-signed", "--state-dir", state]
            client = [*command, "client", "--socks", f"{HOST}:0", "--no-state"]
            async with (
                _relay.program(server, "anytls://", output="stdout") as (server_pid, uri),
                _relay.program(client, "SOCKS5 on", output="stdout", uri=uri) as (client_pid, line),
            ):
                yield _relay.port_of(line), (client_pid, server_pid)

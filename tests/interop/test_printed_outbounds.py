"""The configuration that the server prints for sing-box works as printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ..conftest import HOST
from ..helpers.cli_process import program
from ._destinations import ask_number, serving_numbers
from ._sing_box import sing_box


@pytest.mark.parametrize("host", [HOST, "localhost"])
async def test_with_a_self_signed_certificate(tmp_path: Path, host: str) -> None:
    options = ["--listen", f"{HOST}:0", "--allow", "127.0.0.0/8", "--self-signed", "--state-dir", tmp_path]
    async with (
        program("server", *options, "--public-host", host, "--print", "sing-box") as server,
        serving_numbers() as port,
    ):
        await server.out.find(lambda line: line == "}")
        printed = json.loads("\n".join(server.out.lines))
        assert printed.keys() == {"outbounds"}
        # A configuration needs an inbound for the applications as well.
        inbounds = [{"type": "mixed", "listen": HOST, "listen_port": 0}]
        async with sing_box({**printed, "inbounds": inbounds}, tmp_path) as client:
            await ask_number(client.port, port, 1)


async def test_with_several_users(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("alice:first-password\nbob:second-password\n")
    users.chmod(0o600)
    options = ["--listen", f"{HOST}:0", "--allow", "127.0.0.0/8", "--self-signed", "--state-dir", tmp_path]
    async with (
        program("server", *options, "--users-file", users, "--print", "sing-box") as server,
        serving_numbers() as port,
    ):
        await server.out.find(lambda line: line == "}")
        printed = json.loads("\n".join(server.out.lines))
        assert len(printed["outbounds"]) == 2
        inbounds = [{"type": "mixed", "listen": HOST, "listen_port": 0}]
        for number, outbound in enumerate(printed["outbounds"]):
            route = {"final": outbound["tag"]}
            async with sing_box({**printed, "inbounds": inbounds, "route": route}, tmp_path) as client:
                await ask_number(client.port, port, number)
        # Its own user is logged for each.
        for name in ("alice", "bob"):
            await server.err.find(f"user '{name}': authenticated")

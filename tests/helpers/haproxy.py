"""A real HAProxy in front of servers, steered as its operators do it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest
import trio
from attrs import frozen

from ..conftest import HOST

# Debian installs it in a directory that is on root's path only.
_COMMAND = shutil.which("haproxy", path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin")))

#: A test that needs HAProxy.
HAPROXY = pytest.mark.skipif(_COMMAND is None, reason="haproxy is not installed: apt-get install haproxy")

#: The timeouts are those of the documentation.
_SETTINGS = """\
global
    stats socket {directory}/haproxy.sock level admin

defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout check 5s
    timeout client-fin 30s

"""


@frozen
class Balancer:
    """A running HAProxy with a section `anytls`.

    Attributes:
      port: its port.
    """

    port: int
    _socket: Path

    async def set_state(self, server: str, state: str) -> None:
        """Change the state of a server: "drain" for no new connections, "ready" for the usual ones."""
        assert await self._ask(f"set server anytls/{server} state {state}") == ""

    async def wait_until_up(self, server: str) -> None:
        """Wait until the health check of a server succeeds."""
        with trio.fail_after(30):
            # It is HAProxy that checks it.
            while not (await self._status(server)).startswith("UP"):  # noqa: ASYNC110
                await trio.sleep(0.05)

    async def _status(self, server: str) -> str:
        lines = (await self._ask("show stat anytls 4 -1")).splitlines()
        names = lines[0].removeprefix("# ").split(",")
        rows = [dict(zip(names, line.split(","), strict=False)) for line in lines[1:] if line]
        [status] = [row["status"] for row in rows if row["svname"] == server]
        return status

    async def _ask(self, command: str) -> str:
        async with await trio.open_unix_socket(str(self._socket)) as stream:
            await stream.send_all(command.encode() + b"\n")
            answer = b""
            async for data in stream:
                answer += data
        return answer.decode().strip()


@contextlib.asynccontextmanager
async def haproxy(directory: Path, *lines: str) -> AsyncIterator[Balancer]:
    """Run HAProxy, whose section `anytls` has these lines."""
    config = directory / "haproxy.cfg"
    # It inherits its listening socket, so that no other program can take the port.
    with socket.create_server((HOST, 0)) as listener:
        descriptor = listener.fileno()
        section = ["listen anytls", f"bind fd@{descriptor}", *lines]
        config.write_text(_SETTINGS.format(directory=directory) + "\n    ".join(section) + "\n", encoding="utf-8")
        # -db: in the foreground, one process.
        command: Sequence[str] = [str(_COMMAND), "-db", "-f", str(config)]
        run = partial(
            trio.run_process,
            command,
            pass_fds=[descriptor],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        async with trio.open_nursery() as nursery:
            process = await nursery.start(run)
            with trio.fail_after(10):
                # It opens the socket of its operators last.
                while not (directory / "haproxy.sock").exists():  # noqa: ASYNC110 - of another process
                    await trio.sleep(0.01)
            yield Balancer(listener.getsockname()[1], directory / "haproxy.sock")
            # HAProxy has kept its connections open.
            assert process.poll() is None
            nursery.cancel_scope.cancel()

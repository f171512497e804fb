"""The status and the log of a running client in tmux, a real terminal whose screen can be read."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from attrs import frozen

from ..conftest import HOST
from ..helpers.relay_processes import missing, served, succeeds

TMUX = shutil.which("tmux")
ROWS = ("server", "protocol", "connections", "streams", "up", "down", "round trip", "scheme")
DENIED = "the relay's policy forbids this destination"

pytestmark = missing(TMUX, "tmux")


@frozen
class Terminal:
    """A shell in a terminal of tmux.

    Attributes:
      directory: the directory of the socket of tmux, so that each test has its own tmux server.
    """

    directory: Path

    async def tmux(self, *arguments: object) -> str:
        environment = {**os.environ, "TMUX_TMPDIR": str(self.directory)}
        return (await succeeds("tmux", "-f", "/dev/null", *arguments, env=environment)).decode()

    async def screen(self, *options: str) -> list[str]:
        """Return all rows, including those that scrolled out, without empty rows at the end."""
        return (await self.tmux("capture-pane", "-p", "-S", "-", *options)).rstrip().splitlines()

    async def rows_with(self, text: str, count: int = 1) -> list[str]:
        """Wait until `text` is on the screen `count` times, and return the rows, with wrapped ones joined."""
        with trio.fail_after(30):
            while True:
                rows = await self.screen("-J")
                if "".join(row.strip() + " " for row in rows).count(text) >= count:
                    return rows
                await trio.sleep(0.05)

    async def type(self, line: str) -> None:
        await self.tmux("send-keys", "-l", line)
        await self.tmux("send-keys", "Enter")


@contextlib.asynccontextmanager
async def terminal(directory: Path, columns: int, rows: int) -> AsyncIterator[Terminal]:
    one = Terminal(directory)
    shell = "env -u PROMPT_COMMAND PS1='$ ' sh"
    await one.tmux("new-session", "-d", "-x", columns, "-y", rows, shell)
    try:
        yield one
    finally:
        with trio.CancelScope(shield=True):
            await one.tmux("kill-server")


async def request_denied_destination(socks: int, count: int) -> None:
    """Request a denied destination `count` times, which makes the client log a line each time."""
    for _ in range(count):
        async with await trio.open_tcp_stream(HOST, socks) as stream:
            await stream.send_all(b"\x05\x01\x00\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50")
            with contextlib.suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass


def client(uri: str, **variables: str) -> str:
    assigned = "".join(f"{name}={shlex.quote(value)} " for name, value in variables.items())
    command = [sys.executable, "-m", "trioanytls", "client", "--socks", f"{HOST}:0"]
    return f"clear; TRIOANYTLS_SERVER={shlex.quote(uri)} {assigned}{shlex.join(command)}; echo the client exited"


def port_in(rows: list[str]) -> int:
    [line] = [row for row in rows if row.startswith("SOCKS")]
    return int(line.rpartition(":")[2])


@pytest.mark.parametrize(("columns", "rows"), [(100, 30), (40, 10)])
@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}])
async def test_log_and_status_share_the_terminal(
    tmp_path: Path, columns: int, rows: int, variables: dict[str, str]
) -> None:
    async with served(tmp_path / "state") as (_, uri), terminal(tmp_path, columns, rows) as screen:
        await screen.type(client(uri, **variables))
        shown = await screen.rows_with("scheme       75cff2ad")
        assert [row[:13].strip() for row in shown[-len(ROWS) :]] == list(ROWS)
        await request_denied_destination(port_in(shown), 4)
        shown = await screen.rows_with(DENIED, 4)
        await screen.tmux("resize-window", "-x", 40, "-y", 10)
        await request_denied_destination(port_in(shown), 4)
        shown = await screen.rows_with(DENIED, 8)
        # No line of the log is lost, and the status is on the screen once, below the log.
        assert [row[:13].strip() for row in shown[-len(ROWS) :]] == list(ROWS)
        assert sum(row.startswith("server  ") for row in shown) == 1
        if variables:
            assert not re.search(r"\x1b\[[349][0-7]m", "".join(await screen.screen("-e")))
        await screen.tmux("send-keys", "C-c")
        shown = await screen.rows_with("the client exited")
        assert not [row for row in shown if row.startswith(tuple(f"{name} " for name in ROWS))]
        assert " ".join(row.strip() for row in shown).count(DENIED) == 8
        assert "Traceback" not in "".join(shown)
        # The cursor is visible again.
        assert (await screen.tmux("display-message", "-p", "#{cursor_flag}")).strip() == "1"


async def test_terminal_that_cannot_move_its_cursor(tmp_path: Path) -> None:
    async with served(tmp_path / "state") as (_, uri), terminal(tmp_path, 100, 30) as screen:
        await screen.type(client(uri, TERM="dumb"))
        await request_denied_destination(port_in(await screen.rows_with("SOCKS5 on 127.0.0.1:")), 2)
        await screen.rows_with(DENIED, 2)
        await screen.tmux("send-keys", "C-c")
        shown = await screen.rows_with("the client exited")
        assert not [row for row in shown if row.startswith("scheme ")]


async def test_log_in_a_file(tmp_path: Path) -> None:
    async with served(tmp_path / "state") as (_, uri), terminal(tmp_path, 100, 30) as screen:
        log = tmp_path / "log"
        await screen.type(client(uri).replace("; echo", f" 2> {shlex.quote(str(log))}; echo"))
        await request_denied_destination(port_in(await screen.rows_with("scheme       75cff2ad")), 3)
        await screen.tmux("send-keys", "C-c")
        await screen.rows_with("the client exited")
    lines = log.read_text().splitlines()
    assert len([line for line in lines if line.endswith(DENIED)]) == 3
    assert "\x1b" not in "".join(lines)

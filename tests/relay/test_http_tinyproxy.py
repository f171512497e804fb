"""The table of exchanges of `http_cases` through tinyproxy, which must differ as documented.

This shows which of the cases another proxy handles as well, and keeps the comparison in the documentation true.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from ..conftest import HOST
from ..helpers.http_cases import CASES, Case, run_case
from .test_http_docs import cases_of, rows

TINYPROXY = shutil.which("tinyproxy", path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin")))
pytestmark = pytest.mark.skipif(TINYPROXY is None, reason="tinyproxy is not installed: apt-get install tinyproxy-bin")

# The time for its start, and for each case, in seconds. A case that takes longer counts as a difference, so that the
# differing ones need no long timeout.
START_TIMEOUT = 30.0
CASE_TIMEOUT = 30.0
DIFFERENT_CASE_TIMEOUT = 2.0
# Their destinations are not on this machine.
NOT_RUN = {"connect-ipv6", "connect-to-nothing", "own-answer-to-head-403", "own-answer-to-head-502"}


@contextlib.asynccontextmanager
async def tinyproxy(directory: Path, *options: str) -> AsyncIterator[int]:
    """Run tinyproxy as a process until the end of the block, and yield its port."""
    with trio.socket.socket() as unused:
        await unused.bind((HOST, 0))
        port = unused.getsockname()[1]
    config = directory / f"tinyproxy-{port}.conf"
    lines = [f"Port {port}", f"Listen {HOST}", f"Allow {HOST}", "Timeout 60", "MaxClients 500", *options]
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    process = await trio.lowlevel.open_process(
        [str(TINYPROXY), "-d", "-c", str(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with trio.fail_after(START_TIMEOUT):
            await _wait_for(port, process)
        yield port
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def _wait_for(port: int, process: trio.Process) -> None:
    while True:
        try:
            async with await trio.open_tcp_stream(HOST, port):
                return
        except OSError:
            assert process.poll() is None, "tinyproxy has ended"
            await trio.sleep(0.02)


async def test_tinyproxy_differs_where_the_documentation_says_so(tmp_path: Path) -> None:
    version = await trio.run_process([str(TINYPROXY), "-v"], capture_stdout=True)
    if b"tinyproxy 1.11" not in version.stdout:
        pytest.skip(f"the documentation is on tinyproxy 1.11, and this is {version.stdout.decode().strip()}")
    documented = {name for row in rows("relay.md", "### Compared with tinyproxy") for name in cases_of(row[-1])}
    differences: dict[str, str] = {}

    async def run(case: Case, port: int) -> None:
        try:
            with trio.fail_after(DIFFERENT_CASE_TIMEOUT if case.name in documented else CASE_TIMEOUT):
                await run_case(case, port)
        except Exception as error:  # noqa: BLE001 - however it differs
            differences[case.name] = repr(error)

    async with (
        tinyproxy(tmp_path) as port,
        tinyproxy(tmp_path, "BasicAuth alice secret") as port_with_users,
        trio.open_nursery() as nursery,
    ):
        for case in CASES:
            if case.name not in NOT_RUN:
                nursery.start_soon(run, case, port_with_users if case.users else port)
    assert documented - set(differences) == set()
    assert {name: text for name, text in differences.items() if name not in documented} == {}

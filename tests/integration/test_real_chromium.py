"""Chromium loads a page of 100 pictures through the SOCKS proxy."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio
from PIL import Image

from ..conftest import HOST
from ..helpers.cli_process import Lines
from ..helpers.relay_processes import environment, missing, relaying, succeeds

PAGE = Path(__file__).parent.parent.parent / "docs" / "examples" / "hundred_tiles.py"
CHROMIUM = shutil.which("chromium")

pytestmark = [
    missing(CHROMIUM, "chromium"),
    pytest.mark.skipif(sys.platform == "win32", reason="needs signals as POSIX has them"),
]


@contextlib.asynccontextmanager
async def page() -> AsyncIterator[tuple[str, Lines]]:
    """Serve the page of the documentation, and yield its address and its server's output."""
    said = Lines()
    async with trio.open_nursery() as nursery:
        command = [sys.executable, str(PAGE), "0"]
        start = partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
        process = await nursery.start(start)
        nursery.start_soon(said.collect, process.stdout)
        yield await said.find("http://"), said
        nursery.cancel_scope.cancel()


async def test_a_page_of_a_hundred_pictures(tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    async with page() as (url, said), relaying(tmp_path / "state", "--verbose") as relay:
        proxy = f"socks5://{HOST}:{relay.socks}"
        await succeeds(
            CHROMIUM,
            "--headless",
            # Chromium needs this to run as root, and in containers.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path}/profile",
            f"--proxy-server={proxy}",
            # By default, Chromium uses no proxy for loopback. Update servers must be unreachable.
            "--proxy-bypass-list=<-loopback>;*.com",
            "--host-resolver-rules=MAP *.com ~NOTFOUND",
            "--window-size=700,790",
            f"--screenshot={picture}",
            f"{url}?{proxy}",
            env=environment(HOME=tmp_path),
        )
        # Counted by the page.
        await said.find("loaded: 100 of 100")
        [port] = re.findall(r":(\d+)/", url)
        # The server resolved the name, for several connections.
        relayed = [line for line in relay.server.err.lines if f"relaying to localhost:{port} from" in line]
        assert len(relayed) > 1
        assert not [line for line in relay.server.err.lines if "refused" in line]
    with Image.open(picture) as image:
        assert image.size == (700, 790)
        # One tile of each colour.
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 100

"""Requests of curl that once ended the whole client, with both ends as separate processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest
import trio

from ..conftest import HOST
from ..helpers.relay_processes import Answer, Request, listening, missing, origin, relaying, run, succeeds

CURL = shutil.which("curl")

pytestmark = [
    missing(CURL, "curl"),
    pytest.mark.skipif(sys.platform == "win32", reason="needs signals as POSIX has them"),
]

QUIET_CURL = [CURL, "--disable", "--no-progress-meter", "--show-error", "--noproxy", "", "--max-time", "30"]
CODE = ["--output", "/dev/null", "--write-out", "%{http_code}"]
CONTENT = os.urandom(4 << 20)
EARLY = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"


async def digest(request: Request) -> Answer:
    """Answer with the digest of the data sent, and with a Connection field that names framing fields."""
    return Answer(hashlib.sha256(request.body).hexdigest().encode(), 200, [("Connection", "content-length")])


async def answer_at_once(stream: trio.SocketStream) -> None:
    """Serve as a server that answers before it has read anything, and then reads."""
    with contextlib.suppress(trio.BrokenResourceError):
        await stream.send_all(EARLY)
        while await stream.receive_some():
            pass


async def test_no_request_ends_the_client(tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(CONTENT)
    upload = ["--data-binary", f"@{tmp_path}/content"]
    async with (
        origin(digest) as port,
        listening(answer_at_once) as early,
        relaying(tmp_path / "state") as relay,
        await trio.open_tcp_stream(HOST, relay.http) as another,
    ):
        curl = [*QUIET_CURL, "--proxy", f"http://{HOST}:{relay.http}"]
        # Another application, whose tunnel must survive all of this.
        await another.send_all(b"CONNECT %b:%d HTTP/1.1\r\nHost: x\r\n\r\n" % (HOST.encode(), port))
        assert (await another.receive_some()).startswith(b"HTTP/1.1 200 ")
        assert await succeeds(*curl, *CODE, "--head", "http://10.1.2.3/") == b"403"
        assert await succeeds(*curl, *CODE, "--head", f"http://{HOST}:1/") == b"502"
        for _ in range(20):
            done = await run(*curl, *CODE, "--header", "Expect: 100-continue", *upload, f"http://{HOST}:{early}/")
            assert done.stdout == b"413"
        for name in ("content-length", "host", "transfer-encoding"):
            named = ["--header", f"Connection: {name}"]
            url = f"http://{HOST}:{port}/"
            assert await succeeds(*curl, *named, *upload, url) == hashlib.sha256(CONTENT).hexdigest().encode()
        await another.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await another.receive_some()).startswith(b"HTTP/1.1 200 ")

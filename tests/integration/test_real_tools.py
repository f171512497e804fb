"""curl and git through the relay, with both ends as separate processes, as users run them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

import trioanytls

from ..conftest import HOST
from ..helpers.cli_process import TIMEOUT
from ..helpers.relay_processes import (
    Answer,
    Relaying,
    Request,
    environment,
    listening,
    missing,
    origin,
    relaying,
    run,
    served,
    succeeds,
)

CURL = shutil.which("curl")
GIT = shutil.which("git")

pytestmark = [
    missing(CURL, "curl"),
    pytest.mark.skipif(sys.platform == "win32", reason="needs signals as POSIX has them"),
]

# Without the settings of the user who runs the tests.
QUIET_CURL = [CURL, "--disable", "--no-progress-meter", "--show-error", "--noproxy", ""]
CONTENT = os.urandom(8 << 20)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def ways(relay: Relaying) -> dict[str, list[str]]:
    """Return the options of curl for each way through the client."""
    socks, http = f"{HOST}:{relay.socks}", f"http://{HOST}:{relay.http}"
    return {
        "SOCKS": ["--socks5-hostname", socks],
        "HTTP": ["--proxy", http],
        "CONNECT": ["--proxy", http, "--proxytunnel"],
    }


async def answer(request: Request) -> Answer:
    """Serve a large file, a small one for each number, and the digest of posted data."""
    if request.method == "POST":
        return Answer(hashlib.sha256(request.body).hexdigest().encode())
    if request.target == "/large":
        return Answer(CONTENT)
    return Answer(request.target.encode() * 1000)


@pytest.mark.parametrize("way", ["SOCKS", "HTTP", "CONNECT"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_curl_gets_and_sends_files_whole(
    authority: trustme.CA, server_context: ssl.SSLContext, tmp_path: Path, way: str, scheme: str
) -> None:
    (tmp_path / "large").write_bytes(CONTENT)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    tls = server_context if scheme == "https" else None
    async with origin(answer, tls) as port, relaying(tmp_path / "state") as relay:
        # The server resolves this name.
        base = f"{scheme}://localhost:{port}"
        curl = [*QUIET_CURL, "--cacert", tmp_path / "authority.pem", "--fail", *ways(relay)[way]]
        await succeeds(*curl, "--output", tmp_path / "got", f"{base}/large")
        assert hashlib.sha256((tmp_path / "got").read_bytes()).hexdigest() == DIGEST
        assert await succeeds(*curl, "--data-binary", f"@{tmp_path}/large", f"{base}/digest") == DIGEST.encode()
        # And a hundred, several at the same time.
        await succeeds(*curl, "--parallel", "--output", tmp_path / "small-#1", f"{base}/[1-100]")
        assert [(tmp_path / f"small-{number}").read_text() for number in range(1, 101)] == [
            f"/{number}" * 1000 for number in range(1, 101)
        ]


async def test_names_are_resolved_by_the_server_if_curl_sends_them(tmp_path: Path) -> None:
    async with origin(answer) as port, relaying(tmp_path, "--verbose") as relay:
        url = f"http://localhost:{port}/"
        socks = f"{HOST}:{relay.socks}"
        for option, named in (("--socks5-hostname", "localhost"), ("--socks5", HOST)):
            said = len(relay.server.err.lines)
            await succeeds(*QUIET_CURL, "--ipv4", option, socks, url)
            await relay.server.err.find(f"relaying to {named}:{port} ", after=said)


async def test_a_password_for_applications(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.write_text("alice:open sesame\n")
    options = ["--proxy-auth-file", credentials]
    async with origin(answer) as port, relaying(tmp_path / "state", client_options=options) as relay:
        url = f"http://{HOST}:{port}/1"
        for name, said in (("SOCKS", ""), ("HTTP", "%{http_code}"), ("CONNECT", "%{http_connect}")):
            curl = [*QUIET_CURL, *ways(relay)[name]]
            assert await succeeds(*curl, "--proxy-user", "alice:open sesame", url) == b"/1" * 1000
            for wrong in (["--proxy-user", "alice:wrong"], []):
                done = await run(*curl, *wrong, "--write-out", said, "--output", os.devnull, url)
                assert (done.returncode == 97) if name == "SOCKS" else (done.stdout == b"407")


# Unreachable destinations


@contextlib.contextmanager
def refusing() -> Iterator[int]:
    """Reserve a port on which no program listens."""
    with socket.socket() as unused:
        unused.bind((HOST, 0))
        yield unused.getsockname()[1]


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """Yield a port that does not answer: its queue is full, so that the system drops further connections."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind((HOST, 0))
        listener.listen(0)
        for _ in range(4):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what a full queue does is up to the system")
async def test_each_failure_has_its_reply_and_its_status(tmp_path: Path) -> None:
    with refusing() as refused, silent() as never:
        # The destination, the codes of SOCKS and HTTP, and the server's log message.
        cases = [
            (f"{HOST}:{refused}", 5, 502, "Connection refused"),
            ("no-such-name.invalid:80", 4, 502, "the name cannot be resolved"),
            (f"{HOST}:{never}", 6, 504, "did not answer within 1 s"),
            ("10.1.2.3:80", 2, 403, "is a private address"),
        ]
        async with relaying(tmp_path, "--connect-timeout", "1") as relay, trio.open_nursery() as nursery:
            for target, reply, status, text in cases:
                nursery.start_soon(fails, relay, target, reply, status)
                nursery.start_soon(
                    relay.server.err.find, lambda line, target=target, text=text: target in line and text in line
                )


async def fails(relay: Relaying, target: str, reply: int, status: int) -> None:
    by = ways(relay)
    url = f"http://{target}/"
    # All at the same time, since some of them take a second.
    done: dict[str, subprocess.CompletedProcess[bytes]] = {}

    async def curl(name: str, *options: str) -> None:
        done[name] = await run(*QUIET_CURL, *options, *by[name], url)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(curl, "SOCKS")
        nursery.start_soon(curl, "HTTP", "--write-out", "%{http_code}", "--output", os.devnull)
        nursery.start_soon(curl, "CONNECT", "--write-out", "%{http_connect}")
    # "Can't complete SOCKS5 connection to ... (5)", with other words in other versions.
    assert done["SOCKS"].returncode == 97
    assert re.search(rf"SOCKS5 connection to .*\({reply}\)", done["SOCKS"].stderr.decode())
    assert (done["HTTP"].returncode, done["HTTP"].stdout) == (0, b"%d" % status)
    assert (done["CONNECT"].returncode, done["CONNECT"].stdout) == (56, b"%d" % status)


# A server that is restarted


@contextlib.asynccontextmanager
async def endless(head: bytes) -> AsyncIterator[int]:
    """Serve as a web server that never finishes its answer."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        # Enough to flush all buffers on the way.
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(head + bytes(1 << 20))
            await trio.sleep_forever()

    async with listening(serve) as port:
        yield port


HEADS = {
    "with a length": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
    "to the end of the connection": b"HTTP/1.1 200 OK\r\n\r\n",
    "in chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3000000\r\n",
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
async def test_a_server_that_is_killed_in_mid_transfer_and_comes_back(tmp_path: Path, head: bytes) -> None:
    async with endless(head) as far, origin(answer) as port, relaying(tmp_path, forwards=[far]) as relay:
        codes: dict[str, int] = {}

        async def fetch(name: str, *options: str, to: int = far, task_status: trio.TaskStatus[None]) -> None:
            command = [*QUIET_CURL, "--no-buffer", *options, f"http://{HOST}:{to}/"]
            async with trio.open_nursery() as nursery:
                start = partial(
                    trio.run_process,
                    command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    check=False,
                    env=environment(),
                )
                process = await nursery.start(start)
                assert await process.stdout.receive_some()
                task_status.started()
                async for _ in process.stdout:
                    pass
            codes[name] = process.returncode

        with trio.fail_after(TIMEOUT):
            async with trio.open_nursery() as nursery:
                for name, options in ways(relay).items():
                    await nursery.start(partial(fetch, name, *options))
                # HTTP/1.0 has no chunks: an answer without a length ends with the connection.
                await nursery.start(partial(fetch, "HTTP/1.0", "--http1.0", *ways(relay)["HTTP"]))
                await nursery.start(partial(fetch, "SOCKS4", "--socks4", f"{HOST}:{relay.socks}"))
                await nursery.start(partial(fetch, "forward", to=relay.forwards[0]))
                relay.server.signal(signal.SIGKILL)
        # Each of them reports an incomplete answer: "partial file", or "failure in receiving".
        assert {name: code for name, code in codes.items() if code not in (18, 56)} == {}

        uri = relay.uri
        server_port = trioanytls.parse_uri(uri).port
        async with served(tmp_path, port=server_port) as (again, same):
            assert same == uri
            async with trio.open_nursery() as nursery:
                for options in ways(relay).values():
                    # The first attempt of each.
                    nursery.start_soon(partial(succeeds, *QUIET_CURL, "--fail", *options, f"http://{HOST}:{port}/1"))
            assert again.running


# git


@pytest.mark.skipif(GIT is None, reason="git is not installed: apt-get install git")
@pytest.mark.parametrize("way", ["HTTP", "SOCKS"])
async def test_git_clones_and_pushes(tmp_path: Path, way: str) -> None:
    source = tmp_path / "source"
    settings = {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.com",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.com",
        "GIT_TERMINAL_PROMPT": "0",
    }
    env = environment(**settings)

    async def git(*arguments: object) -> bytes:
        return await succeeds(GIT, *arguments, env=env)

    async def backend(request: Request) -> Answer:
        """Return the path of git-http-backend, a CGI program."""
        path, _, query = request.target.partition("?")
        variables = environment(
            **settings,
            GIT_PROJECT_ROOT=tmp_path,
            GIT_HTTP_EXPORT_ALL="",
            PATH_INFO=path,
            QUERY_STRING=query,
            REQUEST_METHOD=request.method,
            REMOTE_USER="alice",
            CONTENT_TYPE=request.headers.get("content-type", ""),
            CONTENT_LENGTH=len(request.body),
            HTTP_CONTENT_ENCODING=request.headers.get("content-encoding", ""),
            GIT_PROTOCOL=request.headers.get("git-protocol", ""),
        )
        said = await succeeds(GIT, "http-backend", stdin=request.body, env=variables)
        head, _, body = said.partition(b"\r\n\r\n")
        lines = [line.partition(": ") for line in head.decode().split("\r\n")]
        headers = [(name, value) for name, _, value in lines]
        status = dict(headers).pop("Status", "200 OK")
        return Answer(body, int(status.split()[0]), [one for one in headers if one[0] != "Status"])

    await git("init", "--quiet", "--initial-branch=main", source)
    (source / "large").write_bytes(CONTENT)
    (source / "small").write_text("hello\n")
    await git("-C", source, "add", ".")
    await git("-C", source, "commit", "--quiet", "--message=first")
    await git("clone", "--quiet", "--bare", source, tmp_path / "bare.git")
    async with origin(backend) as port, relaying(tmp_path / "state") as relay:
        proxy = f"http://{HOST}:{relay.http}" if way == "HTTP" else f"socks5h://{HOST}:{relay.socks}"
        copy = tmp_path / "copy"
        await git("-c", f"http.proxy={proxy}", "clone", "--quiet", f"http://localhost:{port}/bare.git", copy)
        assert (copy / "large").read_bytes() == CONTENT
        assert (copy / "small").read_text() == "hello\n"
        # More than git sends in one piece with a known length.
        (copy / "more").write_bytes(CONTENT[::-1])
        await git("-C", copy, "add", ".")
        await git("-C", copy, "commit", "--quiet", "--message=second")
        await git("-C", copy, "-c", f"http.proxy={proxy}", "push", "--quiet")
        assert await git("-C", tmp_path / "bare.git", "rev-parse", "main") == await git("-C", copy, "rev-parse", "HEAD")

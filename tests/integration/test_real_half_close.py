"""Programs that end their sending and wait for the answer, through both ends of the relay as separate processes."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import trio

from ..conftest import HOST
from ..helpers.relay_processes import Relaying, environment, listening, missing, relaying, run, succeeds

GIT = shutil.which("git")
NC = shutil.which("nc")
RSYNC = shutil.which("rsync")
SSH = shutil.which("ssh")
SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs signals as POSIX has them")

CONTENT = os.urandom(4 << 20)
DIGEST = hashlib.sha256(CONTENT).hexdigest().encode()


async def digest(stream: trio.SocketStream) -> None:
    """Receive to the end, answer with the digest, and then with a large text."""
    # A program that is killed breaks its connection.
    with contextlib.suppress(trio.BrokenResourceError):
        found = hashlib.sha256()
        async for piece in stream:
            found.update(piece)
        await stream.send_all(found.hexdigest().encode() + bytes(1 << 20))


@contextlib.asynccontextmanager
async def inetd(*command: object, **variables: object) -> AsyncIterator[int]:
    """Run a program for each connection to the port that is yielded, with the connection as its input and output."""

    async def serve(stream: trio.SocketStream) -> None:
        connection = stream.socket.fileno()
        os.set_blocking(connection, True)
        await trio.run_process(
            list(map(str, command)),
            stdin=connection,
            stdout=connection,
            stderr=subprocess.DEVNULL,
            check=False,
            env=environment(**variables),
        )

    async with listening(serve) as port:
        yield port


# nc


def _has_n() -> bool:
    """Return whether nc ends its sending after its input: that of OpenBSD does."""
    return NC is not None and b"-N\t" in subprocess.run([NC, "-h"], capture_output=True, check=False).stderr


def ways(relay: Relaying, port: int) -> dict[str, list[object]]:
    """Return the arguments of nc for each way through the client."""
    return {
        "forward": [HOST, relay.forwards[0]],
        "SOCKS4": ["-X", "4", "-x", f"{HOST}:{relay.socks}", HOST, port],
        "SOCKS5": ["-X", "5", "-x", f"{HOST}:{relay.socks}", HOST, port],
        "CONNECT": ["-X", "connect", "-x", f"{HOST}:{relay.http}", HOST, port],
    }


@pytest.mark.skipif(not _has_n(), reason="nc with -N is not installed: apt-get install netcat-openbsd")
async def test_nc_gets_the_whole_answer_to_its_whole_input(tmp_path: Path) -> None:
    async with listening(digest) as port, relaying(tmp_path, forwards=[port]) as relay:
        for name, arguments in ways(relay, port).items():
            answer = await succeeds(NC, "-N", *arguments, stdin=CONTENT)
            assert answer == DIGEST + bytes(1 << 20), name


# HTTP/1.0


@pytest.mark.parametrize("way", ["forward", "HTTP"])
async def test_a_client_of_http_1_0_that_ends_its_sending(tmp_path: Path, way: str) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        request = b"".join([bytes(piece) async for piece in stream])
        # This server answers once its client has ended its sending.
        assert request.endswith(b"\r\n\r\n")
        await stream.send_all(b"HTTP/1.0 200 OK\r\n\r\n" + CONTENT)

    async with listening(serve) as port, relaying(tmp_path, forwards=[port]) as relay:
        door, target = (relay.forwards[0], "/") if way == "forward" else (relay.http, f"http://{HOST}:{port}/")
        async with await trio.open_tcp_stream(HOST, door) as stream:
            await stream.send_all(f"GET {target} HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode())
            await stream.send_eof()
            with trio.fail_after(30):
                answer = b"".join([bytes(piece) async for piece in stream])
    assert answer.partition(b"\r\n\r\n")[2] == CONTENT


# Without extensions


@pytest.mark.parametrize("end", ["server", "client"])
async def test_an_end_without_extensions_withholds_the_end(tmp_path: Path, end: str) -> None:
    withheld = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        assert await stream.receive_some() == b"the request"
        with trio.move_on_after(0.5) as waiting:
            await stream.receive_some()
        assert waiting.cancelled_caught
        withheld.set()
        await stream.send_all(CONTENT)

    none = ("--extensions", "none")
    server, client = (none, ()) if end == "server" else ((), none)
    async with (
        listening(serve) as port,
        relaying(tmp_path, *server, forwards=[port], client_options=client) as relay,
        await trio.open_tcp_stream(HOST, relay.forwards[0]) as stream,
    ):
        await stream.send_all(b"the request")
        await stream.send_eof()
        with trio.fail_after(30):
            assert b"".join([bytes(piece) async for piece in stream]) == CONTENT
    assert withheld.is_set()


# rsync


@missing(RSYNC, "rsync")
async def test_rsync_over_a_forward(tmp_path: Path) -> None:
    for name in ("source", "there", "back"):
        (tmp_path / name).mkdir()
    (tmp_path / "source" / "large").write_bytes(CONTENT)
    for number in range(50):
        (tmp_path / "source" / f"small-{number}").write_text(f"{number}\n" * number)
    # As root, the daemon would be another user, who cannot write here.
    user = "uid = root\ngid = root\n" if os.geteuid() == 0 else ""
    module = f"[there]\npath = {tmp_path}/there\nread only = no\n"
    (tmp_path / "rsyncd.conf").write_text(f"use chroot = no\n{user}{module}")
    daemon = inetd(RSYNC, "--daemon", f"--config={tmp_path}/rsyncd.conf")
    async with daemon as port, relaying(tmp_path / "state", forwards=[port]) as relay:
        there = f"rsync://{HOST}:{relay.forwards[0]}/there/"
        await succeeds(RSYNC, "--archive", "--checksum", f"{tmp_path}/source/", there)
        await succeeds(RSYNC, "--archive", "--checksum", there, f"{tmp_path}/back/")
    for path in (tmp_path / "source").iterdir():
        assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()


# git

GIT_SETTINGS = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.com",
    "GIT_TERMINAL_PROMPT": "0",
}


async def git(*arguments: object, **variables: object) -> bytes:
    return await succeeds(GIT, *arguments, env=environment(**GIT_SETTINGS, **variables))


async def make_repository(directory: Path) -> Path:
    """Make a bare repository with a large file."""
    source = directory / "source"
    await git("init", "--quiet", "--initial-branch=main", source)
    (source / "large").write_bytes(CONTENT)
    await git("-C", source, "add", ".")
    await git("-C", source, "commit", "--quiet", "--message=first")
    await git("clone", "--quiet", "--bare", source, directory / "bare.git")
    return directory / "bare.git"


@missing(GIT, "git")
async def test_git_clones_from_its_daemon_over_a_forward(tmp_path: Path) -> None:
    await make_repository(tmp_path)
    daemon = inetd(GIT, "daemon", "--inetd", "--export-all", f"--base-path={tmp_path}", **GIT_SETTINGS)
    async with daemon as port, relaying(tmp_path / "state", forwards=[port]) as relay:
        await git("clone", "--quiet", f"git://{HOST}:{relay.forwards[0]}/bare.git", tmp_path / "copy")
    assert (tmp_path / "copy" / "large").read_bytes() == CONTENT


def sshd(directory: Path) -> Sequence[object]:
    """Return the command of an sshd with temporary keys, for one connection."""
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    shutil.copy(directory / "user.pub", directory / "authorized")
    lines = [
        f"HostKey {directory}/host",
        f"AuthorizedKeysFile {directory}/authorized",
        *("PasswordAuthentication no", "KbdInteractiveAuthentication no", "UsePAM no", "StrictModes no"),
        *("PermitRootLogin prohibit-password", "UseDNS no"),
    ]
    (directory / "sshd_config").write_text("\n".join(lines) + "\n")
    command = [str(SSHD), "-i", "-f", f"{directory}/sshd_config"]
    if os.geteuid() != 0 or Path("/run/sshd").is_dir():
        return command
    # As root, sshd needs this directory of the system. It gets a private one.
    prepare = "mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec " + shlex.join(command)
    return ["unshare", "--mount", "sh", "-c", prepare]


def _can_mount() -> bool:
    """Return whether sshd can get its directory."""
    if os.geteuid() != 0 or Path("/run/sshd").is_dir():
        return True
    unshare = shutil.which("unshare")
    return unshare is not None and subprocess.run([unshare, "--mount", "true"], check=False).returncode == 0


@missing(GIT, "git")
@missing(SSH, "openssh-client")
@missing(SSHD, "openssh-server")
@pytest.mark.skipif(SSHD is not None and not _can_mount(), reason="sshd needs /run/sshd, or mount namespaces")
async def test_git_upload_pack_over_ssh_over_a_forward(tmp_path: Path) -> None:
    repository = await make_repository(tmp_path)
    async with inetd(*sshd(tmp_path)) as port, relaying(tmp_path / "state", forwards=[port]) as relay:
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": os.devnull,
            "IdentitiesOnly": "yes",
        }
        command = [str(SSH), "-F", "none", *(f"-o{name}={value}" for name, value in options.items())]
        command += ["-i", f"{tmp_path}/user"]
        url = f"ssh://{getpass.getuser()}@{HOST}:{relay.forwards[0]}{repository}"
        await git("clone", "--quiet", url, tmp_path / "copy", GIT_SSH_COMMAND=shlex.join(command))
        # The same program, whose input ends before its answer has begun.
        destination = ["-p", str(relay.forwards[0]), f"{getpass.getuser()}@{HOST}"]
        done = await run(*command, *destination, f"git-upload-pack {repository}", stdin=b"0000")
        assert (done.returncode, done.stdout[-4:]) == (0, b"0000"), done.stderr
    assert (tmp_path / "copy" / "large").read_bytes() == CONTENT

"""psql and a real PostgreSQL, connected through `--forward`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio
from attrs import frozen

from ..conftest import HOST
from ..helpers.cli_process import Lines
from ..helpers.relay_processes import environment, missing, relaying, run, succeeds

pwd = pytest.importorskip("pwd", reason="needs users as POSIX has them")

PSQL = shutil.which("psql")
# Debian installs the server's programs in a directory of their version, off the path.
VERSIONS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
SEARCHED = os.pathsep.join([*map(str, VERSIONS), os.environ.get("PATH", os.defpath)])
INITDB = shutil.which("initdb", path=SEARCHED)
POSTGRES = shutil.which("postgres", path=SEARCHED)


def other_user() -> str | None:
    """Return the user to run the server as, None for the current one. PostgreSQL refuses to run as root."""
    return "postgres" if os.getuid() == 0 else None


def has_user() -> bool:
    with contextlib.suppress(KeyError):
        return other_user() is None or bool(pwd.getpwnam(other_user()))
    return False


pytestmark = [
    missing(PSQL and INITDB and POSTGRES, "postgresql"),
    pytest.mark.skipif(not has_user(), reason="PostgreSQL does not run as root, and has no user of its own"),
]


@frozen
class Database:
    """A running server.

    Attributes:
      port: its port on loopback.
      password: the password of its user `postgres`.
    """

    port: int
    password: str


@contextlib.asynccontextmanager
async def postgresql() -> AsyncIterator[Database]:
    password = secrets.token_urlsafe()
    # Not in pytest's directory, which is private to the current user.
    with tempfile.TemporaryDirectory(prefix="postgresql-") as name:
        directory = Path(name)
        (directory / "password").write_text(password)
        user = other_user()
        as_user: dict[str, object] = {"cwd": directory, "env": environment(LC_ALL="C")}
        if user is not None:
            as_user |= {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
            for path in (directory, directory / "password"):
                shutil.chown(path, user)
        data = directory / "data"
        # Other users of this machine can connect to it as well.
        safe = ["--auth=scram-sha-256", f"--pwfile={directory}/password", "--username=postgres"]
        await succeeds(INITDB, f"--pgdata={data}", "--encoding=UTF8", "--locale=C", "--no-sync", *safe, **as_user)
        while True:
            # PostgreSQL does not choose a port itself, so another program may take it first.
            with socket.socket() as free:
                free.bind((HOST, 0))
                port = free.getsockname()[1]
            async with started(data, port, as_user) as ready:
                if ready:
                    yield Database(port, password)
                    return


@contextlib.asynccontextmanager
async def started(data: Path, port: int, as_user: dict[str, object]) -> AsyncIterator[bool]:
    """Run the server until the end of the block. Yield whether it has started."""
    settings = {
        "listen_addresses": HOST,
        "port": port,
        "unix_socket_directories": data.parent,
        "fsync": "off",
        "max_connections": 20,
    }
    command = [str(POSTGRES), "-D", str(data)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    said = Lines()
    async with trio.open_nursery() as nursery:
        start = partial(
            trio.run_process,
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
            # An orderly shutdown ends all its processes and frees its shared memory.
            deliver_cancel=stop,
            **as_user,
        )
        process = await nursery.start(start)
        nursery.start_soon(said.collect, process.stderr)
        line = await said.find(lambda line: "ready to accept connections" in line or "FATAL" in line)
        assert "FATAL" not in line or "could not create any TCP/IP sockets" in line, said.lines
        yield "FATAL" not in line
        nursery.cancel_scope.cancel()


async def stop(process: trio.Process) -> None:
    process.send_signal(signal.SIGINT)
    with trio.move_on_after(10):
        await trio.sleep_forever()
    process.kill()


async def test_a_query_and_copies_both_ways(tmp_path: Path) -> None:
    async with postgresql() as database, relaying(tmp_path / "state", forwards=[database.port]) as relay:
        env = environment(PGPASSWORD=database.password, PSQL_HISTORY=os.devnull, PGCONNECT_TIMEOUT=20)
        to = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]
        to += ["--host", HOST, "--port", str(relay.forwards[0]), "--username", "postgres"]

        async def psql(*commands: str) -> bytes:
            return await succeeds(PSQL, *to, *(f"--command={command}" for command in commands), env=env)

        # 13 MB from a question of a line.
        sums = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(200_000)]
        query = (
            "select encode(sha256(number::text::bytea), 'hex') from generate_series(0, 199999) number order by number"
        )
        assert (await psql(query)).decode().split() == sums

        source, copy = tmp_path / "source", tmp_path / "copy"
        source.write_text("".join(f"{number}\t{one}\n" for number, one in enumerate(sums)))
        await psql(
            "create table sums (number integer primary key, sum text)",
            rf"\copy sums from '{source}'",
            rf"\copy (select * from sums order by number) to '{copy}'",
        )
        assert copy.read_bytes() == source.read_bytes()
        assert await psql("select count(*), sum(length(sum)) from sums") == b"200000|12800000\n"

        # An error of the server is shown with its text.
        done = await run(PSQL, *to, "--command=select 1 / 0", env=env)
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"division by zero" in done.stderr

"""Run the relay under the load of a typical user, and kill its server several times.

    python -m benchmarks.relay_soak [--minutes M] [--kills N] [--outage SECONDS] [--without NAME ...] [--json]

Server and client are separate processes. For M minutes (10), these loads run through the client at the same time:

- `chromium`: loads a page with 100 pictures again and again, through SOCKS5;
- `ssh`: a session through a forward that is silent between two kills, and answers a line before the next kill;
- `git`: a clone through the HTTP proxy, every minute;
- `udp`: 50 queries a second through a UDP forward;
- `probe`: a new connection through SOCKS5 every 0.1 s, with a line that must be echoed.

The server is killed N times (3) by SIGKILL, and restarted after some seconds (2). An operation that fails is a
*failure* unless it ran during an outage or began less than a second after its end. Recovery is measured for the probes
that wait for the server's return, or begin in the two seconds after it: the time to their answer, from the return or
the start of the probe. For UDP, it is the time from the return to the first query sent after it that is answered.

The system is not changed: sshd uses a temporary host key, port and user key. It needs Linux, for /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import itertools
import json
import math
import os
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trio
from attrs import asdict, define, field
from rich.console import Console
from rich.table import Table

from .relay_memory import HOST, MIB, PATIENCE, Process

LOADS = ("chromium", "ssh", "git", "udp", "probe")
PICTURES = 100
# How long after the server's return an operation may still fail, in seconds: the claim to be verified.
GRACE = 1.0
# Probes that begin within this time after the return count for the recovery, in seconds.
WATCHED = 2.0
PROBE_INTERVAL = 0.1
# The length of a probe's data, in bytes.
LINE = 16
UDP_INTERVAL = 0.02
# How long an operation may take, in seconds.
PROBE_TIMEOUT = 12.0
UDP_TIMEOUT = 2.0
PAGE_TIMEOUT = 15.0
TOOL_TIMEOUT = 45.0


@define
class Outage:
    """The time without a server, by Trio's clock."""

    killed: float
    returned: float = math.inf


@define
class Record:
    """All results.

    Attributes:
      succeeded: how many operations of each load.
      excused: how many operations of each load failed because of an outage.
      failures: all other failed operations, with their load and reason.
      waits: for each outage, the time to the answer of each probe that counts for the recovery.
      first_answers: for each outage, the time from the return to the first new answer by UDP.
      idle: seconds for which an SSH session was silent, and whether it lived.
      memory: resident memory of a process, with its name and the time.
    """

    outages: list[Outage] = field(factory=list)
    succeeded: Counter[str] = field(factory=Counter)
    excused: Counter[str] = field(factory=Counter)
    failures: list[tuple[str, float, str]] = field(factory=list)
    waits: list[list[float]] = field(factory=list)
    first_answers: list[float] = field(factory=list)
    idle: list[tuple[float, bool]] = field(factory=list)
    memory: list[tuple[str, str, int]] = field(factory=list)

    def is_excused(self, began: float, ended: float) -> bool:
        """Return whether an operation ran during an outage, or began right after one."""
        return any(ended >= one.killed and began <= one.returned + GRACE for one in self.outages)

    def begin_outage(self, now: float) -> None:
        self.outages.append(Outage(now))
        self.waits.append([])
        self.first_answers.append(math.inf)

    def succeed(self, load: str, began: float, ended: float) -> None:
        """Count a successful operation."""
        self.succeeded[load] += 1
        for number, one in enumerate(self.outages):
            if load == "probe" and ended >= one.returned and one.killed <= began <= one.returned + WATCHED:
                self.waits[number].append(ended - max(began, one.returned))
            if load == "udp" and began >= one.returned:
                self.first_answers[number] = min(self.first_answers[number], ended - one.returned)

    def fail(self, load: str, began: float, ended: float, reason: str) -> None:
        """Count a failed operation."""
        if self.is_excused(began, ended):
            self.excused[load] += 1
        else:
            self.failures.append((load, ended, reason))

    @property
    def passed(self) -> bool:
        """Whether there was no failure, each recovery took at most a second, and each SSH session survived."""
        recovered = all(waits and max(waits) <= GRACE for waits in self.waits)
        answered = all(first <= GRACE for first in self.first_answers) or not self.succeeded["udp"]
        return not self.failures and recovered and answered and all(lived for _, lived in self.idle)


def note_memory(record: Record, moment: str, *processes: Process) -> None:
    record.memory += [(one.name, moment, one.resident) for one in processes]


# Processes


@contextlib.asynccontextmanager
async def running(command: Sequence[object], **options: Any) -> AsyncIterator[trio.Process]:
    """Run a program. At the end, kill it and the processes that it has started."""
    process = await trio.lowlevel.open_process(list(map(str, command)), start_new_session=True, **options)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    await stream.aclose()


@contextlib.asynccontextmanager
async def relay_end(
    says: list[str], log: Path, *arguments: object, uri: str = ""
) -> AsyncIterator[tuple[trio.Process, list[str]]]:
    """Run `trioanytls` with these arguments, and yield the lines that contain each of `says`, in that order."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRIOANYTLS_")}
    if uri:
        environment["TRIOANYTLS_SERVER"] = uri
    with log.open("ab") as errors:
        command = [sys.executable, "-m", "trioanytls", *arguments]
        async with running(command, stdout=subprocess.PIPE, stderr=errors, env=environment) as process:
            assert process.stdout is not None
            said = ""
            with trio.fail_after(PATIENCE):
                while not said.endswith("\n") or not all(one in said for one in says):
                    data = await process.stdout.receive_some()
                    if not data:
                        raise SystemExit(f"trioanytls {arguments[0]} ended at its start: see {log}")
                    said += data.decode()
            lines = said.splitlines()
            yield process, [next(line for line in lines if one in line) for one in says]


def environment() -> dict[str, str]:
    """Return the environment, without the proxies of the user."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


async def run_tool(command: list[object], **options: Any) -> None:
    """Run a program to its end.

    Raises:
      OSError: its exit code is not 0, or it takes too long.
    """
    with trio.move_on_after(TOOL_TIMEOUT):
        done = await trio.run_process(
            list(map(str, command)), check=False, capture_stdout=True, capture_stderr=True, **options
        )
        if done.returncode:
            raise OSError(f"{command[0]}: exit code {done.returncode}: {done.stderr.decode(errors='replace')[-300:]}")
        return
    raise OSError(f"{command[0]} takes longer than {TOOL_TIMEOUT:g} s")


# Destinations


async def echo_once(stream: trio.SocketStream) -> None:
    """Echo one line, and close.

    The destination closes first. The client cannot distinguish an application that closes from one that only ends its
    sending, and keeps its stream for a while (docs/relay.md, "Limits"). Ten such streams a second would be too many.
    """
    said = b""
    with contextlib.suppress(trio.BrokenResourceError):
        async with stream:
            while len(said) < LINE and (data := await stream.receive_some()):
                said += data
            await stream.send_all(said)


async def echo_datagrams(local: trio.socket.SocketType) -> None:
    while True:
        data, sender = await local.recvfrom(2048)
        await local.sendto(data, sender)


FRAME = """<!doctype html><meta charset="utf-8"><title>page</title><script>
const failed = [], round = location.search.slice(1);
let left = %(pictures)d;
const done = () => { if (!--left) parent.postMessage({round, failed: failed.length}, "*"); };
for (let number = 0; number < %(pictures)d; number++) {
  const picture = new Image();
  picture.onload = done;
  picture.onerror = () => { failed.push(number); done(); };
  picture.src = "/picture/" + number + ".svg?" + round;
  document.head.append(picture);
}
</script>"""

# The page itself stays. It reloads a frame repeatedly.
PAGE = """<!doctype html><meta charset="utf-8"><title>soak</title><link rel="icon" href="data:,"><script>
const sleep = (ms) => new Promise(resolve => setTimeout(resolve, ms));
async function load(round) {
  const frame = document.createElement("iframe"), began = Date.now();
  let listener;
  const failed = await Promise.race([
    new Promise(resolve => {
      listener = event => { if (event.data.round === String(round)) resolve(event.data.failed); };
      addEventListener("message", listener);
      frame.src = "/frame?" + round;
      document.body.append(frame);
    }),
    sleep(%(timeout)d).then(() => %(pictures)d)]);
  removeEventListener("message", listener);
  frame.remove();
  return [began, Date.now(), failed];
}
async function soak() {
  for (let round = 0;; round++) {
    const [began, ended, failed] = await load(round);
    for (;;) {
      try { await fetch(`/report?began=${began}&ended=${ended}&failed=${failed}`); break; }
      catch (error) { await sleep(200); }
    }
    await sleep(300);
  }
}
addEventListener("load", soak);
</script><body></body>"""

PICTURE = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20"><rect width="20" height="20" fill="#469"/></svg>'
)


@define
class Origin:
    """A web server: the page, its pictures, and the files of a repository.

    Attributes:
      files: the directory of the repository.
      report: called after each load of the page with its start and end by the browser's clock, in seconds, and the
        number of pictures that failed.
    """

    files: Path
    report: Callable[[float, float, int], None]

    async def __call__(self, stream: trio.SocketStream) -> None:
        """Serve a connection, one GET after the other."""
        buffer = b""
        with contextlib.suppress(trio.BrokenResourceError):
            async with stream:
                while True:
                    while b"\r\n\r\n" not in buffer:
                        data = await stream.receive_some()
                        if not data:
                            return
                        buffer += data
                    head, _, buffer = buffer.partition(b"\r\n\r\n")
                    status, kind, body = self.answer(head.split()[1].decode())
                    fields = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nCache-Control: no-store"
                    await stream.send_all(f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n".encode() + body)

    def answer(self, target: str) -> tuple[str, str, bytes]:
        """Return status, type and content."""
        address = urlsplit(target)
        values = {"pictures": PICTURES, "timeout": PAGE_TIMEOUT * 1000}
        if address.path == "/":
            return "200 OK", "text/html", (PAGE % values).encode()
        if address.path == "/frame":
            return "200 OK", "text/html", (FRAME % values).encode()
        if address.path.startswith("/picture/"):
            return "200 OK", "image/svg+xml", PICTURE
        if address.path == "/report":
            given = {name: int(value[0]) for name, value in parse_qs(address.query).items()}
            self.report(given["began"] / 1000, given["ended"] / 1000, given["failed"])
            return "200 OK", "text/plain", b""
        file = (self.files / address.path.lstrip("/")).resolve()
        if file.is_relative_to(self.files.resolve()) and file.is_file():
            return "200 OK", "application/octet-stream", file.read_bytes()
        return "404 Not Found", "text/plain", b""


# Loads


async def connect_socks(proxy: int, port: int) -> trio.SocketStream:
    """Connect to a port of loopback through SOCKS5.

    Raises:
      OSError: the proxy refuses, or breaks off.
    """
    stream = await trio.open_tcp_stream(HOST, proxy)
    try:
        await stream.send_all(b"\x05\x01\x00\x05\x01\x00\x01" + socket.inet_aton(HOST) + struct.pack(">H", port))
        said = b""
        while len(said) < 12:
            data = await stream.receive_some()
            if not data:
                raise ConnectionResetError(f"the proxy ended after {len(said)} bytes")
            said += data
        if said[3]:
            raise ConnectionRefusedError(f"the proxy answered {said[3]}")
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def probe_once(record: Record, proxy: int, port: int) -> None:
    began, line, said = trio.current_time(), os.urandom(LINE), b""
    try:
        with trio.fail_after(PROBE_TIMEOUT):
            async with await connect_socks(proxy, port) as stream:
                await stream.send_all(line)
                while len(said) < len(line):
                    data = await stream.receive_some()
                    if not data:
                        raise ConnectionResetError("it ended before the answer")
                    said += data
        if said != line:
            raise OSError("the answer is another one")
    except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
        record.fail("probe", began, trio.current_time(), repr(error))
    else:
        record.succeed("probe", began, trio.current_time())


async def probe(record: Record, proxy: int, port: int) -> None:
    async with trio.open_nursery() as nursery:
        while True:
            nursery.start_soon(probe_once, record, proxy, port)
            await trio.sleep(PROBE_INTERVAL)


async def ask_by_udp(record: Record, port: int) -> None:
    """Send 50 queries a second, each with a different number."""
    asked: dict[bytes, float] = {}
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as local:
        await local.bind((HOST, 0))

        async def hear() -> None:
            while True:
                data, _ = await local.recvfrom(2048)
                if (began := asked.pop(data, None)) is not None:
                    record.succeed("udp", began, trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear)
            for number in itertools.count():
                now = trio.current_time()
                question = number.to_bytes(40, "big")
                asked[question] = now
                await local.sendto(question, (HOST, port))
                for late in [one for one, began in asked.items() if began + UDP_TIMEOUT < now]:
                    record.fail("udp", asked.pop(late), now, "no answer")
                await trio.sleep(UDP_INTERVAL)


async def clone(record: Record, proxy: int, port: int, directory: Path, interval: float) -> None:
    settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "GIT_TERMINAL_PROMPT": "0"}
    number = 0
    while True:
        began, copy = trio.current_time(), directory / f"copy{number}"
        try:
            command = ["git", "-c", f"http.proxy=http://{HOST}:{proxy}", "clone", "--quiet"]
            await run_tool([*command, f"http://{HOST}:{port}/bare.git", copy], env=environment() | settings)
            record.succeed("git", began, trio.current_time())
        except OSError as error:
            record.fail("git", began, trio.current_time(), str(error))
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        number += 1
        await trio.sleep(interval)


async def browse(record: Record, proxy: int, port: int, directory: Path) -> None:
    """Run Chromium with the page, which reports each load. No report for a while is a failure."""
    command = [
        *("chromium", "--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run"),
        *(f"--user-data-dir={directory}/profile", "--remote-debugging-port=0"),
        *(f"--proxy-server=socks5://{HOST}:{proxy}", "--proxy-bypass-list=<-loopback>;*.com"),
        *("--host-resolver-rules=MAP *.com ~NOTFOUND", f"http://{HOST}:{port}/"),
    ]
    options: dict[str, Any] = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "env": environment() | {"HOME": directory},
    }
    async with running(command, **options) as process:
        seen = 0
        while True:
            await trio.sleep(PATIENCE)
            done = record.succeeded["chromium"] + record.excused["chromium"]
            if done == seen or process.poll() is not None:
                record.failures.append(("chromium", trio.current_time(), "it does not load the page any more"))
                return
            seen = done


class SSH:
    """An sshd on loopback with temporary keys, and sessions through a forward."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._directory = directory
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
        shutil.copy(directory / "user.pub", directory / "authorized")
        lines = [
            f"ListenAddress {HOST}:{self.port}",
            f"HostKey {directory}/host",
            f"AuthorizedKeysFile {directory}/authorized",
            f"PidFile {directory}/pid",
            *("PasswordAuthentication no", "KbdInteractiveAuthentication no", "UsePAM no", "StrictModes no"),
            *("PermitRootLogin prohibit-password", "UseDNS no"),
        ]
        (directory / "sshd_config").write_text("\n".join(lines) + "\n", encoding="utf-8")

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        command = [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", str(self._directory / "sshd_config")]
        if os.geteuid() == 0 and not is_directory("/run/sshd"):
            # As root, sshd needs this directory of the system. It gets a private one.
            prepare = "mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec " + shlex.join(command)
            command = ["unshare", "--mount", "sh", "-c", prepare]
        with (self._directory / "sshd.log").open("wb") as log:
            async with running(command, stderr=log, stdout=subprocess.DEVNULL):
                yield

    @contextlib.asynccontextmanager
    async def session(self, port: int) -> AsyncIterator[trio.Process]:
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": os.devnull,
            "IdentitiesOnly": "yes",
            "ServerAliveInterval": "0",
            "TCPKeepAlive": "no",
        }
        flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        command = ["ssh", "-F", "none", "-T", *flags, "-i", self._directory / "user", "-p", port]
        with (self._directory / "ssh.log").open("ab") as log:
            command += [f"{getpass.getuser()}@{HOST}", "cat"]
            async with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as process:
                yield process


def is_directory(path: str) -> bool:
    return Path(path).is_dir()


async def answers(session: trio.Process) -> bool:
    """Return whether a session echoes a line."""
    assert session.stdin is not None
    assert session.stdout is not None
    line, said = os.urandom(8).hex().encode() + b"\n", b""
    with trio.move_on_after(10), contextlib.suppress(trio.BrokenResourceError):
        await session.stdin.send_all(line)
        while not said.endswith(b"\n"):
            data = await session.stdout.receive_some()
            if not data:
                break
            said += data
    return said == line


def free_port() -> int:
    with socket.socket() as one:
        one.bind((HOST, 0))
        return int(one.getsockname()[1])


# The run


@define
class Plan:
    """The duration, in seconds, and the loads to run."""

    seconds: float
    kills: int = 3
    outage: float = 2.0
    loads: frozenset[str] = frozenset(LOADS)

    @property
    def quiet(self) -> float:
        """Return the time between two kills."""
        return (self.seconds - self.kills * self.outage) / (self.kills + 1)


async def make_repository(directory: Path) -> None:
    """Make a bare repository that a web server can serve file by file."""
    source, bare = directory / "source", directory / "bare.git"
    names = {f"GIT_{who}_{what}": "a@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = environment() | names | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    await run_tool(["git", "init", "--quiet", source], env=env)
    for number in range(20):
        (source / f"file{number}").write_bytes(os.urandom(100_000))
    await run_tool(["git", "-C", source, "add", "."], env=env)
    await run_tool(["git", "-C", source, "commit", "--quiet", "--message=first"], env=env)
    await run_tool(["git", "clone", "--quiet", "--bare", source, bare], env=env)
    await run_tool(["git", "-C", bare, "update-server-info"], env=env)


async def soak(plan: Plan, directory: Path) -> Record:
    """Run all loads, and kill the server meanwhile."""
    record, loads = Record(), plan.loads
    # The browser's clock differs from Trio's.
    offset = trio.current_time() - time.time()

    def report(began: float, ended: float, failed: int) -> None:
        if failed:
            record.fail("chromium", began + offset, ended + offset, f"{failed} of {PICTURES} pictures failed")
        else:
            record.succeed("chromium", began + offset, ended + offset)

    if "git" in loads:
        await make_repository(directory)
    ssh = SSH(directory) if "ssh" in loads else None
    async with contextlib.AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        ports = []
        for serve in (echo_once, Origin(directory, report)):
            listeners = await nursery.start(trio.serve_tcp, serve, 0)
            ports.append(next(one.socket.getsockname()[1] for one in listeners if one.socket.family == socket.AF_INET))
        datagrams = stack.enter_context(trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        await datagrams.bind((HOST, 0))
        nursery.start_soon(echo_datagrams, datagrams)
        if ssh is not None:
            await stack.enter_async_context(ssh.serve())

        port = free_port()
        listen = [
            "--listen",
            f"{HOST}:{port}",
            "--allow",
            f"{HOST}/32",
            "--self-signed",
            "--state-dir",
            directory / "s",
        ]
        serve_relay = ["server", *listen]
        lives = contextlib.AsyncExitStack()
        stack.push_async_exit(lives)
        server, [uri] = await lives.enter_async_context(
            relay_end(["anytls://"], directory / "server.log", *serve_relay)
        )
        doors: list[object] = ["--socks", f"{HOST}:0", "--http", f"{HOST}:0", "--state-dir", directory / "c"]
        doors += ["--forward-udp", f"0={HOST}:{datagrams.getsockname()[1]}"]
        doors += ["--forward", f"0={HOST}:{ports[0] if ssh is None else ssh.port}"]
        says = ["SOCKS5 on", "HTTP proxy on", "UDP forward to", "forward to"]
        says[3] = f"forward to {HOST}:{ports[0] if ssh is None else ssh.port} on"
        client, lines = await stack.enter_async_context(
            relay_end(says, directory / "client.log", "client", *doors, uri=uri)
        )
        socks, http, udp, forward = (int(line.rpartition(":")[2]) for line in lines)
        note_memory(record, "at the start", Process("client", client.pid), Process("server", server.pid))

        running_loads = await stack.enter_async_context(trio.open_nursery())
        stack.callback(running_loads.cancel_scope.cancel)
        if "probe" in loads:
            running_loads.start_soon(probe, record, socks, ports[0])
        if "udp" in loads:
            running_loads.start_soon(ask_by_udp, record, udp)
        if "git" in loads:
            running_loads.start_soon(clone, record, http, ports[1], directory, plan.seconds / 10)
        if "chromium" in loads:
            running_loads.start_soon(browse, record, socks, ports[1], directory)
        for number in range(plan.kills + 1):
            await _quiet(record, plan, ssh, forward)
            note_memory(
                record, f"after stretch {number + 1}", Process("client", client.pid), Process("server", server.pid)
            )
            if number == plan.kills:
                break
            record.begin_outage(trio.current_time())
            # Leaving the block kills the process.
            await lives.aclose()
            await trio.sleep(plan.outage)
            server, _ = await lives.enter_async_context(
                relay_end(["anytls://"], directory / "server.log", *serve_relay)
            )
            record.outages[-1].returned = trio.current_time()
        if client.poll() is not None:
            record.failures.append(("client", trio.current_time(), "the client has ended"))
    return record


async def _quiet(record: Record, plan: Plan, ssh: SSH | None, forward: int) -> None:
    """Let the server run for a while, with a silent SSH session."""
    if ssh is None:
        await trio.sleep(plan.quiet)
        return
    began = trio.current_time()
    end = began + plan.quiet
    async with ssh.session(forward) as session:
        lives = await answers(session)
        silent_since = trio.current_time()
        await trio.sleep_until(end)
        lives = lives and await answers(session)
    now = trio.current_time()
    record.idle.append((end - silent_since, lives))
    if lives:
        record.succeed("ssh", began, now)
    else:
        record.failures.append(("ssh", now, "the session did not live"))


def show(record: Record) -> None:
    console = Console()
    table = Table("load", "right", "ended by an outage", "failures")
    failed = Counter(load for load, _, _ in record.failures)
    for load in LOADS:
        table.add_row(load, str(record.succeeded[load]), str(record.excused[load]), str(failed[load]))
    console.print(table)
    for number, (waits, first) in enumerate(zip(record.waits, record.first_answers, strict=True), 1):
        slowest = f"{max(waits):.3f} s for the slowest of {len(waits)} connections" if waits else "no connection"
        console.print(f"return {number}: {slowest}, {first:.3f} s to the first answer by UDP")
    for seconds, lived in record.idle:
        console.print(f"SSH, silent for {seconds:.0f} s: {'it lives' if lived else 'it ended'}")
    for name, moment, size in record.memory:
        console.print(f"memory of the {name}, {moment}: {size / MIB:.1f} MiB")
    for load, when, reason in record.failures[:20]:
        console.print(f"failure of {load} at {when:.1f}: {reason}", markup=False)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay_soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M", help="how long (10)")
    parser.add_argument("--kills", type=int, default=3, metavar="N", help="how often the server is killed (3)")
    parser.add_argument("--outage", type=float, default=2.0, metavar="SECONDS", help="before it is started again (2)")
    parser.add_argument("--without", action="append", default=[], choices=LOADS, help="leave a load out")
    parser.add_argument("--logs", type=Path, metavar="DIRECTORY", help="copy the logs of both ends to here")
    parser.add_argument("--json", action="store_true", help="print JSON, in seconds and bytes")
    given = parser.parse_args(arguments)
    plan = Plan(given.minutes * 60, given.kills, given.outage, frozenset(LOADS) - frozenset(given.without))
    with tempfile.TemporaryDirectory(prefix="relay-soak-", ignore_cleanup_errors=True) as name:
        try:
            record = trio.run(soak, plan, Path(name))
        finally:
            if given.logs is not None:
                given.logs.mkdir(parents=True, exist_ok=True)
                for log in Path(name).glob("*.log"):
                    shutil.copy(log, given.logs)
    if given.json:
        print(json.dumps(asdict(record), indent=2))
    else:
        show(record)
    return 0 if record.passed else 1


if __name__ == "__main__":
    sys.exit(main())

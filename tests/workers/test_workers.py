"""Serving in several processes, which share the port, are replaced, drained and leave no process running."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define, field

import trioanytls
from trioanytls._protocol.extensions import EXTENSIONS
from trioanytls._protocol.formats import WIRE_FORMATS

from ..conftest import HOST, USERS

PROGRAM = Path(__file__).parent.parent / "helpers" / "programs" / "worker_program.py"

pytestmark = pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="needs SO_REUSEPORT")


@define
class Program:
    """A running `worker_program.py`.

    Attributes:
      port: the port of the server.
      log: the log of the program and its workers so far.
    """

    process: trio.Process
    client_context: ssl.SSLContext
    port: int = 0
    log: str = ""
    _output: bytearray = field(init=False, factory=bytearray)

    async def line(self) -> str:
        while b"\n" not in self._output:
            data = await self.process.stdout.receive_some()
            assert data, f"the program has exited: {self.log}"
            self._output += data
        line, _, self._output = self._output.partition(b"\n")
        return line.decode()

    async def command(self, *words: object) -> Any:
        """Send a command and return the answer."""
        await self.tell(*words)
        return json.loads(await self.line())

    async def tell(self, *words: object) -> None:
        await self.process.stdin.send_all(f"{' '.join(map(str, words))}\n".encode())

    async def read_log(self) -> None:
        async for data in self.process.stderr:
            self.log += data.decode()

    async def logged(self, pattern: str, times: int = 1) -> None:
        """Wait until `pattern` has been logged this many times."""
        while len(re.findall(pattern, self.log)) < times:  # noqa: ASYNC110 - another process logs it
            await trio.sleep(0.01)

    async def ended(self) -> None:
        """Wait until all of its processes have exited."""
        while await self.process.stdout.receive_some():
            pass

    @contextlib.asynccontextmanager
    async def connect(self, **options: Any) -> AsyncIterator[trioanytls.Connection]:
        options = {"password": USERS["alice"], "ssl_context": self.client_context, **options}
        async with trioanytls.open_connection(HOST, self.port, **options) as connection:
            yield connection

    async def whose(self, **options: Any) -> int:
        """Connect, and return the id of the process that serves the connection."""
        async with self.connect(**options) as connection, await connection.open_stream() as stream:
            return await served_by(stream)

    async def pids(self, count: int, **options: Any) -> list[int]:
        """Connect until `count` processes have served a connection, and return their ids."""
        found: Counter[int] = Counter()
        while len(found) < count and found.total() < 100:
            found[await self.whose(**options)] += 1
        assert len(found) == count, found
        return sorted(found)


async def served_by(stream: trioanytls.Stream) -> int:
    line = b""
    while not line.endswith(b"\n"):
        line += await stream.receive_some()
    return int(line)


async def echoed(stream: trioanytls.Stream, data: bytes) -> bool:
    await stream.send_all(data)
    received = b""
    while len(received) < len(data):
        received += await stream.receive_some()
    return received == data


#: `async with running("serves", workers=2) as program:`
Running = Callable[..., contextlib.AbstractAsyncContextManager[Program]]


@pytest.fixture
def running(certificate: Path, client_context: ssl.SSLContext) -> Running:
    """Run the program. At the end, none of its processes may be running."""

    @contextlib.asynccontextmanager
    async def run(
        worker: str = "serves", *, workers: int = 1, drain_timeout: float = 5, grace: float = 5
    ) -> AsyncIterator[Program]:
        words = [worker, certificate, workers, drain_timeout, grace]
        process = await trio.lowlevel.open_process(
            [sys.executable, "-W", "error", PROGRAM, *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Ctrl-C in the terminal of the tests must not reach it.
            start_new_session=True,
        )
        async with trio.open_nursery() as nursery:
            program = Program(process, client_context)
            nursery.start_soon(program.read_log)
            try:
                with trio.fail_after(40):
                    program.port = int(await program.line())
                    yield program
                    await program.ended()
                    await process.wait()
                assert "Exception ignored" not in program.log
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                with trio.CancelScope(shield=True):
                    await process.wait()
                    for pipe in (process.stdin, process.stdout, process.stderr):
                        await pipe.aclose()
                nursery.cancel_scope.cancel()

    return run


@pytest.mark.parametrize("protocol", WIRE_FORMATS)
async def test_two_workers_share_the_port_are_counted_together_and_drained(
    running: Running, protocol: trioanytls.WireFormat
) -> None:
    async with running(workers=2) as program:
        pids = Counter([await program.whose(protocol=protocol) for _ in range(40)])
        assert len(pids) == 2
        assert program.process.pid not in pids
        async with program.connect(protocol=protocol) as connection:
            stream = await connection.open_stream()
            pid = await served_by(stream)

            stats = await program.command("snapshot", 5)
            assert (stats["connections"], stats["streams"]) == (1, 1)
            assert (stats["authentications"], stats["streams_opened"]) == (41, 41)
            assert stats["connections_closed"] == {"NO_ERROR": 40}
            assert stats["draining"] is False

            await program.tell("drain", 5)
            # The idle worker exits, and neither listens. The open stream can finish.
            await program.logged("INFO .*: exited with code 0")
            with pytest.raises(OSError, match="all attempts to connect"):
                while True:
                    await (await trio.open_tcp_stream(HOST, program.port)).aclose()
            assert await echoed(stream, b"still here")
            assert f"(pid {pid}): exited" not in program.log
            await stream.aclose()
            await connection.wait_closed()
            code = connection.close_reason.code
            assert code is (trioanytls.CloseCode.SHUTTING_DOWN if protocol == "anytls1" else None)
    assert program.log.count(": exited with code 0") == 2
    assert program.process.returncode == 0
    assert "ERROR" not in program.log


async def test_a_worker_that_is_killed_is_replaced(running: Running) -> None:
    async with running(workers=2) as program:
        one, _ = await program.pids(2)
        # Earlier changes apply to the new worker, too.
        assert await program.command("users", "bob", "new") is None
        before = await program.command("snapshot", 5)
        os.kill(one, signal.SIGKILL)
        await program.logged(rf"ERROR .*worker \d \(pid {one}\): killed by SIGKILL")
        # The other worker continues to serve.
        assert one not in {await program.whose(password="new") for _ in range(5)}
        await program.logged(": listening", times=3)
        assert one not in await program.pids(2, password="new")
        # The counters do not decrease.
        after = await program.command("snapshot", 5)
        assert after["connections_accepted"] >= before["connections_accepted"] + 7
        await program.tell("drain", 5)
    assert program.process.returncode == 0


async def test_signals_to_a_worker(running: Running) -> None:
    async with running() as program:
        async with program.connect() as connection:
            stream = await connection.open_stream()
            pid = await served_by(stream)
            # Only the parent handles Ctrl-C.
            os.kill(pid, signal.SIGINT)
            assert await echoed(stream, b"still here")
            # SIGTERM drains the worker. Its replacement serves meanwhile.
            os.kill(pid, signal.SIGTERM)
            await program.logged(": listening", times=2)
            assert await program.whose() != pid
            assert await echoed(stream, b"still here")
            await stream.aclose()
        await program.logged(rf"INFO .*\(pid {pid}\): exited")
        await program.tell("cancel")
    assert program.process.returncode == 0
    assert "ERROR" not in program.log


async def test_a_worker_that_drains_tells_its_clients_first(running: Running) -> None:
    # Workers are processes with the default settings.
    config = trioanytls.Config(extensions=EXTENSIONS)
    async with running() as program:
        async with program.connect(config=config) as connection:
            stream = await connection.open_stream()
            os.kill(await served_by(stream), signal.SIGTERM)
            with pytest.raises(trioanytls.ConnectionClosed) as caught:
                while True:
                    async with await connection.open_stream() as other:
                        await served_by(other)
            assert caught.value.code is trioanytls.CloseCode.SHUTTING_DOWN
            assert await echoed(stream, b"still here")
            await stream.aclose()
            await connection.wait_closed()
            assert connection.close_reason.code is trioanytls.CloseCode.SHUTTING_DOWN
        await program.tell("cancel")
    assert "ERROR" not in program.log


async def test_the_callers_of_a_pool_do_not_notice_that_workers_are_drained(running: Running) -> None:
    config = trioanytls.Config(extensions=EXTENSIONS)
    pool = trioanytls.PoolConfig(max_streams_per_connection=3)
    seen: Counter[int] = Counter()
    async with running(workers=2) as program:
        stop = False

        async def caller(client: trioanytls.Client) -> None:
            while not stop:
                async with await client.open_stream() as stream:
                    seen[await served_by(stream)] += 1
                    assert await echoed(stream, b"x" * 1000)
                # Starting processes takes long enough on a busy machine.
                await trio.sleep(0.02)

        async with (
            trioanytls.open_client(
                HOST,
                program.port,
                password=USERS["alice"],
                ssl_context=program.client_context,
                config=config,
                pool=pool,
            ) as client,
            trio.open_nursery() as nursery,
        ):
            for _ in range(20):
                nursery.start_soon(caller, client)
            for count in (3, 4):
                while seen.total() < 40:  # noqa: ASYNC110 - other processes answer
                    await trio.sleep(0.01)
                pid = max(seen, key=seen.__getitem__)
                seen.clear()
                os.kill(pid, signal.SIGTERM)
                await program.logged(": listening", times=count)
                await program.logged(rf"INFO .*\(pid {pid}\): exited")
            stop = True
        assert client.stats.streams_failed == 0
        assert client.stats.connections_closed["goaway"] >= 2
        await program.tell("drain", 5)
    assert "ERROR" not in program.log


async def test_a_worker_whose_function_fails(running: Running) -> None:
    async with running("dies") as program:
        await program.logged("ERROR .*: exited with code 1")
        await program.tell("drain", 5)
    assert "RuntimeError: this worker does not work" in program.log
    assert program.process.returncode == 0


async def test_workers_end_when_the_parent_is_killed(running: Running) -> None:
    async with running(workers=2) as program, program.connect() as connection:
        stream = await connection.open_stream()
        await served_by(stream)
        program.process.kill()
        await program.logged("the parent process has exited", times=2)
        assert await echoed(stream, b"still here")
        await stream.aclose()
        await connection.wait_closed()
        assert connection.close_reason.code is trioanytls.CloseCode.SHUTTING_DOWN


async def test_workers_that_do_not_exit_are_killed(running: Running) -> None:
    async with running("stays", drain_timeout=0.1, grace=0.1) as program:
        await program.tell("cancel")
    assert re.search("ERROR .*did not exit in time, killing it", program.log)
    assert program.process.returncode == 0


async def test_workers_that_do_not_exit_without_a_parent_kill_themselves(running: Running) -> None:
    async with running("stays", drain_timeout=0.1) as program:
        program.process.kill()

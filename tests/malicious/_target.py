"""The target of malicious peers: a server or a client in a separate process, so that its memory can be measured.

`_harness` runs this. It writes lines of JSON, and reads one line in reply to each. The process imports everything once,
and forks for each target, so that a target starts at once and without memory of earlier ones. A running target uses
both pipes, and the process that forked it only waits for it.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import logging
import os
import resource
import socket
import ssl
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import trio

import trioanytls
from trioanytls.testing import echo

HOST = "127.0.0.1"
USERS = {"alice": "password", "bob": "builder"}

# The timeout of a target for one of its own connections, in seconds. If it takes longer, it hangs.
_PATIENCE = 60

# The time between exchanges with the good server that nothing waits for, in seconds.
_PAUSE = 0.02

# The maximum length of a log line, in characters: the text of an ALERT, and the rest.
_LONGEST_LINE = 1000

Options = dict[str, Any]


def memory() -> dict[str, int]:
    """Return the current and maximum resident size of this process, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return {name: int(fields[key].split()[0]) * 1024 for name, key in (("now", "VmRSS"), ("most", "VmHWM"))}
    # On other systems, only the maximum is available, in bytes.
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"now": most, "most": most}


class Log(logging.Handler):
    """Counts log records. Records that are not allowed are written to standard error, which the harness checks."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.counts[record.levelname] += 1
        text = self.format(record)
        # Unprintable characters could forge lines of the log, or worse. Peers must not make the log grow.
        if record.levelno >= logging.ERROR:
            print(record.levelname, text, file=sys.stderr)
        elif not text.isprintable() or len(text) > _LONGEST_LINE:
            print(record.levelname, f"a line of {len(text)} characters: {text[:200]!r}", file=sys.stderr)


class Census(trio.abc.Instrument):
    """Counts the tasks: the current number and the maximum."""

    living = 0
    most = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self.living += 1
        self.most = max(self.most, self.living)

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        self.living -= 1


async def sink(stream: trioanytls.Stream) -> None:
    """Read everything, and send nothing."""
    async for _ in stream:
        pass


async def deaf(stream: trioanytls.Stream) -> None:
    """Never read."""
    await stream.wait_closed()


class Handler:
    """A handler that counts its starts and concurrent runs. Bob's streams are always echoed."""

    def __init__(self, name: str) -> None:
        self._handler = {"echo": echo, "sink": sink, "deaf": deaf}[name]
        self.started = self.running = self.most = 0

    async def __call__(self, stream: trioanytls.Stream) -> None:
        if stream.connection.user == "bob":
            await echo(stream)
            return
        self.started += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self._handler(stream)
        finally:
            self.running -= 1


async def ask() -> Options | None:
    """Read the next request. Return None if this target must end."""
    # The parent process shares standard input, so it must not become non-blocking.
    line = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
    request: Options = json.loads(line) if line else {"stop": True}
    return None if "stop" in request else request


def say(answer: Options) -> None:
    print(json.dumps(answer), flush=True)


async def be_server(options: Options, census: Census, log: Log) -> None:
    """Serve, and answer each request with a report."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options["certificate"], options["key"])
    handler, control = Handler(options["handler"]), trioanytls.ServerControl()
    # Python's garbage collector only makes a full collection after the number of objects has grown by a quarter. So a
    # large application keeps garbage in cycles longer.
    application: list[list[Any]] = [[] for _ in range(options["objects"])]
    gc.collect()
    serve = functools.partial(
        trioanytls.serve,
        handler,
        0,
        host=HOST,
        ssl_context=context,
        users=USERS,
        protocols=options["protocols"],
        config=trioanytls.Config(**options["config"]),
        control=control,
        fallback=None if options["service"] is None else trioanytls.relay_to(HOST, **options["service"]),
    )
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(serve)
        if options["send_buffer"]:
            # Accepted sockets inherit it.
            listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, options["send_buffer"])
        say({"port": listener.socket.getsockname()[1], "pid": os.getpid()})
        while await ask() is not None:
            say(
                {
                    "memory": memory(),
                    "tasks": census.living,
                    "most_tasks": census.most,
                    "handlers_started": handler.started,
                    "handlers_running": handler.running,
                    "most_handlers": handler.most,
                    "logged": log.counts,
                    "stats": attrs.asdict(control.snapshot()),
                }
            )
        nursery.cancel_scope.cancel()
    del application


async def talk(connection: trioanytls.Connection) -> None:
    """Send data, and receive until the end."""
    async with await connection.open_stream() as stream:
        await stream.send_all(b"hello")
        async for _ in stream:
            pass


async def wait(connection: trioanytls.Connection) -> None:
    """Open a stream, and wait for the end of the connection."""
    async with await connection.open_stream():
        await connection.wait_closed()
        raise connection.close_reason or RuntimeError("it has ended for no reason")


async def pour(connection: trioanytls.Connection) -> None:
    """Send more data than all buffers hold."""
    async with await connection.open_stream() as stream:
        for _ in range(1024):
            await stream.send_all(bytes(64 * 1024))


async def ignore(connection: trioanytls.Connection) -> None:
    """Open streams without reading them. Use the first one again after it has ended."""
    streams = [await connection.open_stream() for _ in range(20)]
    await streams[0].wait_closed()
    await streams[0].send_all(b"are you there?")


_APPLICATIONS = {"talk": talk, "wait": wait, "pour": pour, "ignore": ignore}


async def be_client(options: Options, census: Census, log: Log) -> None:
    """Use a connection to a good server all the time, and connect to the servers that requests name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(options["authority"])
    connect = functools.partial(trioanytls.open_connection, HOST, password=USERS["bob"], ssl_context=context)
    # Set for another exchange, and after one.
    asked, answered = trio.Event(), trio.Event()

    async def exchange(connection: trioanytls.Connection) -> None:
        nonlocal asked, answered
        async with await connection.open_stream() as stream:
            while True:
                with trio.fail_after(_PATIENCE):
                    await stream.send_all(b"there?")
                    received = b""
                    while len(received) < 6:
                        received += await stream.receive_some()
                    await connection.ping()
                answered.set()
                answered = trio.Event()
                with trio.move_on_after(_PAUSE):
                    await asked.wait()
                asked = trio.Event()

    async with connect(options["good_port"]) as good, trio.open_nursery() as nursery:
        nursery.start_soon(exchange, good)
        await answered.wait()
        say({"memory": memory(), "pid": os.getpid()})
        while (request := await ask()) is not None:
            error: BaseException | None = None
            try:
                with trio.fail_after(_PATIENCE):
                    config = trioanytls.Config(**request["config"])
                    async with connect(request["port"], config=config, protocol=request["protocol"]) as connection:
                        await _APPLICATIONS[request["application"]](connection)
            except BaseException as raised:  # noqa: BLE001 - reported to the harness
                error = raised
            with trio.fail_after(_PATIENCE):
                # One exchange may be under way.
                for _ in range(2):
                    asked.set()
                    await answered.wait()
            say(
                {
                    "memory": memory(),
                    "tasks": census.living,
                    "most_tasks": census.most,
                    "logged": log.counts,
                    "error": [kind.__name__ for kind in type(error).__mro__],
                    "text": str(error),
                    "code": getattr(error, "code", None),
                }
            )
            # The error refers to frames, and they refer to the error.
            del error
        nursery.cancel_scope.cancel()


_ROLES = {"server": be_server, "client": be_client}


def run(options: Options) -> int:
    """Run a target. Return the exit code."""
    census, log = Census(), Log()
    logging.basicConfig(level=logging.DEBUG, handlers=[log])
    try:
        trio.run(_ROLES[options["role"]], options, census, log, instruments=[census])
        # Forgotten coroutines warn when they are collected.
        gc.collect()
    except BaseException:  # noqa: BLE001 - told on standard error
        traceback.print_exc()
        return 1
    finally:
        # The pipes may be closed.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
    return 0


def main() -> None:
    while line := sys.stdin.readline():
        child = os.fork()
        if not child:
            # Skip the interpreter's shutdown: a thread may still wait for standard input.
            os._exit(run(json.loads(line)))
        say({"exit": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])})


if __name__ == "__main__":
    main()

"""Workers of `serve_workers` that are tasks of a test, instead of processes, so that tests can use Trio's clock."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import pickle
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, ClassVar

import trio
import trio.testing
from attrs import define, field

import trioanytls
from trioanytls import ServerControl, ServerStats, WorkersControl
from trioanytls._server.control import link_of
from trioanytls._workers import child, ipc
from trioanytls._workers.child import WorkerFunction

from ..conftest import HOST


@define(eq=False)
class Task:
    """A stand-in for `WorkerProcess`: the worker is a task, which is killed by cancelling it."""

    pid: int
    exit_status: str = ""
    succeeded: bool = False
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    ended: trio.Event = field(factory=trio.Event)

    async def run(self, end: socket.socket, number: int, main: Callable[[socket.socket, int], Awaitable[int]]) -> None:
        with self.scope:
            code = await main(end, number)
            self.exit_status, self.succeeded = f"exited with code {code}", code == 0
        if self.scope.cancelled_caught:
            self.exit_status = "killed by SIGKILL"
        self.ended.set()

    async def wait(self) -> None:
        await self.ended.wait()

    def kill(self) -> None:
        self.scope.cancel()

    def close(self) -> None:
        assert self.ended.is_set()


@define
class Tasks:
    """A stand-in for the class `WorkerProcess`.

    Attributes:
      main: the main function of each worker.
      failure: an exception to raise instead of starting a worker.
      started: all workers that were started.
      times: the times of the starts, in seconds since the first.
    """

    nursery: trio.Nursery
    main: Callable[[socket.socket, int], Awaitable[int]] = field(
        default=lambda end, number: child.WorkerMain(end, number).run()
    )
    failure: Exception | None = None
    started: list[Task] = field(factory=list)
    times: list[float] = field(factory=list)
    _begin: float = field(factory=trio.current_time)

    def start(self, end: socket.socket, number: int) -> Task:
        self.times.append(trio.current_time() - self._begin)
        if self.failure is not None:
            end.close()
            raise self.failure
        task = Task(len(self.started) + 1)
        self.started.append(task)
        self.nursery.start_soon(task.run, end, number, self.main)
        return task


class Server:
    """A stand-in for the server in a worker. It stops as soon as it is told to drain.

    All calls are recorded in `told`, one list for all instances.
    """

    drain_timeout = math.inf
    told: ClassVar[list[tuple[object, ...]]] = []
    error: Exception | None = None
    stats = ServerStats(connections=1, authentications=10)

    def __init__(self) -> None:
        self.stopped = trio.Event()
        self.stop_at = math.inf

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - as the real one
        self.told.append(("drain", timeout))
        self.stopped.set()

    def replace_users(self, users: dict[str, str]) -> None:
        self.told.append(("users", users))

    def replace_certificate(self, *certificate: object) -> None:
        self.told.append(("certificate", *certificate))
        if self.error is not None:
            raise self.error

    def snapshot(self) -> ServerStats:
        return self.stats


@contextlib.contextmanager
def attached(control: ServerControl) -> Iterator[Server]:
    """Attach a `Server` to the control."""
    server, link = Server(), link_of(control)
    with link.attach(server):  # type: ignore[arg-type] # it has what a control calls
        link.listening()
        yield server


# Worker functions: they are found by name, as in another process.


async def serves(_port: int, control: ServerControl) -> None:
    with attached(control) as server:
        await server.stopped.wait()


async def fails(_port: int, _control: ServerControl) -> None:
    raise RuntimeError("this worker does not work")


async def returns(_port: int, _control: ServerControl) -> None:
    pass


async def never_listens(_port: int, _control: ServerControl) -> None:
    await trio.sleep_forever()


async def serves_among_others(port: int, control: ServerControl) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        await serves(port, control)


async def lives_for_a_while(seconds: float, _port: int, control: ServerControl) -> None:
    with attached(control):
        await trio.sleep(seconds)


async def first_lives_long(port: int, control: ServerControl) -> None:
    # Only the third one.
    await lives_for_a_while(60 if next(lives) == 2 else 0, port, control)


lives = itertools.count()


#: `async with running_workers(worker, **options) as control:`
RunningWorkers = Callable[..., contextlib.AbstractAsyncContextManager[WorkersControl]]


@contextlib.asynccontextmanager
async def running_workers(worker: WorkerFunction, **options: Any) -> AsyncIterator[WorkersControl]:
    """Run `serve_workers` while the block runs."""
    control = WorkersControl()
    options = {"host": HOST, "workers": 1, "control": control, **options}
    async with trio.open_nursery() as nursery:
        await nursery.start(functools.partial(trioanytls.serve_workers, worker, 0, **options))
        try:
            yield control
        finally:
            nursery.cancel_scope.cancel()


async def settled() -> None:
    """Wait until all tasks are blocked and no socket has data."""
    for _ in range(20):
        await trio.testing.wait_all_tasks_blocked()


def speaker(
    *says: bytes | ipc.Message, heard: list[ipc.Message] | None = None
) -> Callable[[socket.socket, int], Awaitable[int]]:
    """Return the main function of a worker that listens, sends `says`, and ignores all messages."""

    async def main(end: socket.socket, _number: int) -> int:
        channel = ipc.Channel.over(end, math.inf)
        with contextlib.closing(channel):
            await channel.receive_bytes()
            await channel.send({"kind": "up"})
            await channel.receive()
            for one in ({"kind": "listening"}, *says):
                if isinstance(one, bytes):
                    await channel._stream.send_all(one)
                else:
                    await channel.send(one)
            while True:
                message = await channel.receive()
                if heard is not None:
                    heard.append(message)

    return main


async def start_alone(
    nursery: trio.Nursery, main: Callable[[socket.socket, int], Awaitable[int]], worker: object
) -> tuple[Task, ipc.Channel]:
    """Start a worker without a supervisor. Return it when it is up, with the parent's end of its channel."""
    ours, theirs = socket.socketpair()
    channel = ipc.Channel.over(ours, math.inf)
    task = Task(1)
    nursery.start_soon(task.run, theirs, 1, main)
    await channel.send_bytes(pickle.dumps(worker))
    assert await channel.receive() == {"kind": "up"}
    return task, channel

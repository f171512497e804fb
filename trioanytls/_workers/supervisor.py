"""Many processes that serve on one port, and the one that looks after them.

Python runs one thread at a time: what a server can do on several processors, it does in several processes. Each of them
listens on the port for itself, and the system spreads the connections. The parent serves nothing. It holds the port,
replaces what dies, and passes on what the workers are told.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import pickle
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Any

import trio
from attrs import define, field

from trioanytls._connection.nursery import background_nursery
from trioanytls._protocol.credentials import UserTable
from trioanytls._server.control import NotRunningError
from trioanytls._server.stats import ServerStats, without_momentary
from trioanytls._transport.listeners import reserve_port

from .child import WorkerFunction
from .ipc import BadMessage, Channel, ChannelClosed, Message, unpack_stats
from .process import WorkerProcess

_log = logging.getLogger("trioanytls.workers")

# All in seconds. How long `nursery.start` waits for the workers to listen.
_START_TIMEOUT = 30.0
# What a worker has beyond the time for draining until it is killed: its connections close (`Config.close_timeout`), its
# function winds up, the interpreter ends. And what it has to end when it is gone but for its process.
_GRACE = 10.0
# How long it is waited for what a worker that has ended has said last, and for the end of one that was killed.
_LAST_WORDS = 1.0
_KILL_TIMEOUT = 5.0
# How long it takes until a worker is replaced: from one to the other, doubled each time that the one before has not
# lived for so long.
_FIRST_DELAY = 0.5
_LAST_DELAY = 30.0
_LIFE = 60.0
# How many bytes of a worker are read for one message.
_MAX_MESSAGE = 1024 * 1024


class WorkersControl:
    """The object through which the workers of `serve_workers` are steered: make one, and give it as `control`.

    It may be used from any task of the same event loop, not from another thread.

    Raises:
      RuntimeError: from each method, where no workers have been started with it yet.
    """

    def __init__(self) -> None:
        self._crew: Supervisor | None = None
        self._running = False

    def __repr__(self) -> str:
        return f"<trioanytls.WorkersControl {'of running workers' if self._running else 'without running workers'}>"

    @property
    def running(self) -> bool:
        """Whether `serve_workers` runs that has this control."""
        return self._running

    async def drain(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - not how long the call may take
        """Stop all workers gracefully, see `ServerControl.drain`; returns when they have ended.

        Args:
          timeout: how long connections may go on, in seconds; default: that of `serve_workers`. A second call shortens
            the time, if anything.

        Cancellation: the draining goes on.
        """
        crew = self._get()
        crew.stop(crew.drain_timeout if timeout is None else timeout)
        await crew.stopped.wait()

    async def snapshot(self, timeout: float = 5.0) -> ServerStats:  # noqa: ASYNC109 - a scope would leave out all
        """The counters of all workers, those that have ended included, together.

        What a worker has counted that does not answer within `timeout` seconds is what it said last, and what it has
        open now is left out; that is logged. The same holds for what one has counted that was killed. So the counters
        do not go back.
        """
        return await self._get().snapshot(timeout)

    async def replace_users(self, users: Mapping[str, str], timeout: float = 5.0) -> None:  # noqa: ASYNC109 - as above
        """Exchange the users of all workers, and of those that are started later; see `ServerControl.replace_users`.

        Raises:
          ValueError: there is none, or two have the same password. The old ones remain.
          trio.TooSlowError: a worker has not confirmed it within `timeout` seconds. It does it as soon as it can.

        Cancellation: it happens all the same.
        """
        crew = self._get()
        # What is wrong with them is not left for the workers to find.
        UserTable(users)
        await crew.exchange("users", dict(users), timeout)

    async def replace_certificate(
        self,
        certificate: str | os.PathLike[str],
        key: str | os.PathLike[str] | None = None,
        password: str | None = None,
        timeout: float = 5.0,  # noqa: ASYNC109 - as above
    ) -> None:
        """Exchange the certificate of all workers; see `ServerControl.replace_certificate`.

        A worker that is started later reads the files then. If it cannot, that is logged, and it keeps the certificate
        that it has by itself.

        Raises:
          ssl.SSLError, OSError: the files cannot be used. The old certificate remains; where a worker alone cannot use
            them, in that one.
          trio.TooSlowError: see `replace_users`.

        Cancellation: it happens all the same.
        """
        crew = self._get()
        # Without a password, OpenSSL would ask the terminal for one.
        secret = password or ""
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, secret)
        files = [_absolute(certificate), None if key is None else _absolute(key)]
        await crew.exchange("certificate", [*files, secret], timeout)

    def _get(self) -> Supervisor:
        if self._crew is None:
            raise NotRunningError
        return self._crew

    def _attach(self, crew: Supervisor) -> None:
        if self._running:
            raise RuntimeError("this control steers other workers")
        self._crew = crew
        self._running = True

    def _detach(self) -> None:
        self._running = False


async def serve_workers(
    worker: WorkerFunction,
    port: int,
    *,
    host: str | None = None,
    workers: int | None = None,
    drain_timeout: float = 30.0,
    control: WorkersControl | None = None,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve in several processes on one port, until cancelled, or drained.

    In each process runs `await worker(port, control)`, with a `ServerControl` of its own. It calls `serve` with both,
    with the same `host` as here, and with `reuse_port=True`; it may do more around that, and logging is its to set up.
    A worker whose function returns or raises (which is logged, `trioanytls.workers`), or that is killed, is replaced:
    half a second later, and the longer the oftener that happens, up to 30 seconds.

    SIGTERM to a worker drains that one, and it is replaced; SIGINT (Ctrl-C) is for the parent alone. If the parent is
    killed, the workers drain, and end. The processes are started as `multiprocessing` does it in its "spawn" way: the
    program calls this under `if __name__ == "__main__":`.

    How the connections are spread is the system's affair; Linux goes by the addresses and ports of both ends. Those
    that it has given to a worker which has not accepted them yet are lost when that one ends.

    Args:
      worker: an async function of a module, or a `functools.partial` of one: what `pickle` can pass to a process.
      port: the TCP port; 0 for one that the system chooses, which is the same one on all addresses.
      host: the address to listen on; default: all.
      workers: how many processes; default: one for each processor that this one may use.
      drain_timeout: how long connections may go on when the workers stop, in seconds. Who has not ended 10 seconds
        after that is killed.
      control: what to steer the workers with.
      task_status: `nursery.start` returns the port, when each worker listens or has ended; after 30 seconds in any
        case.

    Raises:
      OSError: the port cannot be listened on, or the system has no `SO_REUSEPORT`.
      TypeError: `worker` cannot be pickled.
      ValueError: `workers` or `drain_timeout` is out of range.
      RuntimeError: `control` steers other workers.

    Cancellation: the workers drain, within `drain_timeout` and the 10 seconds. `WorkersControl.drain` can shorten that.
    """
    count = _processors() if workers is None else workers
    if count < 1:
        raise ValueError(f"workers is at least 1, not {count!r}")
    if not drain_timeout >= 0:
        raise ValueError(f"drain_timeout is a number of seconds, not {drain_timeout!r}")
    try:
        function = pickle.dumps(worker)
    except Exception as error:
        raise TypeError(f"the worker function cannot be had in another process: {error}") from error
    held = await reserve_port(port, host)
    try:
        crew = Supervisor(function, held[0].getsockname()[1], drain_timeout)
        with crew.attach_control(control):
            await crew.run(count, task_status)
    finally:
        for one in held:
            one.close()


def _absolute(path: str | os.PathLike[str]) -> str:
    """The path, for a process whose current directory may be another one."""
    return os.path.abspath(path)  # noqa: PTH100 - whatever is a path there


def _processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@define
class Backoff:
    """How long it takes until somebody is replaced who has lived for so long."""

    _next: float = field(init=False, default=_FIRST_DELAY)

    def after(self, life: float) -> float:
        """One has ended; the time until the next one begins."""
        if life >= _LIFE:
            self._next = _FIRST_DELAY
        delay = self._next
        self._next = min(2 * delay, _LAST_DELAY)
        return delay


@define(eq=False)
class Supervisor:
    """All workers."""

    # Pickled: it is the same one for all.
    _function: bytes
    _port: int
    drain_timeout: float
    _settings: dict[str, Any] = field(init=False, factory=lambda: {"users": None, "certificate": None}, repr=False)
    # Those whose processes live; those that leave are among them.
    _workers: dict[WorkerHandle, None] = field(init=False, factory=dict)
    # What those have counted that live no more.
    _counted: ServerStats = field(init=False, factory=ServerStats)
    _numbers: Iterator[int] = field(init=False, factory=lambda: itertools.count(1))
    _nursery: trio.Nursery = field(init=False)
    # The places where nobody has listened yet, nor ended.
    _starting: set[int] = field(init=False, factory=set)
    _started: trio.Event = field(init=False, factory=trio.Event)
    # The places that are kept, by those who keep them.
    _kept: int = field(init=False, default=0)
    _stopping: trio.Event = field(init=False, factory=trio.Event)
    _all_gone: trio.Event = field(init=False, factory=trio.Event)
    stopped: trio.Event = field(init=False, factory=trio.Event)

    @contextlib.contextmanager
    def attach_control(self, control: WorkersControl | None) -> Iterator[None]:
        if control is not None:
            control._attach(self)
        try:
            yield
        finally:
            self.stopped.set()
            if control is not None:
                control._detach()

    async def run(self, count: int, task_status: trio.TaskStatus[int]) -> None:
        async with background_nursery() as nursery:
            self._nursery = nursery
            self._kept = count
            self._starting = set(range(1, count + 1))
            for place in range(1, count + 1):
                nursery.start_soon(self._keep, place)
            try:
                with trio.move_on_after(_START_TIMEOUT):
                    await self._started.wait()
                for place in sorted(self._starting):
                    _log.warning("worker %d: it does not listen yet", place)
                task_status.started(self._port)
                await self._all_gone.wait()
            except BaseException:
                self.stop(self.drain_timeout)
                raise

    def stop(self, timeout: float) -> None:
        """Drain all workers; see `WorkersControl.drain`. Returns at once."""
        self._stopping.set()
        for worker in self._workers:
            worker.drain(timeout)

    # One place, and who is in it

    async def _keep(self, place: int) -> None:
        """See to it that there is somebody in the place."""
        backoff = Backoff()
        # What is cancelled drains, and that takes its time.
        with trio.CancelScope(shield=True):
            while not self._stopping.is_set():
                began = trio.current_time()
                try:
                    worker = self._start(place)
                except OSError as error:
                    _log.error("worker %d: it cannot be started: %s", place, error)
                else:
                    await worker.vacant.wait()
                self._settle(place)
                with trio.move_on_after(backoff.after(trio.current_time() - began)):
                    await self._stopping.wait()
            self._kept -= 1
            self._look_around()

    # From the start of a process to where it is known, nothing may come in between.
    @trio.lowlevel.enable_ki_protection
    def _start(self, place: int) -> WorkerHandle:
        ours, theirs = socket.socketpair()
        channel = Channel.over(ours, _MAX_MESSAGE)
        try:
            process = WorkerProcess.start(theirs, place)
        except BaseException:
            channel.close()
            raise
        worker = WorkerHandle(place, process, channel)
        self._workers[worker] = None
        self._nursery.start_soon(self._look_after, worker)
        return worker

    async def _look_after(self, worker: WorkerHandle) -> None:
        """All of a worker's life."""
        try:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(worker.write, self._function)
                    nursery.start_soon(self._listen_to, worker)
                    await worker.wait()
                    with trio.move_on_after(_LAST_WORDS):
                        await worker.silent.wait()
                    nursery.cancel_scope.cancel()
            self._say_how_it_ended(worker)
        finally:
            del self._workers[worker]
            self._counted += without_momentary(worker.stats)
            worker.close()
            self._look_around()

    def _say_how_it_ended(self, worker: WorkerHandle) -> None:
        expected = self._stopping.is_set() or worker.leaving
        if expected and worker.process.succeeded:
            worker.say(logging.INFO, "it has ended")
        else:
            worker.say(logging.ERROR, f"it has ended {worker.process.end}")

    def _look_around(self) -> None:
        if not self._kept and not self._workers:
            self._all_gone.set()

    def _settle(self, place: int) -> None:
        self._starting.discard(place)
        if not self._starting:
            self._started.set()

    async def _listen_to(self, worker: WorkerHandle) -> None:
        try:
            while True:
                self._heed(worker, await worker.channel.receive())
        except ChannelClosed:
            # It ends, or cannot be steered any more.
            worker.has_to_end_within(_GRACE)
        except (BadMessage, KeyError) as error:
            worker.say(logging.ERROR, f"it says what makes no sense, and is killed: {error!r}")
            worker.process.kill()
        worker.silent.set()

    def _heed(self, worker: WorkerHandle, message: Message) -> None:
        kind = message["kind"]
        if kind == "up":
            worker.up = True
            worker.post("start", {"port": self._port, "drain_timeout": self.drain_timeout, **self._settings})
            worker.say(logging.INFO, "it starts")
        elif kind == "listening":
            worker.say(logging.INFO, "it listens")
            self._settle(worker.place)
        elif kind == "leaving":
            worker.say(logging.INFO, "it has been told by a signal to stop")
            worker.leave(self.drain_timeout)
        elif kind == "done":
            what, number, error = message["what"], message["number"], message["error"]
            if what not in ("users", "certificate", "snapshot") or not (
                isinstance(number, int) and isinstance(error, str | None)
            ):
                raise BadMessage("it has done what nobody asked for")
            if what == "snapshot":
                worker.stats = unpack_stats(message["stats"])
            worker.done(what, number, error)
        elif kind == "end":
            worker.stats = unpack_stats(message["stats"])
            worker.has_to_end_within(_GRACE)

    # What all workers are asked

    async def exchange(self, kind: str, value: Any, timeout: float) -> None:  # noqa: ASYNC109 - see WorkersControl
        self._settings[kind] = value
        number = next(self._numbers)
        asked = await self._ask(kind, {"number": number, "value": value}, timeout)
        failed = [f"{worker}: {error}" for worker in asked if (error := worker.error(kind, number)) is not None]
        if failed:
            raise OSError("; ".join(failed))
        silent = [str(worker) for worker in asked if not worker.has_done(kind, number)]
        if silent:
            raise trio.TooSlowError(f"not confirmed by {', '.join(silent)}")

    async def snapshot(self, timeout: float) -> ServerStats:  # noqa: ASYNC109 - see WorkersControl
        number = next(self._numbers)
        asked = await self._ask("snapshot", {"number": number}, timeout)
        total = self._counted
        for worker in self._workers:
            silent = worker in asked and not worker.has_done("snapshot", number)
            if silent:
                worker.say(logging.WARNING, f"it has not said within {timeout:g} seconds what it counts")
            total += without_momentary(worker.stats) if silent else worker.stats
        return total

    async def _ask(self, kind: str, message: Message, timeout: float) -> list[WorkerHandle]:  # noqa: ASYNC109 - as above
        """Ask all workers that run; those who were asked."""
        # To one that is not up, the settings are on their way, and it has counted nothing.
        asked = [worker for worker in self._workers if worker.up]
        for worker in asked:
            worker.post(kind, message)
        with trio.move_on_after(timeout):
            for worker in asked:
                await worker.wait_done(kind, message["number"])
        return [worker for worker in asked if worker in self._workers]


@define(eq=False)
class WorkerHandle:
    """One worker, as the parent knows it.

    Attributes:
      place: the number by which it is known to people; it passes to the one that replaces it.
      up: whether it has been given the settings.
      leaving: whether it drains without having been told to by the parent.
      vacant: set when its place is free.
      silent: set when nothing comes from it any more.
      stats: what it said last that it had counted.
    """

    place: int
    process: WorkerProcess
    channel: Channel
    up: bool = field(init=False, default=False)
    leaving: bool = field(init=False, default=False)
    vacant: trio.Event = field(init=False, factory=trio.Event)
    silent: trio.Event = field(init=False, factory=trio.Event)
    stats: ServerStats = field(init=False, factory=ServerStats)
    # What waits to be sent, by its kind: what is new takes the place of what is old, so that no more piles up before
    # one that does not read.
    # Messages carry the passwords of users.
    _outbox: dict[str, Message] = field(init=False, factory=dict, repr=False)
    _posted: trio.Event = field(init=False, factory=trio.Event)
    # By the kind: the number of the last question that it has answered, and what went wrong with that.
    _answers: dict[str, tuple[int, str | None]] = field(init=False, factory=dict)
    _answered: trio.Event = field(init=False, factory=trio.Event)
    # When it is killed, on Trio's clock.
    _patience: trio.CancelScope = field(init=False, factory=trio.CancelScope)
    _drain_deadline: float = field(init=False, default=math.inf)
    _gone: bool = field(init=False, default=False)

    def __str__(self) -> str:
        return f"worker {self.place} (pid {self.process.pid})"

    def say(self, level: int, text: str) -> None:
        """Log something of it."""
        _log.log(level, "worker %d (pid %d): %s", self.place, self.process.pid, text)

    # Its end

    async def wait(self) -> None:
        """Wait until its process has ended, as long as it may take; then it is killed."""
        with self._patience:
            await self.process.wait()
        if self._patience.cancelled_caught:
            self.say(logging.ERROR, "it has not ended in time, and is killed")
            self.process.kill()
            with trio.move_on_after(_KILL_TIMEOUT):
                await self.process.wait()

    def has_to_end_within(self, seconds: float) -> None:
        self._patience.deadline = min(self._patience.deadline, trio.current_time() + seconds)

    def leave(self, timeout: float) -> None:
        """It has begun to drain by itself."""
        self.leaving = True
        self.has_to_end_within(timeout + _GRACE)
        self.vacant.set()

    def drain(self, timeout: float) -> None:
        """Tell it to drain. A second call shortens the time, if anything."""
        deadline = trio.current_time() + timeout
        if deadline < self._drain_deadline:
            self._drain_deadline = deadline
            self.post("drain", {"timeout": timeout})
            self.has_to_end_within(timeout + _GRACE)

    def close(self) -> None:
        self.process.close()
        self.channel.close()
        self.vacant.set()
        self._gone = True
        self._answered.set()

    # What it is told, and what it answers

    def post(self, kind: str, message: Message) -> None:
        self._outbox[kind] = {"kind": kind, **message}
        # Before that, it listens to nothing but the settings.
        if self.up:
            self._posted.set()

    async def write(self, function: bytes) -> None:
        # If it has gone, that is noticed elsewhere.
        with contextlib.suppress(ChannelClosed):
            await self.channel.send_bytes(function)
            while True:
                await self._posted.wait()
                self._posted = trio.Event()
                while self._outbox:
                    # What came before it was up waits behind the settings.
                    kind = "start" if "start" in self._outbox else next(iter(self._outbox))
                    await self.channel.send(self._outbox.pop(kind))

    def done(self, kind: str, number: int, error: str | None) -> None:
        self._answers[kind] = (number, error)
        self._answered.set()
        self._answered = trio.Event()

    def has_done(self, kind: str, number: int) -> bool:
        """Whether it has answered this question, or a later one of the kind."""
        return self._answers.get(kind, (0, None))[0] >= number

    def error(self, kind: str, number: int) -> str | None:
        """What went wrong, if it has answered."""
        return self._answers[kind][1] if self.has_done(kind, number) else None

    async def wait_done(self, kind: str, number: int) -> None:
        """Wait until it has answered, or has ended."""
        while not self.has_done(kind, number) and not self._gone:
            await self._answered.wait()

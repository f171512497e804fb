"""The parent of the workers: it starts and replaces them, passes on changes, and collects their counters.

Python runs one thread at a time. A server that is to use several processors therefore needs several processes. Each of
them listens on the port itself, and the system distributes the connections. The parent serves nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
from collections.abc import Iterator
from typing import Any

import trio
from attrs import define, field

from trioanytls._connection.nursery import BackgroundNursery
from trioanytls._server.control import ControlLink
from trioanytls._server.stats import ServerStats, without_momentary

from .handle import WorkerHandle
from .ipc import BadMessage, Channel, ChannelClosed, Message, unpack_stats
from .process import WorkerProcess

_log = logging.getLogger("trioanytls.workers")

# All in seconds. How long `nursery.start` waits for the workers to listen.
_START_TIMEOUT = 30.0
# How long to wait for the last messages of a worker that exited.
_LAST_MESSAGES_TIMEOUT = 1.0
# The interval of the checks for overdue reports, see `WorkerHandle.check`.
_CHECK_INTERVAL = 1.0
# The delay before a worker is replaced. It is doubled each time that the worker has lived for less than _LIFE.
_FIRST_DELAY = 0.5
_LAST_DELAY = 30.0
_LIFE = 60.0
# The maximum size of a message from a worker, in bytes.
_MAX_MESSAGE = 1024 * 1024


@define
class Backoff:
    """The delays before a worker is replaced."""

    _next: float = field(init=False, default=_FIRST_DELAY)

    def after(self, life: float) -> float:
        """Return the delay after a worker that has lived for `life` seconds."""
        if life >= _LIFE:
            self._next = _FIRST_DELAY
        delay = self._next
        self._next = min(2 * delay, _LAST_DELAY)
        return delay


@define(eq=False)
class Supervisor:
    """All workers.

    Attributes:
      drain_timeout: how long connections may continue when the workers stop, in seconds.
      stopped: set when all workers have exited.
    """

    # Pickled once, for all workers.
    _function: bytes
    _port: int
    drain_timeout: float
    stopped: trio.Event = field(init=False, factory=trio.Event)
    _settings: dict[str, Any] = field(init=False, factory=lambda: {"users": None, "certificate": None}, repr=False)
    # Workers whose process is alive, including those that are draining.
    _workers: dict[WorkerHandle, None] = field(init=False, factory=dict)
    # The counters of workers that have exited.
    _exited: ServerStats = field(init=False, factory=ServerStats)
    _numbers: Iterator[int] = field(init=False, factory=lambda: itertools.count(1))
    _nursery: trio.Nursery = field(init=False)
    # The slots whose first worker has neither listened nor exited yet.
    _starting: set[int] = field(init=False, factory=set)
    _started: trio.Event = field(init=False, factory=trio.Event)
    # The number of slots whose worker is still being replaced.
    _open_slots: int = field(init=False, default=0)
    _stopping: trio.Event = field(init=False, factory=trio.Event)
    _all_exited: trio.Event = field(init=False, factory=trio.Event)

    @contextlib.contextmanager
    def attach_control(self, link: ControlLink[Supervisor]) -> Iterator[None]:
        """Attach the workers to their control while the block runs."""
        with link.attach(self):
            try:
                yield
            finally:
                self.stopped.set()

    async def run(self, count: int, task_status: trio.TaskStatus[int]) -> None:
        """Run `count` workers until cancelled or stopped."""
        async with BackgroundNursery() as nursery:
            self._nursery = nursery
            self._open_slots = count
            self._starting = set(range(1, count + 1))
            for slot in range(1, count + 1):
                nursery.start_soon(self._keep_running, slot)
            nursery.start_soon(self._check_workers)
            try:
                with trio.move_on_after(_START_TIMEOUT):
                    await self._started.wait()
                for slot in sorted(self._starting):
                    _log.warning("worker %d: not listening yet after %g s", slot, _START_TIMEOUT)
                task_status.started(self._port)
                await self._all_exited.wait()
            except BaseException:
                self.stop(self.drain_timeout)
                raise

    async def _check_workers(self) -> None:
        while not self._all_exited.is_set():
            with trio.move_on_after(_CHECK_INTERVAL):
                await self._all_exited.wait()
            for worker in self._workers:
                worker.check()

    def stop(self, timeout: float) -> None:
        """Drain all workers; see `WorkersControl.drain`. Return at once."""
        self._stopping.set()
        for worker in self._workers:
            worker.drain(timeout)

    # One slot, and the worker in it

    async def _keep_running(self, slot: int) -> None:
        """Keep one worker running in this slot."""
        backoff = Backoff()
        # Cancellation drains the workers, which takes time.
        with trio.CancelScope(shield=True):
            while not self._stopping.is_set():
                began = trio.current_time()
                try:
                    worker = self._start(slot)
                except OSError as error:
                    _log.error("worker %d: cannot start the process: %s", slot, error)
                else:
                    await worker.slot_free.wait()
                self._first_start_done(slot)
                with trio.move_on_after(backoff.after(trio.current_time() - began)):
                    await self._stopping.wait()
            self._open_slots -= 1
            self._check_all_exited()

    # KeyboardInterrupt between the start of a process and its registration would lose the process.
    @trio.lowlevel.enable_ki_protection
    def _start(self, slot: int) -> WorkerHandle:
        ours, theirs = socket.socketpair()
        channel = Channel.over(ours, _MAX_MESSAGE)
        try:
            process = WorkerProcess.start(theirs, slot)
        except BaseException:
            channel.close()
            raise
        worker = WorkerHandle(slot, process, channel)
        self._workers[worker] = None
        self._nursery.start_soon(self._run_worker, worker)
        return worker

    async def _run_worker(self, worker: WorkerHandle) -> None:
        """Exchange messages with a worker until its process has exited."""
        try:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(worker.send_posted, self._function)
                    nursery.start_soon(self._receive_messages, worker)
                    await worker.wait()
                    with trio.move_on_after(_LAST_MESSAGES_TIMEOUT):
                        await worker.channel_closed.wait()
                    nursery.cancel_scope.cancel()
            self._log_exit(worker)
        finally:
            del self._workers[worker]
            self._exited += without_momentary(worker.stats)
            worker.close()
            self._check_all_exited()

    def _log_exit(self, worker: WorkerHandle) -> None:
        expected = self._stopping.is_set() or worker.is_leaving
        level = logging.INFO if expected and worker.process.succeeded else logging.ERROR
        worker.log(level, worker.process.exit_status)

    def _check_all_exited(self) -> None:
        if not self._open_slots and not self._workers:
            self._all_exited.set()

    def _first_start_done(self, slot: int) -> None:
        self._starting.discard(slot)
        if not self._starting:
            self._started.set()

    async def _receive_messages(self, worker: WorkerHandle) -> None:
        try:
            while True:
                self._handle_message(worker, await worker.channel.receive())
        except ChannelClosed:
            # It is exiting, or can no longer be controlled.
            worker.expect_exit()
        except (BadMessage, KeyError) as error:
            worker.log(logging.ERROR, f"invalid message from worker, killing it: {error!r}")
            worker.process.kill()
        worker.channel_closed.set()

    def _handle_message(self, worker: WorkerHandle, message: Message) -> None:
        kind = message["kind"]
        if kind == "up":
            worker.up = True
            worker.post("start", {"port": self._port, "drain_timeout": self.drain_timeout, **self._settings})
            worker.log(logging.INFO, "starting")
        elif kind == "listening":
            worker.log(logging.INFO, "listening")
            self._first_start_done(worker.slot)
        elif kind == "leaving":
            worker.log(logging.INFO, "received SIGTERM, draining")
            worker.drains_itself(self.drain_timeout)
        elif kind == "stats":
            worker.report(unpack_stats(message["stats"]))
        elif kind == "done":
            what, number, error = message["what"], message["number"], message["error"]
            if what not in ("users", "certificate", "snapshot") or not (
                isinstance(number, int) and isinstance(error, str | None)
            ):
                raise BadMessage("answer to an unknown request")
            if what == "snapshot":
                worker.report(unpack_stats(message["stats"]))
            worker.answer(what, number, error)
        elif kind == "end":
            worker.report(unpack_stats(message["stats"]))
            worker.expect_exit()

    # Changes and counters

    def replace(self, kind: str, value: Any) -> None:
        """Pass new settings to all workers, and to those that are started later."""
        self._settings[kind] = value
        number = next(self._numbers)
        # A worker that is not up yet is sent all settings when it is.
        for worker in self._workers:
            if worker.up:
                worker.post_change(kind, number, value)

    def snapshot(self) -> ServerStats:
        """Return the sum of the counters that workers have reported, including workers that have exited."""
        total = self._exited
        for worker in self._workers:
            total += without_momentary(worker.stats) if worker.is_silent else worker.stats
        return total

    async def refresh(self, timeout: float) -> ServerStats:  # noqa: ASYNC109 - see WorkersControl
        """Ask all workers for their counters, and return the sum."""
        await trio.lowlevel.checkpoint()
        number = next(self._numbers)
        # A worker that is not up yet has counted nothing.
        asked = [worker for worker in self._workers if worker.up]
        for worker in asked:
            worker.post("snapshot", {"number": number})
        with trio.move_on_after(timeout):
            for worker in asked:
                await worker.wait_answer("snapshot", number)
        for worker in asked:
            if worker in self._workers and not worker.has_answered("snapshot", number):
                worker.set_silent(timeout)
        return self.snapshot()

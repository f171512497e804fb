"""The worker's side of `serve_workers`: the worker function, and tasks that exchange messages with the parent.

The first message to the worker is the pickled function. All others are JSON objects with a `kind`:

- To the parent: `up` (ready for the settings), `listening`, `leaving` (told by a signal to drain), `stats` (the
  counters, once a second), `done` (an answer), and `end` with the last counters.
- To the worker: `start` with the settings; `users`, `certificate` and `snapshot`, each with a `number` that `done`
  repeats; and `drain`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import pickle
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import trio
from attrs import define, field

from trioanytls._server.control import ControllableServer, ControlLink, NotRunningError, ServerControl
from trioanytls._server.stats import ServerStats

from .ipc import Channel, ChannelClosed, Message, pack_stats

#: A worker function: it is passed the port and the control, and calls `serve` with both.
WorkerFunction = Callable[[int, ServerControl], Awaitable[object]]

_log = logging.getLogger("trioanytls.workers")

# How long the function may run after its server has been drained, and how long exiting may take in addition to the
# draining; in seconds.
_CLEANUP_TIMEOUT = 3.0
_GRACE = 10.0
# The interval of the reports to the parent, in seconds.
_REPORT_INTERVAL = 1.0


def work(end: socket.socket, number: int) -> None:
    """Run a worker process until it exits.

    Args:
      end: the worker's end of the channel.
      number: the number of the worker.
    """
    # Not SIG_IGN, which programs that the worker starts would inherit.
    signal.signal(signal.SIGINT, _ignore_sigint)
    # The parent has blocked it until here.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # Programs that the worker starts must not keep the channel open.
    end.set_inheritable(False)
    sys.exit(trio.run(WorkerMain(end, number).run))


def _ignore_sigint(_signal: int, _frame: FrameType | None) -> None:
    """Do nothing: Ctrl-C reaches all processes of a terminal at once, and the parent handles it."""


class _ChildLink(ControlLink[ControllableServer]):
    """A link that gives each server the settings of the other workers.

    Attributes:
      users, certificate: the settings that the parent has sent, or None if it has not.
    """

    def __init__(
        self, users: Mapping[str, str] | None, certificate: list[Any] | None, on_listening: Callable[[], None]
    ) -> None:
        super().__init__()
        self.users = users
        self.certificate = certificate
        self._on_listening = on_listening

    @contextlib.contextmanager
    def attach(self, server: ControllableServer) -> Iterator[None]:
        with super().attach(server):
            if self.users is not None:
                server.replace_users(self.users)
            if self.certificate is not None:
                try:
                    server.replace_certificate(*self.certificate)
                except OSError as error:
                    _log.error("cannot load certificate %s, keeping the previous one: %s", self.certificate[0], error)
            yield

    def listening(self) -> None:
        self._on_listening()


class ChildServerControl(ServerControl):
    """The control that is passed to the worker function."""

    def __init__(
        self, users: Mapping[str, str] | None, certificate: list[Any] | None, on_listening: Callable[[], None]
    ) -> None:
        super().__init__()
        self._link = self._settings = _ChildLink(users, certificate, on_listening)

    def apply(self, kind: str, value: Any) -> None:
        """Replace the users or the certificate, of the running server and of servers that are attached later.

        Raises:
          OSError: the certificate is unusable.
        """
        if kind == "users":
            self._settings.users = value
            if self.running:
                self.replace_users(value)
        else:
            self._settings.certificate = value
            if self.running:
                self.replace_certificate(*value)


@define(eq=False)
class WorkerMain:
    """The main task of a worker process."""

    _end: socket.socket
    _number: int
    _channel: Channel = field(init=False)
    _control: ChildServerControl = field(init=False)
    _drain_timeout: float = field(init=False)
    _nursery: trio.Nursery = field(init=False)
    # The scope of the worker function.
    _function_scope: trio.CancelScope = field(init=False, factory=trio.CancelScope)

    async def run(self) -> int:
        """Run the worker function. Return the exit code."""
        self._channel = Channel.over(self._end, math.inf)
        try:
            with contextlib.closing(self._channel):
                return await self._work()
        except ChannelClosed:
            # The parent has exited before there was anything to drain.
            return 0

    async def _work(self) -> int:
        data = await self._channel.receive_bytes()
        try:
            function: WorkerFunction = pickle.loads(data)  # noqa: S301 - from the parent process
        except Exception:  # noqa: BLE001 - any error of its module is logged
            _log.exception("worker %d: cannot unpickle the worker function", self._number)
            return 1
        await self._channel.send({"kind": "up"})
        start = await self._channel.receive()
        self._drain_timeout = start["drain_timeout"]
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._control = ChildServerControl(start["users"], start["certificate"], self._send_listening)
            await nursery.start(self._handle_sigterm)
            nursery.start_soon(self._handle_messages)
            nursery.start_soon(self._send_reports)
            code = 0
            try:
                with self._function_scope:
                    await function(start["port"], self._control)
            except Exception:  # noqa: BLE001 - any error is logged
                _log.exception("worker %d: the worker function raised an exception", self._number)
                code = 1
            # Messages are sent one after the other, so no other one is cut off below when this one has been sent.
            with trio.move_on_after(_CLEANUP_TIMEOUT):
                await self._try_send({"kind": "end", "stats": pack_stats(self._snapshot())})
            nursery.cancel_scope.cancel()
        return code

    # The parent, and signals

    async def _handle_messages(self) -> None:
        with contextlib.suppress(ChannelClosed):
            while True:
                message = await self._channel.receive()
                await self._handle_message(message)
        _log.warning("worker %d: the parent process has exited, draining", self._number)
        if self._drain_timeout < math.inf:
            # No parent is left to kill a worker that does not exit.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, self._drain_timeout + _GRACE)
        self._nursery.start_soon(self._drain, self._drain_timeout)

    async def _handle_message(self, message: Message) -> None:
        kind = message["kind"]
        if kind == "drain":
            self._nursery.start_soon(self._drain, message["timeout"])
            return
        done = {"kind": "done", "what": kind, "number": message["number"], "error": None}
        if kind == "snapshot":
            done["stats"] = pack_stats(self._snapshot())
        else:
            try:
                self._control.apply(kind, message["value"])
            except (OSError, ValueError) as error:
                done["error"] = str(error)
        await self._channel.send(done)

    async def _handle_sigterm(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                self._nursery.start_soon(self._try_send, {"kind": "leaving"})
                self._nursery.start_soon(self._drain, self._drain_timeout)

    async def _drain(self, timeout: float) -> None:  # noqa: ASYNC109 - not how long the call may take
        try:
            await self._control.drain(timeout)
        except NotRunningError:
            # There is nothing to wait for.
            pass
        else:
            # The function may have to clean up, but other tasks in it must not keep the worker running.
            await trio.sleep(_CLEANUP_TIMEOUT)
        self._function_scope.cancel()

    async def _send_reports(self) -> None:
        with contextlib.suppress(ChannelClosed):
            while True:
                await trio.sleep(_REPORT_INTERVAL)
                await self._channel.send({"kind": "stats", "stats": pack_stats(self._snapshot())})

    async def _try_send(self, message: Message) -> None:
        """Send a message that does not matter if the parent has exited."""
        with contextlib.suppress(ChannelClosed):
            await self._channel.send(message)

    def _send_listening(self) -> None:
        self._nursery.start_soon(self._try_send, {"kind": "listening"})

    def _snapshot(self) -> ServerStats:
        try:
            return self._control.snapshot()
        except NotRunningError:
            return ServerStats()

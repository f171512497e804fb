"""What runs in a worker process of `serve_workers`: the user's function, and a task that does as the parent says.

The messages of both directions, beside the function itself, which comes first of all:

- To the parent: `up` (the settings may come), `listening`, `leaving` (told so by a signal), `done` (an answer), and
  `end` with the last counters.
- To the worker: `start` with the settings, and each with a `number` that `done` repeats: `users`, `certificate`,
  `snapshot`; and `drain`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import pickle
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from types import FrameType
from typing import Any

import trio
from attrs import define, field

from trioanytls._server.control import ControllableServer, NotRunningError, ServerControl
from trioanytls._server.stats import ServerStats

from .ipc import Channel, ChannelClosed, Message, pack_stats

#: What runs in each worker: it is given the port and the control, and calls `serve` with both.
WorkerFunction = Callable[[int, ServerControl], Awaitable[object]]

_log = logging.getLogger("trioanytls.workers")

# How long the function may go on when its server has been drained, and how long ending may take beyond the draining;
# in seconds.
_WIND_UP = 3.0
_GRACE = 10.0


def work(end: socket.socket, number: int) -> None:
    """Be a worker process, until its end.

    Args:
      end: the worker's end of the channel.
      number: which of the workers this is.
    """
    # Not SIG_IGN, which programs that the worker starts would inherit.
    signal.signal(signal.SIGINT, _leave_it_to_the_parent)
    # Blocked by the parent, for the time until here.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # Programs that the worker starts are not to keep the channel open.
    end.set_inheritable(False)
    sys.exit(trio.run(WorkerMain(end, number).run))


def _leave_it_to_the_parent(_signal: int, _frame: FrameType | None) -> None:
    """Ctrl-C goes to all processes of a terminal at once."""


class ChildServerControl(ServerControl):
    """The control that the function is given. A server that takes it has the settings of the other workers at once."""

    def __init__(self, users: Mapping[str, str] | None, certificate: list[Any] | None, listens: Callable[[], None]):
        super().__init__()
        self._users = users
        self._certificate = certificate
        self._say_that_it_listens = listens

    def exchange(self, kind: str, value: Any) -> None:
        """Exchange the users, or the certificate, now or when there is a server.

        Raises:
          OSError: the certificate cannot be used.
        """
        if kind == "users":
            self._users = value
            if self.running:
                self.replace_users(value)
        else:
            self._certificate = value
            if self.running:
                self.replace_certificate(*value)

    def _attach(self, server: ControllableServer) -> None:
        super()._attach(server)
        if self._users is not None:
            server.replace_users(self._users)
        if self._certificate is not None:
            try:
                server.replace_certificate(*self._certificate)
            except OSError as error:
                _log.error(
                    "the certificate %s cannot be used, that of the start remains: %s", self._certificate[0], error
                )

    def _listens(self) -> None:
        self._say_that_it_listens()


@define(eq=False)
class WorkerMain:
    """The worker."""

    _end: socket.socket
    _number: int
    _channel: Channel = field(init=False)
    _control: ChildServerControl = field(init=False)
    _drain_timeout: float = field(init=False)
    _nursery: trio.Nursery = field(init=False)
    # The user's function.
    _function: trio.CancelScope = field(init=False, factory=trio.CancelScope)

    async def run(self) -> int:
        """The exit code."""
        self._channel = Channel.over(self._end, math.inf)
        try:
            with contextlib.closing(self._channel):
                return await self._work()
        except ChannelClosed:
            # The parent has gone before there was anything to drain.
            return 0

    async def _work(self) -> int:
        data = await self._channel.receive_bytes()
        try:
            function: WorkerFunction = pickle.loads(data)  # noqa: S301 - from the process that has started this one
        except Exception:  # noqa: BLE001 - whatever its module raises: logged
            _log.exception("worker %d: its function cannot be had in a process of its own", self._number)
            return 1
        await self._channel.send({"kind": "up"})
        start = await self._channel.receive()
        self._drain_timeout = start["drain_timeout"]
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._control = ChildServerControl(start["users"], start["certificate"], self._say_that_it_listens)
            await nursery.start(self._heed_sigterm)
            nursery.start_soon(self._heed_parent)
            code = 0
            try:
                with self._function:
                    await function(start["port"], self._control)
            except Exception:  # noqa: BLE001 - whatever it raises: logged
                _log.exception("worker %d: its function has failed", self._number)
                code = 1
            # Nothing is being sent halfway when this has gone out.
            with trio.move_on_after(_WIND_UP):
                await self._say({"kind": "end", "stats": pack_stats(self._snapshot())})
            nursery.cancel_scope.cancel()
        return code

    # The parent, and signals

    async def _heed_parent(self) -> None:
        with contextlib.suppress(ChannelClosed):
            while True:
                message = await self._channel.receive()
                await self._do(message)
        _log.warning("worker %d: the process that has started it is gone; it stops", self._number)
        if self._drain_timeout < math.inf:
            # Nobody is there any more to kill a process that does not end.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, self._drain_timeout + _GRACE)
        self._nursery.start_soon(self._drain, self._drain_timeout)

    async def _do(self, message: Message) -> None:
        kind = message["kind"]
        if kind == "drain":
            self._nursery.start_soon(self._drain, message["timeout"])
            return
        done = {"kind": "done", "what": kind, "number": message["number"], "error": None}
        if kind == "snapshot":
            done["stats"] = pack_stats(self._snapshot())
        else:
            try:
                self._control.exchange(kind, message["value"])
            except (OSError, ValueError) as error:
                done["error"] = str(error)
        await self._channel.send(done)

    async def _heed_sigterm(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                self._nursery.start_soon(self._say, {"kind": "leaving"})
                self._nursery.start_soon(self._drain, self._drain_timeout)

    async def _drain(self, timeout: float) -> None:  # noqa: ASYNC109 - not how long the call may take
        try:
            await self._control.drain(timeout)
        except NotRunningError:
            # Then there is nothing to wait for.
            pass
        else:
            # The function may have something to put in order; what it has running beside the server must not last.
            await trio.sleep(_WIND_UP)
        self._function.cancel()

    async def _say(self, message: Message) -> None:
        """Say something that is of no importance when there is nobody any more."""
        with contextlib.suppress(ChannelClosed):
            await self._channel.send(message)

    def _say_that_it_listens(self) -> None:
        self._nursery.start_soon(self._say, {"kind": "listening"})

    def _snapshot(self) -> ServerStats:
        try:
            return self._control.snapshot()
        except NotRunningError:
            return ServerStats()

"""One worker process, as the parent sees it: its state, the messages to it, and its end."""

from __future__ import annotations

import contextlib
import logging
import math
from typing import Any

import trio
from attrs import define, field

from trioanytls._protocol.text import one_line
from trioanytls._server.stats import ServerStats

from .ipc import Channel, ChannelClosed, Message
from .process import WorkerProcess

_log = logging.getLogger("trioanytls.workers")

# The time that a worker gets beyond the drain timeout before it is killed: its connections close
# (`Config.close_timeout`), its function cleans up, the interpreter exits. Also the time for its process to exit after
# the last message. In seconds.
_GRACE = 10.0
# How long to wait for the exit of a worker that was killed, in seconds.
_KILL_TIMEOUT = 5.0
# Workers report their counters once a second, and the parent checks on them as often. The number of checks without a
# report, or without the confirmation of a change, before that is logged.
_OVERDUE_CHECKS = 5


@define(eq=False)
class WorkerHandle:
    """A worker of the parent process.

    Attributes:
      slot: the worker's number for people; its replacement takes the number over.
      up: whether it has been sent the settings.
      is_leaving: whether it drains without a request from the parent.
      slot_free: set when its slot can be taken by another worker.
      channel_closed: set when no more messages come from it.
      stats: the counters that it reported last.
      is_silent: whether its reports have stopped. The parts of `stats` that describe the moment are out of date then.
    """

    slot: int
    process: WorkerProcess
    channel: Channel
    up: bool = field(init=False, default=False)
    is_leaving: bool = field(init=False, default=False)
    slot_free: trio.Event = field(init=False, factory=trio.Event)
    channel_closed: trio.Event = field(init=False, factory=trio.Event)
    stats: ServerStats = field(init=False, factory=ServerStats)
    is_silent: bool = field(init=False, default=False)
    # The messages to send, by kind. A new message replaces an old one of its kind, so that the number of messages for a
    # worker that does not read is bounded. They contain the passwords of users.
    _unsent: dict[str, Message] = field(init=False, factory=dict, repr=False)
    _posted: trio.Event = field(init=False, factory=trio.Event)
    # By kind: the number of the last message that it has answered.
    _answered: dict[str, int] = field(init=False, factory=dict)
    _new_answer: trio.Event = field(init=False, factory=trio.Event)
    # By kind: the number of the last change that it has not confirmed yet, and the number of checks since the first.
    _unconfirmed: dict[str, tuple[int, int]] = field(init=False, factory=dict)
    _checks_since_report: int = field(init=False, default=0)
    # Its deadline is the time when the worker is killed.
    _kill_scope: trio.CancelScope = field(init=False, factory=trio.CancelScope)
    _drain_deadline: float = field(init=False, default=math.inf)
    _has_exited: bool = field(init=False, default=False)

    def log(self, level: int, text: str) -> None:
        """Log an event of this worker."""
        _log.log(level, "worker %d (pid %d): %s", self.slot, self.process.pid, text)

    # Its end

    async def wait(self) -> None:
        """Wait until the process has exited, and kill it if it takes too long."""
        with self._kill_scope:
            await self.process.wait()
        if self._kill_scope.cancelled_caught:
            self.log(logging.ERROR, "did not exit in time, killing it")
            self.process.kill()
            with trio.move_on_after(_KILL_TIMEOUT):
                await self.process.wait()

    def expect_exit(self, timeout: float = 0.0) -> None:
        """Kill the worker if it does not exit within `timeout` seconds and the grace period."""
        self._kill_scope.deadline = min(self._kill_scope.deadline, trio.current_time() + timeout + _GRACE)

    def drains_itself(self, timeout: float) -> None:
        """Note that the worker has begun to drain without a request, and give its slot to another one."""
        self.is_leaving = True
        self.expect_exit(timeout)
        self.slot_free.set()

    def drain(self, timeout: float) -> None:
        """Tell the worker to drain. A second call can shorten the time, but not extend it."""
        deadline = trio.current_time() + timeout
        if deadline < self._drain_deadline:
            self._drain_deadline = deadline
            self.post("drain", {"timeout": timeout})
            self.expect_exit(timeout)

    def close(self) -> None:
        """Close the process and the channel, and wake all waiters."""
        self.process.close()
        self.channel.close()
        self.slot_free.set()
        self._has_exited = True
        self._new_answer.set()

    # Messages to it

    def post(self, kind: str, message: Message) -> None:
        """Send a message as soon as the worker reads it, unless another one of its kind is posted before that."""
        self._unsent[kind] = {"kind": kind, **message}
        # Until it is up, it reads nothing but the function and the settings.
        if self.up:
            self._posted.set()

    def post_change(self, kind: str, number: int, value: Any) -> None:
        """Send new settings, which the worker confirms."""
        self.post(kind, {"number": number, "value": value})
        _, checks = self._unconfirmed.get(kind, (0, 0))
        self._unconfirmed[kind] = (number, checks)

    async def send_posted(self, function: bytes) -> None:
        """Send the pickled function, and then all that is posted."""
        # A worker that has exited is noticed elsewhere.
        with contextlib.suppress(ChannelClosed):
            await self.channel.send_bytes(function)
            while True:
                await self._posted.wait()
                self._posted = trio.Event()
                while self._unsent:
                    # Messages that were posted before the worker was up are sent after the settings.
                    kind = "start" if "start" in self._unsent else next(iter(self._unsent))
                    await self.channel.send(self._unsent.pop(kind))

    # Messages from it

    def report(self, stats: ServerStats) -> None:
        """Note the counters that it has reported."""
        self.stats = stats
        self._checks_since_report = 0
        self.is_silent = False

    def answer(self, kind: str, number: int, error: str | None) -> None:
        """Note its answer to the message with this number. `error` is the reason why it could not do it."""
        self._answered[kind] = number
        self._new_answer.set()
        self._new_answer = trio.Event()
        if number >= self._unconfirmed.get(kind, (math.inf, 0))[0]:
            del self._unconfirmed[kind]
        if error is not None:
            self.log(logging.ERROR, f"cannot apply the new {kind}: {one_line(error)}")

    def has_answered(self, kind: str, number: int) -> bool:
        """Return whether it has answered the message with this number, or a later one of its kind."""
        return self._answered.get(kind, 0) >= number

    async def wait_answer(self, kind: str, number: int) -> None:
        """Wait until it has answered, or has exited."""
        while not self.has_answered(kind, number) and not self._has_exited:
            await self._new_answer.wait()

    def check(self) -> None:
        """Log overdue reports and confirmations, each once. The parent calls this once a second.

        Calls are counted instead of seconds, so that a parent that was suspended does not find all workers overdue.
        """
        if not self.up:
            return
        self._checks_since_report += 1
        if self._checks_since_report == _OVERDUE_CHECKS:
            self.set_silent(_OVERDUE_CHECKS)
        for kind, (number, checks) in self._unconfirmed.items():
            self._unconfirmed[kind] = (number, checks + 1)
            if checks + 1 == _OVERDUE_CHECKS:
                self.log(logging.WARNING, f"has not confirmed the new {kind} within {_OVERDUE_CHECKS} s")

    def set_silent(self, seconds: float) -> None:
        """Note that the worker has not reported its counters for this long."""
        if not self.is_silent:
            self.is_silent = True
            self.log(logging.WARNING, f"no statistics received within {seconds:g} s, using the last known values")

"""Attempts to connect, in background tasks: a caller that is cancelled cancels no attempt that others wait for.

There are as many attempts as the waiting callers need. While attempts fail, one of them goes on, with growing pauses,
for all callers.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable

import trio

from trioanytls._exceptions import CertificateError, ConnectionClosed
from trioanytls._transport.handshake import is_version_mismatch

from .backoff import Backoff
from .events import ClientEvents, notify
from .stats import ClientCounters

_log = logging.getLogger("trioanytls.client")

#: Makes a secured transport within this number of seconds. If it takes longer, raises an error that names the step:
#: `TimeoutError` for TCP, `TLSError` for the handshake.
Dial = Callable[[float], Awaitable[trio.abc.Stream]]


class Connector:
    """The attempts to connect of one client.

    Attributes:
      dial: makes a transport.
      backoff: the failures, and the pauses after them.
    """

    def __init__(
        self,
        dial: Dial,
        key: str,
        connect_timeout: float,
        backoff: Backoff,
        counters: ClientCounters,
        events: ClientEvents,
        *,
        is_needed: Callable[[], bool],
        carry: Callable[[trio.abc.Stream, Callable[[], None]], Awaitable[None]],
        failed_for_good: Callable[[Exception], None],
        changed: Callable[[], None],
    ) -> None:
        """Take the callbacks of the pool.

        Args:
          dial, key, connect_timeout, backoff, counters, events: see `Client`.
          is_needed: returns whether a caller waits for a connection.
          carry: runs a connection over a transport until it closes. It calls its second argument when the connection
            is in the pool, so that the connection is not counted as an attempt any more.
          failed_for_good: fails all waiting callers, since further attempts can have no other outcome.
          changed: called when a pause begins or ends, and after each attempt.
        """
        self.dial = dial
        self.backoff = backoff
        self._key = key
        self._connect_timeout = connect_timeout
        self._counters = counters
        self._events = events
        self._is_needed = is_needed
        self._carry = carry
        self._failed_for_good = failed_for_good
        self._changed = changed
        self._attempts: set[trio.CancelScope] = set()

    @property
    def attempts(self) -> int:
        """The number of attempts under way, including pauses, until each one's connection is in the pool."""
        return len(self._attempts)

    def start(self, nursery: trio.Nursery, *, spare: bool = False) -> None:
        """Start an attempt. Its task lives until the connection closes.

        With `spare`, try once even if no caller waits.
        """
        attempt = trio.CancelScope()
        self._attempts.add(attempt)
        nursery.start_soon(self._run, attempt, spare)

    def cancel(self) -> None:
        """Cancel all attempts; connections that are open already go on."""
        for attempt in self._attempts:
            attempt.cancel()

    async def _run(self, attempt: trio.CancelScope, spare: bool) -> None:
        finished = functools.partial(self._attempts.discard, attempt)
        transport = None
        with trio.CancelScope(shield=True):
            try:
                with attempt:
                    transport = await self._connect(spare)
                if transport is not None:
                    await self._carry(transport, finished)
            finally:
                finished()
                # A caller may have been added since the last look at the queue.
                self._changed()

    async def _connect(self, spare: bool) -> trio.abc.Stream | None:
        """Try until it succeeds. Return None if no caller waits any more, or another attempt goes on instead."""
        while True:
            await self.backoff.wait()
            if not spare and not self._is_needed():
                return None
            spare = False
            try:
                return await self.dial(self._connect_timeout)
            except Exception as error:  # noqa: BLE001 - any error is logged, and raised in the waiting callers
                if not self._attempt_failed(error) or self.attempts > 1:
                    return None

    def _attempt_failed(self, error: Exception) -> bool:
        """Record a failed attempt. Return whether another one may succeed."""
        # Other errors are mistakes, such as a host name that cannot be looked up at all.
        expected = isinstance(error, OSError | trio.BrokenResourceError)
        again = expected and not isinstance(error, CertificateError) and not is_version_mismatch(error)
        self._counters.connections_failed += 1
        self.backoff.record_failure(error)
        if again:
            self.pause()
        _log.log(
            logging.INFO if expected else logging.ERROR,
            "%s: attempt %d to connect failed: %s",
            self._key,
            self.backoff.failures,
            describe(error),
            exc_info=None if expected else error,
        )
        notify(self._events, "on_connect_failed", error, self.backoff.failures)
        if not again:
            self._failed_for_good(error)
        return again

    def pause(self) -> None:
        """Begin a pause. While it lasts, reserve connections carry the streams."""
        self.backoff.pause()
        self._changed()

    def server_did_not_answer(self, error: ConnectionClosed) -> None:
        """Count a connection that closed before the server sent any frame as a failed attempt."""
        _log.info("%s: the server did not answer: %s; it may not know the password", self._key, error)
        self.backoff.record_failure(error)
        self.pause()

    def server_answered(self) -> None:
        """End the pause: the server speaks ANYTLS and accepts the password."""
        if self.backoff.failures:
            self.backoff.reset()
            self._changed()


def describe(error: Exception) -> str:
    """Return the text of an error of `dial`, including the error of each address, which Trio has in the cause only."""
    group = error.__cause__
    return f"{error}: {'; '.join(map(str, group.exceptions))}" if isinstance(group, ExceptionGroup) else str(error)

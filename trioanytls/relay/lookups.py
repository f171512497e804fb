"""The threads in which the system's resolver resolves names for the users of a relay.

The resolver occupies a thread until it has an answer: tens of seconds for a name whose servers are silent, and users
choose the names. Each connection and each user therefore has a limited number of threads, and further lookups wait. A
user without a running lookup gets a thread even if other users occupy all shared ones. Trio's own threads remain free
for other work, such as reading files.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable
from typing import Final, ParamSpec, TypeVar, cast

import trio
from attrs import define, field, frozen

from trioanytls import Connection


@frozen
class _LookupLimits:
    running: int
    waiting: int


_CONNECTION: Final = _LookupLimits(running=16, waiting=128)
_USER: Final = _LookupLimits(running=32, waiting=256)
# The threads that all users share, and those reserved for users without a running lookup.
_SHARED: Final = 128
_RESERVED: Final = 384

_P = ParamSpec("_P")
_T = TypeVar("_T")


class TooManyLookups(Exception):
    """Too many names wait to be resolved. The text names the limit."""


@define(eq=False)
class Lookups:
    """The lookups of one relay, running or waiting for a thread."""

    # By connection and by user. A lookup counts until its thread has ended, even if its caller was cancelled.
    _running: Counter[Hashable] = field(init=False, factory=Counter)
    _waiting: Counter[Hashable] = field(init=False, factory=Counter)
    _threads: int = field(init=False, default=0)
    # By user. The first user is the next to get a thread.
    _queues: OrderedDict[Hashable, deque[_Lookup]] = field(init=False, factory=OrderedDict)

    async def run(self, connection: Connection, function: Callable[_P, _T], *args: _P.args, **_kwargs: _P.kwargs) -> _T:
        """Call a blocking function in a thread, as soon as the limits of the connection and its user allow it.

        Raises:
          TooManyLookups: too many lookups are waiting.

        Cancellation: the thread is abandoned, and counts until it has ended.
        """
        user = connection if connection.user is None else connection.user
        lookup = cast("trio.CapacityLimiter", _Lookup(self, connection, user))
        return await trio.to_thread.run_sync(function, *args, limiter=lookup, abandon_on_cancel=True)

    async def enter(self, lookup: _Lookup) -> None:
        """Take a thread, or wait for one."""
        if self._may_run(lookup):
            self._start(lookup)
            return
        for key, bound, whose in ((lookup.connection, _CONNECTION, "connection"), (lookup.user, _USER, "user")):
            if self._waiting[key] >= bound.waiting:
                raise TooManyLookups(f"{bound.waiting} names of the same {whose} wait to be resolved")
        self._queues.setdefault(lookup.user, deque()).append(lookup)
        self._waiting.update(lookup.keys)
        try:
            await lookup.granted.wait()
        except BaseException:
            if lookup.granted.is_set():
                self.leave(lookup)
            else:
                self._unqueue(lookup)
            raise

    def leave(self, lookup: _Lookup) -> None:
        """Return a thread, and start the lookups that may run now.

        Besides the one that gets the thread, this may be one of the same user, who may have no other running lookup now
        and can then use a reserved thread.
        """
        self._threads -= 1
        _decrement(self._running, lookup)
        while (found := self._find_next()) is not None:
            self._queues.move_to_end(found.user)
            self._unqueue(found)
            self._start(found)
            found.granted.set()

    def _find_next(self) -> _Lookup | None:
        # All lookups of a queue, as a connection at its limit does not block other connections of the same user.
        return next((one for queue in self._queues.values() for one in queue if self._may_run(one)), None)

    def _may_run(self, lookup: _Lookup) -> bool:
        if not self._running[lookup.user]:
            return self._threads < _SHARED + _RESERVED
        return (
            self._threads < _SHARED
            and self._running[lookup.user] < _USER.running
            and self._running[lookup.connection] < _CONNECTION.running
        )

    def _start(self, lookup: _Lookup) -> None:
        self._threads += 1
        self._running.update(lookup.keys)

    def _unqueue(self, lookup: _Lookup) -> None:
        queue = self._queues[lookup.user]
        queue.remove(lookup)
        if not queue:
            del self._queues[lookup.user]
        _decrement(self._waiting, lookup)


@define(eq=False)
class _Lookup:
    """One lookup. It also acts as the limiter of its thread, to learn from Trio when the thread has really ended."""

    lookups: Lookups
    connection: Connection
    user: Hashable
    granted: trio.Event = field(init=False, factory=trio.Event)

    @property
    def keys(self) -> set[Hashable]:
        return {self.connection, self.user}

    async def acquire_on_behalf_of(self, _borrower: object) -> None:
        """See `trio.CapacityLimiter`."""
        await self.lookups.enter(self)

    def release_on_behalf_of(self, _borrower: object) -> None:
        """See `trio.CapacityLimiter`."""
        self.lookups.leave(self)


def _decrement(counter: Counter[Hashable], lookup: _Lookup) -> None:
    for key in lookup.keys:
        counter[key] -= 1
        if not counter[key]:
            # Keep no entries for users and connections without lookups.
            del counter[key]

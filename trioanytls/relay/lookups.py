"""Threads in which the system's resolver resolves names for a relay's users.

The resolver holds a thread until it has an answer: tens of seconds for a name whose servers are silent, and users
choose the names. So each connection and each user has a limited number of threads, further lookups wait, and a user who
has no lookup running gets a thread even when other users hold all that are shared. Trio's own threads remain for
everything else, as reading files.
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
# The threads for all users together, and those that a user without a running lookup may take beyond them.
_SHARED: Final = 128
_RESERVED: Final = 384

_P = ParamSpec("_P")
_T = TypeVar("_T")


class TooManyLookups(Exception):
    """Too many names wait to be resolved; the text says whose."""


@define(eq=False)
class Lookups:
    """The lookups of one relay: those that run, and those that wait for a thread."""

    # By connection and by user. A lookup runs until its thread has ended, also if nobody waits for it any more.
    _running: Counter[Hashable] = field(init=False, factory=Counter)
    _waiting: Counter[Hashable] = field(init=False, factory=Counter)
    _threads: int = field(init=False, default=0)
    # By user; the first one is the next to get a thread.
    _queues: OrderedDict[Hashable, deque[_Lookup]] = field(init=False, factory=OrderedDict)

    async def run(self, connection: Connection, function: Callable[_P, _T], *args: _P.args, **_kwargs: _P.kwargs) -> _T:
        """Call a function that blocks in a thread, when the connection and its user may have one.

        Raises:
          TooManyLookups: too many of them wait already.

        Cancellation: the thread is abandoned, and counts until it has ended.
        """
        user = connection if connection.user is None else connection.user
        place = cast("trio.CapacityLimiter", _Lookup(self, connection, user))
        return await trio.to_thread.run_sync(function, *args, limiter=place, abandon_on_cancel=True)

    async def enter(self, place: _Lookup) -> None:
        """Take a thread, or wait for one."""
        if self._may_run(place):
            self._start(place)
            return
        for key, bound, whose in ((place.connection, _CONNECTION, "connection"), (place.user, _USER, "user")):
            if self._waiting[key] >= bound.waiting:
                raise TooManyLookups(f"{bound.waiting} names of the same {whose} wait to be resolved")
        self._queues.setdefault(place.user, deque()).append(place)
        self._waiting.update(place.keys)
        try:
            await place.granted.wait()
        except BaseException:
            if place.granted.is_set():
                self.leave(place)
            else:
                self._unqueue(place)
            raise

    def leave(self, place: _Lookup) -> None:
        """Return a thread: the next lookup that may run gets it."""
        self._threads -= 1
        _decrement(self._running, place)
        for user, queue in self._queues.items():
            # A connection that has its share holds up no other one of the same user.
            found = next((waiting for waiting in queue if self._may_run(waiting)), None)
            if found is not None:
                self._queues.move_to_end(user)
                self._unqueue(found)
                self._start(found)
                found.granted.set()
                # One thread has become free, so no other lookup can run.
                return

    def _may_run(self, place: _Lookup) -> bool:
        if not self._running[place.user]:
            return self._threads < _SHARED + _RESERVED
        return (
            self._threads < _SHARED
            and self._running[place.user] < _USER.running
            and self._running[place.connection] < _CONNECTION.running
        )

    def _start(self, place: _Lookup) -> None:
        self._threads += 1
        self._running.update(place.keys)

    def _unqueue(self, place: _Lookup) -> None:
        queue = self._queues[place.user]
        queue.remove(place)
        if not queue:
            del self._queues[place.user]
        _decrement(self._waiting, place)


@define(eq=False)
class _Lookup:
    """One lookup. To Trio, it is the limiter of its thread, which tells when the thread has really ended."""

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


def _decrement(counter: Counter[Hashable], place: _Lookup) -> None:
    for key in place.keys:
        counter[key] -= 1
        if not counter[key]:
            # A counter that grew with each user and connection would never shrink.
            del counter[key]

"""The windows of the streams that a connection receives: the credit that it grants to the peer (extension `window`).

It has no I/O and no clock. Each stream has a `ReceiveWindow`, and all of a connection share `ReceiveWindows`, which
divides the connection's budget:

- A window begins with the N of NEGO, which needs no room in the budget. It is filled up to its size again after the
  application has read a quarter of it, or an eighth of a window that has grown.
- A window that is read within two round trips limits the rate of its stream. It doubles, as far as the maximum of a
  stream and the rest of the budget allow. A window that is smaller than others has more time: these others may be the
  reason why its data is late.
- The budget is under pressure while a stream below its fair share lacks room to grow, or while new streams exceed the
  budget. Then a window above the fair share halves at its next check. Bytes that are read are not granted again until
  the credit is within the new size.

Credit that was granted cannot be withdrawn. A stream is charged for it until the application has read the bytes.
"""

from __future__ import annotations

import math
from typing import Final

#: The shortest round trip to calculate with, in seconds. The kernel's estimate ends at the kernels: it does not contain
#: the passes of both event loops that a grant and the data after it take, which last longer than a fast network. A
#: window that is too small costs a busy sender a turn for each frame.
MIN_ROUND_TRIP: Final = 0.016
#: The number of grants for each window of the first size, and for each larger one. Bytes that were read and not granted
#: again do not circulate. With two grants, they could be half of the window for ever, depending on the sizes of the
#: sender's bursts: such a window would be read in two round trips and a bit, and not grow. More grants use the budget
#: better, and more evenly.
_FIRST_GRANTS: Final = 4
_GRANTS: Final = 8
#: A window that is read within this number of round trips grows. A sender without credit takes one.
_GROWTH_ROUND_TRIPS: Final = 2
#: The same for a window that is smaller than others, and one more for each of these. If they fill the path, the sender
#: of a small one also waits for their bytes in the buffers of its system, which can hold several round trips, and for
#: its turn among them. Without this, the shares of the streams would depend on the sizes of their windows for ever.
_CATCH_UP_ROUND_TRIPS: Final = 8
#: The share of a window that must be read in that time. Not the whole one: the bytes that were read and not granted
#: again come a round trip later.
_MEASURED_SHARE: Final = 0.75
#: A stream that lacks room keeps its claim for this number of round trips after its last check. While it is read as
#: fast as before, the next check follows within two. A stream that has become idle must not keep others small.
_WISH_ROUND_TRIPS: Final = 4
#: The maximum of a sender's credit (extensions: 2).
_MAX_CREDIT: Final = 2**62 - 1
#: The value of `until_check` after the end of a stream: there is nothing to grant.
_NEVER: Final = 2**62


class ReceiveWindows:
    """The windows of a connection's streams, and the budget that they share.

    Attributes:
      initial: the size in bytes that each window begins with, the N of this side's NEGO.
      maximum: the maximum size of a window in bytes.
      first_check: the `until_check` of a new window.
      total: the sum of all charges: for each open stream, the size of its window or the credit that was granted and not
        read, whichever is greater. It exceeds the budget by no more than `initial` for each open stream. Reads count
        from the next check on.
    """

    __slots__ = ("_budget", "_learned", "_open", "_users", "_wishes", "first_check", "initial", "maximum", "total")

    def __init__(self, initial: int, maximum: int, budget: int) -> None:
        self.initial: int = initial
        self.maximum: int = max(initial, min(maximum, _MAX_CREDIT))
        self.first_check: int = max(1, initial // _FIRST_GRANTS)
        self.total: int = 0
        self._budget = budget
        # The number of open streams.
        self._open = 0
        # The streams that have more than `initial`, or lack room to have it. Mostly none: an empty set is large.
        self._users: dict[ReceiveWindow, None] = {}
        # The streams below their fair share that lack room, each with the time at which it loses its claim.
        self._wishes: dict[ReceiveWindow, float] = {}
        self._learned = initial

    @property
    def has_learned(self) -> bool:
        """Whether new windows may begin with more than `initial`."""
        return self._learned > self.initial

    def reserve(self) -> None:
        """Note a new stream whose window is made by `materialize` when it is first checked. Most never are."""
        self._open += 1
        self.total += self.initial

    def release(self) -> None:
        """Note the end of a stream without a window."""
        self._open -= 1
        self.total -= self.initial

    def materialize(self, now: float) -> ReceiveWindow:
        """Return the window of a stream that was noted by `reserve`, and opened at this time."""
        return ReceiveWindow(self, now)

    @property
    def fair_share(self) -> int:
        """The size of each large window if the budget were divided evenly, at least `initial`.

        Streams for which `initial` is sufficient do not take part: many idle streams must not make the busy ones slow.
        """
        users = len(self._users)
        rest = self._budget - self.initial * (self._open - users)
        return max(self.initial, rest // users if users else rest)

    def growth_round_trips(self, window: ReceiveWindow) -> int:
        """Return the number of round trips within which the application must read the window for it to grow."""
        if window.size >= self._learned:
            return _GROWTH_ROUND_TRIPS
        return _CATCH_UP_ROUND_TRIPS + len(self._users)

    def learned_size(self, window: ReceiveWindow, now: float) -> int:
        """Return the size that a new window may begin with: the largest that was reached and not shrunk from.

        At most half of the budget is granted in advance. The rest is for streams that have shown that they need it,
        since credit that an idle stream has cannot be withdrawn.
        """
        self._expire_wishes(now)
        if self._wishes:
            return window.size
        room = self._budget // 2 - self.total
        size = max(window.size, min(self._learned, window.size + room))
        if size > self.initial:
            self._users[window] = None
        return size

    def resize(self, window: ReceiveWindow, wanted: int, now: float, deadline: float) -> int:
        """Return the new size of a window: up to `wanted`, or less than before if there is pressure by others.

        Until `deadline`, the stream claims the room that it lacks for its fair share.
        """
        size, wishes, users = window.size, self._wishes, self._users
        if wishes:
            wishes.pop(window, None)
            self._expire_wishes(now)
        if wanted > size:
            users[window] = None
        elif not wishes and self.total <= self._budget:
            # The usual case: nothing changes.
            if size <= self.initial:
                users.pop(window, None)
            return size
        fair = self.fair_share
        pressure = self.total > self._budget or bool(wishes)
        new = size
        if pressure and size > fair:
            new = max(fair, size // 2)
            self._learned = min(self._learned, new)
        elif wanted > size:
            room = window.charge + self._budget - self.total
            new = max(size, min(wanted, room, fair if pressure else wanted))
            if new < min(wanted, fair):
                wishes[window] = deadline
            if new > size:
                self._learned = max(self._learned, new)
        if new <= self.initial and window not in wishes:
            users.pop(window, None)
        return new

    def _expire_wishes(self, now: float) -> None:
        # They are in the order of their deadlines, as far as the round trip is constant.
        wishes = self._wishes
        while wishes:
            window = next(iter(wishes))
            if now < wishes[window]:
                break
            del wishes[window]
            if window.size <= self.initial:
                self._users.pop(window, None)

    def closed(self, window: ReceiveWindow) -> None:
        """Note the end of a stream."""
        self._open -= 1
        self.total -= window.charge
        self._wishes.pop(window, None)
        self._users.pop(window, None)


class ReceiveWindow:
    """The window of one stream, in the direction to this side.

    Attributes:
      size: the size in bytes, up to which credit is granted.
      until_check: the number of bytes that the application may read before `check` must be called. The reading task
        subtracts the bytes that it has read, and calls `check` as soon as the number is not positive.
      charge: the number of bytes of the budget that the stream takes, 0 after `close`.
    """

    __slots__ = ("_credit", "_interval", "_measured", "_since", "_wanted", "_windows", "charge", "size", "until_check")

    def __init__(self, windows: ReceiveWindows, now: float) -> None:
        self._windows = windows
        self.size: int = windows.initial
        self.charge: int = windows.initial
        # The credit that was granted and not read, at the last check. Negative if the peer has sent more than it had
        # credit for, as clients may before NEGO.
        self._credit = windows.initial
        # The measurement of the rate: the bytes read, and the time at which it began.
        self._measured = 0
        self._since = now
        # The size that the window should have, if it is larger than its size.
        self._wanted = 0
        self.until_check: int = 0
        # The value of `until_check` after the last check.
        self._interval = 0
        self._fill()

    def initial_grant(self, now: float = -math.inf) -> int:
        """Return the increment to grant to a new stream at once, 0 for none.

        It is not 0 if earlier streams of the connection have grown, so that each need not grow from the beginning.
        """
        if not self.charge:
            return 0
        self._count_read()
        self.size = self._windows.learned_size(self, now)
        return self._fill()

    def check(self, now: float, round_trip: float | None) -> int:
        """Return the increment to grant, 0 for none, after the application has read `until_check` bytes.

        It can be called earlier, and grants all bytes that were read, unless the window shrinks.

        `round_trip`: the round trip of the connection in seconds, None if it is unknown. Then the window does not grow.
        """
        if not self.charge:
            return 0
        shrinking = self._credit > self.size
        # The body of `_count_read`, without a call: this runs for every other frame of many busy streams.
        read = self._interval - self.until_check
        self._credit -= read
        self._measured += read
        if shrinking:
            # The credit follows the size first. Only then is the rate measured again.
            self._measured = 0
            self._since = now
        else:
            self._resize(now, round_trip)
        return self._fill()

    def _resize(self, now: float, round_trip: float | None) -> None:
        trip = MIN_ROUND_TRIP if round_trip is None else max(round_trip, MIN_ROUND_TRIP)
        quick = (
            round_trip is not None
            and self._measured >= _MEASURED_SHARE * self.size
            and now - self._since <= self._windows.growth_round_trips(self) * trip
        )
        if quick or self._measured >= self.size:
            self._wanted = min(2 * self.size, self._windows.maximum) if quick else 0
            self._measured = 0
            self._since = now
        elif round_trip is None:
            self._wanted = 0
        size = self._windows.resize(self, self._wanted, now, now + _WISH_ROUND_TRIPS * trip)
        if size < self.size:
            self._wanted = 0
        self.size = size

    def close(self) -> None:
        """Give back the share of the budget: the stream has ended, or the peer will send no more data on it.

        Afterwards, nothing is granted, and `until_check` stays positive.
        """
        if self.charge:
            self._windows.closed(self)
            self.charge = 0
            self.until_check = _NEVER

    def _count_read(self) -> None:
        read = self._interval - self.until_check
        self._credit -= read
        self._measured += read

    def _fill(self) -> int:
        """Grant credit up to the size, and schedule the next check. Return the increment."""
        increment = max(0, self.size - self._credit)
        self._credit += increment
        charge = max(self.size, self._credit)
        self._windows.total += charge - self.charge
        self.charge = charge
        # The credit of a window that has shrunk is checked as soon as it is within the size.
        excess = self._credit - self.size
        least = max(1, self._windows.initial // _FIRST_GRANTS, self.size // _GRANTS)
        self.until_check = self._interval = excess if excess > 0 else least
        return increment

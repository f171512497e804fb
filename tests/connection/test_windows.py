"""The credit that a connection grants: it grows with the path, is shared fairly, and is never lost."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trioanytls._connection.windows import MIN_ROUND_TRIP, ReceiveWindow, ReceiveWindows

N = 1024
MAX = 64 * N
BUDGET = 256 * N
#: A round trip of the simulated paths, in seconds.
TRIP = 0.1
FAR = 1000.0


def open_window(windows: ReceiveWindows, now: float = -math.inf) -> ReceiveWindow:
    """Return the window of a stream that was opened now. Without a time, the first one cannot grow."""
    windows.reserve()
    return windows.materialize(now)


def read(window: ReceiveWindow, size: int, now: float, round_trip: float | None = TRIP) -> int:
    """Read like an application, and return the sum of the increments."""
    granted = 0
    while size:
        part = min(size, window.until_check)
        window.until_check -= part
        size -= part
        if window.until_check <= 0:
            granted += window.check(now, round_trip)
    return granted


def grow(window: ReceiveWindow, size: int, now: float = 0.0) -> float:
    """Read whole windows, one per round trip, until the window has this size. Return the time."""
    for _ in range(100):
        if window.size >= size:
            return now
        now += TRIP
        read(window, window.size, now)
    raise AssertionError(f"the window has only grown to {window.size}")


def test_a_window_is_filled_up_when_a_quarter_of_it_was_read() -> None:
    window = open_window(ReceiveWindows(N, MAX, BUDGET))
    assert (window.size, window.until_check) == (N, N // 4)
    window.until_check -= N // 4 - 1
    assert window.until_check > 0
    window.until_check -= 1
    assert window.check(FAR, TRIP) == N // 4
    assert (window.size, window.until_check) == (N, N // 4)


@pytest.mark.parametrize(("initial", "step"), [(1, 1), (2, 1), (3, 1), (7, 1), (8, 2), (16385, 4096)])
def test_a_window_of_any_size_is_granted_again_before_it_is_used_up(initial: int, step: int) -> None:
    window = open_window(ReceiveWindows(initial, MAX, BUDGET))
    for round_ in range(1, 10):
        assert window.until_check == step
        assert read(window, step, FAR * round_) == step


def test_all_that_was_read_at_once_is_granted_at_once() -> None:
    window = open_window(ReceiveWindows(N, MAX, BUDGET))
    window.until_check -= N
    assert window.check(FAR, TRIP) == N


def test_an_early_check_grants_the_bytes_that_were_read_and_loses_none() -> None:
    window = open_window(ReceiveWindows(N, MAX, BUDGET))
    assert window.check(FAR, TRIP) == 0
    window.until_check -= 10
    assert window.check(FAR, TRIP) == 10
    assert window.until_check == N // 4


def test_bytes_beyond_the_credit_are_made_up_for() -> None:
    """A client may send more before it knows N: its credit is negative then, until increments have made up for it."""
    windows = ReceiveWindows(N, MAX, BUDGET)
    window = open_window(windows)
    window.until_check -= 10 * N
    assert window.check(FAR, TRIP) == 10 * N
    assert (window.size, window.until_check, windows.total) == (N, N // 4, N)


def test_a_window_that_is_read_within_two_round_trips_doubles_up_to_the_maximum() -> None:
    windows = ReceiveWindows(N, 6 * N, BUDGET)
    window = open_window(windows, now=0.0)
    sizes = []
    for number in range(1, 5):
        read(window, window.size, number * 1.99 * TRIP)
        sizes.append(window.size)
    assert sizes == [2 * N, 4 * N, 6 * N, 6 * N]
    assert windows.total == 6 * N


def test_three_quarters_of_a_window_are_enough_to_grow() -> None:
    """The last bytes of a burst may come a round trip later."""
    window = open_window(ReceiveWindows(N, MAX, BUDGET), now=0.0)
    read(window, N * 3 // 4 - 1, TRIP)
    assert window.size == N
    read(window, 1, TRIP)
    assert window.size == 2 * N


def test_a_window_whose_sender_sends_it_at_once_grows() -> None:
    """The rate is so low that a second window takes longer than two round trips, and a frame's header is missing."""
    window = open_window(ReceiveWindows(N, MAX, BUDGET), now=0.0)
    for number in range(1, 4):
        read(window, window.size - 8, number * 1.05 * TRIP)
        assert window.size == 2**number * N


def test_a_small_window_catches_up_with_larger_ones() -> None:
    """While the larger ones fill the path, its sender waits for its turn: several round trips."""
    windows = ReceiveWindows(N, MAX, BUDGET)
    large, small = open_window(windows, now=0.0), open_window(windows)
    now = grow(large, 8 * N)
    read(small, small.size, now)
    for size in (2 * N, 4 * N, 8 * N, 8 * N):
        now += 8 * TRIP
        read(small, small.size, now)
        assert small.size == size


def test_a_small_window_that_is_read_slowly_does_not_catch_up() -> None:
    windows = ReceiveWindows(N, MAX, BUDGET)
    large, small = open_window(windows, now=0.0), open_window(windows)
    now = grow(large, 8 * N)
    for _ in range(3):
        read(small, N, now)
        now += 10 * TRIP
        assert small.size == N


def test_the_growth_is_part_of_the_increment() -> None:
    window = open_window(ReceiveWindows(N, MAX, BUDGET), now=0.0)
    window.until_check -= N
    assert window.check(TRIP, TRIP) == 2 * N


def test_a_window_that_takes_longer_to_read_does_not_grow() -> None:
    window = open_window(ReceiveWindows(N, MAX, BUDGET), now=0.0)
    for number in range(1, 5):
        read(window, N, number * 2.01 * TRIP)
        assert window.size == N


def test_without_the_time_of_opening_the_second_window_is_the_first_that_counts() -> None:
    window = open_window(ReceiveWindows(N, MAX, BUDGET))
    read(window, N, FAR)
    assert window.size == N
    read(window, N, FAR + TRIP)
    assert window.size == 2 * N


def test_an_idle_stream_does_not_grow_by_its_first_window_but_by_the_second() -> None:
    window = open_window(ReceiveWindows(N, MAX, BUDGET), now=0.0)
    read(window, N, FAR)
    assert window.size == N
    read(window, N, FAR + TRIP)
    assert window.size == 2 * N


def test_a_window_does_not_grow_while_the_round_trip_is_unknown() -> None:
    window = open_window(ReceiveWindows(N, MAX, BUDGET), now=0.0)
    read(window, 10 * N, 0.0, None)
    assert window.size == N


def test_a_window_that_lacked_room_does_not_grow_while_the_round_trip_is_unknown() -> None:
    windows = ReceiveWindows(N, BUDGET, 2 * N)
    window, other = open_window(windows, now=0.0), open_window(windows)
    read(window, N, 0.0)
    assert window.size == N
    other.close()
    read(window, N // 4, 0.0, None)
    assert window.size == N


def test_a_window_that_lacked_room_grows_at_its_next_check() -> None:
    windows = ReceiveWindows(N, BUDGET, 2 * N)
    window, other = open_window(windows, now=0.0), open_window(windows)
    read(window, N, 0.0)
    assert window.size == N
    other.close()
    assert read(window, N // 4, 0.0) == N + N // 4
    assert window.size == 2 * N


def test_a_round_trip_is_taken_as_no_shorter_than_the_minimum() -> None:
    for seconds, size in ((2 * MIN_ROUND_TRIP, 2 * N), (2.1 * MIN_ROUND_TRIP, N)):
        window = open_window(ReceiveWindows(N, MAX, BUDGET), now=0.0)
        read(window, N, seconds, 0.00001)
        assert window.size == size


def test_no_window_exceeds_the_greatest_credit() -> None:
    huge = 2**64
    window = open_window(ReceiveWindows(2**61, huge, huge), now=0.0)
    read(window, 2**61, 0.0)
    assert window.size == 2**62 - 1
    read(window, 2**62, 0.0)
    assert window.size == 2**62 - 1


def test_a_maximum_below_the_initial_size_means_that_windows_do_not_grow() -> None:
    window = open_window(ReceiveWindows(N, N // 2, BUDGET), now=0.0)
    read(window, N, 0.0)
    assert window.size == N


def test_streams_open_without_room_and_give_their_share_back_once() -> None:
    windows = ReceiveWindows(N, MAX, N)
    streams = [open_window(windows) for _ in range(3)]
    assert windows.total == 3 * N
    for window in streams:
        read(window, 10 * N, 0.0)
        assert window.size == N
    for window in streams:
        window.close()
        window.close()
    assert windows.total == 0


def test_a_closed_stream_is_granted_nothing_however_much_is_read() -> None:
    windows = ReceiveWindows(N, MAX, BUDGET)
    window = open_window(windows)
    window.close()
    window.until_check -= 100 * N
    assert window.until_check > 0
    assert window.check(0.0, TRIP) == window.initial_grant() == 0
    window.close()
    assert windows.total == 0


def test_one_stream_may_have_the_whole_budget_and_no_more() -> None:
    windows = ReceiveWindows(N, 2 * BUDGET, BUDGET)
    window = open_window(windows, now=0.0)
    now = grow(window, BUDGET)
    for _ in range(10):
        now += TRIP
        read(window, window.size, now)
        assert window.size == windows.total == BUDGET


def test_a_stream_of_idle_neighbours_gets_what_they_leave() -> None:
    windows = ReceiveWindows(N, 2 * BUDGET, BUDGET)
    idle = [open_window(windows) for _ in range(100)]
    window = open_window(windows, now=0.0)
    now = grow(window, BUDGET - 100 * N)
    for _ in range(10):
        now += TRIP
        read(window, window.size, now)
        assert window.size == BUDGET - 100 * N
    assert all(one.size == N for one in idle)


def test_a_window_that_has_the_whole_budget_makes_room_for_a_new_stream() -> None:
    windows = ReceiveWindows(N, BUDGET, BUDGET)
    window = open_window(windows, now=0.0)
    now = grow(window, BUDGET)
    open_window(windows)
    assert windows.total == BUDGET + N
    # An idle stream needs no more than its first window.
    assert read(window, BUDGET // 8, now + TRIP) == BUDGET // 8 - N
    assert window.size == BUDGET - N
    assert windows.total == BUDGET


def test_a_grown_window_halves_as_long_as_smaller_ones_lack_room() -> None:
    windows = ReceiveWindows(N, BUDGET, BUDGET)
    window, others = open_window(windows, now=0.0), [open_window(windows) for _ in range(8)]
    now = grow(window, BUDGET - 8 * N)
    read(window, window.until_check, now)
    for other in others:
        read(other, 2 * N, now)
    assert windows.total == BUDGET
    fair = BUDGET // 9
    for size in (124 * N, 62 * N, 31 * N):
        # An eighth is read, and not granted again. The stream is charged for the credit, and does not shrink further.
        before = window.size
        assert window.until_check == before // 8
        assert read(window, before // 8, now) == 0
        assert (window.size, windows.total) == (size, 8 * N + before * 7 // 8)
        # The rest of the excess is read. The room is free for others.
        assert window.until_check == before * 3 // 8
        assert read(window, before * 3 // 8, now) == 0
        assert (window.size, windows.total) == (size, 8 * N + size)
    for granted in (fair - 31 * N * 7 // 8, fair // 8):
        assert read(window, window.until_check, now) == pytest.approx(granted, abs=1)
        assert (window.size, windows.total) == (fair, 8 * N + fair)


def test_a_window_that_shrinks_shrinks_no_further_if_others_have_got_their_room() -> None:
    windows = ReceiveWindows(N, BUDGET, BUDGET)
    window, others = open_window(windows, now=0.0), [open_window(windows) for _ in range(8)]
    now = grow(window, BUDGET - 8 * N)
    for other in others:
        read(other, 2 * N, now)
    read(window, window.size // 2, now)
    assert window.size == 124 * N
    for other in others:
        read(other, N, now)
        assert other.size == 2 * N
    # Bytes that were read while it shrank do not count as a window of the new size.
    assert read(window, 31 * N, now) == 31 * N
    assert window.size == 124 * N


def test_a_budget_that_is_used_completely_makes_no_window_shrink() -> None:
    windows = ReceiveWindows(N, BUDGET, BUDGET)
    idle, window = open_window(windows, now=0.0), open_window(windows, now=0.0)
    now = grow(idle, 2 * N)
    now = grow(window, BUDGET - 2 * N, now)
    assert windows.total == BUDGET
    for _ in range(10):
        read(window, window.until_check, now)
        assert window.size == BUDGET - 2 * N


def test_streams_take_part_in_the_division_while_they_have_or_want_more_than_the_first_window() -> None:
    windows = ReceiveWindows(N, BUDGET, BUDGET)
    window, other, idle = open_window(windows, now=0.0), open_window(windows), open_window(windows)
    now = grow(window, BUDGET - 2 * N)
    assert windows.fair_share == BUDGET - 2 * N
    read(other, 2 * N, now)
    assert windows.fair_share == (BUDGET - N) // 2
    # It does not want more any longer.
    read(other, N, now + FAR)
    assert windows.fair_share == BUDGET - 2 * N
    # It does again, and its claim expires.
    now += FAR
    read(other, 2 * N, now)
    assert windows.fair_share == (BUDGET - N) // 2
    read(window, BUDGET, now + FAR)
    assert windows.fair_share == BUDGET - 2 * N
    # Its window shrinks to the first size.
    many = [open_window(windows) for _ in range(BUDGET // N)]
    read(window, 2 * BUDGET, now + 2 * FAR)
    assert window.size == N
    for one in (*many, window, idle):
        one.close()
    assert windows.fair_share == BUDGET - N


def test_streams_that_begin_with_more_take_part_in_the_division() -> None:
    windows = ReceiveWindows(N, BUDGET, BUDGET)
    first = open_window(windows, now=0.0)
    assert open_window(windows).initial_grant() == 0
    grow(first, 8 * N)
    assert windows.fair_share == BUDGET - N
    assert open_window(windows).initial_grant() == 7 * N
    assert windows.fair_share == (BUDGET - N) // 2


def test_a_window_does_not_shrink_below_its_fair_share() -> None:
    windows = ReceiveWindows(N, BUDGET, BUDGET)
    window = open_window(windows, now=0.0)
    now = grow(window, BUDGET)
    # Each newcomer has used its first window and wants more.
    others = [open_window(windows, now) for _ in range(3)]
    for _ in range(10):
        now += TRIP
        for other in others:
            read(other, N, now)
        read(window, window.size, now)
        assert window.size >= BUDGET // 4


def test_a_window_never_shrinks_below_its_first_size() -> None:
    windows = ReceiveWindows(N, BUDGET, 4 * N)
    window = open_window(windows, now=0.0)
    grow(window, 4 * N)
    for _ in range(100):
        open_window(windows)
    read(window, 100 * N, FAR)
    assert window.size == N
    assert windows.total == 101 * N


def test_pressure_ends_when_the_stream_that_wanted_room_is_closed() -> None:
    windows = ReceiveWindows(N, BUDGET, BUDGET)
    window, other = open_window(windows, now=0.0), open_window(windows)
    now = grow(window, BUDGET - N)
    read(other, 2 * N, now)
    assert other.size == N
    assert windows.total == BUDGET
    other.close()
    read(window, window.size, now + TRIP)
    assert window.size == BUDGET


def test_pressure_ends_when_the_stream_that_wanted_room_has_become_idle() -> None:
    windows = ReceiveWindows(N, BUDGET, BUDGET)
    window, other = open_window(windows, now=0.0), open_window(windows)
    now = grow(window, BUDGET - N)
    read(other, 2 * N, now)
    assert other.size == N
    read(window, window.size, now + 5 * TRIP)
    assert window.size == BUDGET - N
    # The claim of a stream that is read without a pause does not end.
    read(other, 2 * N, now + 5 * TRIP)
    read(other, N // 2, now + 6 * TRIP)
    read(window, window.size, now + 6 * TRIP)
    assert window.size < BUDGET - N


def test_room_that_was_given_up_is_left_to_the_stream_that_wanted_it() -> None:
    windows = ReceiveWindows(N, BUDGET, BUDGET)
    large, small = [open_window(windows, now=0.0) for _ in range(2)], open_window(windows)
    now = grow(large[0], BUDGET // 2)
    now = grow(large[1], BUDGET // 2 - N, now)
    read(small, 2 * N, now)
    for window in large:
        read(window, 2 * BUDGET, now)
        assert window.size == BUDGET // 3
    assert windows.total == 2 * (BUDGET // 3) + N
    for number in range(1, 7):
        read(small, small.size, now)
        assert small.size == 2**number * N
    # Nothing is claimed any more: the large ones have their share.
    read(small, small.size, now)
    assert small.size == BUDGET - 2 * (BUDGET // 3)


def test_windows_become_even_and_stay_so() -> None:
    windows = ReceiveWindows(N, BUDGET, BUDGET)
    idle = [open_window(windows) for _ in range(8)]
    streams = [open_window(windows, now=0.0)]
    now = grow(streams[0], BUDGET - 8 * N)
    streams += [open_window(windows, now) for _ in range(15)]
    fair = (BUDGET - 8 * N) // 16
    for passed in range(60):
        now += TRIP
        for window in streams:
            read(window, window.size, now)
        if passed >= 20:
            sizes = [window.size for window in streams]
            assert max(sizes) <= 1.2 * min(sizes)
            assert min(sizes) >= 0.8 * fair
    assert windows.total <= BUDGET
    assert all(window.size == N for window in idle)


@pytest.mark.parametrize("rate", [10 * N / TRIP, 15 * N / TRIP, 30 * N / TRIP])
def test_a_path_is_filled_after_a_few_round_trips(rate: float) -> None:
    """A sender that is limited by the rate of the path, or by its credit if that is used up before."""
    window = open_window(ReceiveWindows(N, MAX, BUDGET), now=0.0)
    for step in range(1, 10):
        read(window, min(window.size, int(rate * TRIP)), step * TRIP)
    assert window.size >= rate * TRIP


def test_a_new_stream_begins_with_the_size_that_earlier_ones_reached() -> None:
    windows = ReceiveWindows(N, MAX, BUDGET)
    first = open_window(windows, now=0.0)
    assert first.initial_grant() == 0
    grow(first, 16 * N)
    first.close()
    second = open_window(windows)
    assert second.initial_grant() == 15 * N
    assert second.size == windows.total == 16 * N
    assert second.until_check == 2 * N
    assert second.initial_grant() == 0


def test_at_most_half_of_the_budget_is_granted_in_advance() -> None:
    windows = ReceiveWindows(N, BUDGET, BUDGET)
    first = open_window(windows, now=0.0)
    grow(first, MAX)
    first.close()
    streams = [open_window(windows) for _ in range(10)]
    grants = [window.initial_grant() for window in streams]
    assert grants == [63 * N, BUDGET // 2 - 73 * N, 0, 0, 0, 0, 0, 0, 0, 0]
    assert windows.total == BUDGET // 2


def test_nothing_is_granted_in_advance_while_a_stream_lacks_room() -> None:
    windows = ReceiveWindows(N, BUDGET, BUDGET)
    window, other = open_window(windows, now=0.0), open_window(windows)
    now = grow(window, BUDGET - N)
    read(other, 2 * N, now)
    window.close()
    assert open_window(windows).initial_grant() == 0
    # Its claim has ended.
    assert open_window(windows).initial_grant(now + 5 * TRIP) > 0


def test_a_size_that_was_shrunk_from_is_forgotten() -> None:
    windows = ReceiveWindows(N, BUDGET, BUDGET)
    window, others = open_window(windows, now=0.0), [open_window(windows) for _ in range(7)]
    now = grow(window, BUDGET - 7 * N)
    for other in others:
        read(other, 2 * N, now)
    read(window, BUDGET, now)
    assert window.size == BUDGET // 8
    for one in (window, *others):
        one.close()
    new = open_window(windows)
    new.initial_grant()
    assert new.size == BUDGET // 8


def test_bytes_that_were_read_before_the_initial_grant_are_counted() -> None:
    windows = ReceiveWindows(N, MAX, BUDGET)
    first = open_window(windows, now=0.0)
    grow(first, 2 * N)
    second = open_window(windows)
    second.until_check -= 100
    assert second.initial_grant() == N + 100


class _Peer:
    """One stream: its window, and the peer's view of it."""

    def __init__(self, window: ReceiveWindow, granted: int) -> None:
        self.window = window
        self.granted = granted
        self.sent = 0
        self.read = 0

    @property
    def credit(self) -> int:
        return self.granted - self.sent

    @property
    def buffered(self) -> int:
        return self.sent - self.read


class Windows(RuleBasedStateMachine):
    """Streams of one connection: each sends as far as its credit, and reads in any order."""

    n = 16
    budget = 200
    maximum = 150

    def __init__(self) -> None:
        super().__init__()
        self.windows = ReceiveWindows(self.n, self.maximum, self.budget)
        self.streams: list[_Peer] = []
        self.now = 0.0

    def granted(self, peer: _Peer, increment: int, before: int) -> None:
        assert increment >= 0
        peer.granted += increment
        # Only the first N of a stream exceeds the budget.
        assert self.windows.total <= max(before, self.budget)
        assert self.n <= peer.window.size <= self.maximum

    def pick(self, data: st.DataObject) -> _Peer:
        return self.streams[data.draw(st.integers(0, len(self.streams) - 1))]

    @rule(timed=st.booleans(), ask=st.booleans())
    def open(self, timed: bool, ask: bool) -> None:
        window = open_window(self.windows, self.now) if timed else open_window(self.windows)
        peer = _Peer(window, self.n)
        self.streams.append(peer)
        if ask:
            self.granted(peer, window.initial_grant(self.now), self.windows.total)

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), part=st.floats(0, 1))
    def send(self, data: st.DataObject, part: float) -> None:
        peer = self.pick(data)
        peer.sent += math.ceil(peer.credit * part)

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), part=st.floats(0, 1), trip=st.none() | st.floats(0.001, 1))
    def read(self, data: st.DataObject, part: float, trip: float | None) -> None:
        peer = self.pick(data)
        size = math.ceil(peer.buffered * part)
        peer.read += size
        peer.window.until_check -= size
        if peer.window.until_check <= 0:
            before = self.windows.total
            self.granted(peer, peer.window.check(self.now, trip), before)

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), rounds=st.integers(1, 5))
    def rush(self, data: st.DataObject, rounds: int) -> None:
        """Send and read all, several times, without a pause."""
        peer = self.pick(data)
        for _ in range(rounds):
            peer.sent += peer.credit
            size = peer.buffered
            peer.read += size
            peer.window.until_check -= size
            if peer.window.until_check <= 0:
                before = self.windows.total
                self.granted(peer, peer.window.check(self.now, 1.0), before)

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def check_early(self, data: st.DataObject) -> None:
        peer = self.pick(data)
        before = self.windows.total
        self.granted(peer, peer.window.check(self.now, None), before)

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        peer = self.pick(data)
        self.streams.remove(peer)
        total = self.windows.total
        charge = peer.window.charge
        peer.window.close()
        assert self.windows.total == total - charge

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def no_deadlock(self) -> None:
        for peer in self.streams:
            assert peer.credit or peer.buffered, "a stream whose data was read completely has no credit"

    @invariant()
    def nothing_is_lost(self) -> None:
        for peer in self.streams:
            assert peer.read <= peer.sent <= peer.granted
            window = peer.window
            unread = peer.granted - peer.read
            least = max(1, self.n // 4, window.size // 8)
            assert unread > window.size - least, "bytes were read, and not granted again"
            # The peer's credit and the buffered bytes suffice for the next check.
            assert 0 < window.until_check <= unread

    @invariant()
    def within_the_budget(self) -> None:
        charges = [max(peer.window.size, peer.granted - peer.read) for peer in self.streams]
        assert self.windows.total >= sum(charges)
        assert self.windows.total == sum(peer.window.charge for peer in self.streams)
        assert self.windows.total - self.n * len(self.streams) <= self.budget

    def teardown(self) -> None:
        for peer in self.streams:
            peer.window.close()
        assert self.windows.total == 0
        # No closed stream is remembered.
        assert not self.windows._users
        assert not self.windows._wishes


TestWindows = Windows.TestCase
TestWindows.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 1)), max_size=200))
def test_a_single_stream_never_waits_for_credit_that_it_should_have(reads: list[tuple[int, float]]) -> None:
    """A sender that always sends as much as it may, and an application that reads in pieces of any size."""
    window = open_window(ReceiveWindows(N, MAX, BUDGET))
    credit = N
    now = 0.0
    for size, seconds in reads:
        now += seconds
        size = min(size, credit)
        assert size > 0
        window.until_check -= size
        credit -= size
        if window.until_check <= 0:
            credit += window.check(now, TRIP)
        assert window.size * 3 // 4 <= credit <= window.size


@pytest.mark.parametrize("read_before", range(0, N, N // 8))
@pytest.mark.parametrize("piece", [50, N // 4, N // 3])
def test_a_stream_that_is_limited_by_its_window_grows_whatever_was_read_before(read_before: int, piece: int) -> None:
    """Bytes that were read and not granted again do not circulate. If they are half of the window, it never grows."""
    window = open_window(ReceiveWindows(N, 8 * N, BUDGET))
    granted = read(window, read_before, 0.0, None)
    # A round trip takes a little longer than the kernel's estimate: the sender's packets wait for each other.
    way = TRIP / 2 * 1.01
    grants = [(way, N - read_before + granted)]
    pieces: list[tuple[float, int]] = []
    for _ in range(1000):
        if grants and (not pieces or grants[0][0] <= pieces[0][0]):
            now, credit = grants.pop(0)
            while credit:
                size = min(piece, credit)
                credit -= size
                pieces.append((now + way, size))
        else:
            now, size = pieces.pop(0)
            window.until_check -= size
            if window.until_check <= 0 and (increment := window.check(now, TRIP)):
                grants.append((now + way, increment))
    assert window.size == 8 * N


def test_a_window_is_made_when_it_is_first_checked() -> None:
    windows = ReceiveWindows(16 * 1024, 1 << 20, 1 << 22)
    windows.reserve()
    windows.reserve()
    assert windows.total == 2 * 16 * 1024
    window = windows.materialize(0.0)
    # The budget was charged before.
    assert windows.total == 2 * 16 * 1024
    assert window.until_check == windows.first_check == 4 * 1024
    window.until_check -= 4 * 1024
    assert window.check(1.0, 0.01) == 4 * 1024
    window.close()
    windows.release()
    assert windows.total == 0
    assert not windows.has_learned

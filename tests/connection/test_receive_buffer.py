"""The data that a stream has received: in order, in bounded memory, and in one piece if possible."""

from __future__ import annotations

import sys

import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from trioanytls._connection.receive_buffer import ReceiveBudget, ReceiveBuffer


def test_one_piece_is_handed_out_uncopied() -> None:
    buffer = ReceiveBuffer(ReceiveBudget(1000))
    piece = b"x" * 1000
    buffer.put(piece)
    assert buffer.take(None) is piece
    assert buffer.size == buffer.cost == 0


def test_all_that_is_there_comes_at_once() -> None:
    buffer = ReceiveBuffer(ReceiveBudget(1000))
    for piece in (b"a", b"bc", b"def"):
        buffer.put(piece)
    assert buffer.take(None) == b"abcdef"


def test_a_large_piece_is_handed_out_uncopied_and_alone() -> None:
    budget = ReceiveBudget(1000)
    buffer = ReceiveBuffer(budget)
    large = bytes(64 * 1024)
    for piece in (large, large, b"a"):
        buffer.put(piece)
    assert buffer.take(80 * 1024) is large
    assert budget.total == buffer.cost == len(large) + 1 + 2 * 64
    # It is too small for these.
    assert len(buffer.take(1)) == 1
    assert len(buffer.take(64 * 1024)) == 64 * 1024
    for piece in (large, large):
        buffer.put(piece)
    assert len(buffer.take(90 * 1024)) == 90 * 1024
    # All there is.
    assert len(buffer.take(80 * 1024)) == 38 * 1024
    assert budget.total == buffer.cost == 0


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1), st.lists(st.none() | st.integers(1, 30), min_size=1))
def test_whatever_is_asked_for_comes_in_order_and_within_bounds(pieces: list[bytes], sizes: list[int | None]) -> None:
    buffer = ReceiveBuffer(ReceiveBudget(1000))
    taken = b""
    for number, piece in enumerate(pieces):
        buffer.put(piece)
        size = sizes[number % len(sizes)]
        before = buffer.size
        data = buffer.take(size)
        assert len(data) == (before if size is None else min(size, before))
        taken += data
        assert buffer.size == before - len(data)
        assert buffer.cost >= buffer.size
        if not buffer.size:
            assert buffer.cost == 0
    while buffer.size:
        taken += buffer.take(7)
    assert taken == b"".join(pieces)


def test_the_cost_covers_the_memory_that_small_pieces_take() -> None:
    buffer = ReceiveBuffer(ReceiveBudget(1000))
    for _ in range(1000):
        buffer.put(b"xy")
    assert buffer.cost >= 1000 * (sys.getsizeof(b"xy") + 8)
    buffer.take(500)
    assert buffer.cost == buffer.size + 64 * 750


def test_compacting_makes_the_cost_of_tiny_pieces_that_of_their_bytes() -> None:
    budget = ReceiveBudget(1000)
    buffer = ReceiveBuffer(budget)
    for number in range(100_000):
        buffer.put(bytes([number % 256]))
    assert buffer.cost == 65 * 100_000
    buffer.compact()
    assert buffer.cost == budget.total == 100_000 + 64 * (100_000 // (16 * 1024) + 1)
    assert buffer.take(None) == bytes(number % 256 for number in range(100_000))
    assert buffer.cost == budget.total == 0


def test_compacting_leaves_large_pieces_uncopied() -> None:
    buffer = ReceiveBuffer(ReceiveBudget(1000))
    large = bytes(16 * 1024)
    for piece in (large, large, b"a", b"b"):
        buffer.put(piece)
    buffer.compact()
    buffer.compact()
    assert buffer._chunks is not None
    first, second, third = buffer._chunks
    assert first is large
    assert second is large
    assert third == b"ab"


def test_compacting_an_empty_buffer_or_one_piece_does_nothing() -> None:
    budget = ReceiveBudget(1000)
    buffer = ReceiveBuffer(budget)
    buffer.compact()
    assert buffer.cost == budget.total == 0
    buffer.put(b"abc")
    buffer.take(1)
    cost = buffer.cost
    buffer.compact()
    assert buffer.cost == budget.total == cost
    assert buffer.take(None) == b"bc"
    buffer.compact()
    assert buffer.cost == budget.total == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, 2, 100, 8000, 16383, 16384, 20000]), st.none() | st.integers(1, 30000), st.booleans()
        )
    )
)
def test_compacting_changes_no_byte(steps: list[tuple[int, int | None, bool]]) -> None:
    budget = ReceiveBudget(1000)
    buffer, other = ReceiveBuffer(budget), ReceiveBuffer(budget)
    other.put(b"other")
    put = taken = b""
    for number, (size, read, compact) in enumerate(steps):
        piece = number.to_bytes(2) * size
        put += piece
        buffer.put(piece)
        if compact:
            buffer.compact()
            # At most the last piece is small.
            assert buffer.cost <= buffer.size + 64 * (buffer.size // (16 * 1024) + 1)
        if read is not None:
            taken += buffer.take(read)
        assert buffer.size == len(put) - len(taken)
        assert budget.total == buffer.cost + other.cost
    if buffer.size:
        taken += buffer.take(None)
    assert taken == put
    buffer.compact()
    assert budget.total == other.cost


async def test_compacting_lets_the_reader_go_on() -> None:
    budget = ReceiveBudget(limit=1000)
    buffer = ReceiveBuffer(budget)
    for _ in range(100):
        buffer.put(b"x")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(budget.wait)
        await trio.testing.wait_all_tasks_blocked()
        buffer.compact()
    assert budget.total == 100 + 64


def test_a_buffer_that_was_cleared_is_empty_and_can_be_used() -> None:
    budget = ReceiveBudget(1000)
    buffer = ReceiveBuffer(budget)
    for pieces in ([b"abc", b"def"], [b"ghi"]):
        for piece in pieces:
            buffer.put(piece)
        assert buffer.take(2) == pieces[0][:2]
        buffer.clear()
        assert (buffer.size, buffer.cost, budget.total) == (0, 0, 0)
    buffer.put(b"x")
    assert buffer.take(None) == b"x"


def test_a_buffer_can_be_lost_when_the_loop_that_waited_for_it_is_over() -> None:
    budget = ReceiveBudget(100)
    buffer = ReceiveBuffer(budget)
    buffer.put(bytes(1000))

    async def wait() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(budget.wait)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    trio.run(wait)
    # No task waits any more. (An error in here would be unraisable: pytest makes it a failure.)
    budget.release_from_gc(buffer.cost)
    assert budget.total == 0
    buffer.cost = 0


async def test_whoever_waits_goes_on_as_the_total_is_exactly_the_limit() -> None:
    budget = ReceiveBudget(limit=100 + 2 * 64)
    buffer = ReceiveBuffer(budget)
    for _ in range(3):
        buffer.put(bytes(50))
    assert budget.total > budget.limit
    gone_on = False

    async def wait() -> None:
        nonlocal gone_on
        await budget.wait()
        gone_on = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        buffer.take(49)
        await trio.testing.wait_all_tasks_blocked()
        assert not gone_on
        buffer.take(1)
        assert budget.total == budget.limit
        await trio.testing.wait_all_tasks_blocked()
        assert gone_on

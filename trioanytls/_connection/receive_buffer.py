"""The data that streams have received and the application has not read."""

from __future__ import annotations

from collections import deque

import trio

# The cost of a piece in addition to its bytes: an object, and its slot in the queue.
_OVERHEAD = 64
# `compact` joins pieces until they have this size. It never copies such a piece again.
_BLOCK = 16 * 1024
# A piece of this size and of three quarters of `max_bytes` is not joined with the next one: another call of the
# application costs less than the copies.
_LARGE = 64 * 1024


class ReceiveBudget:
    """The memory that all receive buffers of a connection take together.

    Attributes:
      limit: the limit in bytes (`Config.connection_receive_buffer_size`). A peer that sends more has to wait.
      total: the current total in bytes.
      waiter: the task in `wait`, if there is one.
    """

    __slots__ = ("_token", "limit", "total", "waiter")

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self.total: int = 0
        self.waiter: trio.lowlevel.Task | None = None
        # The event loop of the waiter.
        self._token: trio.lowlevel.TrioToken | None = None

    async def wait(self) -> None:
        """Wait until the total is within the limit again. For one task at a time."""

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self.waiter = None
            return trio.lowlevel.Abort.SUCCEEDED

        self.waiter = trio.lowlevel.current_task()
        self._token = trio.lowlevel.current_trio_token()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def release(self, cost: int) -> None:
        """Release `cost`, which was read or dropped."""
        self.total -= cost
        if self.waiter is not None:
            self.wake()

    def release_from_gc(self, cost: int) -> None:
        """Release `cost` from a finalizer, which may run in another thread or inside Trio's scheduler."""
        self.total -= cost
        if self.waiter is not None and self._token is not None:
            self._token.run_sync_soon(self.wake)

    def wake(self) -> None:
        """Wake the task in `wait` if the total is within the limit."""
        if self.waiter is not None and self.total <= self.limit:
            task, self.waiter = self.waiter, None
            trio.lowlevel.reschedule(task)


class ReceiveBuffer:
    """Received bytes in pieces, in order. Joining the pieces costs less than the passes of the event loop that reading
    them one by one would take.

    Attributes:
      size: the number of bytes.
      cost: the approximate memory in bytes. A piece takes more than its content, and the peer chooses the pieces.
    """

    __slots__ = ("_budget", "_chunks", "_offset", "_single", "cost", "size")

    def __init__(self, budget: ReceiveBudget) -> None:
        self._budget = budget
        # All pieces; None while the buffer has one at most, since a deque takes 600 bytes.
        self._chunks: deque[bytes] | None = None
        # The piece, if it is the only one.
        self._single = b""
        # The position in the first chunk up to which it was read.
        self._offset = 0
        self.size: int = 0
        self.cost: int = 0

    def __del__(self) -> None:
        # An application may discard a stream without reading it to its end.
        if self.cost:
            self._budget.release_from_gc(self.cost)

    def put(self, data: bytes) -> None:
        """Add at least one byte."""
        if not self.size:
            self._single = data
        elif self._chunks is None:
            self._chunks = deque((self._single, data))
            self._single = b""
        else:
            self._chunks.append(data)
        size = len(data)
        self.size += size
        size += _OVERHEAD
        self.cost += size
        self._budget.total += size

    def compact(self) -> None:
        """Join small pieces. Afterwards, `cost` exceeds `size` by 64 bytes for each 16 KiB, and one piece, at most.

        This is for a buffer whose `cost` exceeds its limit: a peer that sends tiny frames would occupy many times their
        size.
        """
        chunks = self._chunks
        if chunks is None or len(chunks) == 1:
            return
        if self._offset:
            chunks[0] = chunks[0][self._offset :]
            self._offset = 0
        joined: deque[bytes] = deque()
        run: list[bytes] = []
        size = 0
        for piece in chunks:
            run.append(piece)
            size += len(piece)
            if size >= _BLOCK:
                joined.append(piece if len(run) == 1 else b"".join(run))
                run.clear()
                size = 0
        if run:
            joined.append(b"".join(run))
        self._chunks = joined
        cost = self.size + _OVERHEAD * len(joined)
        self._budget.release(self.cost - cost)
        self.cost = cost

    def clear(self) -> None:
        """Drop everything."""
        self._budget.release(self.cost)
        self._chunks, self._single = None, b""
        self._offset = self.size = self.cost = 0

    def take(self, max_bytes: int | None) -> bytes:
        """Remove and return at least one byte, at most `max_bytes`. The buffer must not be empty.

        This is all there is, or `max_bytes`, or a large piece that is little less.
        """
        chunks, single = self._chunks, self._single
        if chunks is None:
            if max_bytes is None or max_bytes >= self.size:
                # The usual case. There is no offset: a piece that is read in part gets a deque.
                self._single = b""
                # The body of `release`, without a call: this runs for each read of the application.
                budget = self._budget
                budget.total -= self.cost
                if budget.waiter is not None:
                    budget.wake()
                self.size = self.cost = 0
                return single
            self._chunks, self._single = (chunks := deque((single,))), b""
        if max_bytes is not None and max_bytes < self.size:
            return self._take_some(chunks, max_bytes)
        if self._offset:
            chunks[0] = chunks[0][self._offset :]
            self._offset = 0
        self._budget.release(self.cost)
        self._chunks = None
        self.size = self.cost = 0
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _take_some(self, chunks: deque[bytes], size: int) -> bytes:
        left = len(chunks[0]) - self._offset
        if max(_LARGE, 3 * size // 4) <= left < size:
            size = left
        self.size -= size
        parts: list[bytes] = []
        while size:
            first, start = chunks[0], self._offset
            if start + size < len(first):
                self._offset = start + size
                parts.append(first[start : self._offset])
                break
            chunks.popleft()
            self._offset = 0
            parts.append(first[start:] if start else first)
            size -= len(first) - start
        cost = self.size + _OVERHEAD * len(chunks)
        self._budget.release(self.cost - cost)
        self.cost = cost
        return b"".join(parts)

"""What a stream has received and its application has not asked for."""

from __future__ import annotations

from collections import deque

import trio

# What a piece costs beside its bytes: an object, and its place in the queue.
_OVERHEAD = 64


class ReceiveBudget:
    """What all buffers of a connection cost together.

    Attributes:
      limit: how much they may, in bytes; a peer that sends more waits (`Config.connection_receive_buffer_size`).
      total: how much they do.
    """

    __slots__ = ("_token", "_waiter", "limit", "total")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self._waiter: trio.lowlevel.Task | None = None
        # The loop in which it waits.
        self._token: trio.lowlevel.TrioToken | None = None

    async def wait(self) -> None:
        """Wait until the total is within the limit again. For one task."""

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._waiter = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiter = trio.lowlevel.current_task()
        self._token = trio.lowlevel.current_trio_token()
        await trio.lowlevel.wait_task_rescheduled(abort)

    def release(self, cost: int) -> None:
        """Some of it was read, or dropped."""
        self.total -= cost
        self._wake()

    def release_from_gc(self, cost: int) -> None:
        """Likewise, by the garbage collector: that may be in another thread, or in the middle of Trio's own work."""
        self.total -= cost
        if self._waiter is not None and self._token is not None:
            self._token.run_sync_soon(self._wake)

    def _wake(self) -> None:
        if self._waiter is not None and self.total <= self.limit:
            task, self._waiter = self._waiter, None
            trio.lowlevel.reschedule(task)


class ReceiveBuffer:
    """Bytes in pieces, in order. Copying them together costs less than the passes of the event loop that would be
    needed to hand them out one by one.

    Attributes:
      size: how many bytes there are.
      cost: how many bytes of memory they take, about: a piece costs more than what is in it, and the peer makes the
        pieces.
    """

    __slots__ = ("_budget", "_chunks", "_offset", "cost", "size")

    def __init__(self, budget: ReceiveBudget) -> None:
        self._budget = budget
        # None as long as there is nothing: an idle stream has no use for it.
        self._chunks: deque[bytes] | None = None
        # The first chunk was handed out up to here.
        self._offset = 0
        self.size = 0
        self.cost = 0

    def __del__(self) -> None:
        # An application may let go of a stream that it has not read to its end.
        if self.cost:
            self._budget.release_from_gc(self.cost)

    def put(self, data: bytes) -> None:
        """Add bytes, at least one."""
        if self._chunks is None:
            self._chunks = deque()
        self._chunks.append(data)
        size = len(data)
        self.size += size
        size += _OVERHEAD
        self.cost += size
        self._budget.total += size

    def clear(self) -> None:
        """Drop everything."""
        self._budget.release(self.cost)
        self._chunks = None
        self._offset = self.size = self.cost = 0

    def take(self, max_bytes: int | None) -> bytes:
        """Take bytes, at least one and at most `max_bytes`; there are some."""
        chunks = self._chunks
        assert chunks  # noqa: S101 - the caller has looked at `size`
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

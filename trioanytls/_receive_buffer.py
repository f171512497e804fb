"""What a stream has received and its application has not asked for."""

from __future__ import annotations

from collections import deque

# What a piece costs beside its bytes: an object, and its place in the queue.
_OVERHEAD = 64


class ReceiveBuffer:
    """Bytes in pieces, in order. Copying them together costs less than the passes of the event loop that would be
    needed to hand them out one by one.

    Attributes:
      size: how many bytes there are.
      cost: how many bytes of memory they take, about: a piece costs more than what is in it, and the peer makes the
        pieces.
    """

    __slots__ = ("_chunks", "_offset", "cost", "size")

    def __init__(self) -> None:
        # None as long as there is nothing: an idle stream has no use for it.
        self._chunks: deque[bytes] | None = None
        # The first chunk was handed out up to here.
        self._offset = 0
        self.size = 0
        self.cost = 0

    def put(self, data: bytes) -> None:
        """Add bytes, at least one."""
        if self._chunks is None:
            self._chunks = deque()
        self._chunks.append(data)
        self.size += len(data)
        self.cost += len(data) + _OVERHEAD

    def take(self, max_bytes: int | None) -> bytes:
        """Take bytes, at least one and at most `max_bytes`; there are some."""
        chunks = self._chunks
        assert chunks  # noqa: S101 - the caller has looked at `size`
        if max_bytes is not None and max_bytes < self.size:
            return self._take_some(chunks, max_bytes)
        if self._offset:
            chunks[0] = chunks[0][self._offset :]
            self._offset = 0
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
        self.cost = self.size + _OVERHEAD * len(chunks)
        return b"".join(parts)

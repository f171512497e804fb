"""What a stream has received and its application has not asked for."""

from __future__ import annotations

from collections import deque

# The pieces that are handed out together, in bytes: many small ones in one call, large ones as they came.
_GOOD_PIECE = 64 * 1024


class ReceiveBuffer:
    """Bytes in pieces, in order; each piece is handed out without a copy where that is possible.

    Attributes:
      size: how many bytes there are.
    """

    __slots__ = ("_chunks", "_offset", "size")

    def __init__(self) -> None:
        # Made when the first bytes come: an idle stream has none.
        self._chunks: deque[bytes] | None = None
        # The first chunk was handed out up to here.
        self._offset = 0
        self.size = 0

    def put(self, data: bytes) -> None:
        """Add bytes, at least one."""
        if self._chunks is None:
            self._chunks = deque()
        self._chunks.append(data)
        self.size += len(data)

    def take(self, max_bytes: int | None) -> bytes:
        """Take bytes, at least one and at most `max_bytes`; there are some."""
        chunks = self._chunks
        assert chunks  # noqa: S101 - the caller has looked at `size`
        first = chunks[0]
        start = self._offset
        limit = _GOOD_PIECE if max_bytes is None else max_bytes
        if max_bytes is not None and len(first) - start > limit:
            data = first[start : start + limit]
            self._offset += limit
        else:
            chunks.popleft()
            self._offset = 0
            data = first[start:] if start else first
            if chunks and len(data) + len(chunks[0]) <= limit:
                data = self._join(data, chunks, limit)
        self.size -= len(data)
        return data

    @staticmethod
    def _join(data: bytes, chunks: deque[bytes], limit: int) -> bytes:
        parts = [data]
        room = limit - len(data)
        while chunks and len(chunks[0]) <= room:
            part = chunks.popleft()
            parts.append(part)
            room -= len(part)
        return b"".join(parts)

"""The traffic shaper: one deliver in, the Writes that carry it out (spec: Legacy Traffic Shaping Scheme v0;
protocol: 6).

It counts delivers and cuts and pads them; it writes nothing and knows no frame but PADDING. Whoever calls it hands
each Write to TLS alone.
"""

from __future__ import annotations

import secrets

from attrs import Factory, define, frozen

from . import _frames
from ._padding import Mark, PaddingScheme, RandBelow

# A scheme may shape a million delivers; only the first ones are kept to be shown.
_REMEMBERED = 32


@frozen
class Delivery:
    """How one deliver went out.

    Attributes:
      index: the deliver's number, from 0.
      asked: the sizes drawn from the scheme's line, in bytes, and its check marks; for deliver 0, where the line gives
        the length of the padding in AUTH and cuts nothing, that length.
      written: the sizes of the Writes that were made, in bytes.
    """

    index: int
    asked: tuple[int | Mark, ...]
    written: tuple[int, ...]


@define
class Shaper:
    """Shapes the delivers of one connection in one direction.

    Attributes:
      scheme: what sizes to make.
      deliveries: the first of the delivers so far, for `ConnectionStats`.
      padding_frames: how many PADDING frames were added.
      padding_bytes: how many bytes they had, headers included.
    """

    scheme: PaddingScheme
    _randbelow: RandBelow = secrets.randbelow
    _index: int = 0
    _auth_padding: tuple[int, ...] = ()
    deliveries: list[Delivery] = Factory(list)
    padding_frames: int = 0
    padding_bytes: int = 0

    @property
    def active(self) -> bool:
        """Whether the next deliver is shaped; once False, it stays so (spec: ShapingQuota)."""
        return self._index < self.scheme.stop

    def draw_auth_padding(self) -> int:
        """The length of the padding in AUTH, in bytes: the size that line 0 begins with, or none."""
        sizes = self.scheme.draw(0, self._randbelow)
        length = sizes[0] if sizes and isinstance(sizes[0], int) else 0
        self._auth_padding = (length,)
        return length

    def deliver(self, data: bytes) -> list[bytes]:
        """The Writes that carry the next deliver, in order. Past `stop`, that is `data` itself."""
        if not self.active:
            return [data]
        index = self._index
        self._index += 1
        # Line 0 is the padding of AUTH, which is in the data already, and cuts nothing (protocol: 6).
        sizes = self.scheme.draw(index, self._randbelow) if index else []
        writes = self._shape(data, sizes)
        if len(self.deliveries) < _REMEMBERED:
            asked = tuple(sizes) if index else self._auth_padding
            self.deliveries.append(Delivery(index, asked, tuple(map(len, writes))))
        return writes

    def _shape(self, data: bytes, sizes: list[int | Mark]) -> list[bytes]:
        writes: list[bytes] = []
        sent = 0
        for size in sizes:
            left = len(data) - sent
            if isinstance(size, Mark):
                if not left:
                    return writes
            elif not left:
                # The reference's behaviour: the header comes on top of the size (protocol: 6).
                writes.append(self._count(_frames.encode_padding(size)))
            elif not size:
                # A Write of no bytes is no Write.
                continue
            else:
                part = data[sent : sent + size]
                sent += len(part)
                room = size - len(part)
                if room >= _frames.MIN_PADDING_FRAME:
                    part += self._count(_frames.encode_padding_of_size(room))
                writes.append(part)
        # The strategy is exhausted: what remains MUST go out at once (spec: Phase 3: Residual Handling).
        if sent < len(data):
            writes.append(data[sent:])
        return writes

    def _count(self, padding: bytes) -> bytes:
        self.padding_frames += 1
        self.padding_bytes += len(padding)
        return padding

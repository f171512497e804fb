"""The traffic shaper: one deliver in, the Writes that carry it out (spec: Legacy Traffic Shaping Scheme v0;
protocol: 6).

It counts delivers and cuts and pads them; it writes nothing and knows no frame but PADDING. Whoever calls it hands
each Write to TLS alone. A Write is made when it is asked for: a line of a scheme may ask for thousands of large ones.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

from attrs import Factory, define, frozen

from trioanytls._protocol.anytls1 import frames

from .padding_scheme import Mark, PaddingScheme

# A scheme may shape a million delivers, of thousands of sizes each; only the first ones are kept to be shown.
_REMEMBERED = 32
_REMEMBERED_SIZES = 1024


@frozen
class Delivery:
    """How one deliver went out.

    Attributes:
      index: the deliver's number, from 0.
      asked: the sizes drawn from the scheme's line, in bytes, and its check marks; for deliver 0, where the line gives
        the length of the padding in AUTH and cuts nothing, that length.
      written: the sizes of the Writes that have gone out, in bytes.
    """

    index: int
    asked: tuple[int | Mark, ...]
    written: tuple[int, ...]


@define
class _Remembered:
    """A deliver to be shown as a `Delivery`, while its Writes go out and afterwards."""

    index: int
    asked: tuple[int | Mark, ...]
    written: list[int] = Factory(list)


@define
class Shaper:
    """Shapes the delivers of one connection in one direction.

    Attributes:
      scheme: what sizes to make.
      padding_frames: how many PADDING frames have gone out.
      padding_bytes: how many bytes they had, headers included.
    """

    scheme: PaddingScheme
    _randbelow: Callable[[int], int] = secrets.randbelow
    _index: int = 0
    _auth_padding: tuple[int, ...] = ()
    _remembered: list[_Remembered] = Factory(list)
    _sizes_left: int = _REMEMBERED_SIZES
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

    @property
    def deliveries(self) -> list[Delivery]:
        """The first of the delivers so far, for `ConnectionStats`."""
        return [Delivery(one.index, one.asked, tuple(one.written)) for one in self._remembered]

    def shape(self, data: bytes) -> Iterator[bytes]:
        """Yield the Writes that carry the next deliver, in order. Past `stop`, that is `data` itself.

        A Write counts as gone out when the next one is asked for: one that fails ends the iteration, and is in no
        counter. The deliver itself counts from the call on.
        """
        if not self.active:
            return iter((data,))
        index = self._index
        self._index += 1
        # Line 0 is the padding of AUTH, which is in the data already, and cuts nothing (protocol: 6).
        sizes = self.scheme.draw(index, self._randbelow) if index else []
        return self._cut(data, sizes, self._remember(index, tuple(sizes) if index else self._auth_padding))

    def _remember(self, index: int, asked: tuple[int | Mark, ...]) -> _Remembered:
        remembered = _Remembered(index, asked)
        if len(self._remembered) < _REMEMBERED:
            # One that is too long is the end, so that those that are shown have no gap.
            self._sizes_left -= len(asked)
            if self._sizes_left >= 0:
                self._remembered.append(remembered)
        return remembered

    def _cut(self, data: bytes, sizes: list[int | Mark], remembered: _Remembered) -> Iterator[bytes]:
        sent = 0
        for size in sizes:
            left = len(data) - sent
            padding = b""
            if isinstance(size, Mark):
                if not left:
                    return
                continue
            if not left:
                # The reference's behaviour: the header comes on top of the size (protocol: 6).
                padding = frames.encode_padding(size)
            elif not size:
                # A Write of no bytes is no Write.
                continue
            elif size - left >= frames.MIN_PADDING_FRAME:
                padding = frames.encode_padding_of_size(size - left)
            part = data[sent : sent + size]
            sent += len(part)
            write = part + padding
            yield write
            remembered.written.append(len(write))
            if padding:
                self.padding_frames += 1
                self.padding_bytes += len(padding)
        # The strategy is exhausted: what remains MUST go out at once (spec: Phase 3: Residual Handling).
        if sent < len(data):
            yield data[sent:]
            remembered.written.append(len(data) - sent)

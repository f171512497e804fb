"""The traffic shaper: turns a deliver into Writes (spec: Legacy Traffic Shaping Scheme v0; protocol: 6).

It counts delivers, cuts them and pads them. It does no I/O. The wire format gives it frames of padding. The caller
passes each Write to TLS separately. Writes are made one at a time, since a line of a scheme may ask for thousands of
large ones.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

from attrs import Factory, define, field, frozen

from .padding_scheme import Mark, PaddingScheme

# A scheme may shape a million delivers of thousands of sizes each. Only the first ones are kept for statistics.
_REMEMBERED = 32
_REMEMBERED_SIZES = 1024


@frozen
class PaddingFrames:
    """The frames that a wire format pads with.

    Attributes:
      smallest: the size of the smallest frame that is used to fill a Write up, in bytes, header included.
      encode: encodes a frame with this number of bytes of padding, the header not counted.
      encode_of_size: encodes a frame of this size, header included.
    """

    smallest: int
    encode: Callable[[int], bytes]
    encode_of_size: Callable[[int], bytes]


@frozen
class Delivery:
    """The sizes of one deliver, as asked for and as written.

    Attributes:
      index: the deliver's number, from 0.
      asked: the sizes drawn from the scheme's line, in bytes, and its check marks. For deliver 0, the length of the
        padding in AUTH: its line cuts nothing.
      written: the sizes of the Writes that were sent, in bytes.
    """

    index: int
    asked: tuple[int | Mark, ...]
    written: tuple[int, ...]


@define
class _Remembered:
    """The data of a `Delivery`, which grows while its Writes are sent."""

    index: int
    asked: tuple[int | Mark, ...]
    written: list[int] = Factory(list)


def _update_active(shaper: Shaper, _attribute: object, scheme: PaddingScheme) -> PaddingScheme:
    shaper.active = shaper._index < scheme.stop  # noqa: SLF001 - a part of the class
    return scheme


@define
class Shaper:
    """Shapes the delivers of one connection in one direction.

    Attributes:
      scheme: the padding scheme, which has the sizes. It may be replaced between two delivers.
      active: True while delivers are shaped. Once False, it stays False while the scheme does (spec: ShapingQuota).
      padding: the frames to pad with.
      padding_frames: the number of PADDING frames sent.
      padding_bytes: the number of their bytes, including headers.
    """

    scheme: PaddingScheme = field(on_setattr=_update_active)
    padding: PaddingFrames
    active: bool = field(init=False)
    _randbelow: Callable[[int], int] = secrets.randbelow
    _index: int = 0
    _auth_padding: tuple[int, ...] = ()
    _remembered: list[_Remembered] = Factory(list)
    _sizes_left: int = _REMEMBERED_SIZES
    padding_frames: int = 0
    padding_bytes: int = 0

    def __attrs_post_init__(self) -> None:
        _update_active(self, None, self.scheme)

    def draw_auth_padding(self) -> int:
        """Draw the length of the padding in AUTH, in bytes: the first size of line 0, or 0 if there is none."""
        sizes = self.scheme.draw(0, self._randbelow)
        length = sizes[0] if sizes and isinstance(sizes[0], int) else 0
        self._auth_padding = (length,)
        return length

    @property
    def deliveries(self) -> list[Delivery]:
        """The first delivers, for `ConnectionStats`."""
        return [Delivery(one.index, one.asked, tuple(one.written)) for one in self._remembered]

    def shape(self, data: bytes) -> Iterator[bytes]:
        """Shape the next deliver and yield its Writes in order. From `stop` on, yield `data` unchanged.

        A Write counts as sent when the next one is requested: a Write that fails ends the iteration and is not counted.
        The deliver itself counts as soon as this is called.
        """
        if not self.active:
            return iter((data,))
        index = self._index
        self._index += 1
        self.active = self._index < self.scheme.stop
        # Line 0 is the length of the padding in AUTH, which is part of the data already. It cuts nothing (protocol: 6).
        sizes = self.scheme.draw(index, self._randbelow) if index else []
        return self._cut(data, sizes, self._remember(index, tuple(sizes) if index else self._auth_padding))

    def _remember(self, index: int, asked: tuple[int | Mark, ...]) -> _Remembered:
        remembered = _Remembered(index, asked)
        if len(self._remembered) < _REMEMBERED:
            # Keep no deliver after one that is too long, so that the ones kept have no gap.
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
                # Like anytls-go: the header is not part of the size (protocol: 6).
                padding = self.padding.encode(size)
            elif not size:
                # Skip empty writes.
                continue
            elif size - left >= self.padding.smallest:
                padding = self.padding.encode_of_size(size - left)
            part = data[sent : sent + size]
            sent += len(part)
            write = part + padding
            yield write
            remembered.written.append(len(write))
            if padding:
                self.padding_frames += 1
                self.padding_bytes += len(padding)
        # All sizes are used up: the rest MUST be sent at once (spec: Phase 3: Residual Handling).
        if sent < len(data):
            yield data[sent:]
            remembered.written.append(len(data) - sent)

"""The frames that pad the packets of a shaped connection (legacy: 4)."""

from __future__ import annotations

from typing import Final

from trioanytls._protocol.traffic_shaper import PaddingFrames

from . import frames

#: A packet that is short by at most a header is written short: a Waste frame without data is never sent.
PADDING_FRAMES: Final = PaddingFrames(
    smallest=frames.HEADER_SIZE + 1, encode=frames.encode_waste, encode_of_size=frames.encode_waste_of_size
)

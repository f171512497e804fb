"""The frames that pad the Writes of a shaped connection (spec: PADDING Frame)."""

from __future__ import annotations

from typing import Final

from trioanytls._protocol.traffic_shaper import PaddingFrames

from . import frames

PADDING_FRAMES: Final = PaddingFrames(
    smallest=frames.MIN_PADDING_FRAME, encode=frames.encode_padding, encode_of_size=frames.encode_padding_of_size
)

"""trioanytls in the wire format of anytls-go, sing-box and mihomo.

The streams share one connection, as in the other format. A pool of the library would open one for each stream.
"""

from __future__ import annotations

from typing import ClassVar

import trioanytls

from . import trioanytls_peer


class Peer(trioanytls_peer.Peer):
    """The same calls with `protocol="legacy"`."""

    wire_format: ClassVar[trioanytls.WireFormat] = "legacy"
    # The most data of a frame.
    write_size: ClassVar[int] = 65535

"""trioanytls without the negotiated extensions, as with a peer that knows only the specification."""

from __future__ import annotations

from typing import ClassVar

from attrs import evolve

import trioanytls

from . import trioanytls_peer


class Peer(trioanytls_peer.Peer):
    """The same calls with `extensions=()` at both ends."""

    config: ClassVar[trioanytls.Config] = evolve(trioanytls_peer.CONFIG, extensions=())

"""How much a peer may make the protocol's machines take, each field from `Config`."""

from __future__ import annotations

from attrs import frozen

from ._frames import MAX_CONTROL_PAYLOAD


@frozen(kw_only=True)
class Limits:
    """Sizes are in bytes. See the fields of `Config` of the same names."""

    max_control_payload: int = MAX_CONTROL_PAYLOAD
    max_auth_padding: int = MAX_CONTROL_PAYLOAD
    max_idle_frames: int = 10_000
    max_idle_bytes: int = 64 * 1024 * 1024
    max_scheme_size: int = MAX_CONTROL_PAYLOAD
    max_scheme_stop: int = 1000

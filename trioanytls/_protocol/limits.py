"""The limits that the protocol enforces on a peer. Each field comes from `Config`."""

from __future__ import annotations

from attrs import frozen

from trioanytls._protocol.anytls1.frames import MAX_CONTROL_PAYLOAD

from .padding_scheme import PaddingScheme


@frozen(kw_only=True)
class ProtocolLimits:
    """Limits of one connection. Sizes are in bytes. See the fields of `Config` with the same names."""

    max_control_payload: int = MAX_CONTROL_PAYLOAD
    max_auth_padding: int = MAX_CONTROL_PAYLOAD
    max_idle_frames: int = 10_000
    max_idle_bytes: int = 64 * 1024 * 1024
    max_scheme_size: int = MAX_CONTROL_PAYLOAD
    max_scheme_stop: int = 1000
    max_scheme_deliver: int = 256 * 1024
    max_scheme_total: int = 4 * 1024 * 1024

    def find_excess(self, scheme: PaddingScheme) -> tuple[str, int, int] | None:
        """Return the property of a scheme that exceeds its limit, with its value and the limit; None if none does."""
        for what, value, limit in (
            ("stop", scheme.stop, self.max_scheme_stop),
            ("largest deliver", scheme.largest_deliver, self.max_scheme_deliver),
            ("total", scheme.largest_total, self.max_scheme_total),
        ):
            if value > limit:
                return what, value, limit
        return None

"""The peers, one module each. ``PEERS`` lists them in the order of the tables."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.peer import Peer


@dataclass(frozen=True)
class PeerInfo:
    """A peer's description. The harness does not import the peer, whose packages may be in another environment."""

    name: str
    title: str
    module: str
    environment: str | None = None
    """The name of the requirements file of its own environment, or ``None`` for the harness's."""
    works: str = "abcdefghijkl"
    """The letters of the works that it does."""
    rounds: int | None = None
    """The number of rounds in which it takes part, or ``None`` for all."""

    def does(self, letter: str) -> bool:
        """Return whether the peer does a work."""
        return letter in self.works

    def load(self) -> type[Peer]:
        """Import the module and return its class ``Peer``."""
        peer: type[Peer] = import_module(f"{__name__}.{self.module}").Peer
        return peer


BASE = "ssl_stream"
"""The peer with which all others are compared, except the relays."""

RELAY_BASE = "sing-box"
"""The peer with which a relay is compared."""

RIVAL_ROUNDS = 2
"""The rounds of the peers that are far from all targets. The time goes to those that are close to one."""

PEERS: dict[str, PeerInfo] = {
    info.name: info
    for info in (
        PeerInfo("ssl_stream", "bare SSLStream", "ssl_stream", works="abcdefghijklmnop"),
        PeerInfo("pump", "pump", "pump", works="acehjmnop"),
        PeerInfo("trioanytls", "trioanytls", "trioanytls_peer", works="abcdefghijklmnop"),
        PeerInfo("no-extensions", "trioanytls, extensions off", "trioanytls_no_extensions", works="abcdefghi"),
        PeerInfo("trioanytls-legacy", "trioanytls, legacy", "trioanytls_legacy_peer", works="ace"),
        PeerInfo("tls_per_stream", "TLS per stream", "tls_per_stream", works="abcdefghikl", rounds=RIVAL_ROUNDS),
        PeerInfo("h2_inline", "h2, inline writes", "h2_inline", rounds=RIVAL_ROUNDS),
        PeerInfo("h2_coalesced", "h2, coalesced", "h2_coalesced", rounds=RIVAL_ROUNDS),
        PeerInfo("yamux_own", "yamux, own TLS", "yamux_own", environment="libp2p", rounds=RIVAL_ROUNDS),
        PeerInfo("yamux_ssl", "yamux, SSLStream", "yamux_ssl", environment="libp2p", rounds=RIVAL_ROUNDS),
        PeerInfo("sing-box", "sing-box", "relay_sing_box", works="qr"),
        PeerInfo("two-pumps", "two pumps", "relay_two_pumps", works="qr", rounds=RIVAL_ROUNDS),
        PeerInfo("relay", "trioanytls relay", "relay_trioanytls", works="qr"),
    )
}

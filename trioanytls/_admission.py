"""Which connections a server takes: how many in all, how many that nobody has vouched for, and how many of one address.

Nothing here is about ANYTLS: a connection is counted from the moment when TCP has accepted it.
"""

from __future__ import annotations

import ipaddress
from collections import Counter

from attrs import define, field


@define
class Admission:
    """The connections of one server.

    Attributes:
      max_connections, max_unauthenticated, max_unauthenticated_per_address, max_fallbacks: see `Config`.
      open: connections now, whatever they are.
      unauthenticated: those of them that have not authenticated, and are not with the fallback.
      fallbacks: those that are with the fallback.
    """

    max_connections: int
    max_unauthenticated: int
    max_unauthenticated_per_address: int
    max_fallbacks: int
    open: int = 0
    unauthenticated: int = 0
    fallbacks: int = 0
    _addresses: Counter[str] = field(init=False, factory=Counter)

    def enter(self) -> Ticket | str:
        """One more connection; or the name of the limit that stands against it."""
        if self.open >= self.max_connections:
            return "max_connections"
        if self.unauthenticated >= self.max_unauthenticated:
            return "max_unauthenticated"
        self.open += 1
        self.unauthenticated += 1
        return Ticket(self)


@define
class Ticket:
    """One connection's place."""

    _admission: Admission
    _network: str | None = field(init=False, default=None)
    _waiting: bool = field(init=False, default=True)
    _with_fallback: bool = field(init=False, default=False)
    _gone: bool = field(init=False, default=False)

    def come_from(self, address: str) -> str | None:
        """Where the connection comes from is known; the name of the limit that stands against it, if one does."""
        addresses, network = self._admission._addresses, _network(address)
        if addresses[network] >= self._admission.max_unauthenticated_per_address:
            return "max_unauthenticated_per_address"
        addresses[network] += 1
        self._network = network
        return None

    def authenticated(self) -> None:
        """The client is one of ours, or the fallback's: it is not one any more that nobody has vouched for."""
        if self._waiting:
            self._waiting = False
            self._admission.unauthenticated -= 1
            self._forget_network()

    def _forget_network(self) -> None:
        addresses = self._admission._addresses
        if self._network is not None:
            addresses[self._network] -= 1
            if not addresses[self._network]:
                # What strangers can make grow shrinks again.
                del addresses[self._network]

    def fall_back(self) -> bool:
        """Whether the fallback may have the connection; if so, it has it now."""
        if self._admission.fallbacks >= self._admission.max_fallbacks:
            return False
        self.authenticated()
        self._with_fallback = True
        self._admission.fallbacks += 1
        return True

    def leave(self) -> None:
        """The connection has ended. A second call does nothing."""
        if not self._gone:
            self._gone = True
            self.authenticated()
            self._admission.open -= 1
            if self._with_fallback:
                self._admission.fallbacks -= 1


def _network(address: str) -> str:
    """What counts as one address: of IPv6, whoever has one address has all of its /64."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 6:
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)

"""The limits on a server's connections: in total, unauthenticated, per client address, and with the fallback.

Nothing here is about ANYTLS. A connection is counted from the moment that TCP has accepted it.

Connections with the fallback are counted per address as well. When a limit on them is reached, the one that has been
idle the longest is closed to make room, as web servers close idle connections when they run out of them. A refusal
would show a prober that this is not the web server that it claims to be.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from attrs import define, field

#: How long a connection with the fallback must have been idle before it is closed to make room, in seconds.
MAKES_ROOM_AFTER: Final = 5.0


@define
class Admission:
    """The numbers of connections of one server, and the limits on them.

    Attributes:
      max_connections, max_unauthenticated, max_unauthenticated_per_address, max_fallbacks, max_fallbacks_per_address:
        see `Config`.
      open: connections of any kind now.
      unauthenticated: those of them that have not authenticated and are not with the fallback.
      fallbacks: those of them that are with the fallback.
      making_room: those with the fallback that are being closed to make room.
      unauthenticated_by_network: the unauthenticated connections whose address is known, by network.
      fallbacks_by_network: the connections with the fallback, by network, the longest idle first, without those that
        are being closed to make room.
    """

    max_connections: int
    max_unauthenticated: int
    max_unauthenticated_per_address: int
    max_fallbacks: int
    max_fallbacks_per_address: int
    open: int = 0
    unauthenticated: int = 0
    fallbacks: int = 0
    making_room: int = field(init=False, default=0)
    unauthenticated_by_network: Counter[str] = field(init=False, factory=Counter)
    fallbacks_by_network: dict[str | None, OrderedDict[AdmissionSlot, None]] = field(init=False, factory=dict)

    def enter(self) -> AdmissionSlot | str:
        """Admit a connection and return its slot, or return the name of the limit that is reached."""
        if self.open >= self.max_connections:
            return "max_connections"
        if self.unauthenticated >= self.max_unauthenticated:
            return "max_unauthenticated"
        self.open += 1
        self.unauthenticated += 1
        return AdmissionSlot(self)

    def find_fallback_limit(self, network: str | None) -> tuple[str, AdmissionSlot] | None:
        """Return the limit that one more fallback would exceed, and the connection to close instead, or None."""
        peers = self.fallbacks_by_network.get(network)
        if network is not None and peers is not None and len(peers) >= self.max_fallbacks_per_address:
            return "max_fallbacks_per_address", next(iter(peers))
        if self.fallbacks - self.making_room < self.max_fallbacks:
            return None
        # From the networks that hold the most: a client with many connections makes room first.
        most = max(map(len, self.fallbacks_by_network.values()))
        idlest = (next(iter(held)) for held in self.fallbacks_by_network.values() if len(held) == most)
        return "max_fallbacks", min(idlest, key=lambda slot: slot.active_at)


@define(eq=False)
class AdmissionSlot:
    """One connection, as `Admission` counts it.

    Attributes:
      active_at: when bytes last passed between the client and the fallback, in seconds.
    """

    _admission: Admission
    active_at: float = field(init=False, default=0.0)
    _network: str | None = field(init=False, default=None)
    _is_unauthenticated: bool = field(init=False, default=True)
    _has_fallback: bool = field(init=False, default=False)
    _is_making_room: bool = field(init=False, default=False)
    _make_room: Callable[[], object] | None = field(init=False, default=None)
    _is_released: bool = field(init=False, default=False)

    def set_address(self, address: str) -> str | None:
        """Count the connection for the client's address. Return the name of the limit that is reached, or None."""
        counts, network = self._admission.unauthenticated_by_network, _network(address)
        if counts[network] >= self._admission.max_unauthenticated_per_address:
            return "max_unauthenticated_per_address"
        counts[network] += 1
        self._network = network
        return None

    def authenticated(self) -> None:
        """Count the connection as unauthenticated no longer: it has authenticated, or is with the fallback."""
        if self._is_unauthenticated:
            self._is_unauthenticated = False
            self._admission.unauthenticated -= 1
            self._forget_network()

    def _forget_network(self) -> None:
        counts = self._admission.unauthenticated_by_network
        if self._network is not None:
            counts[self._network] -= 1
            if not counts[self._network]:
                # Unauthenticated clients must not make the table grow for ever.
                del counts[self._network]

    def fall_back(self, now: float, make_room: Callable[[], object]) -> str | None:
        """Give the connection to the fallback. Return the name of the limit that is reached, or None.

        Args:
          now: the time, in seconds.
          make_room: called when the connection is to be closed for another one.
        """
        admission = self._admission
        reached = admission.find_fallback_limit(self._network)
        if reached is not None:
            limit, other = reached
            # Connections that make room have yet to close, so their number is bounded too.
            if now - other.active_at < MAKES_ROOM_AFTER or admission.making_room >= admission.max_fallbacks:
                return limit
            other.give_way()
        self.authenticated()
        self._has_fallback = True
        self.active_at = now
        self._make_room = make_room
        admission.fallbacks += 1
        admission.fallbacks_by_network.setdefault(self._network, OrderedDict())[self] = None
        return None

    def touch(self, now: float) -> None:
        """Record that bytes passed between the client and the fallback."""
        if self._has_fallback and not self._is_making_room and not self._is_released:
            self.active_at = now
            self._admission.fallbacks_by_network[self._network].move_to_end(self)

    def give_way(self) -> None:
        """Close the connection, which is with the fallback, to make room for another one."""
        assert self._make_room is not None  # noqa: S101 - set with the fallback
        self._leave_fallback()
        self._is_making_room = True
        self._admission.making_room += 1
        self._make_room()

    def _leave_fallback(self) -> None:
        table = self._admission.fallbacks_by_network
        peers = table[self._network]
        del peers[self]
        if not peers:
            del table[self._network]

    def release(self) -> None:
        """Count the connection no longer: it has ended. A second call does nothing."""
        if not self._is_released:
            self._is_released = True
            self.authenticated()
            self._admission.open -= 1
            if self._has_fallback:
                self._admission.fallbacks -= 1
                if self._is_making_room:
                    self._admission.making_room -= 1
                else:
                    self._leave_fallback()


def _network(address: str) -> str:
    """Return the network that counts as one address. For IPv6 it is the /64, which one client usually has whole."""
    if ":" not in address:
        # Each address of IPv4 has one spelling.
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))

"""Which connections a server takes: how many in all, how many that nobody has vouched for, and how many of one address.

Nothing here is about ANYTLS: a connection is counted from the moment when TCP has accepted it.

Connections with the fallback are counted by address as well. When a limit of theirs is reached, the one that has been
idle for longest makes room, as web servers close idle connections when they run out of them. A refusal would tell a
prober that this is not the web server that it looks like.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from attrs import define, field

#: How long a connection with the fallback must have been idle to make room for another one, in seconds.
MAKES_ROOM_AFTER: Final = 5.0


@define
class Admission:
    """The connections of one server.

    Attributes:
      max_connections, max_unauthenticated, max_unauthenticated_per_address, max_fallbacks, max_fallbacks_per_address:
        see `Config`.
      open: connections now, whatever they are.
      unauthenticated: those of them that have not authenticated, and are not with the fallback.
      fallbacks: those that are with the fallback.
    """

    max_connections: int
    max_unauthenticated: int
    max_unauthenticated_per_address: int
    max_fallbacks: int
    max_fallbacks_per_address: int
    open: int = 0
    unauthenticated: int = 0
    fallbacks: int = 0
    _addresses: Counter[str] = field(init=False, factory=Counter)
    # By network, those with the fallback, the one that has been idle for longest first; without those that have made
    # room and have not left yet.
    _with_fallback: dict[str | None, OrderedDict[AdmissionSlot, None]] = field(init=False, factory=dict)
    _making_room: int = field(init=False, default=0)

    def enter(self) -> AdmissionSlot | str:
        """One more connection; or the name of the limit that stands against it."""
        if self.open >= self.max_connections:
            return "max_connections"
        if self.unauthenticated >= self.max_unauthenticated:
            return "max_unauthenticated"
        self.open += 1
        self.unauthenticated += 1
        return AdmissionSlot(self)

    def _limit_for_fallback(self, network: str | None) -> tuple[str, AdmissionSlot] | None:
        """Return the limit that stands against one more, and the connection to close instead, or None."""
        peers = self._with_fallback.get(network)
        if network is not None and peers is not None and len(peers) >= self.max_fallbacks_per_address:
            return "max_fallbacks_per_address", next(iter(peers))
        if self.fallbacks - self._making_room < self.max_fallbacks:
            return None
        # Of those networks that have the most: whoever comes with many connections makes room first.
        most = max(map(len, self._with_fallback.values()))
        idlest = (next(iter(held)) for held in self._with_fallback.values() if len(held) == most)
        return "max_fallbacks", min(idlest, key=lambda ticket: ticket._active_at)


@define(eq=False)
class AdmissionSlot:
    """One connection's place."""

    _admission: Admission
    _network: str | None = field(init=False, default=None)
    _waiting: bool = field(init=False, default=True)
    _with_fallback: bool = field(init=False, default=False)
    _is_making_room: bool = field(init=False, default=False)
    _active_at: float = field(init=False, default=0.0)
    _make_room: Callable[[], object] | None = field(init=False, default=None)
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

    def fall_back(self, now: float, make_room: Callable[[], object]) -> str | None:
        """Give the connection to the fallback. Return the name of the limit that is reached, or None.

        Args:
          now: the time, in seconds.
          make_room: called when the connection is to be closed for another one.
        """
        admission = self._admission
        reached = admission._limit_for_fallback(self._network)
        if reached is not None:
            limit, other = reached
            # Those that make room have yet to end: there may not be any number of them, either.
            if now - other._active_at < MAKES_ROOM_AFTER or admission._making_room >= admission.max_fallbacks:
                return limit
            other._give_way()
        self.authenticated()
        self._with_fallback = True
        self._active_at = now
        self._make_room = make_room
        admission.fallbacks += 1
        admission._with_fallback.setdefault(self._network, OrderedDict())[self] = None
        return None

    def touch(self, now: float) -> None:
        """Note that bytes have passed on a connection that is with the fallback."""
        if self._with_fallback and not self._is_making_room and not self._gone:
            self._active_at = now
            self._admission._with_fallback[self._network].move_to_end(self)

    def _give_way(self) -> None:
        assert self._make_room is not None  # noqa: S101 - it is with the fallback
        self._leave_fallback()
        self._is_making_room = True
        self._admission._making_room += 1
        self._make_room()

    def _leave_fallback(self) -> None:
        peers = self._admission._with_fallback[self._network]
        del peers[self]
        if not peers:
            del self._admission._with_fallback[self._network]

    def leave(self) -> None:
        """The connection has ended. A second call does nothing."""
        if not self._gone:
            self._gone = True
            self.authenticated()
            self._admission.open -= 1
            if self._with_fallback:
                self._admission.fallbacks -= 1
                if self._is_making_room:
                    self._admission._making_room -= 1
                else:
                    self._leave_fallback()


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

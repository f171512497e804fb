"""The addresses that a relay may connect to: by default, those that are public on the Internet.

Relay users send from the relay's address, which internal services may trust: those of the machine, its network, its
cloud. All addresses that are not public are therefore refused, regardless of the name. An IPv6 address may contain an
IPv4 address to which it leads in the end. Both must then be allowed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from attrs import field, frozen

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

# The registries of special addresses (RFC 6890; IANA), and the addresses at which clouds give a machine its secrets.
# The first match gives the reason. The list is explicit, since Python's `is_global` differs between versions.
_SPECIAL: Final = {
    "the metadata service of a cloud": (
        "169.254.169.254",
        "169.254.170.0/24",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "fd00:ec2::/32",
        "fd20:ce::254",
    ),
    "an unspecified address": ("0.0.0.0/8", "::"),
    "a loopback address": ("127.0.0.0/8", "::1"),
    "a link-local address": ("169.254.0.0/16", "fe80::/10"),
    "a private address": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"),
    "an address of a provider's own network": ("100.64.0.0/10",),
    "a multicast address": ("224.0.0.0/4", "ff00::/8"),
    "a broadcast address": ("255.255.255.255",),
    "an address for documentation": (
        "192.0.2.0/24",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "2001:db8::/32",
        "3fff::/20",
    ),
    "an address for measurements": ("198.18.0.0/15", "2001:2::/48"),
    # The addresses inside a Teredo address are obscured, and chosen by its author.
    "a Teredo address": ("2001::/32",),
    "a reserved address": ("192.0.0.0/24", "192.88.99.0/24", "240.0.0.0/4", "2001::/23"),
}
_REASONS: Final = [
    (ipaddress.ip_network(network), reason) for reason, networks in _SPECIAL.items() for network in networks
]
# No address outside of it is public (RFC 4291, section 2.4), except those that lead to IPv4.
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")

_IPV4_BITS: Final = 0xFFFFFFFF
# RFC 4291, section 2.5.5.2
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
# The position of an IPv4 address in an IPv6 one: the number of bits after it, and the bits that are inverted.
_EMBEDDINGS: Final = {
    _MAPPED: ((0, 0),),
    # RFC 6052, section 2.1. A network-specific NAT64 prefix is unknown here, and must be denied by the operator.
    IPv6Network("64:ff9b::/96"): ((0, 0),),
    # RFC 3056, section 2
    IPv6Network("2002::/16"): ((80, 0),),
    # RFC 4380, section 4: the client's address, and its server's, to which the first packet goes.
    IPv6Network("2001::/32"): ((0, _IPV4_BITS), (64, 0)),
}


def _unmapped(networks: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    return tuple(map(_unmap, networks))


def _unmap(network: IPNetwork) -> IPNetwork:
    """Convert an IPv6 network in the mapped form to its IPv4 network. Return any other network unchanged."""
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & _IPV4_BITS, network.prefixlen - _MAPPED.prefixlen))
    return network


@frozen
class AddressPolicy:
    """The addresses that may be connected to: public ones, those in `allow`, and none in `deny`.

    Attributes:
      allow: networks that are allowed although they are not public.
      deny: networks that are not allowed. They take precedence.

    A network in the mapped form, such as `::ffff:10.0.0.0/104`, is converted to the IPv4 network.
    """

    allow: tuple[IPNetwork, ...] = field(default=(), converter=_unmapped)
    deny: tuple[IPNetwork, ...] = field(default=(), converter=_unmapped)

    def refusal(self, address: IPAddress, own: Container[IPAddress] = ()) -> str | None:
        """Return the reason to refuse an address as a predicate, such as "is a private address". None if it is allowed.

        Args:
          own: the server's own addresses. They are refused unless `allow` contains them.
        """
        for part in _parts(address):
            if _is_in(part, self.deny):
                return "is denied"
            if _is_in(part, self.allow):
                continue
            reason = _special(part)
            # The mapped form belongs to the machine if the IPv4 address does, which is another part.
            if reason is None and part not in _MAPPED and part in own:
                reason = "an address of this server"
            if reason is not None:
                return f"is {reason}" if part == address else f"leads to {part}, {reason}"
        return None


def parse_network(text: str) -> IPNetwork:
    """Parse an address, or a network like "10.0.0.0/8". The mapped form is converted to IPv4.

    Raises:
      ValueError: the text is neither. The message names the fault.
    """
    try:
        return _unmap(ipaddress.ip_network(text))
    except ValueError:
        pass
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!a} is neither an address nor a network like 10.0.0.0/8 or fd00::/8") from None
    alone = text.partition("/")[0]
    raise ValueError(f"{text!a} is an address within the network {network}: write either that, or {alone} for it alone")


def _parts(address: IPAddress) -> Iterable[IPAddress]:
    """Yield the address, and the IPv4 addresses embedded in it."""
    yield address
    if isinstance(address, IPv6Address):
        for network, positions in _EMBEDDINGS.items():
            if address in network:
                for after, inverted in positions:
                    yield IPv4Address((int(address) >> after & _IPV4_BITS) ^ inverted)


def _is_in(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    return any(address in network for network in networks)


def _special(address: IPAddress) -> str | None:
    for network, reason in _REASONS:
        if address in network:
            return reason
    if isinstance(address, IPv4Address) or address in _GLOBAL_UNICAST or _is_in(address, _EMBEDDINGS):
        return None
    return "a reserved address"

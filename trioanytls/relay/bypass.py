"""The destinations that the client connects to directly instead of through the relay.

A rule is one of these:

    10.0.0.0/8, 192.0.2.1, fd00::/8    a network, or one address
    host.example                       this name only
    .lan, *.lan                        the names that end in `.lan`, not `lan` itself

Networks apply to destinations that are addresses. A name is not resolved to check the rules, since the lookup would
reveal the destination to the network and to the resolver.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from attrs import frozen

from trioanytls.destination import MAX_NAME, Destination, encode_host

from .address_policy import IPAddress, IPNetwork, parse_network

#: A name of one or more labels, as `_normalize` returns it.
_NAME: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
# Only digits, or digits after the last dot: a malformed address, not a name.
_NO_NAME: Final = re.compile(r"[0-9.]+|.*\.[0-9]+")


@frozen
class BypassRule:
    """One rule.

    Attributes:
      network: the addresses that it applies to.
      name: the name that it applies to, in lower case, without a dot at its end.
      is_suffix: whether it applies to the names under `name`, and not to `name` itself.
    """

    network: IPNetwork | None = None
    name: str | None = None
    is_suffix: bool = False

    @classmethod
    def parse(cls, text: str) -> BypassRule:
        """Parse a rule.

        Raises:
          ValueError: the text is not a rule. The message names the fault.
        """
        name = text.removeprefix("*")
        if "/" in text or ":" in text or _NO_NAME.fullmatch(text):
            return cls(network=parse_network(text.removeprefix("[").removesuffix("]")))
        is_suffix = name.startswith(".")
        normal = _normalize(name.removeprefix("."))
        if (name != text and not is_suffix) or normal is None or not _NAME.fullmatch(normal):
            raise ValueError(
                f"invalid rule {text!a}: expected a host, an address, a network like 10.0.0.0/8, or a suffix like .lan"
            )
        return cls(name=normal, is_suffix=is_suffix)

    def __str__(self) -> str:
        return str(self.network) if self.network is not None else f"{'.' if self.is_suffix else ''}{self.name}"


class Bypass:
    """A set of rules."""

    def __init__(self, rules: Iterable[BypassRule] = ()) -> None:
        rules = list(rules)
        self._networks = [rule.network for rule in rules if rule.network is not None]
        self._names = frozenset(rule.name for rule in rules if rule.name is not None and not rule.is_suffix)
        self._suffixes = tuple(f".{rule.name}" for rule in rules if rule.is_suffix)

    def applies_to(self, destination: Destination) -> bool:
        """Return whether a rule applies to this destination."""
        if not (self._networks or self._names or self._suffixes):
            return False
        address = _parse_address(destination.host)
        if address is not None:
            return any(address in network for network in self._networks)
        name = _normalize(destination.host)
        return name is not None and (name in self._names or name.endswith(self._suffixes))


def _parse_address(host: str) -> IPAddress | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _normalize(host: str) -> str | None:
    """Return a name in ASCII and lower case, without a dot at its end. Return None if it is not a name."""
    try:
        name = encode_host(host)
    except ValueError:
        return None
    # A longer name can neither be resolved nor be sent to the relay.
    return name.lower().removesuffix(".") if len(name) <= MAX_NAME else None

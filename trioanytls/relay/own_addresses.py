"""The addresses of the server itself, including public ones.

Services that listen on all addresses of the machine, such as `--metrics '*:9100'` or a database protected by a
firewall, rely on being unreachable from outside. A relay that connects to the machine's own public address connects
from inside.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections import OrderedDict
from typing import Final

from attrs import define, field

from .address_policy import IPAddress

# A machine can have a whole network of addresses (Linux: `ip route add local`), and a client can use any of them.
_MOST_SEEN: Final = 1024
# Addresses that no machine has (RFC 5737, RFC 3849).
_UNASSIGNED: Final[dict[int, IPAddress]] = {
    4: ipaddress.IPv4Address("192.0.2.1"),
    6: ipaddress.IPv6Address("2001:db8::1"),
}
# The process or the system has no more sockets, which does not depend on the address.
_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# The port for `connect` of a UDP socket. Nothing is sent to it.
_DISCARD: Final = 9


@define(eq=False)
class OwnAddresses:
    """The addresses to which clients have connected, and those of the machine's interfaces."""

    _seen: OrderedDict[IPAddress, None] = field(init=False, factory=OrderedDict)

    def note(self, local_address: tuple[str, int] | None) -> None:
        """Remember the address to which a client has connected: `Connection.local_address`.

        With a load balancer, the machine does not have this address, but packets to it arrive here.
        """
        if local_address is None:
            return
        try:
            address = ipaddress.ip_address(local_address[0].partition("%")[0])
        except ValueError:
            return
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        self._seen[address] = None
        self._seen.move_to_end(address)
        if len(self._seen) > _MOST_SEEN:
            self._seen.popitem(last=False)

    def __contains__(self, address: object) -> bool:
        return address in self._seen or (isinstance(address, IPAddress) and is_local(address))


def is_local(address: IPAddress) -> bool:
    """Return whether the machine has this address.

    The system allows binding a socket to its own addresses only. A list of them would need netlink or a dependency, and
    would soon be out of date.

    Raises:
      OSError: no socket is available for the test.
    """
    if not _can_be_bound(address):
        return False
    if not _can_be_bound(_UNASSIGNED[address.version]):
        return True
    # With net.ipv4.ip_nonlocal_bind, a socket can be bound to any address. The source address of packets to the address
    # is then the test: it is the same address if the machine has it. This misses secondary addresses.
    return _source_for(address) == address


def _can_be_bound(address: IPAddress) -> bool:
    try:
        with socket.socket(_family(address), socket.SOCK_DGRAM) as one:
            one.bind((str(address), 0))
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise
        return False
    return True


def _source_for(address: IPAddress) -> IPAddress | None:
    try:
        with socket.socket(_family(address), socket.SOCK_DGRAM) as one:
            one.connect((str(address), _DISCARD))
            return ipaddress.ip_address(one.getsockname()[0])
    except OSError:
        return None


def _family(address: IPAddress) -> socket.AddressFamily:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6

"""The hosts of a UDP association: their addresses, as resolved and allowed by the relay."""

from __future__ import annotations

import ipaddress
import math
import socket
from collections import OrderedDict
from typing import Final

import trio
from attrs import define, field

from trioanytls import Connection
from trioanytls.destination import Destination

from .dial import Busy, DestinationDialer, DialError, Resolved
from .reply_codes import ReplyCode

# How long the result of resolving a name is used, in seconds. The system's resolver does not tell its lifetime.
_NAME_LIFETIME: Final = 60.0
# How long a name is not resolved again after it was rejected because too many names were waiting, in seconds.
_BUSY_LIFETIME: Final = 1.0
# The most hosts of an association, and addresses of each.
_MOST_HOSTS: Final = 256
_MOST_TARGETS: Final = 4


@define(eq=False)
class UDPHost:
    """The addresses of a host.

    Attributes:
      targets: the allowed addresses, for any port, in the order to try them.
      failure: why there are none.
      expires_at: when the host must be resolved again, on Trio's clock.
    """

    targets: list[Resolved]
    failure: DialError | None = None
    expires_at: float = math.inf


@define(eq=False)
class UDPHosts:
    """The hosts that an association has used last."""

    _dialer: DestinationDialer
    _connection: Connection
    _timeout: float
    _known: OrderedDict[str, UDPHost] = field(init=False, factory=OrderedDict)

    def get(self, host: str) -> UDPHost | None:
        """Return a host, None if its name must be resolved."""
        host = host.lower()
        known = self._known.get(host)
        if known is not None and trio.current_time() < known.expires_at:
            self._known.move_to_end(host)
            return known
        target = _parse_address(host)
        if target is None:
            return None
        try:
            return self._keep(host, UDPHost(self._dialer.permitted([target], self._connection)))
        except DialError as error:
            return self._keep(host, UDPHost([], error))

    async def resolve(self, destination: Destination, *, lifetime: float = _NAME_LIFETIME) -> UDPHost:
        """Resolve a name. A failure is kept as well."""
        try:
            with trio.fail_after(self._timeout):
                found = await self._dialer.resolve(destination, self._connection)
            host = UDPHost(self._dialer.permitted(found, self._connection)[:_MOST_TARGETS])
        except Busy as error:
            host, lifetime = UDPHost([], error), _BUSY_LIFETIME
        except DialError as error:
            host = UDPHost([], error)
        except trio.TooSlowError:
            host = UDPHost([], DialError(f"the name was not resolved within {self._timeout:g} s", ReplyCode.TIMED_OUT))
        host.expires_at = trio.current_time() + lifetime
        return self._keep(destination.host.lower(), host)

    def _keep(self, name: str, host: UDPHost) -> UDPHost:
        self._known[name] = host
        self._known.move_to_end(name)
        if len(self._known) > _MOST_HOSTS:
            self._known.popitem(last=False)
        return host


def _parse_address(host: str) -> Resolved | None:
    """Parse an IP address. Return None for a name, and for an address that only the system's resolver can read."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return Resolved(socket.AF_INET, (str(address), 0))
    return None if address.scope_id else Resolved(socket.AF_INET6, (str(address), 0, 0, 0))

"""The kernel's estimate of the round trip of a TCP connection."""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping
from typing import Final, NamedTuple

import trio


class RoundTripField(NamedTuple):
    """The field of a socket option of TCP that contains the smoothed round trip, as an unsigned number of 32 bits.

    Attributes:
      option: the number of the option.
      offset: the position of the field in bytes.
      unit: the unit of the field in seconds.
      zero: the meaning of 0.
    """

    option: int
    offset: int
    unit: float
    zero: float | None


# The module `socket` lacks most of the numbers of these options.
_TCP_INFO: Final = RoundTripField(option=11, offset=68, unit=1e-6, zero=None)

#: The field of each system, by `sys.platform`.
#: Linux: TCP_INFO, tcpi_rtt of struct tcp_info in <linux/tcp.h>, in microseconds.
#: macOS: TCP_CONNECTION_INFO, tcpi_srtt of struct tcp_connection_info in <netinet/tcp.h>, in milliseconds.
FIELDS: Final[Mapping[str, RoundTripField]] = {
    "linux": _TCP_INFO,
    "android": _TCP_INFO,
    "darwin": RoundTripField(option=0x106, offset=44, unit=1e-3, zero=0.0),
}

_FIELD: Final = struct.Struct("=I")
_IPPROTO_TCP: Final = 6


def estimated_round_trip(transport: trio.abc.Stream, platform: str = sys.platform) -> float | None:
    """Return the estimate in seconds. It is None if the system has none, or if the transport is not a TCP socket.

    The peer is the other end of the socket, which may be a proxy.
    """
    field = FIELDS.get(platform)
    if field is None or not isinstance(transport, trio.SocketStream):
        return None
    try:
        info = transport.socket.getsockopt(_IPPROTO_TCP, field.option, field.offset + _FIELD.size)
    except OSError:
        # Another kind of socket, or a closed one.
        return None
    if len(info) < field.offset + _FIELD.size:
        return None
    value: int = _FIELD.unpack_from(info, field.offset)[0]
    return value * field.unit if value else field.zero

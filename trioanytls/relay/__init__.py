"""A relay as a library: the handler of a relay server, and the local front ends of a relay client.

`RelayHandler` is a handler for `trioanytls.serve`: it connects each stream to the destination that the client sends.
`serve_socks`, `serve_http_proxy`, `serve_mixed` and `forward_port` listen for local applications, and open a stream for
each connection through an `Upstream`. The command line is made of the same parts.

The layer imports only the public names of trioanytls, nothing private and nothing of the command line. The names below
are the public ones. All other names in the modules of this package may change.
"""

from __future__ import annotations

from .address_policy import AddressPolicy, IPNetwork, parse_network
from .bypass import Bypass, BypassRule
from .handler import RelayHandler, SpecialHandler
from .reply_codes import ReplyCode
from .serve import forward_port, serve_http_proxy, serve_mixed, serve_socks
from .upstream import Unreachable, Upstream

__all__ = [
    "AddressPolicy",
    "Bypass",
    "BypassRule",
    "IPNetwork",
    "RelayHandler",
    "ReplyCode",
    "SpecialHandler",
    "Unreachable",
    "Upstream",
    "forward_port",
    "parse_network",
    "serve_http_proxy",
    "serve_mixed",
    "serve_socks",
]

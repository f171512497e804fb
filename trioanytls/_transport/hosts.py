"""Names of hosts in ASCII: for DNS, TLS, URIs and destinations alike.

There are two IDNAs: Python's `idna` codec, which `ssl` uses, is of 2003, and takes `faß.de` for `fass.de`, which is
somebody else's. DNS, browsers and Trio's resolver use the later one (IDNA 2008 with the mapping of UTS #46). Whatever
is given to `ssl` or to a resolver goes through this module first, so that all of them mean the same host.
"""

from __future__ import annotations

import ipaddress
import re

import idna

# Longer ones are no names, and are not worth the time that mapping takes.
_MAX_LENGTH = 1024
_MAX_ENCODED = 253
# How much of it an error shows.
_SHOWN = 100
# Cannot be printed, but names have them: the joiners of Indic scripts and of Persian, and the soft hyphen, which comes
# with a name from a text and which the mapping removes.
_INVISIBLE = "\u200c\u200d\xad"
# A label that is not for IDNA to judge: people use underscores.
_ASCII_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}")


def encode_host(host: str) -> str:
    """Return a host in ASCII. IP addresses and ASCII names are returned unchanged, other names as IDNA encodes them.

    Raises:
      ValueError: the host is empty, has a character that no host has, or cannot be encoded.
    """
    if host.isascii():
        check_host(host)
        return host
    if len(host) > _MAX_LENGTH:
        raise ValueError(f"the name of a host has at most {_MAX_LENGTH} characters, not {len(host)}")
    try:
        labels = idna.uts46_remap(host, std3_rules=False).split(".")
        # The empty one at the end is the root's.
        encoded = [_encode_label(label) for label in labels[:-1]]
        encoded += [_encode_label(labels[-1])] if labels[-1] else [""]
    except idna.IDNAError as error:
        raise ValueError(f"{host[:_SHOWN]!a} is no name of a host: {str(error)[:_SHOWN]!a}") from error
    name = ".".join(encoded)
    if not 0 < len(name.removesuffix(".")) <= _MAX_ENCODED:
        raise ValueError(f"{host[:_SHOWN]!a} is no name of a host: it has {len(name)} characters when encoded")
    return name


def encode_tls_name(host: str) -> str:
    """Return a host as TLS wants it, in SNI and in certificates: in ASCII, without a final dot, without an IPv6 zone.

    Raises:
      ValueError: see `encode_host`.
    """
    address = host.partition("%")[0]
    if ":" in host and is_address(address):
        return address
    # RFC 6066, section 3: without a trailing dot.
    return encode_host(host).removesuffix(".")


def check_host(host: str) -> None:
    """Check that a host is there, and has no character that no host has.

    Raises:
      ValueError: it is empty, or has such a character.
    """
    if not host:
        raise ValueError("the host is missing")
    if bad := next((c for c in host if c.isspace() or not (c.isprintable() or c in _INVISIBLE)), None):
        raise ValueError(f"there is a character {bad!a} in the host")


def is_address(host: str) -> bool:
    """Return whether a host is an IP address, and not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _encode_label(label: str) -> str:
    return label if _ASCII_LABEL.fullmatch(label) else idna.alabel(label).decode("ascii")

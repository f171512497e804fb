"""Host names in ASCII, the same for DNS, TLS, URIs and destinations.

There are two versions of IDNA. Python's `idna` codec, which `ssl` uses, implements IDNA 2003: it maps `faß.de` to
`fass.de`, which is a different site. DNS, browsers and Trio's resolver use IDNA 2008 with the mapping of UTS #46. Every
name passes through this module before `ssl` or a resolver receives it, so that all of them mean the same host.
"""

from __future__ import annotations

import ipaddress
import re

import idna

# The maximum length of a name, in characters. Longer ones are invalid, and mapping them would take too long.
_MAX_LENGTH = 1024
# The maximum length of an encoded name, in characters.
_MAX_ENCODED = 253
# The number of characters of a name that an error shows.
_SHOWN = 100
# Unprintable characters that are valid in names: the joiners of Indic scripts and of Persian, and the soft hyphen. The
# latter is copied with a name from a text, and the mapping removes it.
_INVISIBLE = "\u200c\u200d\xad"
# ASCII labels are not checked by IDNA: underscores are in use.
_ASCII_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}")


def encode_host(host: str) -> str:
    """Encode a host in ASCII. IP addresses and ASCII names are returned unchanged, other names encoded by IDNA.

    Raises:
      ValueError: the host is empty, has an invalid character, or cannot be encoded.
    """
    if host.isascii():
        check_host(host)
        return host
    if len(host) > _MAX_LENGTH:
        raise ValueError(f"host name of {len(host)} characters exceeds the limit of {_MAX_LENGTH}")
    try:
        labels = idna.uts46_remap(host, std3_rules=False).split(".")
        # An empty label at the end is the root's.
        encoded = [_encode_label(label) for label in labels[:-1]]
        encoded += [_encode_label(labels[-1])] if labels[-1] else [""]
    except idna.IDNAError as error:
        raise ValueError(f"invalid host name {host[:_SHOWN]!a}: {str(error)[:_SHOWN]!a}") from error
    name = ".".join(encoded)
    if not 0 < len(name.removesuffix(".")) <= _MAX_ENCODED:
        raise ValueError(f"invalid host name {host[:_SHOWN]!a}: {len(name)} characters when encoded")
    return name


def encode_tls_name(host: str) -> str:
    """Encode a host for SNI and certificates: in ASCII, without a final dot or an IPv6 zone.

    Raises:
      ValueError: see `encode_host`.
    """
    address = host.partition("%")[0]
    if ":" in host and is_address(address):
        return address
    # RFC 6066, section 3: without a trailing dot.
    return encode_host(host).removesuffix(".")


def check_host(host: str) -> None:
    """Check that a host is not empty and has no invalid character.

    Raises:
      ValueError: the host is empty or has an invalid character.
    """
    if not host:
        raise ValueError("the host is missing")
    if host.isascii() and host.isprintable() and " " not in host:
        # Nearly every one, without a look at each character.
        return
    if bad := next((c for c in host if c.isspace() or not (c.isprintable() or c in _INVISIBLE)), None):
        raise ValueError(f"invalid character {bad!a} in the host")


def is_address(host: str) -> bool:
    """Return whether a host is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _encode_label(label: str) -> str:
    return label if _ASCII_LABEL.fullmatch(label) else idna.alabel(label).decode("ascii")

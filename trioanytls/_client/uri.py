"""`anytls://` URIs: all that a client has to know of a server, in one line.

    anytls://password@host:port/?sni=name&insecure=0&pin=sha256

The reference's form; `pin` is ours. Password and values are percent-encoded (RFC 3986), the port is 443 by default.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from urllib.parse import quote

from attrs import field, frozen

from trioanytls._checks import check_type
from trioanytls._protocol.exceptions import AnyTLSError
from trioanytls._transport.hosts import encode_host
from trioanytls._transport.pinning import format_pin, parse_pin

_DEFAULT_PORT = 443
_SCHEME = "anytls://"
# Names of hosts as DNS has them, and with underscores, as people do; everything else is a mistake in typing.
_NAME = re.compile(r"(?=.{1,253}\.?\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*\.?")
# What names a network interface behind a link-local IPv6 address (RFC 6874).
_ZONE = re.compile(r"[A-Za-z0-9._~-]+")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_FLAGS = {"0": False, "1": True}
_OPTIONS = ("sni", "insecure", "pin")


class URIError(AnyTLSError, ValueError):
    """A URI cannot be used; the text says what is wrong with which part of it, and does not have the password in it."""


@frozen
class ServerURI:
    """What an `anytls://` URI says.

    Attributes:
      host: a name, or an IP address without brackets.
      password: what the server knows the user by; not shown by `repr`.
      port: the TCP port.
      sni: the name that is sent in TLS, and that the certificate must have; None for `host`. None is sent where it is
        an IP address.
      insecure: whether any certificate will do.
      pin: the SHA-256 of the server's public key, in hex; None where the certificate is checked in the usual way.
    """

    host: str
    password: str = field(repr=False)
    port: int = _DEFAULT_PORT
    sni: str | None = None
    insecure: bool = False
    pin: str | None = None

    def __attrs_post_init__(self) -> None:
        check_type("host", self.host, str)
        check_type("password", self.password, str)
        check_type("port", self.port, int)
        check_type("sni", self.sni, str, optional=True)
        check_type("insecure", self.insecure, bool)
        check_type("pin", self.pin, str, optional=True)
        if not self.password:
            raise URIError("the password is empty")
        if any("\ud800" <= character <= "\udfff" for character in self.password):
            raise URIError("the password has a character in it that cannot be encoded")
        _check_host("host", self.host)
        if not 1 <= self.port <= 65535:
            raise URIError(f"the port is a number from 1 to 65535, not {self.port!r}")
        if self.sni is not None:
            _check_host("sni", self.sni)
        if self.pin is not None:
            try:
                object.__setattr__(self, "pin", format_pin(parse_pin(self.pin)))
            except ValueError as error:
                raise URIError(f"pin: {error}") from error


def format_uri(uri: ServerURI) -> str:
    """The URI as text; it has the password in it. `parse_uri` reads it back."""
    check_type("uri", uri, ServerURI)
    host = f"[{uri.host.replace('%', '%25')}]" if ":" in uri.host else quote(uri.host, safe="")
    options = {
        "sni": uri.sni,
        "insecure": "1" if uri.insecure else None,
        "pin": uri.pin,
    }
    query = "&".join(f"{key}={quote(value, safe=':')}" for key, value in options.items() if value is not None)
    port = "" if uri.port == _DEFAULT_PORT else f":{uri.port}"
    return f"{_SCHEME}{quote(uri.password, safe='')}@{host}{port}/{'?' + query if query else ''}"


def parse_uri(text: str) -> ServerURI:
    """Read a URI. Options that are not known are ignored: other programs have their own. A `#name` at the end is, too.

    An `@` behind the host has to be percent-encoded: it may as well be the end of a password that should have been.

    Raises:
      TypeError: it is no `str`.
      URIError: it is not one.
    """
    check_type("text", text, str)
    if text[: len(_SCHEME)].lower() != _SCHEME:
        raise URIError(f"it does not begin with {_SCHEME!r}")
    for position, character in enumerate(text, 1):
        if not character.isprintable() or character == " ":
            raise URIError(f"character {position} is a space or cannot be printed: it has to be percent-encoded")
    # A password may have all of these in it, by mistake. What follows them is neither used nor shown then.
    authority, delimiter, behind = _partition_any(text[len(_SCHEME) :], "/?#")
    if "@" in behind:
        raise URIError(f"there is a {delimiter!r} before an '@'; in a password, {_encoded(delimiter)} stands for it")
    password, at, address = authority.rpartition("@")
    if not at:
        raise URIError("there is no password: it stands between 'anytls://' and '@'")
    path, _, query = (delimiter + behind).partition("#")[0].partition("?")
    if path not in ("", "/"):
        raise URIError(f"there is a path behind the port, {path!r}; only '/' can be there")
    host, port = _parse_address(address)
    options = _parse_query(query)
    insecure = options.get("insecure", "0")
    if insecure not in _FLAGS:
        raise URIError(f"insecure is 0 or 1, not {insecure!r}")
    return ServerURI(
        host,
        _unquote("the password", password),
        port,
        sni=options.get("sni") or None,
        insecure=_FLAGS[insecure],
        pin=options.get("pin"),
    )


def _partition_any(text: str, delimiters: str) -> tuple[str, str, str]:
    """Like `str.partition`, at the first of several characters."""
    found = re.search(f"[{re.escape(delimiters)}]", text)
    return text.partition(found[0]) if found else (text, "", "")


def _encoded(character: str) -> str:
    return f"%{ord(character):02X}"


def _parse_address(address: str) -> tuple[str, int]:
    if address.startswith("["):
        host, bracket, port = address[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise URIError("the IPv6 address in brackets has no end, or something other than a port behind it")
        if ":" not in host:
            raise URIError(f"what stands in brackets is no IPv6 address: {host!r}")
        host = _unquote("the host", host)
        port = port[1:] if port else ""
    else:
        host, _, port = address.partition(":")
        if ":" in port:
            raise URIError("there is more than one colon in the address; an IPv6 address stands in brackets")
        host = _unquote("the host", host)
    if not port:
        return host, _DEFAULT_PORT
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise URIError(f"the port is a number from 1 to 65535, not {port!r}")
    return host, int(port)


def _parse_query(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        key, equals, value = part.partition("=")
        if key not in _OPTIONS:
            continue
        if key in options:
            raise URIError(f"the option {key!r} is there twice")
        if not equals:
            raise URIError(f"the option {key!r} has no value")
        options[key] = _unquote(f"the option {key!r}", value)
    return options


def _unquote(what: str, text: str) -> str:
    if _ESCAPE.search(text):
        raise URIError(f"{what}: behind a '%' there are not two hex digits")
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode())
    with contextlib.suppress(UnicodeDecodeError):
        return raw.decode("utf-8")
    # Not from that error: it would carry the password along.
    raise URIError(f"{what}: what is percent-encoded there is not UTF-8")


def _check_host(what: str, host: str) -> None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if ":" in host:
            raise URIError(f"{what}: {host!r} is no IPv6 address") from None
        try:
            name = encode_host(host)
        except ValueError:
            name = ""
        if not _NAME.fullmatch(name):
            raise URIError(f"{what}: {host!r} is neither a name nor an IP address") from None
    else:
        zone = getattr(address, "scope_id", None)
        if zone is not None and not _ZONE.fullmatch(zone):
            raise URIError(f"{what}: {zone!r} is not the name of a network interface")

"""`anytls://` URIs: everything that a client must know of a server, in one line.

    anytls://password@host:port/?sni=name&insecure=0&pin=sha256&proto=anytls1

The form is that of anytls-go, and a URI as other programs print it means their wire format, "legacy". `pin` and `proto`
are additions, which other programs ignore: with `proto=anytls1`, one URI serves this client with the format of the
specification, and every other client with the other one. Password and values are percent-encoded (RFC 3986). The
default port is 443.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from urllib.parse import quote

from attrs import field, frozen

from trioanytls._checks import check_type
from trioanytls._protocol.exceptions import AnyTLSError
from trioanytls._protocol.formats import WIRE_FORMATS
from trioanytls._protocol.interface import WireFormat
from trioanytls._transport.hosts import encode_host
from trioanytls._transport.pinning import format_pin, parse_pin

_DEFAULT_PORT = 443
_SCHEME = "anytls://"
# Host names as in DNS. Underscores are in use too. Anything else is a typing error.
_NAME = re.compile(r"(?=.{1,253}\.?\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*\.?")
# The network interface after a link-local IPv6 address (RFC 6874).
_ZONE = re.compile(r"[A-Za-z0-9._~-]+")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_FLAGS = {"0": False, "1": True}
_FORMATS = " or ".join(WIRE_FORMATS)
_OPTIONS = ("sni", "insecure", "pin", "proto")
# The format of a URI that does not name one.
_DEFAULT_FORMAT: WireFormat = "legacy"


class URIError(AnyTLSError, ValueError):
    """An invalid URI. The text names the fault and the part of the URI, and never contains the password."""


@frozen
class ServerURI:
    """The content of an `anytls://` URI.

    Attributes:
      host: a name, or an IP address without brackets.
      password: the user's password; `repr` does not show it.
      port: the TCP port.
      sni: the name that TLS sends and that the certificate must have; None for `host`. If it is an IP address, no name
        is sent.
      insecure: whether any certificate is accepted.
      pin: the SHA-256 of the server's public key, in hex; None if the certificate is verified by its authority.
      protocol: the wire format, see `open_connection`. A URI without `proto` means "legacy".
    """

    host: str
    password: str = field(repr=False)
    port: int = _DEFAULT_PORT
    sni: str | None = None
    insecure: bool = False
    pin: str | None = None
    protocol: WireFormat = _DEFAULT_FORMAT

    def __attrs_post_init__(self) -> None:
        check_type("host", self.host, str)
        check_type("password", self.password, str)
        check_type("port", self.port, int)
        check_type("sni", self.sni, str, optional=True)
        check_type("insecure", self.insecure, bool)
        check_type("pin", self.pin, str, optional=True)
        if self.protocol not in WIRE_FORMATS:
            raise URIError(f"invalid protocol {self.protocol!r}: expected {_FORMATS}")
        if not self.password:
            raise URIError("the password is empty")
        if any("\ud800" <= character <= "\udfff" for character in self.password):
            raise URIError("the password contains a character that cannot be encoded as UTF-8")
        _check_host("host", self.host)
        if not 1 <= self.port <= 65535:
            raise URIError(f"invalid port {self.port}: must be between 1 and 65535")
        if self.sni is not None:
            _check_host("sni", self.sni)
        if self.pin is not None:
            try:
                object.__setattr__(self, "pin", format_pin(parse_pin(self.pin)))
            except ValueError as error:
                raise URIError(f"pin: {error}") from error


def format_uri(uri: ServerURI) -> str:
    """Write a URI as text, which contains the password. `parse_uri` reads it back.

    Raises:
      TypeError: `uri` is not a `ServerURI`.
    """
    check_type("uri", uri, ServerURI)
    host = f"[{uri.host.replace('%', '%25')}]" if ":" in uri.host else quote(uri.host, safe="")
    options = {
        "sni": uri.sni,
        "insecure": "1" if uri.insecure else None,
        "pin": uri.pin,
        "proto": None if uri.protocol == _DEFAULT_FORMAT else uri.protocol,
    }
    query = "&".join(f"{key}={quote(value, safe=':')}" for key, value in options.items() if value is not None)
    port = "" if uri.port == _DEFAULT_PORT else f":{uri.port}"
    return f"{_SCHEME}{quote(uri.password, safe='')}@{host}{port}/{'?' + query if query else ''}"


def parse_uri(text: str) -> ServerURI:
    """Parse a URI. Unknown options are ignored, as other programs have their own; so is a `#name` at the end.

    An `@` after the host must be percent-encoded. Otherwise it could be the end of a password that is not encoded.

    Raises:
      TypeError: `text` is not a `str`.
      URIError: the URI is invalid.
    """
    check_type("text", text, str)
    if text[: len(_SCHEME)].lower() != _SCHEME:
        raise URIError(f"the URI does not begin with {_SCHEME!r}")
    for position, character in enumerate(text, 1):
        if not character.isprintable() or character == " ":
            raise URIError(f"character {position} is a space or not printable: it must be percent-encoded")
    # An unencoded password may contain these. In that case the text after them is neither used nor shown.
    authority, delimiter, rest = _partition_any(text[len(_SCHEME) :], "/?#")
    if "@" in rest:
        encoded = f"%{ord(delimiter):02X}"
        raise URIError(f"unexpected {delimiter!r} before '@'; encode it as {encoded} if it is part of the password")
    password, at, address = authority.rpartition("@")
    if not at:
        raise URIError("missing password: expected one between 'anytls://' and '@'")
    path, _, query = (delimiter + rest).partition("#")[0].partition("?")
    if path not in ("", "/"):
        raise URIError(f"unexpected path {path!r}: only '/' is allowed")
    host, port = _parse_address(address)
    options = _parse_query(query)
    insecure = options.get("insecure", "0")
    if insecure not in _FLAGS:
        raise URIError(f"invalid value {insecure!r} of the option 'insecure': expected 0 or 1")
    protocol = options.get("proto", _DEFAULT_FORMAT)
    if protocol not in WIRE_FORMATS:
        raise URIError(f"invalid value {protocol!r} of the option 'proto': expected {_FORMATS}")
    return ServerURI(
        host,
        _unquote("the password", password),
        port,
        sni=options.get("sni") or None,
        insecure=_FLAGS[insecure],
        pin=options.get("pin"),
        protocol=protocol,
    )


def _partition_any(text: str, delimiters: str) -> tuple[str, str, str]:
    """Like `str.partition`, at the first of several characters."""
    found = re.search(f"[{re.escape(delimiters)}]", text)
    return text.partition(found[0]) if found else (text, "", "")


def _parse_address(address: str) -> tuple[str, int]:
    if address.startswith("["):
        host, bracket, port = address[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise URIError("missing ']' after the IPv6 address, or unexpected characters after it")
        if ":" not in host:
            raise URIError(f"host: {host!r} in brackets is not an IPv6 address")
        host = _unquote("the host", host)
        port = port[1:] if port else ""
    else:
        host, _, port = address.partition(":")
        if ":" in port:
            raise URIError("more than one ':' in the address; an IPv6 address must be in brackets")
        host = _unquote("the host", host)
    if not port:
        return host, _DEFAULT_PORT
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise URIError(f"invalid port {port!r}: expected an integer from 1 to 65535")
    return host, int(port)


def _parse_query(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        key, equals, value = part.partition("=")
        if key not in _OPTIONS:
            continue
        if key in options:
            raise URIError(f"the option {key!r} is given twice")
        if not equals:
            raise URIError(f"the option {key!r} has no value")
        options[key] = _unquote(f"the option {key!r}", value)
    return options


def _unquote(what: str, text: str) -> str:
    if _ESCAPE.search(text):
        raise URIError(f"{what}: invalid percent-encoding")
    raw = re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode())
    with contextlib.suppress(UnicodeDecodeError):
        return raw.decode("utf-8")
    # Not chained to that error, which contains the password.
    raise URIError(f"{what}: the percent-encoded bytes are not valid UTF-8")


def _check_host(what: str, host: str) -> None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if ":" in host:
            raise URIError(f"{what}: {host!r} is not an IPv6 address") from None
        try:
            name = encode_host(host)
        except ValueError:
            name = ""
        if not _NAME.fullmatch(name):
            raise URIError(f"{what}: {host!r} is neither a host name nor an IP address") from None
    else:
        zone = getattr(address, "scope_id", None)
        if zone is not None and not _ZONE.fullmatch(zone):
            raise URIError(f"{what}: {zone!r} is not a valid interface name")

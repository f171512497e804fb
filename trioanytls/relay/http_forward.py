"""The changes of a proxy to the heads of HTTP/1 messages (RFC 9110, section 7.6; RFC 9112, section 3.2)."""

from __future__ import annotations

import re
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from attrs import evolve, frozen

from trioanytls.destination import Destination, encode_host

from .http_bodies import Framing
from .http_heads import Answer, Fields, HTTPError, HTTPRequest, elements_of, values_of, write_head

# Fields that are removed, as are those that Connection names (RFC 9110, section 7.6.1).
_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"upgrade",
    }
)
# Fields that are never removed, even if Connection names them: the message would change its meaning.
_FRAMING: Final = frozenset({b"content-length", b"host", b"transfer-encoding"})
# Fields that have no effect, or take effect too late, after the content (RFC 9110, section 6.5.1).
_NEVER_TRAILERS: Final = (
    _HOP_BY_HOP
    | _FRAMING
    | {b"authorization", b"content-encoding", b"content-range", b"content-type"}
    | {b"expect", b"max-forwards", b"set-cookie", b"trailer"}
)
# The upgrade to HTTP/2: it needs a hop-by-hop field, and is deprecated (RFC 9113, section 3.1).
_NOT_UPGRADED_TO: Final = b"h2c"


@frozen
class Target:
    """The destination of a request.

    Attributes:
      host: the value of Host.
      form: the request target in origin form.
    """

    destination: Destination
    host: bytes = b""
    form: bytes = b""


def check_host(request: HTTPRequest) -> None:
    """Check Host, though the target in absolute form counts (RFC 9112, section 3.2).

    Raises:
      HTTPError: it is missing in HTTP/1.1, there are several, or it is invalid.
    """
    hosts = values_of(request.fields, b"host")
    if len(hosts) > 1:
        raise HTTPError(400, "several Host fields")
    if not hosts and request.minor >= 1:
        raise HTTPError(400, "missing Host field")
    if hosts and hosts[0] and not _HOST.fullmatch(hosts[0]):
        raise HTTPError(400, f"invalid Host {hosts[0][:80].decode('latin-1')!a}")


def parse_connect_target(target: bytes) -> Target:
    """Read the target of CONNECT: a host and a port (RFC 9112, section 3.2.3).

    Raises:
      HTTPError: it is invalid.
    """
    return Target(_parse_authority(target, None))


def parse_target(request: HTTPRequest) -> Target:
    """Read a target in absolute form (RFC 9112, section 3.2.2).

    Raises:
      HTTPError: it is in another form, or invalid.
    """
    match = _ABSOLUTE_FORM.fullmatch(request.target)
    if match is None:
        raise HTTPError(400, "a proxy accepts CONNECT, and http:// requests in absolute form")
    authority, path, query = match[1], match[2], match[3]
    if b"#" in path + query:
        raise HTTPError(400, "invalid target: fragment not allowed")
    destination = _parse_authority(authority, 80)
    host = authority
    if not host.isascii():
        # The host as it is sent to the relay, in the form used in DNS.
        _, _, port = authority.partition(b":")
        host = _encode_name(destination) + (b":" + port if port else b"")
    # Only an empty path may be changed (RFC 9110, section 7.7).
    if not path and not query and request.method == b"OPTIONS":
        return Target(destination, host, b"*")
    return Target(destination, host, (path or b"/") + query)


_ABSOLUTE_FORM: Final = re.compile(rb"[hH][tT][tT][pP]://([^/?#]*)([^?]*)((?:\?.*)?)")
# RFC 3986, section 3.2.2, and bytes of UTF-8, which IDNA checks.
_NAME: Final = rb"[-A-Za-z0-9._~!$&'()*+,;=%\x80-\xff]+"
_ADDRESS: Final = rb"\[[0-9A-Fa-f:.]+\]"
_HOST: Final = re.compile(rb"(?:%b|%b)(?::[0-9]{0,5})?" % (_NAME, _ADDRESS))


def _parse_authority(authority: bytes, default_port: int | None) -> Destination:
    if b"@" in authority:
        # Rarely sent by an honest program (RFC 9110, section 4.2.4).
        raise HTTPError(400, "invalid target: user not allowed")
    try:
        text = authority.decode()
        if default_port is not None:
            if not authority or authority.startswith(b":"):
                raise ValueError("no host")
            if authority.endswith(b":"):
                text += str(default_port)
            elif not re.search(rb":[0-9]*\Z", authority) or authority.endswith(b"]"):
                text += f":{default_port}"
        destination = Destination.parse(text)
    except ValueError as error:
        raise HTTPError(400, f"invalid target: {error}") from error
    if not _HOST.fullmatch(authority):
        raise HTTPError(400, f"invalid target: {destination.host!a} is not a host")
    return destination


def _encode_name(destination: Destination) -> bytes:
    try:
        return encode_host(destination.host).encode("ascii")
    except ValueError as error:
        raise HTTPError(400, f"invalid target: {error}") from error


def parse_pseudonym(name: str) -> str:
    """Check a name for a Via field, and return it (RFC 9110, section 7.6.3).

    Raises:
      ValueError: it cannot.
    """
    if not re.fullmatch(r"[-._0-9A-Za-z]+", name):
        raise ValueError(f"invalid name {name!a} for Via: expected letters, digits, and -._")
    return name


def take_forward(request: HTTPRequest) -> HTTPRequest | None:
    """Count one of the Max-Forwards of TRACE and OPTIONS (RFC 9110, section 7.6.2).

    Returns:
      the request with one less, or unchanged if it has no limit; None if it must not be forwarded.

    Raises:
      HTTPError: Max-Forwards is invalid.
    """
    if request.method not in (b"TRACE", b"OPTIONS"):
        return request
    left = values_of(request.fields, b"max-forwards")
    if not left:
        return request
    if len(left) > 1 or not re.fullmatch(rb"[0-9]{1,9}", left[0]):
        raise HTTPError(400, "invalid Max-Forwards")
    if not int(left[0]):
        return None
    one_less = b"%d" % (int(left[0]) - 1)
    fields = [(name, one_less if name.lower() == b"max-forwards" else value) for name, value in request.fields]
    return evolve(request, fields=fields)


def write_trace(request: HTTPRequest) -> bytes:
    """Write a request as the content of the answer to TRACE, without secrets (RFC 9110, section 9.3.8)."""
    secret = (b"authorization", b"cookie", b"proxy-authorization")
    fields = [(name, value) for name, value in request.fields if name.lower() not in secret]
    return write_head(b"%b %b HTTP/1.%d" % (request.method, request.target, request.minor), fields)


def upgrades_of(request: HTTPRequest) -> bytes:
    """Return the value of Upgrade for the destination: the protocols that a request offers, without HTTP/2."""
    if request.minor < 1 or b"upgrade" not in _named(request.fields):
        return b""
    protocols = elements_of(request.fields, b"upgrade")
    return b", ".join(protocol for protocol in protocols if protocol.lower() != _NOT_UPGRADED_TO)


def write_request(request: HTTPRequest, target: Target, framing: Framing, via: str | None) -> bytes:
    """Write the head of a request for its destination."""
    fields: Fields = [(b"Host", target.host)]
    for name, value in _end_to_end(request.fields, framing):
        lower = name.lower()
        if lower == b"expect" and request.minor < 1:
            # Ignored (RFC 9110, section 10.1.1). HTTP/1.0 must not be answered with 100 either.
            continue
        if lower != b"host":
            fields.append((name, value))
    if via is not None:
        fields.append((b"Via", b"1.%d %b" % (request.minor, via.encode("ascii"))))
    connection = []
    if protocols := upgrades_of(request):
        connection.append(b"Upgrade")
        fields.append((b"Upgrade", protocols))
    else:
        # Each request has a separate stream.
        connection.append(b"close")
    if request.minor >= 1 and any(part.lower() == b"trailers" for part in elements_of(request.fields, b"te")):
        # Trailers are forwarded.
        connection.append(b"TE")
        fields.append((b"TE", b"trailers"))
    fields.append((b"Connection", b", ".join(connection)))
    return write_head(b"%b %b HTTP/1.1" % (request.method, target.form), fields)


def write_answer(answer: Answer, framing: Framing, connection: bytes | None, via: str | None) -> bytes:
    """Write the head of an answer for the application, with the framing that it receives.

    Args:
      connection: the value of Connection, if any.
    """
    fields = _end_to_end(answer.fields, framing)
    upgrade = values_of(answer.fields, b"upgrade")
    if upgrade and answer.status in (101, 426):
        fields += [(b"Upgrade", value) for value in upgrade]
        connection = b"Upgrade" if answer.status == 101 or connection is None else b"Upgrade, " + connection
    if answer.status >= 200 and not values_of(answer.fields, b"date"):
        # A forwarded answer needs Date (RFC 9110, section 6.6.1).
        fields.append(_date())
    if via is not None:
        fields.append((b"Via", b"1.%d %b" % (answer.minor, via.encode("ascii"))))
    if connection is not None:
        fields.append((b"Connection", connection))
    return write_head(b"HTTP/1.1 %d %b" % (answer.status, answer.reason), fields)


def write_own_answer(status: int, fields: Fields, length: int) -> bytes:
    """Write the head of an answer that the proxy generates, the last one on its connection."""
    common = [_date(), (b"Content-Length", b"%d" % length), (b"Connection", b"close")]
    return write_head(b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode()), [*fields, *common])


def _date() -> tuple[bytes, bytes]:
    return b"Date", formatdate(usegmt=True).encode()


def end_to_end_trailers(trailers: Fields, head: Fields) -> Fields:
    """Return the trailers that may be forwarded. Connection in the head can exclude some."""
    gone = _NEVER_TRAILERS | _named(head)
    return [(name, value) for name, value in trailers if name.lower() not in gone]


def _end_to_end(fields: Fields, framing: Framing) -> Fields:
    """Return the fields to forward, with the framing for the next recipient."""
    gone = _HOP_BY_HOP | (_named(fields) - _FRAMING)
    kept: Fields = []
    has_length = False
    for name, value in fields:
        lower = name.lower()
        if lower in gone:
            continue
        if lower == b"content-length":
            if framing.length is not None and not has_length:
                has_length = True
                kept.append((name, b"%d" % framing.length))
        elif lower == b"transfer-encoding":
            if framing.codings:
                kept.append((name, value))
        elif lower != b"trailer" or framing.chunked:
            kept.append((name, value))
    return kept


def _named(fields: Fields) -> frozenset[bytes]:
    return frozenset(option.lower() for option in elements_of(fields, b"connection"))

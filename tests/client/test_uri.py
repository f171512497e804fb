"""`anytls://` URIs: they survive a round trip, and errors name the fault without showing the password."""

from __future__ import annotations

import re
import string
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import trioanytls
from trioanytls import ServerURI, URIError, format_uri, parse_uri

PIN = "75cff2ad89aadf5e257059ee571ebe11" * 2
SECRET = "hunter2"
# The strategies are not too slow, but the machine may be busy.
SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

LABELS = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=20).filter(lambda x: x[0] != "-")
ZONES = st.just("") | st.sampled_from(["%eth0", "%25", "%en-1.2~x"])
NAMES = st.builds(
    lambda labels, dot: ".".join(labels) + dot, st.lists(LABELS, min_size=1, max_size=5), st.sampled_from(["", "."])
) | st.sampled_from(["bücher.example", "例え.テスト", "exam\xadple.com", "a" * 63 + ".b"])
HOSTS = (
    NAMES
    | st.ip_addresses(v=4).map(str)
    | st.builds(lambda address, zone: f"{address}{zone}", st.ip_addresses(v=6), ZONES)
)
URIS = st.builds(
    ServerURI,
    HOSTS,
    st.text(min_size=1),
    st.just(443) | st.integers(1, 65535),
    sni=st.none() | HOSTS,
    insecure=st.booleans(),
    pin=st.none() | st.binary(min_size=32, max_size=32).map(bytes.hex),
    protocol=st.sampled_from(["anytls1", "legacy"]),
)


@SETTINGS
@given(URIS)
@example(ServerURI("fe80::1%eth0", "a/b?c#d@e:f%20g h&i=j\n[]+\x00é", 1, sni="::1%25", insecure=True, pin=PIN))
def test_what_goes_in_comes_out(uri: ServerURI) -> None:
    text = format_uri(uri)
    assert parse_uri(text) == uri
    # The text is a valid URI (RFC 3986), for any content.
    assert re.fullmatch(r"anytls://[A-Za-z0-9._~%-]+@[A-Za-z0-9._~%:\[\]-]+/(\?[A-Za-z0-9._~%:&=-]+)?", text)
    assert parse_uri(f"{text}#a%20name") == uri


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("anytls://pw@example.com", ServerURI("example.com", "pw")),
        ("anytls://pw@example.com/", ServerURI("example.com", "pw", 443)),
        # A URI as other programs print it means their wire format.
        ("anytls://pw@example.com/", ServerURI("example.com", "pw", protocol="legacy")),
        ("anytls://pw@example.com/?proto=legacy", ServerURI("example.com", "pw", protocol="legacy")),
        ("anytls://pw@example.com/?proto=anytls1", ServerURI("example.com", "pw", protocol="anytls1")),
        (
            "anytls://pw@example.com/?fp=chrome&alpn=h2&proto=anytls1#me",
            ServerURI("example.com", "pw", protocol="anytls1"),
        ),
        ("ANYTLS://pw@example.com:8443", ServerURI("example.com", "pw", 8443)),
        ("anytls://pw@example.com:/", ServerURI("example.com", "pw", 443)),
        ("anytls://pw@example.com:00443/", ServerURI("example.com", "pw", 443)),
        ("anytls://pw@example.com?insecure=1", ServerURI("example.com", "pw", insecure=True)),
        ("anytls://pw@example.com/?insecure=0&sni=", ServerURI("example.com", "pw")),
        ("anytls://pw@192.0.2.1/?sni=www.example", ServerURI("192.0.2.1", "pw", sni="www.example")),
        ("anytls://pw@[2001:db8::1]:8443/?sni=192.0.2.1", ServerURI("2001:db8::1", "pw", 8443, sni="192.0.2.1")),
        ("anytls://pw@[fe80::1%25eth0]/", ServerURI("fe80::1%eth0", "pw")),
        ("anytls://p%40%2f%3F%23%25@example.com/", ServerURI("example.com", "p@/?#%")),
        ("anytls://p@ss@example.com/", ServerURI("example.com", "p@ss")),
        ("anytls://user:p:w@example.com/", ServerURI("example.com", "user:p:w")),
        ("anytls://a+b@example.com/", ServerURI("example.com", "a+b")),
        ("anytls://%C3%A9@b%C3%BCcher.example/", ServerURI("bücher.example", "é")),
        ("anytls://é@bücher.example/", ServerURI("bücher.example", "é")),
        (f"anytls://pw@example.com/?pin={PIN.upper()}", ServerURI("example.com", "pw", pin=PIN)),
        # Options of other programs.
        (
            "anytls://pw@example.com/?alpn=h2&alpn=x&flag&=&&fp=%zz&sni=a.example#my%20server",
            ServerURI("example.com", "pw", sni="a.example"),
        ),
        ("anytls://pw@example.com/?SNI=a.example#", ServerURI("example.com", "pw")),
    ],
)
def test_what_a_uri_says(text: str, expected: ServerURI) -> None:
    assert parse_uri(text) == expected


def test_how_it_is_written() -> None:
    assert format_uri(ServerURI("example.com", "pass word")) == "anytls://pass%20word@example.com/"
    uri = ServerURI("2001:db8::1", "a/b", 8443, sni="www.example", insecure=True, pin=PIN)
    assert format_uri(uri) == f"anytls://a%2Fb@[2001:db8::1]:8443/?sni=www.example&insecure=1&pin={PIN}"


# `{}` is replaced by the password.
MALFORMED = [
    ("", "the URI does not begin with 'anytls://'"),
    ("https://{}@example.com/", "the URI does not begin with 'anytls://'"),
    ("anytls:{}@example.com/", "the URI does not begin with 'anytls://'"),
    (" anytls://{}@example.com/", "the URI does not begin with 'anytls://'"),
    ("anytls://{}@example.com/ ", "character 30 is a space or not printable: it must be percent-encoded"),
    ("anytls://{} @example.com/", "character 17 is a space or not printable: it must be percent-encoded"),
    ("anytls://{}@example.com\n", "character 29 is a space or not printable: it must be percent-encoded"),
    ("anytls://{}\udc80@example.com", "character 17 is a space or not printable: it must be percent-encoded"),
    ("anytls://example.com/", "missing password: expected one between 'anytls://' and '@'"),
    ("anytls://{}", "missing password: expected one between 'anytls://' and '@'"),
    ("anytls://", "missing password: expected one between 'anytls://' and '@'"),
    ("anytls://@example.com/", "the password is empty"),
    ("anytls://{}/x@example.com/", "unexpected '/' before '@'; encode it as %2F if it is part of the password"),
    ("anytls://x/{}@example.com/", "unexpected '/' before '@'; encode it as %2F if it is part of the password"),
    ("anytls://x@y/{}@example.com/", "unexpected '/' before '@'; encode it as %2F if it is part of the password"),
    (
        "anytls://x@y?insecure={}@example.com/",
        "unexpected '?' before '@'; encode it as %3F if it is part of the password",
    ),
    ("anytls://x@y:z#{}@example.com/", "unexpected '#' before '@'; encode it as %23 if it is part of the password"),
    ("anytls://{}%@example.com/", "the password: invalid percent-encoding"),
    ("anytls://{}%2@example.com/", "the password: invalid percent-encoding"),
    ("anytls://{}%ff@example.com/", "the password: the percent-encoded bytes are not valid UTF-8"),
    ("anytls://{}%ed%b2%80@example.com/", "the password: the percent-encoded bytes are not valid UTF-8"),
    ("anytls://{}@/", "host: '' is neither a host name nor an IP address"),
    ("anytls://{}@:8443/", "host: '' is neither a host name nor an IP address"),
    ("anytls://{}@exam%20ple.com/", "host: 'exam ple.com' is neither a host name nor an IP address"),
    ("anytls://{}@example..com/", "host: 'example..com' is neither a host name nor an IP address"),
    ("anytls://{}@-example.com/", "host: '-example.com' is neither a host name nor an IP address"),
    ("anytls://{}@[example.com]/", "host: 'example.com' in brackets is not an IPv6 address"),
    ("anytls://{}@[1::2::3]/", "host: '1::2::3' is not an IPv6 address"),
    ("anytls://{}@[::1/", "missing ']' after the IPv6 address, or unexpected characters after it"),
    ("anytls://{}@[::1]8443/", "missing ']' after the IPv6 address, or unexpected characters after it"),
    ("anytls://{}@[fe80::1%25a%20b]/", "host: 'a b' is not a valid interface name"),
    ("anytls://{}@::1/", "more than one ':' in the address; an IPv6 address must be in brackets"),
    ("anytls://{}@%zz/", "the host: invalid percent-encoding"),
    ("anytls://{}@example.com:0/", "invalid port 0: must be between 1 and 65535"),
    ("anytls://{}@example.com:65536/", "invalid port 65536: must be between 1 and 65535"),
    ("anytls://{}@example.com:1000000/", "invalid port '1000000': expected an integer from 1 to 65535"),
    ("anytls://{}@example.com:-1/", "invalid port '-1': expected an integer from 1 to 65535"),
    ("anytls://{}@example.com:https/", "invalid port 'https': expected an integer from 1 to 65535"),
    ("anytls://{}@example.com:\uff18/", "invalid port '\uff18': expected an integer from 1 to 65535"),
    ("anytls://{}@example.com/path", "unexpected path '/path': only '/' is allowed"),
    ("anytls://{}@example.com//", "unexpected path '//': only '/' is allowed"),
    ("anytls://{}@example.com/?insecure=true", "invalid value 'true' of the option 'insecure': expected 0 or 1"),
    ("anytls://{}@example.com/?insecure=", "invalid value '' of the option 'insecure': expected 0 or 1"),
    ("anytls://{}@example.com/?insecure", "the option 'insecure' has no value"),
    ("anytls://{}@example.com/?insecure=1&insecure=0", "the option 'insecure' is given twice"),
    ("anytls://{}@example.com/?proto=", "invalid value '' of the option 'proto': expected anytls1 or legacy"),
    (
        "anytls://{}@example.com/?proto=anytls2",
        "invalid value 'anytls2' of the option 'proto': expected anytls1 or legacy",
    ),
    ("anytls://{}@example.com/?sni=%zz", "the option 'sni': invalid percent-encoding"),
    ("anytls://{}@example.com/?sni=%ff", "the option 'sni': the percent-encoded bytes are not valid UTF-8"),
    ("anytls://{}@example.com/?sni=a..b", "sni: 'a..b' is neither a host name nor an IP address"),
    ("anytls://{}@example.com/?sni=1::2::3", "sni: '1::2::3' is not an IPv6 address"),
    (
        "anytls://{}@example.com/?pin=abc",
        "pin: invalid pin 'abc': expected the SHA-256 of a public key as 64 hex digits or in Base64",
    ),
]


@pytest.mark.parametrize(("text", "message"), MALFORMED)
def test_what_is_wrong_is_said_and_where(text: str, message: str) -> None:
    with pytest.raises(URIError) as caught:
        parse_uri(text.format(SECRET))
    assert str(caught.value) == message
    assert_silent(caught.value, SECRET)
    assert isinstance(caught.value, trioanytls.AnyTLSError)
    assert isinstance(caught.value, ValueError)


def assert_silent(error: BaseException | None, secret: str) -> None:
    """Check that neither the error nor its causes contain the secret."""
    while error is not None:
        assert secret not in str(error)
        assert secret not in repr(error)
        error = error.__cause__ or error.__context__


SPECIAL = st.text("/?#@:%[]&= \n\0é\udc80a1=", max_size=6)


@SETTINGS
@given(SPECIAL, SPECIAL, SPECIAL)
@example("p@s?insecure=", "", "")
@example("p@s:", "#", "")
@example("p@[", "]", "")
def test_a_password_that_was_not_encoded_is_not_shown(before: str, after: str, option: str) -> None:
    password = f"{before}{SECRET}{after}"
    try:
        uri = parse_uri(f"anytls://{password}@example.com:8443/?{option}")
    except URIError as error:
        assert_silent(error, SECRET)
    else:
        # The whole password was parsed as such.
        assert uri.host == "example.com"
        assert SECRET in uri.password
        assert SECRET not in repr(uri)


@SETTINGS
@given(st.text())
def test_nothing_else_is_raised(text: str) -> None:
    for candidate in (text, f"anytls://{text}", f"anytls://pw@{text}", f"anytls://pw@host/?{text}"):
        try:
            uri = parse_uri(candidate)
        except URIError:
            continue
        assert parse_uri(format_uri(uri)) == uri


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"password": ""}, "the password is empty"),
        ({"password": "\udc80"}, "the password contains a character that cannot be encoded as UTF-8"),
        ({"host": "a b"}, "host: 'a b' is neither a host name nor an IP address"),
        ({"host": "fe80::1%]@"}, "host: ']@' is not a valid interface name"),
        ({"host": "x" * 254}, f"host: {'x' * 254!r} is neither a host name nor an IP address"),
        ({"host": "ü" * 70}, f"host: {'ü' * 70!r} is neither a host name nor an IP address"),
        ({"port": 0}, "invalid port 0: must be between 1 and 65535"),
        ({"port": 65536}, "invalid port 65536: must be between 1 and 65535"),
        ({"port": -1}, "invalid port -1: must be between 1 and 65535"),
        ({"sni": ""}, "sni: '' is neither a host name nor an IP address"),
        ({"pin": "0"}, "pin: invalid pin '0': expected the SHA-256 of a public key as 64 hex digits or in Base64"),
    ],
)
def test_one_made_by_hand_is_checked_as_well(options: dict[str, object], message: str) -> None:
    with pytest.raises(URIError, match=f"^{re.escape(message)}$"):
        fields: dict[str, Any] = {"host": "example.com", "password": SECRET, **options}
        ServerURI(**fields)


def test_the_password_is_not_shown() -> None:
    uri = parse_uri(f"anytls://{SECRET}@example.com/?pin={PIN}")
    for shown in (repr(uri), str(uri), f"{uri}"):
        assert SECRET not in shown
        assert "example.com" in shown

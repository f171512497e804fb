"""The addresses that the relay connects to: non-public ones are refused in any form."""

import ipaddress
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioanytls.relay.address_policy import AddressPolicy, parse_network

REFUSED = {
    "unspecified": ["0.0.0.0", "0.1.2.3", "::"],
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "link-local": ["169.254.0.1", "169.254.255.255", "fe80::1", "febf::1", "fe80::1%eth0"],
    "private": [
        "10.0.0.0",
        "10.255.255.255",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "192.168.255.255",
        "fc00::1",
        "fdff:ffff::1",
        "fec0::1",
    ],
    "a provider's own network": ["100.64.0.0", "100.127.255.255"],
    "metadata": [
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
    ],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
    "broadcast": ["255.255.255.255"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.255", "2001:db8::1", "3fff::1", "3fff:fff:ffff::1"],
    "measurements": ["198.18.0.0", "198.19.255.255", "2001:2::1"],
    "Teredo": ["2001::1", "2001:0:5ef5:79fd:0:0:f7f7:f7f7"],
    "reserved": [
        "192.0.0.1",
        "192.88.99.1",
        "240.0.0.1",
        "255.255.255.254",
        "2001:1::1",
        "2001:1ff::1",
        # IPv4-compatible, IPv4-translated, for NAT64 in one network, for discarding, for segment routing, and the rest.
        "::7f00:1",
        "::8.8.8.8",
        "::ffff:0:127.0.0.1",
        "64:ff9b:1::7f00:1",
        "100::1",
        "5f00::1",
        "1fff::1",
        "4000::1",
        "fe00::1",
    ],
}
# They lead to another address, which decides.
LEADING = {
    "::ffff:127.0.0.1": "127.0.0.1, a loopback address",
    "::ffff:7f00:1": "127.0.0.1, a loopback address",
    "::ffff:169.254.169.254": "169.254.169.254, the metadata service of a cloud",
    "::ffff:10.1.2.3": "10.1.2.3, a private address",
    "::ffff:0.0.0.0": "0.0.0.0, an unspecified address",
    "64:ff9b::127.0.0.1": "127.0.0.1, a loopback address",
    "64:ff9b::a9fe:a9fe": "169.254.169.254, the metadata service of a cloud",
    "64:ff9b::192.168.1.1": "192.168.1.1, a private address",
    "2002:7f00:1::": "127.0.0.1, a loopback address",
    "2002:7f00:1::1": "127.0.0.1, a loopback address",
    "2002:a9fe:a9fe:1:2:3:4:5": "169.254.169.254, the metadata service of a cloud",
    "2002:c0a8:101::c0a8:101": "192.168.1.1, a private address",
    "2002:6440:1::1": "100.64.0.1, an address of a provider's own network",
}
# The neighbours of refused addresses, and some well-known ones.
EVERYBODYS = [
    "1.0.0.0",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2000::1",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2003::1",
    "2606:4700::1111",
    "3ffe::1",
    "3fff:1000::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
]


def refusal(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | str, allow: Sequence[str] = (), deny: Sequence[str] = ()
) -> str | None:
    policy = AddressPolicy(map(parse_network, allow), map(parse_network, deny))
    return policy.refusal(ipaddress.ip_address(address))


@pytest.mark.parametrize(("reason", "address"), [(reason, one) for reason, all_ in REFUSED.items() for one in all_])
def test_refused(reason: str, address: str) -> None:
    assert reason in (refusal(address) or "")
    assert refusal(address, ["0.0.0.0/0", "::/0"]) is None


@pytest.mark.parametrize(("address", "reason"), LEADING.items())
def test_refused_for_the_embedded_address(address: str, reason: str) -> None:
    assert refusal(address) == f"leads to {reason}"
    # The mapped form is only another way to write the IPv4 address.
    looks = "::/0" if address.startswith("::ffff:") else address
    assert refusal(address, [looks, "::/0"]) == f"leads to {reason}"


@pytest.mark.parametrize("address", EVERYBODYS)
def test_public_addresses_are_allowed(address: str) -> None:
    assert refusal(address) is None


def test_allowed() -> None:
    assert refusal("10.1.2.3", ["10.1.2.0/24"]) is None
    assert "private" in (refusal("10.1.3.3", ["10.1.2.0/24"]) or "")
    assert refusal("127.0.0.1", ["127.0.0.1"]) is None
    assert "loopback" in (refusal("127.0.0.2", ["127.0.0.1"]) or "")
    assert refusal("fe80::1%eth0", ["fe80::/10"]) is None
    assert refusal("::1", ["10.0.0.0/8", "::1"]) is None
    # Networks of one version contain no addresses of the other.
    assert "loopback" in (refusal("::1", ["0.0.0.0/0"]) or "")
    assert "loopback" in (refusal("127.0.0.1", ["::/0"]) or "")


@pytest.mark.parametrize("address", ["::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "2002:a01:203::1"])
def test_embedded_addresses_that_are_allowed(address: str) -> None:
    assert refusal(address, ["10.1.0.0/16"]) is None


@pytest.mark.parametrize("allow", [(), ("0.0.0.0/0", "::/0"), ("8.8.8.8",)])
@pytest.mark.parametrize("address", ["8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"])
def test_denied(address: str, allow: Sequence[str]) -> None:
    assert refusal(address, allow, ["8.8.8.0/24"]) == "is denied"


def test_denied_for_its_form() -> None:
    assert refusal("64:ff9b::808:808", deny=["64:ff9b::/96"]) == "is denied"
    assert refusal("8.8.8.8", deny=["64:ff9b::/96"]) is None
    assert refusal("2606:4700::1111", deny=["::/0"]) == "is denied"


# Networks in the mapped form are converted to IPv4 networks.
MAPPED = {
    "::ffff:10.0.0.0/104": ("10.0.0.0/8", "10.0.0.1"),
    "::ffff:8.8.8.8": ("8.8.8.8/32", "8.8.8.8"),
    "::ffff:0:0/96": ("0.0.0.0/0", "1.1.1.1"),
    "::ffff:c0a8:0/112": ("192.168.0.0/16", "192.168.7.7"),
}


@pytest.mark.parametrize(("mapped", "network", "inside"), [(one, *rest) for one, rest in MAPPED.items()])
@pytest.mark.parametrize("form", ["{}", "::ffff:{}", "64:ff9b::{}"])
def test_networks_in_the_mapped_form(mapped: str, network: str, inside: str, form: str) -> None:
    address = form.format(inside)
    assert str(parse_network(mapped)) == network
    assert refusal(address, ["0.0.0.0/0"], [mapped]) == "is denied"
    assert refusal(address, [mapped]) is None
    # Network objects as well, which were not parsed.
    policy = AddressPolicy(deny=[ipaddress.ip_network(mapped)])
    assert policy.refusal(ipaddress.ip_address(address)) == "is denied"


def test_a_mapped_network_is_no_larger_than_it_says() -> None:
    assert refusal("8.8.8.8", deny=["::ffff:10.0.0.0/104"]) is None
    assert "private" in (refusal("10.0.0.1", ["::ffff:10.0.1.0/120"]) or "")
    # This network contains more than IPv4 addresses, and remains one of IPv6.
    assert str(parse_network("::fffe:0:0/95")) == "::fffe:0:0/95"


TEREDO = {
    # The client's address is written with all bits inverted.
    "2001:0:808:808:0:0:f5fe:fffe": "10.1.0.1, a private address",
    # The Teredo server, to which packets would go first.
    "2001:0:a01:1:0:0:f7f7:f7f7": "10.1.0.1, a private address",
}


@pytest.mark.parametrize(("address", "reason"), TEREDO.items())
def test_addresses_in_a_teredo_address_count_if_those_are_allowed(address: str, reason: str) -> None:
    assert refusal(address, ["2001::/32"]) == f"leads to {reason}"
    assert refusal(address, ["2001::/32", "10.1.0.0/16"]) is None
    assert refusal(address, ["::/0", "0.0.0.0/0"], ["10.0.0.0/8"]) == "is denied"


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_in_all_of_its_forms(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    forms = [
        f"::ffff:{address}",
        f"64:ff9b::{address}",
        str(ipaddress.IPv6Address((0x2002 << 112) | (number << 80) | 1)),
    ]
    assert {refusal(form) is None for form in forms} == {refusal(address) is None}


@given(st.ip_addresses())
def test_addresses_that_python_knows_as_special_are_refused(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
        assert refusal(address) is not None


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.0.2.7", "192.0.2.7/32"),
        ("fd00::/8", "fd00::/8"),
        ("::1", "::1/128"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ],
)
def test_network(text: str, network: str) -> None:
    assert str(parse_network(text)) == network


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'' is neither an address nor a network"),
        ("10.0.0.0/33", "neither"),
        ("10.0.0/8", "neither"),
        ("example.com", "'example.com' is neither"),
        ("10.0.0.0/8,11.0.0.0/8", "neither"),
        ("10.0.0.1/8", "'10.0.0.1/8' is an address within the network 10.0.0.0/8: write either that, or 10.0.0.1"),
        ("fd00::1/8", "the network fd00::/8"),
        ("\x1b[31m", "'\\x1b[31m' is neither"),
    ],
)
def test_invalid_network(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        parse_network(text)

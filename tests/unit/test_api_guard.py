"""Which addresses an api step may connect to."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.adapters.api.guard import AddressGuard, kind_of, parse_rule
from consumer.errors import SettingsError


def refusal(guard: AddressGuard, host: str, port: int = 80, address: str | None = None) -> str | None:
    return guard.refusal(host, port, ipaddress.ip_address(address or host))


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("127.8.9.1", "loopback"),
        ("::1", "loopback"),
        ("10.1.2.3", "private"),
        ("172.16.0.1", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "private"),
        ("198.18.0.1", "private"),
        ("fd12:3456::1", "private"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("fd00:ec2::254", "metadata"),
        ("168.63.129.16", "metadata"),
        ("100.100.100.200", "metadata"),
        ("192.0.0.192", "metadata"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("240.0.0.1", "reserved"),
        ("fec0::1", "reserved"),
        ("64:ff9b:1::1", "reserved"),
        # An IPv4 address in an IPv6 one: mapped, compatible, NAT64, 6to4, Teredo (the client's bits are inverted)
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:169.254.169.254", "link-local"),
        ("::127.0.0.1", "loopback"),
        ("64:ff9b::a9fe:a9fe", "link-local"),
        ("2002:7f00:1::", "loopback"),
        ("2002:a9fe:a9fe::1", "link-local"),
        ("2001:0:808:808::80ff:fffe", "loopback"),
    ],
)
def test_an_address_that_is_not_public_is_denied_with_its_kind(address: str, kind: str) -> None:
    assert kind_of(ipaddress.ip_address(address)) == kind
    assert refusal(AddressGuard(), "host.example", address=address) == kind


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_a_public_address_is_open_without_a_rule(address: str) -> None:
    assert refusal(AddressGuard(), "host.example", address=address) is None


@given(st.ip_addresses(v=4))
@settings(max_examples=100, deadline=None)
def test_no_spelling_of_an_ipv4_address_is_judged_more_kindly_than_itself(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for wrapped in (
        ipaddress.IPv6Address((0xFFFF << 32) | number),
        ipaddress.IPv6Address((0x0064FF9B << 96) | number),
        ipaddress.IPv6Address((0x2002 << 112) | (number << 80)),
    ):
        if kind_of(address) is not None:
            assert kind_of(wrapped) is not None


@pytest.mark.parametrize(
    ("rule", "host", "port", "address", "open_"),
    [
        ("*", "anything", 1, "169.254.169.254", True),
        ("*:443", "anything", 443, "10.0.0.1", True),
        ("*:443", "anything", 80, "10.0.0.1", False),
        ("10.0.0.0/8", "anything", 80, "10.9.9.9", True),
        ("10.0.0.0/8", "anything", 80, "192.168.0.1", False),
        ("10.0.0.0/8", "anything", 80, "::ffff:10.9.9.9", True),
        ("10.0.0.0/8:443", "anything", 443, "10.9.9.9", True),
        ("10.0.0.0/8:443", "anything", 80, "10.9.9.9", False),
        ("127.0.0.1:8080", "localhost", 8080, "127.0.0.1", True),
        ("127.0.0.1:8080", "localhost", 8081, "127.0.0.1", False),
        ("fd00::/8", "anything", 80, "fd00::5", True),
        ("[fd00::]/8:443", "anything", 443, "fd00::5", True),
        ("[fd00::]/8:443", "anything", 80, "fd00::5", False),
        ("[::1]:80", "localhost", 80, "::1", True),
        ("::1", "localhost", 80, "::1", True),
        ("api.internal", "api.internal", 80, "10.0.0.1", True),
        ("api.internal", "API.Internal.", 80, "10.0.0.1", True),
        ("api.internal", "evil-api.internal", 80, "10.0.0.1", False),
        ("api.internal", "x.api.internal", 80, "10.0.0.1", False),
        ("api.internal:8080", "api.internal", 8080, "10.0.0.1", True),
        ("api.internal:8080", "api.internal", 80, "10.0.0.1", False),
        ("*.svc.cluster.local", "web.shop.svc.cluster.local", 80, "10.0.0.1", True),
        ("*.svc.cluster.local", "svc.cluster.local", 80, "10.0.0.1", False),
        ("*.svc.cluster.local", "web.svc.cluster.local.evil.example", 80, "10.0.0.1", False),
        # A name may be made to resolve to anything: it opens no metadata service
        ("api.internal", "api.internal", 80, "169.254.169.254", False),
        ("api.internal", "api.internal", 80, "fd00:ec2::254", False),
        ("169.254.169.254", "api.internal", 80, "169.254.169.254", True),
    ],
)
def test_a_rule_opens_what_it_says_and_no_more(rule: str, host: str, port: int, address: str, open_: bool) -> None:
    assert (refusal(AddressGuard([rule]), host, port, address) is None) is open_


@pytest.mark.parametrize(
    "rule", ["", "10.0.0.1/8", "host:99999", "host:0", "http://host", "fd00::/129", "a b", "host:", "[::1", "**", "a/b"]
)
def test_a_rule_that_means_nothing_names_itself_and_the_setting(rule: str) -> None:
    with pytest.raises(SettingsError, match="WPK_HTTP_ALLOW") as raised:
        parse_rule(rule)
    assert f'"{rule}"' in str(raised.value)


@pytest.mark.parametrize(
    ("host", "address", "kind", "entry"),
    [
        ("api.internal", "10.0.0.1", "private", '"api.internal:8080"'),
        ("10.0.0.1", "10.0.0.1", "private", '"10.0.0.1:8080"'),
        ("api.internal", "169.254.169.254", "link-local", '"169.254.169.254:8080"'),
        ("fd00::1", "fd00::1", "private", '"[fd00::1]:8080"'),
        ("2130706433", "127.0.0.1", "loopback", '"2130706433:8080"'),
    ],
)
def test_the_refusal_says_what_to_write_and_writing_it_opens_the_address(
    host: str, address: str, kind: str, entry: str
) -> None:
    guard = AddressGuard()
    error = guard.blocked(host, 8080, ipaddress.ip_address(address), kind)
    assert error.code == "address_blocked"
    assert not error.retryable
    for part in (host, address, kind, entry, "WPK_HTTP_ALLOW"):
        assert part in str(error)
    assert refusal(AddressGuard([entry.strip('"')]), host, 8080, address) is None

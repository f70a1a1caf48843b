"""No way of writing an address, and no redirect, leads an api step to what is not public."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.adapters import api
from consumer.adapters.api.guard import kind_of
from consumer.errors import ConfigError, StepError
from tests.support import http_server
from tests.support.api_steps import run

#: Each in a family of forms; all of them are loopback, the metadata service or private.
FORMS: dict[str, tuple[str, ...]] = {
    "dotted": ("127.0.0.1", "127.1", "127.0.1", "0.0.0.0", "0", "10.0.0.1", "169.254.169.254", "192.168.0.1"),
    "decimal": ("2130706433", "2852039166", "167772161"),
    "octal": ("0177.0.0.1", "0177.0.0.01", "017700000001", "0251.0376.0251.0376"),
    "hex": ("0x7f.1", "0x7f000001", "0x7f.0x0.0x0.0x1", "0xa9fea9fe", "0XA9.0XFE.0XA9.0XFE"),
    "trailing dot": ("127.0.0.1.", "localhost.", "169.254.169.254."),
    "names": ("localhost", "LOCALHOST", "localhost.localdomain"),
    "IPv6": ("[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[fe80::1]", "[fd00:ec2::254]", "[fc00::1]", "[fec0::1]"),
    "mapped": ("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:a9fe:a9fe]", "[0:0:0:0:0:ffff:10.0.0.1]"),
    "compatible": ("[::127.0.0.1]", "[::a9fe:a9fe]"),
    "NAT64": ("[64:ff9b::7f00:1]", "[64:ff9b::169.254.169.254]", "[64:ff9b::a00:1]", "[64:ff9b:1::7f00:1]"),
    "6to4": ("[2002:7f00:1::]", "[2002:a9fe:a9fe::1]", "[2002:a00:1::]"),
    "Teredo": ("[2001:0:808:808::80ff:fffe]", "[2001:0:7f00:1::f7f7:f7f7]"),
    "zone": ("[fe80::1%25lo]", "[fe80::1%lo]", "[::1%lo]"),
    "other digits": ("127。0。0。1", "①②⑦.⓪.⓪.①", "\uff11\uff12\uff17.\uff10.\uff10.\uff11"),
    "user before it": ("example.com@127.0.0.1", "example.com%40127.0.0.1", "127.0.0.1#@example.com"),
}
ALL = [(family, host) for family, hosts in FORMS.items() for host in hosts]
#: What the step may answer: it is blocked, or no host, or nobody knows it. Above all, no answer.
REFUSALS = {"address_blocked", "config", "invalid_url", "dns", "redirect"}


@pytest.fixture
async def server() -> AsyncIterator[http_server.Server]:
    async with http_server.serve() as running:
        yield running


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that are no numbers are those of this machine; no name server is asked."""
    resolve = socket.getaddrinfo

    def answer(host: str, *more: object, **fields: object) -> object:
        if host.lower().rstrip(".") == "localhost":
            return resolve("127.0.0.1", *more, **fields)  # type: ignore[arg-type]
        return resolve(host, *more, **{**fields, "flags": socket.AI_NUMERICHOST})  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


async def refused(adapter: api.ApiAdapter, url: str, **more: object) -> str:
    """The code of the refusal."""
    try:
        output = await run(adapter, {"url": url, **more})  # type: ignore[dict-item]
    except StepError as error:
        return error.code
    except ConfigError:
        return "config"
    return f"answered {output['status']}"


async def test_no_form_of_an_address_that_is_not_public_is_connected_to(
    server: http_server.Server, offline: None, record_property: Callable[[str, object], None]
) -> None:
    adapter = api.ApiAdapter()
    codes = {host: await refused(adapter, f"http://{host}:{server.port}/echo") for _, host in ALL}
    assert {host: code for host, code in codes.items() if code not in REFUSALS} == {}
    assert server.requests == []
    blocked = sum(code == "address_blocked" for code in codes.values())
    told = f"addresses: {len(ALL)} hosts in {len(FORMS)} forms; {blocked} blocked, the rest are no hosts"
    record_property("measured", told)
    assert blocked > len(ALL) / 2, "most of them must have come as far as the guard"


async def test_no_redirect_leads_to_any_form_of_such_an_address(server: http_server.Server, offline: None) -> None:
    adapter = api.ApiAdapter(allow=[f"127.0.0.1:{server.port}"])
    async with http_server.serve() as other:
        codes = {}
        hosts = [host for _, host in ALL if host.isascii()]  # a Location is
        for host in hosts:
            to = quote(f"http://{host}:{other.port}/echo", safe="")
            codes[host] = await refused(adapter, f"{server.base}/redirect?to={to}", follow_redirects=True)
        assert other.requests == []
    assert {host: code for host, code in codes.items() if code not in REFUSALS} == {}
    assert len(server.requests) == len(hosts), "each time the first server was asked"


@given(st.ip_addresses(v=4))
def test_an_address_in_an_ipv6_one_is_judged_as_itself(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    wrapped = {
        "mapped": ipaddress.IPv6Address((0xFFFF << 32) | number),
        "NAT64": ipaddress.IPv6Address((0x0064FF9B << 96) | number),
        "6to4": ipaddress.IPv6Address((0x2002 << 112) | (number << 80)),
        "Teredo": ipaddress.IPv6Address((0x20010000 << 96) | (0x08080808 << 64) | (number ^ 0xFFFFFFFF)),
    }
    if kind_of(address) is not None:
        assert all(kind_of(each) is not None for each in wrapped.values()), wrapped

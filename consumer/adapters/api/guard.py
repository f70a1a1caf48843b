"""Which addresses a step may connect to. Pure: no name is resolved here.

The check is made on the address that is then connected to, not on the URL, so that odd spellings (`2130706433`), names
with changing answers and redirects can't get round it. The agent runs where it reaches what a package's author does
not, above all the cloud's metadata service; so all but public addresses are denied unless the setting allows them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from consumer.errors import PermanentError, SettingsError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_SETTING = "http_allow (WPK_HTTP_ALLOW)"

#: The first network that holds the address says its kind; what is in none of them and not global is private.
_KINDS: tuple[tuple[Network, str], ...] = tuple(
    (ipaddress.ip_network(network), kind)
    for kind, networks in (
        # Metadata services outside the link-local range: AWS over IPv6, Azure, Oracle, Alibaba.
        ("metadata", ("fd00:ec2::254", "168.63.129.16", "192.0.0.192", "100.100.100.200")),
        ("unspecified", ("0.0.0.0/8", "::")),
        ("loopback", ("127.0.0.0/8", "::1")),
        ("link-local", ("169.254.0.0/16", "fe80::/10")),
        ("multicast", ("224.0.0.0/4", "ff00::/8")),
        ("reserved", ("240.0.0.0/4",)),
        ("private", ("fc00::/7",)),
    )
    for network in networks
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
_V4_COMPATIBLE = IPv6Network("::/96")  # RFC 4291, 2.5.5.1; deprecated, yet some stacks still route it

#: What a rule by name opens: a name that is trusted may still be made to resolve to the metadata service.
_OPEN_BY_NAME = frozenset({"private", "loopback"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One entry of the setting: a name (with `*.` before it: all names below), a network, or everything."""

    name: str | None = None
    network: Network | None = None
    port: int | None = None

    def allows(self, host: str, port: int, address: Address, kind: str) -> bool:
        if self.port not in (None, port):
            return False
        if self.network is not None:
            return address.version == self.network.version and address in self.network
        if self.name is None:
            return True
        if kind not in _OPEN_BY_NAME:
            return False
        host = _canonical(host)
        return host.endswith(self.name[1:]) if self.name.startswith("*.") else host == self.name


_RULE = re.compile(r"(?P<body>\[[^\]]+\](?:/\d+)?|[^:\[\]]+)(?::(?P<port>\d{1,5}))?")
_NAME = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")


def parse_rule(text: str) -> Rule:
    """`*`, `host`, `*.domain`, `address`, `network/bits`, each also with `:port` (IPv6 then in brackets).

    Raises SettingsError with the remedy.
    """
    entry = text.strip()
    body, port = entry, None
    if entry.count(":") < 2 or entry.startswith("["):
        match = _RULE.fullmatch(entry)
        if match is None:
            raise _bad_rule(text, "write host, host:port, 10.0.0.0/8, 10.0.0.0/8:443, [fd00::]/8:443 or *")
        body = match["body"].replace("[", "").replace("]", "")
        port = int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port < 65536:
        raise _bad_rule(text, "a port lies between 1 and 65535")
    if body == "*":
        return Rule(port=port)
    try:
        return Rule(network=ipaddress.ip_network(body), port=port)
    except ValueError as error:
        if "/" in body or ":" in body:
            raise _bad_rule(text, str(error)) from error
    if not _NAME.fullmatch(_canonical(body)):
        raise _bad_rule(text, "it is neither a host's name nor an address")
    return Rule(name=_canonical(body), port=port)


def _bad_rule(text: str, why: str) -> SettingsError:
    return SettingsError(f'{_SETTING}: "{text[:80]}" is no rule; {why}')


def _canonical(host: str) -> str:
    return host.lower().rstrip(".")


class AddressGuard:
    """The rules, and what they say of an address."""

    def __init__(self, allow: Sequence[str] = ()) -> None:
        self._rules = tuple(parse_rule(text) for text in allow)

    def refusal(self, host: str, port: int, address: Address) -> str | None:
        """Why `host` may not be connected to at `address`: what kind of address it is; None where it may."""
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        kind = kind_of(address)
        if kind is None or any(rule.allows(host, port, address, kind) for rule in self._rules):
            return None
        return kind

    def blocked(self, host: str, port: int, address: Address, kind: str) -> PermanentError:
        """The error for a refusal: names the host, the address, the setting, and what to write there."""
        literal = _canonical(host) == str(address)
        where = host if literal else f"{host} ({address})"
        network = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
        entry = f"{_canonical(host)}:{port}" if kind in _OPEN_BY_NAME and not literal and ":" not in host else network
        return PermanentError(
            f'{where}, port {port}, is blocked: a {kind} address; the agent\'s operator can allow it with "{entry}" '
            f"in {_SETTING}",
            code="address_blocked",
        )


def kind_of(address: Address) -> str | None:
    """None for a public address; else what it is. An IPv4 address inside an IPv6 one counts too."""
    for part in _parts(address):
        kind = _kind(part)
        if kind is not None:
            return kind
    return None


def _parts(address: Address) -> Iterator[Address]:
    if isinstance(address, IPv4Address):
        yield address
        return
    embedded: list[IPv4Address] = []
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
        return
    if address in _NAT64:
        yield IPv4Address(int(address) & 0xFFFFFFFF)
        return
    if address.sixtofour is not None:
        embedded.append(address.sixtofour)
    if address.teredo is not None:
        embedded.extend(address.teredo)
    if address in _V4_COMPATIBLE and int(address) > 0xFFFF:
        embedded.append(IPv4Address(int(address)))
    yield from embedded
    yield address


def _kind(address: Address) -> str | None:
    for network, kind in _KINDS:
        if address in network:
            return kind
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return "reserved"
    return None if address.is_global else "private"

"""The check of addresses to which packets for a peer may be sent.

All endpoints, from text and from DNS, are checked here. Members write their own endpoints, and
control the addresses that their names resolve to. The following addresses are refused:

* addresses that cannot be another machine's: loopback, unspecified, link-local, multicast,
  broadcast and reserved ranges, in each notation that carries an IPv4 address within an IPv6
  address;
* cloud metadata services, which return data of the machine that sends the request;
* addresses within the VPN's own prefixes: WireGuard would encrypt its own packets again, in a loop.

IPv6 is checked against allowed ranges, because most of its space is unassigned.
"""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from dstack_vpn.core.addresses import IPAddress, parse_ip
from dstack_vpn.errors import FormatError

IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_REFUSED_IPV4: Final = {
    ipaddress.IPv4Network(text): why
    for text, why in {
        "0.0.0.0/8": "an unspecified address",
        "127.0.0.0/8": "a loopback address",
        "169.254.0.0/16": "a link-local address",
        "192.0.0.0/24": "an address that is reserved for protocols",
        "224.0.0.0/4": "a multicast address",
        "240.0.0.0/4": "a reserved or broadcast address",
    }.items()
}
"""The IANA's registry of special-purpose IPv4 addresses.

The private and documentation ranges are left out.
"""
_ALLOWED_IPV6: Final = tuple(
    map(ipaddress.IPv6Network, ("2000::/3", "fc00::/7", "64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0/96"))
)
"""Global unicast, unique local, NAT64 (RFC 6052, RFC 8215), IPv4-mapped."""
_NAT64: Final = _ALLOWED_IPV6[2:4]
_ROUTED_IPV6: Final = _ALLOWED_IPV6[:4]
_MORE_IPV6: Final = "an address that is not global unicast or unique local"
_ISATAP: Final = frozenset({0x0000_5EFE, 0x0200_5EFE})
"""The upper half of an interface identifier that contains an IPv4 address (RFC 5214, 6.1)."""
_METADATA: Final = frozenset(map(ipaddress.ip_address, ("100.100.100.200", "168.63.129.16", "fd00:ec2::254")))
"""Metadata services outside the link-local range: Alibaba Cloud, Azure, AWS over IPv6."""


def special_use(address: IPAddress) -> str | None:
    """Return the kind of an address that can't be another machine's; None for any other."""
    if address in _METADATA:
        return "the address of a metadata service"
    if isinstance(address, ipaddress.IPv4Address):
        return next((why for network, why in _REFUSED_IPV4.items() if address in network), None)
    if not any(address in network for network in _ALLOWED_IPV6):
        return _special_ipv6(address)
    return next(filter(None, map(special_use, embedded_ipv4(address))), None)


def special_range(network: IPNetwork) -> str | None:
    """Return the kind of addresses in a network that can't be behind another machine, or None."""
    for address in _METADATA:
        if address.version == network.version and address in network:
            return f"the address of a metadata service ({address})"
    if isinstance(network, ipaddress.IPv4Network):
        return next((why for refused, why in _REFUSED_IPV4.items() if network.overlaps(refused)), None)
    if any(network.subnet_of(allowed) for allowed in _ROUTED_IPV6):
        return None
    whole = any(network.supernet_of(allowed) for allowed in _ROUTED_IPV6)
    return _MORE_IPV6 if whole else _special_ipv6(network.network_address)


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    """Return whether two networks have a common address."""
    return one.version == other.version and bool(one.overlaps(other))


def check_reachable(address: IPAddress) -> None:
    """Raise `FormatError` for an address that can't be another machine's."""
    if (why := special_use(address)) is not None:
        raise FormatError(f"endpoint: {why} cannot be a peer's endpoint")


def embedded_ipv4(address: IPAddress) -> Iterator[ipaddress.IPv4Address]:
    """Return the IPv4 addresses that packets for an IPv6 address may reach."""
    if isinstance(address, ipaddress.IPv4Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    isatap = (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP
    if isatap or any(address in network for network in _NAT64):
        yield ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)


def _special_ipv6(address: ipaddress.IPv6Address) -> str:
    if address.is_loopback:
        return "a loopback address"
    if address.is_unspecified:
        return "an unspecified address"
    if address.is_multicast:
        return "a multicast address"
    if address.is_link_local:
        return "a link-local address"
    return _MORE_IPV6


@dataclass(frozen=True, slots=True)
class Destinations:
    """The addresses to which packets for peers may be sent."""

    inside: tuple[IPNetwork, ...] = ()
    """The VPN's own prefixes; addresses within them are refused."""
    local: bool = False
    """The operator chose the address, and may name this machine and its links."""

    def refusal(self, text: str) -> str | None:
        """Return the reason to refuse an IP address; None if allowed or if not an address."""
        if (address := parse_ip(text.partition("%")[0])) is None:
            return None
        forms = (address, *embedded_ipv4(address))
        if any(form in network for form in forms for network in self.inside):
            return "endpoint: an address of the VPN itself leads back into the tunnel"
        if self.local:
            return None
        if "%" in text:
            return "endpoint: a link-local address cannot be a peer's endpoint"
        why = special_use(address)
        return None if why is None else f"endpoint: {why} cannot be a peer's endpoint"


ANYWHERE: Final = Destinations(local=True)
"""For addresses that the operator has chosen, outside any VPN."""

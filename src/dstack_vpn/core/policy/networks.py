"""The networks behind a node: those that it can forward to, and the internet.

A node forwards to the routes of its own token (docs/decisions/0040-networks.md). A route of prefix
length 0 makes it an exit: it stands for the internet, which is every address of its version except
the `RESERVED` ones. A private network needs a route of another node.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from dstack_vpn.core.addresses import IPAddress
from dstack_vpn.core.model import Cidr
from dstack_vpn.core.paths.destination import IPNetwork, overlap, special_range
from dstack_vpn.core.policy.document import PolicyDocument
from dstack_vpn.core.policy.selectors import Selector, SelectorKind

_Span: TypeAlias = tuple[int, int]

RESERVED: Final[dict[int, tuple[Cidr, ...]]] = {
    4: (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        "168.63.129.16/32",  # the metadata service of Azure
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    ),
    6: (
        *("::/127", "::ffff:0:0/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32"),
        *("2002::/16", "3fff::/20", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
    ),
}
"""The addresses, by IP version, that are not the internet's. They do not overlap.

IANA's registries of special-purpose addresses. `ipaddress` has another list in each Python.
"""
_RESERVED: Final = tuple(map(ipaddress.ip_network, (*RESERVED[4], *RESERVED[6])))
HAS_EXIT: Final = "EXIT_NODE is set, and members' packets would leave beside that exit"
"""The reason that a node with an exit does not serve others as one."""
_ANY: Final = Selector(SelectorKind.ANY)
_INTERNET: Final = Selector(SelectorKind.INTERNET)


def is_public(address: IPAddress) -> bool:
    """Return whether an address is one of the internet's."""
    return not any(address in network for network in _RESERVED)


@dataclass(frozen=True, slots=True)
class OwnNetworks:
    """The networks that a node forwards to."""

    usable: frozenset[Cidr] = frozenset()
    """The routes. One of prefix length 0 stands for the internet."""
    refused: tuple[str, ...] = ()
    """The other routes, with the reasons."""

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions of the usable routes."""
        return tuple(sorted({ipaddress.ip_network(route).version for route in self.usable}))

    @classmethod
    def of(
        cls, routes: Iterable[Cidr], prefixes: Sequence[IPNetwork], *, has_exit: bool = False
    ) -> "OwnNetworks":
        """Return the routes of a token that can be used beside the VPN's prefixes.

        ``has_exit``: the node sends everything by another exit itself.
        """
        usable, refused = set[Cidr](), list[str]()
        for route in routes:
            network = ipaddress.ip_network(route)
            problem = HAS_EXIT if has_exit and not network.prefixlen else _problem(network, prefixes)
            if problem is None:
                usable.add(route)
            else:
                refused.append(f"{route}: {problem}")
        return cls(frozenset(usable), tuple(refused))


def _problem(route: IPNetwork, prefixes: Iterable[IPNetwork]) -> str | None:
    if not route.prefixlen:
        return None
    for prefix in prefixes:
        if overlap(route, prefix):
            return f"it overlaps the VPN's own prefix {prefix}"
    kind = special_range(route)
    return None if kind is None else f"it contains {kind}"


class Zone(NamedTuple):
    """Destinations behind a node that the policies do not distinguish."""

    selectors: frozenset[Selector]
    """The selectors in the policies' destinations that include them."""
    networks: frozenset[Cidr]
    """Without overlap. One of prefix length 0 stands for the internet."""


def zones(routes: Iterable[Cidr], documents: Iterable[PolicyDocument]) -> tuple[Zone, ...]:
    """Return the zones of routes. Each address of the routes is in one of them."""
    named = {
        selector.network
        for document in documents
        for grant in document.grants
        for selector in grant.dst
        if selector.kind is SelectorKind.NETWORK
    }
    found: dict[frozenset[Selector], set[Cidr]] = {}
    for route in set(map(ipaddress.ip_network, routes)):
        if not route.prefixlen:
            found.setdefault(frozenset({_INTERNET}), set()).add(str(route))
            continue
        around = frozenset(Selector(SelectorKind.NETWORK, str(each)) for each in named if _is_in(route, each))
        inner = sorted((each for each in named if _is_in(each, route) and each != route), key=_span)
        for network, selectors in _pieces(route, inner, around | {_ANY}):
            found.setdefault(selectors, set()).add(str(network))
    ordered = sorted(found.items(), key=lambda each: sorted(each[1]))
    return tuple(Zone(selectors, frozenset(networks)) for selectors, networks in ordered)


def _pieces(
    network: IPNetwork, inner: Sequence[IPNetwork], selectors: frozenset[Selector]
) -> Iterator[tuple[IPNetwork, frozenset[Selector]]]:
    """Yield the parts of a network, each with the selectors that include it.

    ``inner`` are networks inside of it, in the order of their first addresses, larger ones first.
    """
    start, end = _span(network)
    at = 0
    while at < len(inner):
        child, last = inner[at], int(inner[at].broadcast_address)
        for gap in _between(start, int(child.network_address) - 1, network.version):
            yield gap, selectors
        after = at + 1
        while after < len(inner) and int(inner[after].network_address) <= last:
            after += 1
        chosen = Selector(SelectorKind.NETWORK, str(child))
        yield from _pieces(child, inner[at + 1 : after], selectors | {chosen})
        start, at = last + 1, after
    for gap in _between(start, -end, network.version):
        yield gap, selectors


def _between(first: int, last: int, version: int) -> Iterator[IPNetwork]:
    """Yield the networks that have exactly the addresses of a range; none if it is empty."""
    if first > last:
        return
    kind = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    yield from ipaddress.summarize_address_range(kind(first), kind(last))


def _span(network: IPNetwork) -> _Span:
    """Return the first address, and the last one negated: larger networks come first."""
    return int(network.network_address), -int(network.broadcast_address)


def _is_in(network: IPNetwork, other: IPNetwork) -> bool:
    return network.version == other.version and bool(network.subnet_of(other))  # type: ignore[arg-type]  # one version

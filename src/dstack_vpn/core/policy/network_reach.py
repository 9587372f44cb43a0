"""The access of members to networks and to the internet that another policy gives or takes.

As in `reach`, groups of members are compared instead of members. The networks are compared by
zones: destinations that neither policy distinguishes.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

from dstack_vpn.core.model import Cidr
from dstack_vpn.core.policy.directory import Member, MemberDirectory
from dstack_vpn.core.policy.document import PolicyDocument
from dstack_vpn.core.policy.networks import OwnNetworks, Zone, zones
from dstack_vpn.core.policy.port_set import PortSet
from dstack_vpn.core.policy.reach import GrantIndex, MemberGroup, differences, groups_of
from dstack_vpn.core.policy.selectors import SelectorKind


@dataclass(frozen=True, slots=True)
class NetworkBlock:
    """Members with the same ports to the same destinations."""

    members: tuple[Member, ...]
    destinations: tuple[str, ...]
    """Networks without overlap, and ``autogroup:internet``."""
    ports: PortSet


@dataclass(frozen=True, slots=True)
class NetworkChanges:
    """The members that get access to more ports of networks, and those that lose some.

    A member can be in several blocks. ``ports`` of each are the added ports, or the removed ones.
    """

    gained: tuple[NetworkBlock, ...]
    lost: tuple[NetworkBlock, ...]


def compare_networks(
    before: PolicyDocument, after: PolicyDocument, directory: MemberDirectory
) -> NetworkChanges:
    """Return the members whose ports of networks behind other members differ.

    A member does not use the VPN for a network that it leads to itself.
    """
    old, new = indexes = GrantIndex(before), GrantIndex(after)
    difference, offers = differences(old, new), _Offers(directory, (before, after))
    changes: tuple[list[NetworkBlock], list[NetworkBlock]] = [], []
    for group in groups_of(indexes, directory.members):
        was, now = group.naming
        for own, members in offers.by_own(group):
            found: tuple[dict[PortSet, list[Cidr]], ...] = defaultdict(list), defaultdict(list)
            for zone in offers.zones(own):
                ports = difference(was.src & old.to(zone.selectors), now.src & new.to(zone.selectors))
                networks = [each for each in zone.networks if ip_network(each).version in group.versions]
                for each, destinations in zip(ports, found, strict=True):
                    destinations[each] += networks if each else ()
            for blocks, destinations in zip(changes, found, strict=True):
                named = ((ports, _named(networks)) for ports, networks in destinations.items())
                blocks.extend(NetworkBlock(members, each, ports) for ports, each in named if each)
    return NetworkChanges(tuple(changes[0]), tuple(changes[1]))


class _Offers:
    """The networks behind members."""

    def __init__(self, directory: MemberDirectory, policies: Iterable[PolicyDocument]) -> None:
        self._routes = {
            each.token: OwnNetworks.of(map(str, each.routes), directory.prefixes).usable
            for each in directory.members
        }
        self._gateways = Counter(route for routes in self._routes.values() for route in routes)
        documents = tuple(policies)
        self._zones = {route: zones((route,), documents) for route in self._gateways}

    def zones(self, own: frozenset[Cidr]) -> Iterator[Zone]:
        """Yield the destinations of a member that leads to these networks itself."""
        for route, found in self._zones.items():
            # An exit may leave by another exit.
            if route not in own or (self._gateways[route] > 1 and not ip_network(route).prefixlen):
                yield from found

    def by_own(self, group: MemberGroup) -> Iterator[tuple[frozenset[Cidr], tuple[Member, ...]]]:
        """Yield the members of a group by the networks that they lead to themselves."""
        found: dict[frozenset[Cidr], list[Member]] = defaultdict(list)
        for member in group.members:
            found[self._routes[member.token]].append(member)
        for own, members in found.items():
            yield own, tuple(members)


def _named(networks: Iterable[Cidr]) -> tuple[str, ...]:
    """Return destinations as a policy names them, in ascending order."""
    found = set(map(ip_network, networks))
    internet = [SelectorKind.INTERNET.value] if any(not each.prefixlen for each in found) else []
    ipv4 = collapse_addresses(each for each in found if isinstance(each, IPv4Network) and each.prefixlen)
    ipv6 = collapse_addresses(each for each in found if isinstance(each, IPv6Network) and each.prefixlen)
    return (*map(str, ipv4), *map(str, ipv6), *internet)

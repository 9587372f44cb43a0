"""The networks behind a node: the routes that can be used, and their zones."""

import ipaddress
import json
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.policy.examples import PLAN

from dstack_vpn.core.paths.destination import IPNetwork, overlap
from dstack_vpn.core.policy.document import PolicyDocument, parse_policy
from dstack_vpn.core.policy.networks import HAS_EXIT, RESERVED, OwnNetworks, is_public, zones
from dstack_vpn.core.policy.selectors import Selector


def document(*targets: str) -> PolicyDocument:
    return parse_policy(json.dumps({"grants": [{"src": ["*"], "dst": [t], "ip": ["*"]} for t in targets]}))


def networks_by_selectors(routes: list[str], *targets: str) -> dict[frozenset[str], set[str]]:
    found = zones(routes, [document(target) for target in targets])
    return {frozenset(map(str, zone.selectors)): set(zone.networks) for zone in found}


@pytest.mark.parametrize(
    ("route", "problem"),
    [
        ("10.77.3.0/24", "it overlaps the VPN's own prefix 10.77.0.0/16"),
        ("10.0.0.0/8", "it overlaps the VPN's own prefix 10.77.0.0/16"),
        ("fd00::/8", "it overlaps the VPN's own prefix fd00:77::/48"),
        ("127.0.0.0/16", "it contains a loopback address"),
        ("169.254.169.254/32", "it contains a link-local address"),
        ("192.0.0.0/2", "it contains an address that is reserved for protocols"),
        ("240.0.0.0/8", "it contains a reserved or broadcast address"),
        ("168.63.0.0/16", "it contains the address of a metadata service (168.63.129.16)"),
        ("fd00:ec2::/32", "it contains the address of a metadata service (fd00:ec2::254)"),
        ("::1/128", "it contains a loopback address"),
        ("fe80::/64", "it contains a link-local address"),
        ("ff02::/16", "it contains a multicast address"),
    ],
)
def test_a_route_that_cannot_work_is_refused(route: str, problem: str) -> None:
    found = OwnNetworks.of(["192.168.7.0/24", route], PLAN.networks)
    assert found == OwnNetworks(frozenset({"192.168.7.0/24"}), (f"{route}: {problem}",))


def test_other_routes_and_those_of_an_exit_are_used() -> None:
    routes = ("0.0.0.0/0", "10.78.0.0/16", "fd00:7::/64", "::/0")
    found = OwnNetworks.of(routes, PLAN.networks)
    assert found == OwnNetworks(frozenset(routes))
    assert found.versions == (4, 6)
    assert OwnNetworks.of(["10.78.0.0/16"], PLAN.networks).versions == (4,)


def test_a_node_with_an_exit_of_its_own_is_no_exit_for_others() -> None:
    found = OwnNetworks.of(("0.0.0.0/0", "192.168.7.0/24", "::/0"), PLAN.networks, has_exit=True)
    assert found.usable == {"192.168.7.0/24"}
    assert found.refused == (f"0.0.0.0/0: {HAS_EXIT}", f"::/0: {HAS_EXIT}")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("1.1.1.1", True),
        ("2606:4700::1", True),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("168.63.129.16", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("fd00::1", False),
        ("::ffff:1.1.1.1", False),
        ("ff0e::1", False),
    ],
)
def test_the_internet(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize("version", [4, 6])
def test_reserved_networks_do_not_overlap(version: int) -> None:
    """Sets of the packet filter need that."""
    networks = list(map(ipaddress.ip_network, RESERVED[version]))
    assert not any(overlap(*pair) for pair in combinations(networks, 2))


def test_networks_that_no_grant_distinguishes_share_a_zone() -> None:
    assert networks_by_selectors(["192.168.7.0/24", "10.8.0.0/16"], "*", "tag:web") == {
        frozenset({"*"}): {"192.168.7.0/24", "10.8.0.0/16"}
    }
    assert networks_by_selectors(["192.168.7.0/24", "0.0.0.0/0", "::/0"], "192.168.0.0/16", "1.0.0.0/8") == {
        frozenset({"*", "192.168.0.0/16"}): {"192.168.7.0/24"},
        frozenset({"autogroup:internet"}): {"0.0.0.0/0", "::/0"},
    }


def test_a_grant_to_a_part_of_a_route_divides_it() -> None:
    found = networks_by_selectors(["192.168.7.0/24"], "192.168.7.0/26", "192.168.7.1/32", "192.168.7.255/32")
    assert {key: len(networks) for key, networks in found.items()} == {
        frozenset({"*"}): 8,
        frozenset({"*", "192.168.7.0/26"}): 6,
        frozenset({"*", "192.168.7.0/26", "192.168.7.1/32"}): 1,
        frozenset({"*", "192.168.7.255/32"}): 1,
    }


networks4 = st.builds(
    lambda number, length: str(ipaddress.ip_network((number, length), strict=False)),
    st.integers(0xC0A8_0000, 0xC0A8_00FF),
    st.sampled_from((16, 24, 25, 28, 31, 32)),
)
networks6 = st.builds(
    lambda number, length: str(ipaddress.ip_network((number, length), strict=False)),
    st.integers(0xFD07 << 112, (0xFD07 << 112) + 255),
    st.sampled_from((8, 64, 120, 127, 128)),
)


@given(
    st.sets(st.sampled_from(("192.168.0.0/25", "192.168.0.192/26", "fd07::/64", "::/0")), min_size=1),
    st.lists(networks4 | networks6, max_size=6),
    st.integers(0, 255),
)
def test_each_address_is_in_the_one_zone_of_its_selectors(
    routes: set[str], targets: list[str], at: int
) -> None:
    found = zones(routes, [document(*targets)] if targets else [])
    for address in (ipaddress.ip_address(0xC0A8_0000 + at), ipaddress.ip_address((0xFD07 << 112) + at)):

        def around(texts: "set[str] | list[str]", address: object = address) -> set[IPNetwork]:
            networks = (ipaddress.ip_network(text) for text in texts)
            return {network for network in networks if network.prefixlen and address in network}

        holding = [
            (zone, network)
            for zone in found
            for network in zone.networks
            if network != "::/0" and address in ipaddress.ip_network(network)
        ]
        assert len(holding) == len(around(routes))
        for zone, _ in holding:
            expected = {"*", *map(str, around(targets))}
            assert zone.selectors == frozenset(map(Selector.parse, expected))

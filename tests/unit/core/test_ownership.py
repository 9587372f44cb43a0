"""Proofs that an interface is ours, and conflicts with other programs: facts in, obstacles out."""

import pytest

from dstack_vpn.core.ownership import (
    BLACKHOLE,
    PROTOCOL,
    AddressFact,
    Claim,
    DeviceFact,
    Host,
    Identity,
    LinkFact,
    Proof,
    RouteFact,
    blackhole_metric,
    clashes,
    in_the_way,
    taken,
    within,
)
from dstack_vpn.core.wireguard.keys import PublicKey

OURS, NEXT, THEIRS = (PublicKey(bytes([number]) * 32) for number in (1, 2, 3))
IDENTITY = Identity("a" * 32, frozenset({OURS, NEXT}), OURS)
CLAIM = Claim("wg0", ("10.77.0.0/16", "fd12:3456:789a::/48"), IDENTITY)


def link(alias: str = "", *addresses: str, kind: str | None = "tun") -> LinkFact:
    return LinkFact(7, kind, alias, frozenset(addresses))


@pytest.mark.parametrize(
    ("found", "device", "proof"),
    [
        (link(IDENTITY.mark(Proof.MADE)), None, Proof.MADE),
        (link(IDENTITY.mark(Proof.FOUND)), None, Proof.FOUND),
        (link(Identity("a" * 32).mark(Proof.MADE)), DeviceFact(THEIRS, 2), Proof.MADE),
        (link(Identity("b" * 32, key=NEXT).mark(Proof.MADE)), None, Proof.MADE),
        (link(Identity("b" * 32, key=THEIRS).mark(Proof.MADE)), None, None),
        (link(Identity("b" * 32, key=THEIRS).mark(Proof.MADE)), DeviceFact(None, 0), None),
        (link(Identity("", key=THEIRS).mark(Proof.MADE)), None, None),
        (link("dstack-vpn"), None, None),
        (link("uplink of rack 7"), DeviceFact(OURS, 9), Proof.KEY),
        (link(), DeviceFact(NEXT, 0), Proof.KEY),
        (link(), DeviceFact(THEIRS, 0), None),
        (link(), DeviceFact(None, 0), Proof.FOUND),
        (link("", "10.8.0.1/24"), DeviceFact(None, 0), None),
        (link(), DeviceFact(None, 1), None),
        (link(), None, None),
    ],
)
def test_an_interface_is_ours_by_its_mark_or_its_key_alone(
    found: LinkFact, device: DeviceFact | None, proof: Proof | None
) -> None:
    assert IDENTITY.proof(found, device) is proof


def test_without_a_name_and_a_key_nothing_is_ours() -> None:
    nobody = Identity()
    assert nobody.proof(link(nobody.mark(Proof.MADE)), None) is None
    assert nobody.proof(link(), DeviceFact(THEIRS, 0)) is None


@pytest.mark.parametrize(
    ("route", "prefix"),
    [
        (RouteFact("10.77.5.0/24", device="eth0"), "10.77.0.0/16"),
        (RouteFact("10.77.0.0/16"), "10.77.0.0/16"),
        (RouteFact("10.0.0.0/8"), "10.77.0.0/16"),
        (RouteFact("10.76.0.0/16"), None),
        (RouteFact("0.0.0.0/0"), None),
        (RouteFact("0.0.0.0/1"), None),
        (RouteFact("172.17.0.0/16", device="docker0"), None),
        (RouteFact("10.0.0.0/8", kind=BLACKHOLE), None),
        (RouteFact("10.77.0.0/16", kind=BLACKHOLE), "10.77.0.0/16"),
        (RouteFact("10.77.3.4/32", kind=7), "10.77.0.0/16"),
        (RouteFact("fd00::/8"), None),
        (RouteFact("fd12:3456::/32"), "fd12:3456:789a::/48"),
        (RouteFact("fd12:3456:789a:1::/64"), "fd12:3456:789a::/48"),
        (RouteFact("fd12:3456:789b::/48"), None),
        (RouteFact("10.77.0.0/16", protocol=PROTOCOL, index=7), None),
        (RouteFact("10.77.0.0/16", protocol=PROTOCOL, index=8), "10.77.0.0/16"),
        (RouteFact("10.77.1.0/24", protocol=4, index=7), None),
        (RouteFact("10.77.0.0/16", BLACKHOLE, PROTOCOL, blackhole_metric("wg0")), None),
        (RouteFact("10.77.0.0/16", BLACKHOLE, PROTOCOL, blackhole_metric("wg1")), "10.77.0.0/16"),
        (RouteFact("10.77.0.0/16", BLACKHOLE, 4, blackhole_metric("wg0")), "10.77.0.0/16"),
    ],
)
def test_a_route_clashes_if_it_overlaps_and_is_not_ours(route: RouteFact, prefix: str | None) -> None:
    assert clashes(route, CLAIM, own=7) == prefix


def test_nothing_in_the_way_is_no_obstacle() -> None:
    assert in_the_way(Host(), CLAIM) == []
    assert in_the_way(Host(link(IDENTITY.mark(Proof.MADE))), CLAIM) == []
    assert in_the_way(Host(link(), unreadable=True), CLAIM) == [], "the link finds out, when it may read it"


def test_an_address_and_its_route_are_one_obstacle() -> None:
    lan = (RouteFact("10.77.5.0/24", protocol=2, index=2, device="eth0"),)
    addresses = (AddressFact("10.77.5.1/24", 2, "eth0"), AddressFact("10.77.6.1/32", 3, "lo"))
    found = [str(obstacle) for obstacle in in_the_way(Host(routes=lan, addresses=addresses), CLAIM)]
    assert [text.partition(",")[0].partition(":")[0] for text in found] == [
        "the route 10.77.5.0/24 dev eth0 proto kernel overlaps VPN_CIDR=10.77.0.0/16",
        "lo has the address 10.77.6.1/32",
    ]


def test_the_addresses_of_a_foreign_interface_of_our_name_are_in_the_way_too() -> None:
    host = Host(link(), DeviceFact(THEIRS, 1), addresses=(AddressFact("10.77.0.9/24", 7, "wg0"),))
    assert len(in_the_way(host, CLAIM)) == 2
    ours = Host(link(IDENTITY.mark(Proof.MADE)), addresses=host.addresses)
    assert in_the_way(ours, CLAIM) == []


def test_a_thousand_routes_are_named_by_a_few() -> None:
    routes = tuple(RouteFact(f"10.77.{n >> 8}.{n & 255}/32", device="eth0") for n in range(1000))
    found = in_the_way(Host(routes=routes), CLAIM)
    assert str(found[-1]) == "995 more routes overlap: see 'ip route'"
    assert len(found) == 6
    assert taken(routes, CLAIM, 7) == (
        "the route 10.77.0.0/32 dev eth0 of another program takes packets for 10.77.0.0/16 (and 999 more); "
        "remove it"
    )
    assert taken((), CLAIM, 7) is None


def test_what_a_leftover_needs_is_a_command_that_can_be_pasted() -> None:
    left = RouteFact("10.77.0.0/16", BLACKHOLE, PROTOCOL, 77)
    (found,) = in_the_way(Host(routes=(left,)), CLAIM)
    assert "'ip route delete blackhole 10.77.0.0/16 proto 118 metric 77'" in str(found)


@pytest.mark.parametrize(
    ("address", "prefix"),
    [
        ("10.77.1.2", "10.77.0.0/16"),
        ("::ffff:10.77.1.2", "10.77.0.0/16"),
        ("fd12:3456:789a::1", "fd12:3456:789a::/48"),
        ("10.78.1.2", None),
        ("rpc.example.org", None),
    ],
)
def test_an_address_within(address: str, prefix: str | None) -> None:
    assert within(address, CLAIM.prefixes) == prefix

"""The owners of addresses."""

import ipaddress

import pytest
from tests.unit.core.policy.examples import ALICE, BOB, DIRECTORY, MEMBERS, PLAN, member

from dstack_vpn.core.policy.directory import MemberDirectory, Place
from dstack_vpn.core.policy.selectors import Selector


def place(text: str) -> Place:
    return DIRECTORY.place(ipaddress.ip_address(text))


@pytest.mark.parametrize("found", MEMBERS, ids=str)
def test_a_tunnel_address_is_its_members(found: object) -> None:
    assert [place(str(address)).member for address in found.addresses] == [found] * 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("address", "selectors"),
    [
        ("10.77.0.2", "* tag:web node:web-1 owner:" + ALICE),
        ("10.77.99.9", ""),  # no token
        ("192.168.7.1", "* 192.168.7.0/24 192.168.0.0/16"),
        ("192.168.8.1", ""),  # private, and behind no member
        ("1.1.1.1", "autogroup:internet"),
        ("127.0.0.1", ""),
        ("169.254.169.254", ""),
        ("224.0.0.1", ""),
        ("2606:4700::1111", ""),  # no member has an IPv6 default route
        ("::ffff:1.1.1.1", ""),
    ],
)
def test_an_address_is_in_its_selectors_and_in_no_others(address: str, selectors: str) -> None:
    members = ("*", "tag:web", "tag:db", "node:web-1", "node:db", f"owner:{ALICE}", f"owner:{BOB}")
    others = ("autogroup:internet", "192.168.7.0/24", "192.168.0.0/16", "10.0.0.0/8", "1.0.0.0/8")
    found = [text for text in members + others if place(address).matches(Selector.parse(text))]
    assert set(found) == set(selectors.split())


def test_self_is_another_node_of_the_same_holder() -> None:
    alice, bob = place("10.77.0.2"), place("10.77.0.3")
    self = Selector.parse("autogroup:self")
    assert place("10.77.0.5").matches(self, alice)
    assert not place("10.77.0.5").matches(self, bob)
    assert not place("192.168.7.1").matches(self, place("192.168.7.2"))
    assert not place("10.77.0.5").matches(self)


def test_a_route_over_the_tunnel_prefix_takes_no_address_of_it() -> None:
    found = MemberDirectory.of([member(1, "a", routes=("10.0.0.0/8", "10.78.0.0/16"))], PLAN.networks)
    assert not found.place(ipaddress.ip_address("10.77.0.9")).routed
    assert found.place(ipaddress.ip_address("10.78.0.9")).routed


def test_a_route_that_its_gateway_cannot_use_leads_nowhere() -> None:
    found = MemberDirectory.of([member(1, "a", routes=("10.0.0.0/8", "127.0.0.0/8"))], PLAN.networks)
    assert not found.place(ipaddress.ip_address("10.78.0.9")).is_known
    assert not found.place(ipaddress.ip_address("127.0.0.1")).is_known


def test_members_are_found_by_selectors() -> None:
    assert [str(m) for m in DIRECTORY.named(Selector.parse(f"owner:{BOB}"))] == ["db", "laptop", "office"]
    assert [str(m) for m in DIRECTORY.named(Selector.parse("node:nobody"))] == []
    assert str(member(7, "x").__class__(7, None, ALICE, frozenset(), frozenset())) == "token 7"

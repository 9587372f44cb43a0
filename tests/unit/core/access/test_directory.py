"""The members of a registry as a policy sees them."""

import ipaddress
import json

from tests.scripted import grant, key

from dstack_vpn.core.access.addressing import AddressPlan
from dstack_vpn.core.access.control import AccessControl
from dstack_vpn.core.access.directory import all_members, members_around, members_of_tests
from dstack_vpn.core.chain.events import (
    Granted,
    RegistryEvent,
    Revoked,
    RoutesUpdated,
    TagDefined,
    TagsUpdated,
)
from dstack_vpn.core.chain.registry import Registry, apply_all
from dstack_vpn.core.model import Position
from dstack_vpn.core.policy.document import parse_policy

PLAN = AddressPlan(ipaddress.IPv4Network("10.77.0.0/16"), ipaddress.IPv6Network("fd00:77::/48"))


def access(*events: RegistryEvent) -> AccessControl:
    registry, _ = apply_all(Registry(), [(Position(1, n), event) for n, event in enumerate(events)])
    return AccessControl(registry, PLAN, key(9))


NETWORK = access(
    *(grant(token) for token in range(1, 5)),
    Granted(9, "0xowner9", "us", key(9)),
    TagDefined(0, "web"),
    TagsUpdated(1, 1),
    TagsUpdated(2, 3),  # the second tag has no name
    RoutesUpdated(3, ("192.168.7.0/24",)),
    Revoked(4),
)


def test_all_members_with_access() -> None:
    found = {member.token: member for member in all_members(NETWORK, 0.0).members}
    assert found.keys() == {1, 2, 3, 9}
    assert found[1].tags == found[2].tags == {"web"}
    assert found[1].node_id == "node-1"
    assert set(map(str, found[1].addresses)) == {"10.77.0.2", "fd00:77::2"}
    assert list(map(str, found[3].routes)) == ["192.168.7.0/24"]


def test_the_members_that_tests_name() -> None:
    tests = [
        {"src": "tag:web", "accept": ["node:node-3:tcp:1"]},
        {"src": "owner:0x" + "a" * 40, "deny": ["node:node-4:tcp:1"]},
    ]
    document = parse_policy(json.dumps({"grants": [], "tests": tests}))
    found = members_of_tests(NETWORK, document, 0.0)
    assert {member.token for member in found.members} == {1, 2, 3}


def test_the_members_around_addresses() -> None:
    inside = map(ipaddress.ip_address, ("10.77.0.2", "10.77.0.99"))
    assert {member.token for member in members_around(NETWORK, inside, 0.0).members} == {1}
    routed = map(ipaddress.ip_address, ("10.77.0.2", "192.168.7.9"))
    assert {member.token for member in members_around(NETWORK, routed, 0.0).members} == {1, 3}

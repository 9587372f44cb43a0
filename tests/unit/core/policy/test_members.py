"""The members of a registry with access, with their tags' names and networks."""

import ipaddress
import json
from dataclasses import replace
from typing import Any

from tests.scripted import key
from tests.unit.core.policy.examples import ALICE, BOB, PLAN, networks

from dstack_vpn.core.access.control import AccessControl
from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import Malformed, Position
from dstack_vpn.core.policy.directory import MemberDirectory
from dstack_vpn.core.policy.document import parse_policy
from dstack_vpn.core.policy.members import directory_of, members_around, members_of_tests

CONTRACT = ContractState(is_read=True, tag_names=("web", "", "db"))


def node(token: int, owner: str = ALICE, **fields: Any) -> Node:
    return replace(Node(token, owner, f"node-{token}", key(token)), **fields)


def directory(*nodes: Node, **more: Any) -> MemberDirectory:
    access = AccessControl(Registry.of(nodes, CONTRACT), PLAN, key(1), **more)
    return directory_of(access, now=100.0)


def test_members_have_names_of_tags_and_networks() -> None:
    found = directory(node(1, tags=0b1), node(2, BOB, tags=0b1111, routes=("10.0.0.0/8", "fd00::/64")))
    own, other = found.members
    assert (own.token, own.node_id, own.owner, own.routes) == (1, "node-1", ALICE, ())
    assert (own.tags, other.tags) == (frozenset({"web"}), frozenset({"web", "db"}))
    assert other.owner == BOB
    assert other.routes == networks("10.0.0.0/8", "fd00::/64")
    assert other.addresses == {PLAN.ipv4_of(2), PLAN.ipv6_of(2)}
    assert found.prefixes == PLAN.networks
    assert found.place(min(other.addresses, key=str)).member == other


def test_only_members_with_access_count() -> None:
    found = directory(
        node(2, active=False),
        node(3, public_key=None),
        node(4, expires_at=99),
        node(5, expires_at=100),
        node(6, node_id=Malformed("node id: not plain ASCII")),
        node(7, key_since=Position(9, 0)),
        node(2**80, public_key=key(77)),
        node(8, routes=Malformed("routes: not sorted")),
        node(0),
        height=10,
        confirmations=2,
    )
    assert [(each.token, each.routes) for each in found.members] == [(0, ()), (5, ()), (8, ())]


def test_a_token_beyond_the_ipv4_range_has_one_address() -> None:
    (far,) = directory(node(70_000)).members
    assert far.addresses == {PLAN.ipv6_of(70_000)}


NETWORK = AccessControl(
    Registry.of(
        (
            node(1, tags=1),
            node(2, tags=3),
            node(3, routes=("192.168.7.0/24",)),
            node(4, active=False),
            node(5, BOB),
        ),
        CONTRACT,
    ),
    PLAN,
    key(9),
)


def test_the_members_that_tests_name() -> None:
    tests = [
        {"src": "tag:web", "accept": ["node:node-3:tcp:1"]},
        {"src": f"owner:{BOB}", "deny": ["node:node-4:tcp:1"]},
    ]
    found = members_of_tests(NETWORK, parse_policy(json.dumps({"grants": [], "tests": tests})), 0.0)
    assert {member.token for member in found.members} == {1, 2, 3, 5}
    found = members_of_tests(NETWORK, parse_policy(json.dumps({"grants": [], "tests": tests[1:]})), 0.0)
    assert {member.token for member in found.members} == {5}


def test_the_members_around_addresses() -> None:
    inside = list(map(ipaddress.ip_address, ("10.77.0.2", "10.77.200.99")))
    assert {member.token for member in members_around(NETWORK, inside, 0.0).members} == {1}
    routed = list(map(ipaddress.ip_address, ("10.77.0.2", "192.168.7.9")))
    assert {member.token for member in members_around(NETWORK, routed, 0.0).members} == {1, 3}

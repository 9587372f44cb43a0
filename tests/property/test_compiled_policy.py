"""A compiled policy permits exactly what the evaluation of the policies permits."""

import json
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import chain
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policy_rules import group_of
from tests.property.test_policy import FLOWS, OUTSIDE, policies
from tests.property.test_policy import members as registries
from tests.unit.core.policy.examples import PLAN

from dstack_vpn.core.addresses import IPAddress
from dstack_vpn.core.policy.compiler import CompiledPolicy, PolicyInForce, Subject
from dstack_vpn.core.policy.directory import Member, MemberDirectory
from dstack_vpn.core.policy.document import parse_policy
from dstack_vpn.core.policy.evaluation import Packet, decide
from dstack_vpn.core.policy.forwarding import ConnectedViews, NetworkTable
from dstack_vpn.core.policy.networks import OwnNetworks, is_public
from dstack_vpn.core.policy.rule_table import RuleTable
from dstack_vpn.core.policy.rules import PolicyRules, PortRight
from dstack_vpn.core.policy.selectors import Protocol

TAG_NAMES = ("db", "", "ops", "web")


def in_force(grants: list[dict[str, Any]], number: int = 0) -> PolicyInForce:
    return PolicyInForce(f"p{number}", parse_policy(json.dumps({"grants": grants})))


def subject(member: Member) -> Subject:
    bits = sum(1 << TAG_NAMES.index(tag) for tag in member.tags)
    routes = tuple(map(str, member.routes))
    return Subject(member.node_id, member.owner, bits | 2, routes)  # a tag without a name means nothing


def right(rights: Iterable[PortRight], protocol: Protocol | None, port: int) -> PortRight | None:
    """Return the right that a packet filter finds: the one for every protocol comes last."""
    exact = [x for x in rights if x.protocol is protocol is not None and x.first <= port <= x.last]
    assert len(exact) <= 1
    every = [x for x in rights if x.protocol is None]
    assert len(every) <= 1
    return next(iter((*exact, *every)), None)


def own_addresses(member: Member) -> frozenset[str]:
    return frozenset(map(str, member.addresses))


@given(registries, st.lists(policies, min_size=1, max_size=3))
@settings(max_examples=300)
def test_the_rights_are_those_of_the_evaluation(everyone: list[Member], texts: list[Any]) -> None:
    found = [in_force(grants, number) for number, grants in enumerate(texts)]
    directory = MemberDirectory.of(everyone, PLAN.networks)
    for own in everyone:
        table = RuleTable(CompiledPolicy(found, TAG_NAMES, subject(own)), own_addresses(own))
        for other in everyone:
            if other != own:
                table.put(map(str, other.addresses), subject(other))
        for other in everyone:
            if other != own:
                check(found, directory, own, other, table.rules)


def check(
    found: list[PolicyInForce], directory: MemberDirectory, own: Member, other: Member, rules: PolicyRules
) -> None:
    for near, far in zip(sorted(own.addresses, key=str), sorted(other.addresses, key=str), strict=True):
        rights = rules.rights_of(str(far))
        for protocol, port in FLOWS:
            for src, dst, side in ((far, near, rights.inbound), (near, far, rights.outbound)):
                decided = [
                    decide(each.document, directory, Packet(src, dst, protocol, port)) for each in found
                ]
                granted = right(side, protocol, port)
                assert (granted is not None) == all(each.allowed for each in decided)
                if granted is not None:
                    assert granted.grant == (found[0].id, decided[0].grants[0])


@given(registries, st.lists(policies, min_size=1, max_size=2))
@settings(max_examples=300)
def test_a_gateway_permits_to_its_networks_what_the_evaluation_permits(
    everyone: list[Member], texts: list[Any]
) -> None:
    """Only its own usable routes count, and a network opens no connection."""
    found = [in_force(grants, number) for number, grants in enumerate(texts)]
    for own in everyone:
        others = [replace(each, routes=()) for each in everyone if each is not own]
        directory = MemberDirectory.of([own, *others], PLAN.networks)
        members = RuleTable(CompiledPolicy(found, TAG_NAMES, subject(own)), own_addresses(own))
        for other in others:
            members.put(own_addresses(other), subject(other))
        table, usable = NetworkTable(), OwnNetworks.of(subject(own).routes, PLAN.networks).usable
        table.replace(found, TAG_NAMES, usable, members)
        reached = {
            other.token: check_network(found, directory, other, table, address)
            for other in others
            for address in map(ip_address, OUTSIDE)
            if permitted(table, address) is not None
        }
        for other in others:
            connected = any(each.connects(subject(other)) for each in table.compiled)
            assert connected is CompiledPolicy(found, TAG_NAMES, subject(other)).reaches(tuple(usable))
            assert connected or not reached.get(other.token)
        for address in map(ip_address, OUTSIDE):
            check_source(found, directory, address, [members.rules, *table.rules.values()])


def check_source(
    found: list[PolicyInForce], directory: MemberDirectory, outside: IPAddress, tables: list[PolicyRules]
) -> None:
    """Check that an address outside the VPN opens no connection to any address."""
    assert not any(rules.rights_of(str(outside)) for rules in tables)
    for target in {address for each in directory.members for address in each.addresses}:
        packet = Packet(outside, target, Protocol.ICMP)
        assert not any(decide(each.document, directory, packet).allowed for each in found)


def permitted(table: NetworkTable, address: IPAddress) -> PolicyRules | None:
    """Return the rules for packets to an address outside the VPN."""
    exits = None
    for rules in table.rules.values():
        for network in map(ip_network, rules.addresses):
            if address in network and network.prefixlen:
                return rules
            exits = rules if address in network and is_public(address) else exits
    return exits


def check_network(
    found: list[PolicyInForce],
    directory: MemberDirectory,
    other: Member,
    table: NetworkTable,
    address: IPAddress,
) -> bool:
    """Check a member's rights to an address; return whether it has some."""
    rules, reaches = permitted(table, address), False
    for source in other.addresses:
        if source.version != address.version:
            continue
        assert rules is not None
        rights = rules.rights_of(str(source))
        assert not rights.outbound
        for protocol, port in FLOWS:
            decided = [
                decide(each.document, directory, Packet(source, address, protocol, port)) for each in found
            ]
            granted = right(rights.inbound, protocol, port)
            assert (granted is not None) == all(each.allowed for each in decided), f"{source} to {address}"
            if granted is not None:
                reaches = True
                assert granted.grant == (found[0].id, decided[0].grants[0])
    return reaches


@given(st.data(), registries, policies)
@settings(max_examples=200)
def test_changes_lead_to_the_same_rules_as_a_new_table(
    data: st.DataObject, everyone: list[Member], grants: Any
) -> None:
    if not everyone:
        return
    own, *others = everyone
    table = RuleTable(CompiledPolicy([in_force(grants)], TAG_NAMES, subject(own)), own_addresses(own))
    present: dict[tuple[str, ...], Subject] = {}
    for _ in range(data.draw(st.integers(1, 8))):
        if data.draw(st.booleans()):
            compiled = CompiledPolicy([in_force(data.draw(policies))], TAG_NAMES, subject(own))
            table.replace(compiled, own_addresses(own))
        elif others:
            other = data.draw(st.sampled_from(others))
            tags = data.draw(st.none() | st.integers(0, 15))
            addresses = tuple(map(str, other.addresses))
            if tags is None:
                present.pop(addresses, None)
            else:
                present[addresses] = subject(other)._replace(tags=tags)
            table.put(addresses, present.get(addresses))
        new = RuleTable(table.compiled, own_addresses(own))
        for addresses, each in present.items():
            new.put(addresses, each)
        assert group_of(table.rules).keys() == group_of(new.rules).keys()
        for address in chain.from_iterable(present):
            assert table.rules.rights_of(address) == new.rules.rights_of(address)
        assert table.rules.members.keys() == table.rules.groups.keys()


@given(policies, policies)
def test_a_policy_that_keeps_a_group_together_moves_none_of_its_members(first: Any, second: Any) -> None:
    own, others = Subject("a", "0x" + "a" * 40, 1), [Subject(None, "0x" + "b" * 40, 9)] * 5
    table = RuleTable(CompiledPolicy([in_force(first)], TAG_NAMES, own), frozenset())
    present = {f"10.77.0.{number}": each for number, each in enumerate(others)}
    for address, each in present.items():
        table.put([address], each)
    before = table.rules
    table.replace(CompiledPolicy([in_force(second)], TAG_NAMES, own), frozenset())
    if before.members and table.rules.members:
        assert before.members == table.rules.members


opened = st.tuples(
    st.lists(st.sampled_from(["tcp:22", "tcp:443", "*"]), min_size=3, max_size=3),
    st.sampled_from(["10.20.0.0/16", "10.30.0.0/16"]),
)
"""The ports that a server opens to web servers, to operators and to a node; and the network to
which it may send."""


@given(
    st.lists(st.integers(0, 15), max_size=6),
    st.lists(st.lists(opened, min_size=1, max_size=2), min_size=2, max_size=4),
)
@settings(max_examples=300)
def test_other_ports_for_the_same_selectors_lead_to_the_same_rules_as_a_new_table(
    tags: list[int], policies: list[list[tuple[list[str], str]]]
) -> None:
    """Groups stay, split or unite, and members have no right that only one policy opens."""
    own = Subject("a", "0x" + "a" * 40, 1)
    present = {
        (f"10.77.0.{i}",): Subject(f"m{i}", "0x" + "b" * 40, mask, ("10.20.0.0/16",) if i == 1 else ())
        for i, mask in enumerate(tags)
    }
    table, before = RuleTable(CompiledPolicy([], TAG_NAMES, own), frozenset()), None
    for addresses, each in present.items():
        table.put(addresses, each)
    for listed in policies:
        compiled = CompiledPolicy([in_force(_grants(*each)) for each in listed], TAG_NAMES, own)
        table.replace(compiled, frozenset())
        new = RuleTable(compiled, frozenset())
        for addresses, each in present.items():
            new.put(addresses, each)
            assert table.rules.rights_of(*addresses) == new.rules.rights_of(*addresses)
        assert table.rules.members.keys() == table.rules.groups.keys()
        after, subjects = ConnectedViews(compiled), list(present.values())
        connected = after.connected(subjects) if before is None else before.connected(subjects)
        if after.connects_as(before):
            assert after.connected(subjects) == connected
        before = after


def _grants(ports: list[str], network: str) -> list[dict[str, Any]]:
    named = zip(("tag:web", "tag:ops", "node:m0"), ports, strict=True)
    found = [{"src": [source], "dst": ["tag:db"], "ip": [each]} for source, each in named]
    return [*found, {"src": ["node:a"], "dst": [network], "ip": ["*"]}]

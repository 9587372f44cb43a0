"""A compiled policy permits exactly what the evaluation of the policies permits."""

import json
from collections.abc import Iterable
from itertools import chain
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policy_rules import group_of
from tests.property.test_policy import FLOWS, policies
from tests.property.test_policy import members as registries
from tests.unit.core.policy.examples import PLAN

from dstack_vpn.core.policy.compiler import CompiledPolicy, PolicyInForce, Subject
from dstack_vpn.core.policy.directory import Member, MemberDirectory
from dstack_vpn.core.policy.document import parse_policy
from dstack_vpn.core.policy.evaluation import Packet, decide
from dstack_vpn.core.policy.forwarding import ConnectedViews
from dstack_vpn.core.policy.rule_table import RuleTable
from dstack_vpn.core.policy.rules import PolicyRules, PortRight
from dstack_vpn.core.policy.selectors import Protocol

TAG_NAMES = ("db", "", "ops", "web")


def in_force(grants: list[dict[str, Any]], number: int = 0) -> PolicyInForce:
    return PolicyInForce(f"p{number}", parse_policy(json.dumps({"grants": grants})))


def subject(member: Member) -> Subject:
    bits = sum(1 << TAG_NAMES.index(tag) for tag in member.tags)
    return Subject(member.node_id, member.owner, bits | 2)  # a tag without a name means nothing


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


opened = st.lists(st.sampled_from(["tcp:22", "tcp:443", "*"]), min_size=3, max_size=3)
"""The ports that a server opens to web servers, to operators and to a node."""


@given(st.lists(st.integers(0, 15), max_size=6), st.lists(st.tuples(opened, opened), min_size=2, max_size=4))
@settings(max_examples=300)
def test_other_ports_for_the_same_selectors_lead_to_the_same_rules_as_a_new_table(
    tags: list[int], policies: list[tuple[list[str], list[str]]]
) -> None:
    """Groups stay, split or unite, and members have no right that only one policy opens."""
    own = Subject("a", "0x" + "a" * 40, 1)
    present = {(f"10.77.0.{i}",): Subject(f"m{i}", "0x" + "b" * 40, mask) for i, mask in enumerate(tags)}
    table, before = RuleTable(CompiledPolicy([], TAG_NAMES, own), frozenset()), None
    for addresses, each in present.items():
        table.put(addresses, each)
    for both in policies:
        compiled = CompiledPolicy([in_force(_grants(ports)) for ports in both], TAG_NAMES, own)
        table.replace(compiled, frozenset())
        new = RuleTable(compiled, frozenset())
        for addresses, each in present.items():
            new.put(addresses, each)
            assert table.rules.rights_of(*addresses) == new.rules.rights_of(*addresses)
        assert table.rules.members.keys() == table.rules.groups.keys()
        after = ConnectedViews(compiled)
        if before is not None and after.connects_as(before):
            subjects = list(present.values())
            assert after.connected(subjects) == before.connected(subjects)
        before = after


def _grants(ports: list[str]) -> list[dict[str, Any]]:
    named = zip(("tag:web", "tag:ops", "node:m0"), ports, strict=True)
    return [{"src": [source], "dst": ["tag:db"], "ip": [each]} for source, each in named]

"""The transactions between two tables."""

from dataclasses import replace

import pytest

from dstack_vpn.adapters.firewall.rendering import make_table
from dstack_vpn.adapters.firewall.table import Table, changes, transactions
from dstack_vpn.core.policy.rules import CLOSED as NOTHING
from dstack_vpn.core.policy.rules import GrantId, GroupRights, PolicyRules, PortRight
from dstack_vpn.core.policy.selectors import Protocol
from dstack_vpn.ports import FirewallRules

BOTH = frozenset({"10.77.0.0/16", "fd01::/48"})
FIRST, SECOND = GrantId("1a2b3c4d", 1), GrantId("1a2b3c4d", 2)
SSH = PortRight(Protocol.TCP, 22, 22, FIRST)
WEB = PortRight(Protocol.TCP, 8000, 8080, SECOND)
DNS = PortRight(Protocol.UDP, 53, 53, FIRST)
PING = PortRight(Protocol.ICMP, 0, 65535, SECOND)
ALL = PortRight(None, 0, 65535, SECOND)
POLICY = PolicyRules(
    frozenset({"10.77.0.2", "fd01::2"}),
    {"10.77.0.3": "m0", "fd01::3": "m0", "10.77.0.4": "m1"},
    {"m0": GroupRights((ALL, WEB, SSH), (DNS, PING)), "m1": GroupRights((PING,))},
)


def with_policy(policy: PolicyRules | None) -> Table:
    """Return the table of a node that does not protect the tunnel."""
    return make_table(FirewallRules("wg0", BOTH, protect=False, policy=policy))


def test_equal_tables_need_no_transaction() -> None:
    assert changes(with_policy(POLICY), with_policy(POLICY)) == ""


def test_a_member_with_other_tags_moves_two_elements() -> None:
    moved = replace(POLICY, members={**POLICY.members, "10.77.0.3": "m1", "fd01::3": "m1"})
    old, new = with_policy(POLICY), with_policy(moved)
    assert sorted(changes(old, new).splitlines()) == [
        "add element inet dstack_vpn_wg0 members4 { 10.77.0.3 : jump group_m1 }",
        "add element inet dstack_vpn_wg0 members6 { fd01::3 : jump group_m1 }",
        "delete element inet dstack_vpn_wg0 members4 { 10.77.0.3 }",
        "delete element inet dstack_vpn_wg0 members6 { fd01::3 }",
    ]
    assert new.has_structure_of(old)


def test_changes_make_what_is_referred_to_first_and_remove_it_last() -> None:
    old = PolicyRules(frozenset({"10.77.0.2"}), {"10.77.0.3": "m0"}, {"m0": GroupRights((SSH,))})
    new = PolicyRules(frozenset({"10.77.0.2"}), {"10.77.0.3": "m1"}, {"m1": GroupRights((WEB,))})
    at = "inet dstack_vpn_wg0"
    assert changes(with_policy(old), with_policy(new)).splitlines() == [
        f"add counter {at} grant_1a2b3c4d_2 {{  }}",
        f"add chain {at} allow_1a2b3c4d_2",
        f"add chain {at} replies_m1",
        f"add chain {at} group_m1",
        f'add rule {at} allow_1a2b3c4d_2 counter name "grant_1a2b3c4d_2" accept',
        f"add rule {at} group_m1 ct direction reply goto replies_m1",
        f"add rule {at} group_m1 tcp dport vmap {{ 8000-8080 : goto allow_1a2b3c4d_2 }}",
        f"flush chain {at} allow_1a2b3c4d_1",
        f"flush chain {at} replies_m0",
        f"flush chain {at} group_m0",
        f"delete element {at} members4 {{ 10.77.0.3 }}",
        f"add element {at} members4 {{ 10.77.0.3 : jump group_m1 }}",
        f"delete chain {at} allow_1a2b3c4d_1",
        f"delete chain {at} replies_m0",
        f"delete chain {at} group_m0",
        f"delete counter {at} grant_1a2b3c4d_1",
    ]


def test_a_group_with_other_rights_is_refilled_alone() -> None:
    new = replace(POLICY, groups={**POLICY.groups, "m1": GroupRights((PING, SSH))})
    assert changes(with_policy(POLICY), with_policy(new)).splitlines() == [
        "flush chain inet dstack_vpn_wg0 group_m1",
        "add rule inet dstack_vpn_wg0 group_m1 ct direction reply goto replies_m1",
        "add rule inet dstack_vpn_wg0 group_m1 tcp dport vmap { 22 : goto allow_1a2b3c4d_1 }",
        "add rule inet dstack_vpn_wg0 group_m1 meta l4proto { 1, 58 } goto allow_1a2b3c4d_2",
    ]


def test_a_group_with_other_rights_has_a_second_chain_meanwhile() -> None:
    members = {"10.77.0.3": "m1", "fd01::3": "m0", "10.77.0.4": "m1"}
    new = replace(POLICY, members=members, groups={"m0": POLICY.groups["m0"], "m1": GroupRights((SSH,))})
    at = "inet dstack_vpn_wg0"
    content = [
        "group_m1 ct direction reply goto replies_m1",
        "group_m1 tcp dport vmap { 22 : goto allow_1a2b3c4d_1 }",
    ]
    made, leading, changed, last = transactions(with_policy(POLICY), with_policy(new))
    assert made.splitlines() == [
        f"add chain {at} replies_m1_",
        f"add chain {at} group_m1_",
        *(f"add rule {at} {rule.replace('m1', 'm1_')}" for rule in content),
    ]
    assert leading.splitlines() == [
        f"insert rule {at} group_m1 goto group_m1_",
        f"delete element {at} members4 {{ 10.77.0.3 }}",
        f"add element {at} members4 {{ 10.77.0.3 : jump group_m1_ }}",
    ]
    assert changed.splitlines() == [
        f"flush chain {at} group_m1",
        *(f"add rule {at} {rule}" for rule in content),
    ]
    assert last.splitlines() == [
        f"flush chain {at} replies_m1_",
        f"flush chain {at} group_m1_",
        f"delete element {at} members4 {{ 10.77.0.3 }}",
        f"add element {at} members4 {{ 10.77.0.3 : jump group_m1 }}",
        f"delete chain {at} replies_m1_",
        f"delete chain {at} group_m1_",
    ]


def test_members_enter_a_new_group_after_its_chain_was_made() -> None:
    members = {**POLICY.members, "10.77.0.3": "m2"}
    new = replace(POLICY, members=members, groups={**POLICY.groups, "m2": GroupRights((SSH,))})
    made, moved = transactions(with_policy(POLICY), with_policy(new))
    assert made.startswith("add chain inet dstack_vpn_wg0 replies_m2\n") and "element" not in made
    assert moved.splitlines() == [
        "delete element inet dstack_vpn_wg0 members4 { 10.77.0.3 }",
        "add element inet dstack_vpn_wg0 members4 { 10.77.0.3 : jump group_m2 }",
    ]


@pytest.mark.parametrize(
    "new",
    [
        replace(POLICY, members={**POLICY.members, "10.77.0.3": "m1"}),
        replace(POLICY, members={}, groups={"m1": POLICY.groups["m1"]}),
        NOTHING,
        None,
    ],
)
def test_other_changes_are_one_transaction(new: PolicyRules | None) -> None:
    assert len(transactions(with_policy(POLICY), with_policy(new))) == 1
    assert transactions(with_policy(new), with_policy(new)) == []


def test_a_policy_that_is_removed_leaves_nothing() -> None:
    table = with_policy(POLICY)
    lines = changes(table, with_policy(None)).splitlines()
    deleted = {line.split()[-1] for line in lines if line.startswith("delete")}
    assert deleted == {*table.chains, *(part.split()[1] for part in table.parts)} | {"}"}
    assert not any(line.startswith("add") for line in lines)


def test_a_chain_with_another_hook_is_not_edited_in_place() -> None:
    old = with_policy(POLICY)
    chains = {
        name: each._replace(hook=each.hook.replace("mangle", "raw")) for name, each in old.chains.items()
    }
    new = replace(old, chains=chains)
    assert changes(old, new) == new.text()

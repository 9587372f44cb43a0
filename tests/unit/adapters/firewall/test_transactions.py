"""The transactions between two tables.

A property test judges packets by all tables between (tests/property/test_rule_transactions.py).
"""

from dataclasses import replace

import pytest
from tests.policy_rules import policy_rules
from tests.unit.adapters.firewall.test_table import (
    AT,
    BOTH,
    MEMBERS,
    NO_REPLIES,
    PING,
    POLICY,
    SSH,
    rights_of,
    with_policy,
)

from dstack_vpn.adapters.firewall.rendering import make_table
from dstack_vpn.adapters.firewall.table import Table
from dstack_vpn.adapters.firewall.transactions import transactions
from dstack_vpn.core.policy.rules import GroupRights, PolicyRules, PortRight
from dstack_vpn.ports import FirewallRules


def with_members(members: dict[str, str]) -> PolicyRules:
    return policy_rules(POLICY.addresses, members, POLICY.groups)


def test_a_member_with_other_tags_moves_in_one_transaction() -> None:
    moved = with_members({**MEMBERS, "10.77.0.3": "m1", "fd01::3": "m1"})
    old, new = with_policy(POLICY), with_policy(moved)
    (commands,) = transactions(old, new).all
    assert commands.splitlines() == [
        f"delete element {AT} members4 {{ 10.77.0.3 }}",
        f"add element {AT} members4 {{ 10.77.0.3 : jump group_m1 }}",
        f"delete element {AT} members6 {{ fd01::3 }}",
        f"add element {AT} members6 {{ fd01::3 : jump group_m1 }}",
    ]
    assert new.has_structure_of(old)


def test_a_group_with_other_rights_and_the_same_members_is_led_to_another_chain() -> None:
    old = with_policy(POLICY)
    new = with_policy(replace(POLICY, groups={**POLICY.groups, "m1": GroupRights((PING, SSH))}))
    before, after = rights_of(old, "m1"), rights_of(new, "m1")
    made, led, left = transactions(old, new).all
    assert made.splitlines() == [
        f"add chain {AT} {after}",
        f"add rule {AT} {after} ct direction reply goto {NO_REPLIES}",
        f"add rule {AT} {after} tcp dport 22 goto allow_1a2b3c4d_1",
        f"add rule {AT} {after} meta l4proto {{ 1, 58 }} goto allow_1a2b3c4d_2",
    ]
    assert led.splitlines() == [f"flush chain {AT} group_m1", f"add rule {AT} group_m1 goto {after}"]
    assert left.splitlines() == [f"flush chain {AT} {before}", f"delete chain {AT} {before}"]


def test_members_that_move_to_a_group_with_other_rights_are_in_a_second_group_meanwhile() -> None:
    members = {"10.77.0.3": "m1", "fd01::3": "m0", "10.77.0.4": "m1"}
    groups = {"m0": POLICY.groups["m0"], "m1": GroupRights((SSH,))}
    old, new = with_policy(POLICY), with_policy(policy_rules(POLICY.addresses, members, groups))
    before, after = rights_of(old, "m1"), rights_of(new, "m1")
    made, moved, led, left = transactions(old, new).all
    assert made.splitlines() == [
        f"add chain {AT} {after}",
        f"add chain {AT} group_m1_",
        f"add rule {AT} {after} ct direction reply goto {NO_REPLIES}",
        f"add rule {AT} {after} tcp dport 22 goto allow_1a2b3c4d_1",
        f"add rule {AT} group_m1_ goto {after}",
    ]
    assert moved.splitlines() == [
        f"delete element {AT} members4 {{ 10.77.0.3 }}",
        f"add element {AT} members4 {{ 10.77.0.3 : jump group_m1_ }}",
    ]
    assert led.splitlines() == [f"flush chain {AT} group_m1", f"add rule {AT} group_m1 goto {after}"]
    assert left.splitlines() == [
        f"delete element {AT} members4 {{ 10.77.0.3 }}",
        f"add element {AT} members4 {{ 10.77.0.3 : jump group_m1 }}",
        f"flush chain {AT} {before}",
        f"flush chain {AT} group_m1_",
        f"delete chain {AT} {before}",
        f"delete chain {AT} group_m1_",
    ]


@pytest.mark.parametrize(
    "new",
    [
        with_members({**MEMBERS, "10.77.0.9": "m1"}),
        with_members({"10.77.0.4": "m1"}),
    ],
)
def test_other_changes_are_one_transaction(new: PolicyRules | None) -> None:
    assert len(transactions(with_policy(POLICY), with_policy(new)).all) == 1
    assert transactions(with_policy(new), with_policy(new)).all == ()


def test_a_policy_that_is_removed_leaves_nothing() -> None:
    table = with_policy(POLICY)
    opened, left = transactions(table, with_policy(None)).all
    assert opened.splitlines() == [
        f"flush chain {AT} prerouting_policy",
        f"delete chain {AT} prerouting_policy",
    ]
    lines = [*opened.splitlines(), *left.splitlines()]
    deleted = {line.split()[-1] for line in lines if line.startswith("delete")}
    assert deleted == {*table.chains, *(part.split()[1] for part in table.parts)}
    assert not any(line.startswith("add") for line in lines)


# -- plain clients ---------------------------------------------------------------------------------

PHONE, TABLET = frozenset({"10.77.0.7", "fd01::7"}), frozenset({"10.77.0.8", "fd01::8"})


def view(clients: frozenset[str], name: str, *rights: PortRight) -> PolicyRules:
    """Return the rules for clients that one member may reach."""
    return policy_rules(clients, {"10.77.0.3": f"{name}m0"}, {f"{name}m0": GroupRights(rights)})


def with_views(**views: PolicyRules) -> Table:
    return with_policy(replace(POLICY, views=views))


def test_a_client_that_moves_to_another_view_does_so_in_one_transaction() -> None:
    first, second = view(PHONE, "v0", SSH), view(TABLET, "v1", PING)
    old = with_views(v0=view(PHONE | TABLET, "v0", SSH), v1=view(frozenset({"10.77.0.9"}), "v1", PING))
    new = with_views(v0=first, v1=replace(second, addresses=TABLET | {"10.77.0.9"}))
    (commands,) = transactions(old, new).all
    assert commands.splitlines() == [
        f"delete element {AT} clients4 {{ 10.77.0.8 }}",
        f"add element {AT} clients4 {{ 10.77.0.8 : jump view_v1 }}",
        f"delete element {AT} clients6 {{ fd01::8 }}",
        f"add element {AT} clients6 {{ fd01::8 : jump view_v1 }}",
    ]


def test_a_client_has_a_view_before_it_is_one_and_until_it_is_none() -> None:
    old = with_views(v0=view(PHONE, "v0", SSH))
    new = with_views(v0=view(PHONE | TABLET, "v0", SSH))
    come = [
        f"add element {AT} clients4 {{ 10.77.0.8 : jump view_v0 }}",
        f"add element {AT} clients6 {{ fd01::8 : jump view_v0 }}",
        f"add element {AT} forwarded4 {{ 10.77.0.8 }}",
        f"add element {AT} forwarded6 {{ fd01::8 }}",
    ]
    joined, forwarded = transactions(old, new).all
    assert (joined + forwarded).splitlines() == come
    forwarded, left = transactions(new, old).all
    gone = [each.replace("add", "delete").replace(" : jump view_v0", "") for each in come]
    assert (left + forwarded).splitlines() == gone


def test_clients_come_to_a_second_view_while_its_rights_change() -> None:
    old = with_views(v0=view(PHONE, "v0", SSH))
    new = with_views(v0=view(PHONE | TABLET, "v0", PING))
    _, joined, forwarded, led, back, left = transactions(old, new).all
    assert joined.splitlines() == [
        f"delete element {AT} clients4 {{ 10.77.0.7 }}",
        f"add element {AT} clients4 {{ 10.77.0.7 : jump view_v0_, 10.77.0.8 : jump view_v0_ }}",
        f"delete element {AT} clients6 {{ fd01::7 }}",
        f"add element {AT} clients6 {{ fd01::7 : jump view_v0_, fd01::8 : jump view_v0_ }}",
    ]
    assert "forwarded" in forwarded
    assert led.splitlines() == [
        f"flush chain {AT} group_v0m0",
        f"add rule {AT} group_v0m0 goto {rights_of(new, 'v0m0')}",
    ]
    assert "clients4 { 10.77.0.7 : jump view_v0, 10.77.0.8 : jump view_v0 }" in back
    assert f"delete chain {AT} view_v0_" in left
    assert f"delete map {AT} members4_v0_" in left


def test_the_last_client_takes_all_of_its_view_along() -> None:
    old, new = with_views(v0=view(PHONE, "v0", SSH)), with_policy(POLICY)
    lines = "".join(transactions(old, new).all).splitlines()
    deleted = {
        line.split()[-1] for line in lines if line.startswith(("delete chain", "delete map", "delete set"))
    }
    gone = old.names() | old.chains.keys()
    assert deleted >= {each for each in gone if "v0" in each or each.startswith(("clients", "forwarded"))}
    assert not deleted & (new.names() | new.chains.keys())


def test_without_a_policy_the_set_of_clients_changes_in_one_transaction() -> None:
    tables = [
        make_table(FirewallRules("wg0", BOTH, True, forwarded=each)) for each in (PHONE, PHONE | TABLET)
    ]
    (commands,) = transactions(*tables).all
    assert commands.splitlines() == [
        f"add element {AT} forwarded4 {{ 10.77.0.8 }}",
        f"add element {AT} forwarded6 {{ fd01::8 }}",
    ]

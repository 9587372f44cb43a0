"""The views of plain clients: each is what the client itself would enforce."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.test_compiled_policy import TAG_NAMES, in_force, own_addresses, subject
from tests.property.test_policy import members as registries
from tests.property.test_policy import policies

from dstack_vpn.core.policy.compiler import CompiledPolicy, Subject
from dstack_vpn.core.policy.directory import Member
from dstack_vpn.core.policy.forwarding import ConnectedViews, Distinction, ForwardedTable
from dstack_vpn.core.policy.rule_table import RuleTable, rights_of
from dstack_vpn.core.policy.rules import GroupRights, PolicyRules

OPEN = {"src": ["*"], "dst": ["*"], "ip": ["*"]}
TO_WEB = {"src": ["*"], "dst": ["tag:web"], "ip": ["tcp:443"]}
ALICE, BOB = "0x" + "a" * 40, "0x" + "b" * 40


def view_of(table: ForwardedTable, address: str) -> PolicyRules:
    (found,) = (rules for rules in table.rules.values() if address in rules.addresses)
    return found


@given(registries, st.lists(policies, min_size=1, max_size=2), st.data())
@settings(max_examples=200, deadline=None)
def test_the_view_of_a_client_is_that_of_a_node_in_its_place(
    everyone: list[Member], texts: list[Any], data: st.DataObject
) -> None:
    found = [in_force(grants, number) for number, grants in enumerate(texts)]
    clients = [member for member in everyone if data.draw(st.booleans())]
    table, present = ForwardedTable(Distinction(found, TAG_NAMES)), dict[str, Subject]()
    for member in data.draw(st.permutations(everyone)):
        addresses = sorted(own_addresses(member))
        present |= dict.fromkeys(addresses, subject(member))
        table.put(addresses, subject(member))
        if member in clients:
            table.forward(addresses, subject(member), present)
    for client in clients:
        own = CompiledPolicy(found, TAG_NAMES, subject(client))
        node = RuleTable(own, own_addresses(client))
        for other in everyone:
            node.put(own_addresses(other), subject(other))
        for address in own_addresses(client):
            rules = view_of(table, address)
            for other in everyone:
                for far in own_addresses(other):
                    assert rights_of(rules, far) == rights_of(node.rules, far)
        views = ConnectedViews(CompiledPolicy(found, TAG_NAMES, None), table.compiled)
        assert all(views.connects(subject(other)) for other in everyone if own.connects(subject(other)))
    for client in clients:
        assert table.forward(own_addresses(client), None, present)
    assert not table.rules


def test_clients_that_the_policy_does_not_distinguish_share_a_view() -> None:
    table = ForwardedTable(Distinction([in_force([TO_WEB])], TAG_NAMES))
    web, other = 1 << TAG_NAMES.index("web"), 1 << TAG_NAMES.index("db")
    table.forward(["10.77.0.5"], Subject("a", ALICE, 0), {})
    table.forward(["10.77.0.6"], Subject("b", BOB, other), {})
    assert [rules.addresses for rules in table.rules.values()] == [{"10.77.0.5", "10.77.0.6"}]
    table.forward(["10.77.0.6"], Subject("b", BOB, web), {})
    assert table.rules.keys() == {"v0", "v1"}
    table.forward(["10.77.0.6"], None, {})
    table.forward(["10.77.0.6"], Subject("b", BOB, web), {})
    assert table.rules.keys() == {"v0", "v2"}, "the name of a view is not used again"


def test_nodes_of_one_owner_are_distinguished_if_a_grant_does() -> None:
    own = {"src": ["*"], "dst": ["autogroup:self"], "ip": ["*"]}
    present = {"10.77.0.7": Subject("c", ALICE, 0)}
    for grants, rights in ((own, False), (OPEN, True)):
        table = ForwardedTable(Distinction([in_force([grants])], TAG_NAMES))
        for address, owner in (("10.77.0.5", ALICE), ("10.77.0.6", BOB)):
            table.forward([address], Subject(None, owner, 0), present)
        assert rights_of(view_of(table, "10.77.0.5"), "10.77.0.7") != GroupRights()
        assert bool(rights_of(view_of(table, "10.77.0.6"), "10.77.0.7")) == rights

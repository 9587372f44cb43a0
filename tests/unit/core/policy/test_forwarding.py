"""The views of plain clients: each is what the client itself would enforce."""

from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.test_compiled_policy import TAG_NAMES, in_force, own_addresses, subject
from tests.property.test_policy import members as registries
from tests.property.test_policy import policies

from dstack_vpn.core.policy.compiler import CompiledPolicy, PolicyInForce, Subject
from dstack_vpn.core.policy.directory import Member
from dstack_vpn.core.policy.forwarding import ConnectedViews, Distinction, ForwardedTable, NetworkTable
from dstack_vpn.core.policy.rule_table import RuleTable
from dstack_vpn.core.policy.rules import PolicyRules

OPEN = {"src": ["*"], "dst": ["*"], "ip": ["*"]}
TO_WEB = {"src": ["*"], "dst": ["tag:web"], "ip": ["tcp:443"]}
ALICE, BOB = "0x" + "a" * 40, "0x" + "b" * 40


def view_of(table: ForwardedTable, address: str) -> PolicyRules:
    (found,) = (rules for rules in table.rules.values() if address in rules.addresses)
    return found


def member(*addresses: str) -> tuple[str, ...]:
    return tuple(sorted(addresses))


def members(everyone: Iterable[Member], policies: list[PolicyInForce]) -> RuleTable:
    """Return the rules of a node that has all members."""
    table = RuleTable(CompiledPolicy(policies, TAG_NAMES, None), frozenset())
    for each in everyone:
        table.put(own_addresses(each), subject(each))
    return table


def check(
    table: ForwardedTable, policies: list[PolicyInForce], everyone: list[Member], clients: list[Member]
) -> None:
    """Check that the view of a client is that of a node in its place."""
    for client in clients:
        own = CompiledPolicy(policies, TAG_NAMES, subject(client))
        node = RuleTable(own, own_addresses(client))
        for other in everyone:
            node.put(own_addresses(other), subject(other))
        for address in own_addresses(client):
            rules = view_of(table, address)
            for other in everyone:
                for far in own_addresses(other):
                    assert rules.rights_of(far) == node.rules.rights_of(far)
        views = ConnectedViews(CompiledPolicy(policies, TAG_NAMES, None), table.compiled)
        assert all(views.connects(subject(other)) for other in everyone if own.connects(subject(other)))
        subjects = list(map(subject, everyone))
        assert views.connected(subjects) == list(map(views.connects, subjects))
    served = frozenset().union(*(rules.addresses for rules in table.rules.values()))
    assert served == frozenset().union(*map(own_addresses, clients))
    groups = [group for rules in table.rules.values() for group in rules.members]
    assert len(groups) == len(set(groups)), "the views share no name of a group"


@given(registries, st.lists(policies, min_size=1, max_size=2), st.lists(policies, max_size=2), st.data())
@settings(max_examples=200, deadline=None)
def test_the_view_of_a_client_is_that_of_a_node_in_its_place(
    everyone: list[Member], texts: list[Any], more: list[Any], data: st.DataObject
) -> None:
    found = [in_force(grants, number) for number, grants in enumerate(texts)]
    clients = [each for each in everyone if data.draw(st.booleans())]
    table, present = ForwardedTable(Distinction(found, TAG_NAMES)), members((), found)
    for each in data.draw(st.permutations(everyone)):
        addresses = member(*own_addresses(each))
        present.put(addresses, subject(each))
        table.put(addresses, subject(each))
        if each in clients:
            table.forward(addresses, subject(each), present)
    check(table, found, everyone, clients)
    # Other policies.
    other = [in_force(grants, number + 7) for number, grants in enumerate(more)]
    as_clients = {member(*own_addresses(each)): subject(each) for each in clients}
    table.replace(Distinction(other, TAG_NAMES), as_clients, present)
    check(table, other, everyone, clients)
    for client in as_clients:
        table.forward(client, None, present)
    assert not table.rules


def test_clients_that_the_policy_does_not_distinguish_share_a_view() -> None:
    table, none = ForwardedTable(Distinction([in_force([TO_WEB])], TAG_NAMES)), members((), [])
    web, other = 1 << TAG_NAMES.index("web"), 1 << TAG_NAMES.index("db")
    table.forward(("10.77.0.5",), Subject("a", ALICE, 0), none)
    table.forward(("10.77.0.6",), Subject("b", BOB, other), none)
    assert [rules.addresses for rules in table.rules.values()] == [{"10.77.0.5", "10.77.0.6"}]
    table.forward(("10.77.0.6",), Subject("b", BOB, web), none)
    assert table.rules.keys() == {"v0", "v1"}
    table.forward(("10.77.0.6",), None, none)
    table.forward(("10.77.0.6",), Subject("b", BOB, web), none)
    assert table.rules.keys() == {"v0", "v2"}, "the name of a view is not used again"


def test_a_view_keeps_its_name_and_its_groups_under_another_policy() -> None:
    table, present = ForwardedTable(Distinction([in_force([TO_WEB])], TAG_NAMES)), members((), [])
    client: dict[tuple[str, ...], Subject] = {
        ("10.77.0.5",): Subject("a", ALICE, 1 << TAG_NAMES.index("web"))
    }
    present.put(("10.77.0.7",), Subject("c", ALICE, 0))
    for address, each in client.items():
        table.forward(address, each, present)
    before = table.rules
    table.replace(Distinction([in_force([OPEN])], TAG_NAMES), client, present)
    after = table.rules
    assert after.keys() == before.keys()
    assert after["v0"].members["v0m0"] is before["v0"].members["v0m0"]
    assert after["v0"].groups != before["v0"].groups


def test_nodes_of_one_owner_are_distinguished_if_a_grant_does() -> None:
    own = {"src": ["*"], "dst": ["autogroup:self"], "ip": ["*"]}
    present = members((), [])
    present.put(("10.77.0.7",), Subject("c", ALICE, 0))
    for grants, rights in ((own, False), (OPEN, True)):
        table = ForwardedTable(Distinction([in_force([grants])], TAG_NAMES))
        for address, owner in (("10.77.0.5", ALICE), ("10.77.0.6", BOB)):
            table.forward((address,), Subject(None, owner, 0), present)
        assert view_of(table, "10.77.0.5").rights_of("10.77.0.7")
        assert bool(view_of(table, "10.77.0.6").rights_of("10.77.0.7")) == rights


# -- networks --------------------------------------------------------------------------------------


def to_networks(*targets: str) -> list[PolicyInForce]:
    return [in_force([{"src": ["*"], "dst": list(targets), "ip": ["tcp:443"]}])]


def test_zones_keep_their_names_while_their_networks_stay() -> None:
    table, none = NetworkTable(), RuleTable(CompiledPolicy([], TAG_NAMES, None), frozenset())
    none.put(("10.77.0.5",), Subject("a", ALICE, 0))
    table.replace(to_networks("*"), TAG_NAMES, ["192.168.7.0/24"], none)
    assert {name: rules.addresses for name, rules in table.rules.items()} == {"n0": {"192.168.7.0/24"}}
    assert set(table.rules["n0"].members) == {"n0m0"}
    table.replace(to_networks("192.168.0.0/16"), TAG_NAMES, ["192.168.7.0/24"], none)
    assert set(table.rules) == {"n0"}
    table.replace(to_networks("tag:web"), TAG_NAMES, ["192.168.7.0/24"], none)
    assert set(table.rules) == {"n0"}
    assert not table.rules["n0"].members, "nobody has a right"
    table.replace(to_networks("192.168.7.0/25"), TAG_NAMES, ["192.168.7.0/24"], none)
    assert {name: rules.addresses for name, rules in table.rules.items()} == {
        "n1": {"192.168.7.0/25"},
        "n2": {"192.168.7.128/25"},
    }
    table.clear()
    assert not table.rules
    table.replace(to_networks("*"), TAG_NAMES, ["192.168.7.0/24"], none)
    assert set(table.rules) == {"n3"}, "a name is not used again"


def test_a_member_that_may_only_use_a_network_is_connected() -> None:
    table, none = NetworkTable(), RuleTable(CompiledPolicy([], TAG_NAMES, None), frozenset())
    policies = [in_force([{"src": ["node:a"], "dst": ["192.168.7.0/24"], "ip": ["tcp:443"]}])]
    table.replace(policies, TAG_NAMES, ["192.168.7.0/24"], none)
    own = CompiledPolicy(policies, TAG_NAMES, Subject("gw", BOB, 0))
    a, b = Subject("a", ALICE, 0), Subject("b", ALICE, 0)
    views = ConnectedViews(own, (), table.compiled)
    assert (own.connects(a), views.connects(a), views.connects(b)) == (False, True, False)
    assert views.connected([a, b]) == [True, False]
    # The same on the other side.
    gateway = Subject("gw", BOB, 0, ("192.168.7.0/24",))
    assert CompiledPolicy(policies, TAG_NAMES, a).connects(gateway)
    assert not CompiledPolicy(policies, TAG_NAMES, b).connects(gateway)
    assert not CompiledPolicy(policies, TAG_NAMES, a).connects(gateway._replace(routes=("10.8.0.0/16",)))
    assert table.put(("10.77.0.5",), a)
    assert not table.put(("10.77.0.6",), b)

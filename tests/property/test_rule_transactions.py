"""Every table between two tables, and every mixture of them that a packet can meet.

A packet that the kernel is processing while a transaction ends is judged by the old rules and the
new elements of sets. An interpreter of the rules that dstack-vpn writes judges sample packets.
"""

import re
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from itertools import pairwise
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_vpn.adapters.firewall.rendering import make_table
from dstack_vpn.adapters.firewall.table import Table, _between
from dstack_vpn.core.policy.rules import GrantId, GroupRights, PolicyRules, PortRight
from dstack_vpn.core.policy.selectors import Protocol
from dstack_vpn.ports import FirewallRules

MEMBERS = ("10.77.0.2", "10.77.0.3", "10.77.0.4", "fd00::2")
GROUPS = ("m0", "m1", "m2")
OWN = frozenset({"10.77.0.1", "fd00::1"})


class Sample(NamedTuple):
    """A packet from a member."""

    source: str
    reply: bool
    protocol: str
    port: int
    """The destination port, or the source port of a reply."""


SAMPLES = [
    Sample(source, reply, protocol, port)
    for source in MEMBERS
    for reply in (False, True)
    for protocol, port in (("tcp", 22), ("tcp", 80), ("udp", 22), ("udp", 53), ("icmp", 0), ("gre", 0))
]

grants = st.builds(GrantId, st.just("1a2b3c4d"), st.integers(1, 3))
rights = st.lists(
    st.sampled_from(
        [
            (Protocol.TCP, 22, 22),
            (Protocol.TCP, 23, 443),
            (Protocol.UDP, 1, 52),
            (Protocol.UDP, 53, 53),
            (Protocol.ICMP, 0, 65535),
            (None, 0, 65535),
        ]
    ),
    unique=True,
    max_size=4,
)
sides = st.tuples(rights, grants).map(lambda found: tuple(PortRight(*each, found[1]) for each in found[0]))
groups = st.builds(GroupRights, sides, sides)
policies = st.builds(
    lambda members, rights: PolicyRules(
        OWN, members, {name: each for name, each in rights.items() if name in members.values()}
    ),
    st.dictionaries(st.sampled_from(MEMBERS), st.sampled_from(GROUPS)),
    st.fixed_dictionaries(dict.fromkeys(GROUPS, groups)),
)


def table(policy: PolicyRules) -> Table:
    return make_table(FirewallRules("wg0", frozenset({"10.77.0.0/16", "fd00::/48"}), True, policy=policy))


def passes(chains: Table, elements: Table, packet: Sample) -> bool:
    """Return whether the chains of one table accept a packet, with the elements of another one."""
    for rule in chains.chains["from6" if ":" in packet.source else "from4"].rules:
        found = re.fullmatch(r"ip6? saddr @(\w+) goto (\w+)", rule)
        assert found is not None, rule
        if packet.source in elements.members.get(found[1], frozenset()):
            return accepts(chains, found[2], packet)
    return False


def accepts(chains: Table, name: str, packet: Sample) -> bool:
    """Follow a chain to its end; a packet that falls through is denied."""
    while True:
        for rule in chains.chains[name].rules:
            verdict = judge(rule, packet)
            if verdict == "accept":
                return True
            if verdict is not None:
                name = verdict
                break
        else:
            return False


def judge(rule: str, packet: Sample) -> str | None:
    """Return ``accept``, the chain that a rule leads to, or None if it does not match."""
    if re.fullmatch(r'counter name "\w+" accept', rule):
        return "accept"
    if found := re.fullmatch(r"ct direction reply goto (\w+)", rule):
        return found[1] if packet.reply else None
    if found := re.fullmatch(r"goto (\w+)", rule):
        return found[1]
    if found := re.fullmatch(r"meta l4proto \{ 1, 58 \} goto (\w+)", rule):
        return found[1] if packet.protocol == "icmp" else None
    if found := re.fullmatch(r"(tcp|udp) (sport|dport) (.*) goto (\w+)", rule):
        assert (found[2] == "sport") is packet.reply, "ports of the wrong side"
        return found[4] if found[1] == packet.protocol and has(found[3], packet.port) else None
    raise AssertionError(f"an unknown rule: {rule}")


def has(ports: str, port: int) -> bool:
    """Return whether a port, a range, or a set of these includes a port."""
    for each in ports.strip("{ }").split(", "):
        first, _, last = each.partition("-")
        if int(first) <= port <= int(last or first):
            return True
    return False


def mixtures(old: Table, new: Table) -> Iterator[tuple[Table, Table]]:
    """Yield the chains and the elements that a packet can meet."""
    steps = [old, *_between(old, new), new]
    yield from ((step, step) for step in steps)
    yield from pairwise(steps)


@given(policies, policies)
@settings(max_examples=400, deadline=None)
def test_nothing_passes_that_neither_table_permits_and_nothing_is_lost_that_both_do(
    first: PolicyRules, second: PolicyRules
) -> None:
    old, new = table(first), table(second)
    for packet in SAMPLES:
        before, after = passes(old, old, packet), passes(new, new, packet)
        for chains, elements in mixtures(old, new):
            found = passes(chains, elements, packet)
            assert found or not (before and after), f"{packet} is lost"
            assert not found or before or after, f"{packet} passes"


# -- plain clients ---------------------------------------------------------------------------------

CLIENTS = ("10.77.0.8", "10.77.0.9", "fd00::9")
VIEWS = ("v0", "v1")
views = st.fixed_dictionaries(
    {
        name: st.tuples(
            st.dictionaries(
                st.sampled_from((*MEMBERS, *CLIENTS)), st.sampled_from((f"{name}m0", f"{name}m1"))
            ),
            st.fixed_dictionaries({f"{name}m{number}": groups for number in range(2)}),
        )
        for name in VIEWS
    }
)
assignments = st.dictionaries(st.sampled_from(CLIENTS), st.sampled_from(VIEWS))


def with_views(policy: PolicyRules, content: dict[str, Any], clients: dict[str, str]) -> Table:
    made = {
        name: PolicyRules(
            frozenset(address for address, view in clients.items() if view == name),
            members,
            {group: each for group, each in rights.items() if group in members.values()},
        )
        for name, (members, rights) in content.items()
        if name in clients.values()
    }
    policy = PolicyRules(policy.addresses, policy.members, policy.groups, made)
    prefixes = frozenset({"10.77.0.0/16", "fd00::/48"})
    return make_table(FirewallRules("wg0", prefixes, True, policy=policy, forwarded=frozenset(clients)))


def forwards(chains: Table, elements: Table, destination: str, packet: Sample) -> bool:
    """Return whether a packet to a client or a member passes the base chain."""
    return _walk(chains, elements, "prerouting_policy", destination, packet) is True


def _walk(chains: Table, elements: Table, name: str, destination: str, packet: Sample) -> bool | None:
    """Return the verdict of a chain; None if it returns."""
    for rule in chains.chains[name].rules:
        if rule.startswith(("iifname", "ct state related")):
            continue
        rest, matches = rule, True
        while found := re.match(r"ip6? ([sd])addr (@?[\w.:/]+) (?=\S)", rest):
            rest = rest[found.end() :]
            matches &= _is_at(elements, packet.source if found[1] == "s" else destination, found[2])
        if not matches:
            continue
        if rest == "accept":
            return True
        verb, target = rest.split()
        if target == "denied":
            return False
        if target.startswith("rights_"):
            return True if accepts(chains, target, packet) else None
        verdict = _walk(chains, elements, target, destination, packet)
        if verdict is not None or verb == "goto":
            return verdict
    return None


def _is_at(elements: Table, address: str, where: str) -> bool:
    if where.startswith("@"):
        return address in elements.members.get(where.removeprefix("@"), frozenset())
    return ip_address(address) in ip_network(where)


@given(policies, views, views, assignments, assignments, st.booleans())
@settings(max_examples=100, deadline=None)
def test_the_same_holds_for_the_packets_to_clients(
    policy: PolicyRules,
    first: dict[str, Any],
    second: dict[str, Any],
    before: dict[str, str],
    after: dict[str, str],
    moves: bool,
) -> None:
    """Either the rights in the views change, or clients come, leave and move between views."""
    content, clients = (first, after) if moves else (second, before)
    old, new = with_views(policy, first, before), with_views(policy, content, clients)
    for packet in SAMPLES:
        for destination in CLIENTS:
            if (":" in packet.source) != (":" in destination):
                continue
            was, then = (forwards(each, each, destination, packet) for each in (old, new))
            assert not was or destination in before
            assert not then or destination in clients
            for chains, elements in mixtures(old, new):
                found = forwards(chains, elements, destination, packet)
                assert found or not (was and then), f"{packet} to {destination} is lost"
                assert not found or was or then, f"{packet} to {destination} passes"


@given(policies, views, assignments)
def test_a_client_reaches_members_and_what_the_views_permit(
    policy: PolicyRules, content: dict[str, Any], clients: dict[str, str]
) -> None:
    made = with_views(policy, content, clients)
    packet = Sample("10.77.0.8", False, "tcp", 22)
    assert forwards(made, made, "10.77.0.77", packet) is ("10.77.0.8" in clients), "the receiver judges it"
    assert not forwards(made, made, "192.0.2.1", packet)
    own = packet.source in policy.members and passes(made, made, packet)
    assert forwards(made, made, "10.77.0.1", packet) is own
    stranger = packet._replace(source="10.77.0.66")
    for destination in ("10.77.0.77", "10.77.0.1", *CLIENTS):
        if destination.count(":") == 0:
            assert not forwards(made, made, destination, stranger)

"""Every table between two tables, and every mixture of them that a packet can meet.

A packet that the kernel is processing while a transaction ends is judged by the old rules, and from
some moment on by the new elements of maps. An interpreter of the rules that dstack-vpn writes
judges sample packets.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policy_rules import policy_rules

from dstack_vpn.adapters.firewall.rendering import make_table
from dstack_vpn.adapters.firewall.table import Chain, Table
from dstack_vpn.adapters.firewall.transactions import _between
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
    lambda members, rights: policy_rules(
        OWN, members, {name: each for name, each in rights.items() if name in members.values()}
    ),
    st.dictionaries(st.sampled_from(MEMBERS), st.sampled_from(GROUPS)),
    st.fixed_dictionaries(dict.fromkeys(GROUPS, groups)),
)


Elements: TypeAlias = Mapping[str, Mapping[str, str]]
"""The verdict of each key, by the map's or set's name."""
PREFIXES = frozenset({"10.77.0.0/16", "fd00::/48"})


def table(policy: PolicyRules | None) -> Table:
    return make_table(FirewallRules("wg0", PREFIXES, True, policy=policy))


def elements_of(table: Table) -> Elements:
    return {
        name: {key: verdict for key, _, verdict in (each.partition(" : ") for each in listed)}
        for name, listed in table.elements().items()
    }


class Moment(NamedTuple):
    """The rules and elements that a packet can meet."""

    chains: Table
    elements: Elements
    first: Elements
    """The elements of maps that are looked up first."""
    forward: Table
    """The chains after ``prerouting_policy``."""
    later: Elements


def moments(old: Table, new: Table) -> Iterator[Moment]:
    """Yield all moments of the transactions."""
    steps = [old, *_between(old, new), new]
    known = [(step, elements_of(step)) for number, step in enumerate(steps) if step not in steps[:number]]
    for step, own in known:
        yield Moment(step, own, own, step, own)
    for (before, own), (after, then) in pairwise(known):
        yield Moment(before, then, then, before, then)
        yield Moment(before, then, own, before, then)
        yield Moment(before, own, own, before, then)
        yield Moment(before, own, own, after, then)


def passes(at: Moment, destination: str, packet: Sample) -> bool:
    """Return whether the node accepts a packet to an address, or forwards it."""
    if "prerouting_policy" in at.chains.chains:
        clients = {name: found for name, found in at.first.items() if name.startswith("clients")}
        elements = {**at.elements, **clients}
        if not accepts(at.chains, elements, "prerouting_policy", destination, packet):
            return False
    return destination in OWN or accepts(at.forward, at.later, "forward", destination, packet) is True


def accepts(chains: Table, elements: Elements, name: str, destination: str, packet: Sample) -> bool | None:
    """Follow a chain to a verdict; None if it returns.

    For a packet that is judged by the old rules, a new chain is empty.
    """
    for rule in chains.chains.get(name, Chain("", ())).rules:
        verdict = judge(rule, elements, destination, packet)
        if verdict is None:
            continue
        verb, _, target = verdict.partition(" ")
        if verb in ("accept", "drop"):
            return verb == "accept"
        found = False if target == "denied" else accepts(chains, elements, target, destination, packet)
        if found is not None or verb == "goto":
            return found
    return None


def judge(rule: str, elements: Elements, destination: str, packet: Sample) -> str | None:
    """Return the verdict of a rule; None if it does not match."""
    if rule.startswith(("ct state related", 'iifname != "wg0"', 'oifname != "wg0"')):
        return None
    rest = rule
    while found := re.match(r'(?:[io]ifname "wg0"|counter(?: name "\w+")?) ', rest):
        rest = rest[found.end() :]
    while found := re.match(r"(ip6?) ([sd])addr (?:vmap @(\w+)|(\S+) )", rest):
        rest = rest[found.end() :]
        address = packet.source if found[2] == "s" else destination
        if (found[1] == "ip6") != (":" in address):
            return None
        if found[3] is not None:
            return elements.get(found[3], {}).get(address)
        if not is_at(elements, address, found[4]):
            return None
    if found := re.fullmatch(r"ct direction reply (goto \w+)", rest):
        return found[1] if packet.reply else None
    if found := re.fullmatch(r"meta l4proto \{ 1, 58 \} (goto \w+)", rest):
        return found[1] if packet.protocol == "icmp" else None
    if found := re.fullmatch(r"(tcp|udp) (sport|dport) (?:vmap @(\w+)|(.*) (goto \w+))", rest):
        _, side, map_name, ports, verdict = found.groups()
        assert (side == "sport") is packet.reply, "ports of the wrong side"
        if found[1] != packet.protocol:
            return None
        if map_name is not None:
            listed = elements.get(map_name, {}).items()
            return next((lead for each, lead in listed if has(each, packet.port)), None)
        return str(verdict) if has(ports, packet.port) else None
    assert re.fullmatch(r"accept|drop|goto \w+", rest), f"an unknown rule: {rule}"
    return rest


def is_at(elements: Elements, address: str, where: str) -> bool:
    """Return whether an address is in a set or a prefix."""
    if where.startswith("@"):
        return address in elements.get(where.removeprefix("@"), {})
    return ip_address(address) in ip_network(where)


def has(ports: str, port: int) -> bool:
    """Return whether a port or a range includes a port."""
    first, _, last = ports.partition("-")
    return int(first) <= port <= int(last or first)


def check(old: Table, new: Table, destinations: tuple[str, ...], samples: list[Sample]) -> None:
    """Check each packet at each moment."""
    every, ends = list(moments(old, new)), [next(moments(each, each)) for each in (old, new)]
    for packet in samples:
        for destination in destinations:
            if (":" in packet.source) != (":" in destination) or packet.source == destination:
                continue
            before, after = (passes(moment, destination, packet) for moment in ends)
            for moment in every:
                found = passes(moment, destination, packet)
                assert found or not (before and after), f"{packet} to {destination} is lost"
                assert not found or before or after, f"{packet} to {destination} passes"


@given(st.none() | policies, st.none() | policies)
@settings(max_examples=400, deadline=None)
def test_nothing_passes_that_neither_table_permits_and_nothing_is_lost_that_both_do(
    first: PolicyRules | None, second: PolicyRules | None
) -> None:
    check(table(first), table(second), tuple(OWN), SAMPLES)


# -- plain clients ---------------------------------------------------------------------------------

CLIENTS = ("10.77.0.8", "10.77.0.9", "fd00::9")
VIEWS = ("v0", "v1")
TO_CLIENTS = [
    Sample(source, reply, protocol, port)
    for source in ("10.77.0.2", "10.77.0.3", "10.77.0.8", "10.77.0.9", "fd00::2", "fd00::9")
    for reply, protocol, port in ((False, "tcp", 22), (False, "icmp", 0), (True, "udp", 53))
]
DESTINATIONS = (*CLIENTS, "10.77.0.1", "10.77.0.77", "fd00::77")
views = st.fixed_dictionaries(
    {
        name: st.tuples(
            st.dictionaries(
                st.sampled_from(("10.77.0.2", "10.77.0.3", "10.77.0.8", "fd00::2")),
                st.sampled_from((f"{name}m0", f"{name}m1")),
            ),
            st.fixed_dictionaries({f"{name}m{number}": groups for number in range(2)}),
        )
        for name in VIEWS
    }
)
assignments = st.dictionaries(st.sampled_from(CLIENTS), st.sampled_from(VIEWS))


def with_views(policy: PolicyRules | None, content: dict[str, Any], clients: dict[str, str]) -> Table:
    forwarded = frozenset(clients)
    if policy is not None:
        made = {
            name: policy_rules(
                frozenset(address for address, view in clients.items() if view == name),
                members,
                {group: each for group, each in rights.items() if group in members.values()},
            )
            for name, (members, rights) in content.items()
            if name in clients.values()
        }
        policy = replace(policy, views=made)
    return make_table(FirewallRules("wg0", PREFIXES, True, policy=policy, forwarded=forwarded))


@given(policies, policies, views, views, assignments, assignments)
@settings(max_examples=200, deadline=None)
def test_the_same_holds_for_the_packets_of_clients(
    own: PolicyRules,
    other: PolicyRules,
    first: dict[str, Any],
    second: dict[str, Any],
    before: dict[str, str],
    after: dict[str, str],
) -> None:
    """The rights in the views change, and clients come, leave and move between views."""
    check(with_views(own, first, before), with_views(other, second, after), DESTINATIONS, TO_CLIENTS)


@given(policies, views, assignments, assignments, st.booleans())
@settings(max_examples=50, deadline=None)
def test_the_same_holds_for_clients_while_a_policy_comes_or_goes(
    policy: PolicyRules, content: dict[str, Any], clients: dict[str, str], others: dict[str, str], comes: bool
) -> None:
    tables = [with_views(None, content, clients), with_views(policy, content, clients)]
    old, new = tables if comes else reversed(tables)
    check(old, new, DESTINATIONS, TO_CLIENTS)
    check(tables[0], with_views(None, content, others), DESTINATIONS, TO_CLIENTS)


@given(policies, views, assignments)
def test_a_client_reaches_members_and_what_the_views_permit(
    policy: PolicyRules, content: dict[str, Any], clients: dict[str, str]
) -> None:
    made = with_views(policy, content, clients)
    (at, *_) = moments(made, made)
    packet = Sample("10.77.0.8", False, "tcp", 22)
    assert passes(at, "10.77.0.77", packet) is ("10.77.0.8" in clients), "the receiver judges it"
    assert not passes(at, "192.0.2.1", packet)
    assert not passes(at, "10.77.0.1", packet), "no own right"
    member = Sample("10.77.0.2", False, "tcp", 22)
    (plain, *_) = moments(table(policy), table(policy))
    assert passes(at, "10.77.0.1", member) is passes(plain, "10.77.0.1", member)
    stranger = packet._replace(source="10.77.0.66")
    for destination in ("10.77.0.77", "10.77.0.1", "10.77.0.8", "10.77.0.9"):
        assert not passes(at, destination, stranger)

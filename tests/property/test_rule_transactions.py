"""Every table between two tables, and every mixture of them that a packet can meet.

A packet that the kernel is processing while a transaction ends is judged by the old rules, and from
some moment on by the new elements of maps. An interpreter of the rules that dstack-vpn writes
judges sample packets.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from itertools import combinations, pairwise
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
    arrives: bool = True
    """True if it comes from the tunnel."""
    leaves: bool = True
    """True if it is not delivered here, and leaves by the tunnel."""


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
Verdicts: TypeAlias = dict[tuple[int, int, int, str], bool | None]
"""The verdicts about one packet: by chains, elements, those looked up first, and the name."""
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
    raw: Table
    """The chain before it."""
    earlier: Elements


def moments(old: Table, new: Table) -> Iterator[Moment]:
    """Yield all moments of the transactions."""
    steps = [old, *_between(old, new), new]
    known = [(step, elements_of(step)) for number, step in enumerate(steps) if step not in steps[:number]]
    for step, own in known:
        yield Moment(step, own, own, step, own, step, own)
    for (before, own), (after, then) in pairwise(known):
        yield Moment(before, then, then, before, then, before, own)
        yield Moment(before, then, then, before, then, before, then)
        yield Moment(before, then, own, before, then, before, own)
        yield Moment(before, own, own, before, then, before, own)
        yield Moment(before, own, own, after, then, before, own)
        yield Moment(before, then, then, after, then, before, then)
        yield Moment(after, then, then, after, then, before, own)
        yield Moment(after, then, then, after, then, before, then)


def passes(at: Moment, destination: str, packet: Sample, known: "Verdicts | None" = None) -> bool:
    """Return whether the node accepts a packet to an address, or forwards it.

    ``known`` has the verdicts of chains for this packet that were found before.
    """
    known = {} if known is None else known

    def verdict(chains: Table, elements: Elements, name: str, first: Elements) -> bool | None:
        key = id(chains), id(elements), id(first), name
        if key not in known:
            clients = {name: found for name, found in first.items() if name.startswith("clients")}
            known[key] = accepts(chains, {**elements, **clients}, name, destination, packet)
        return known[key]

    if not packet.arrives:
        later = ("forward", "forward_replies")
        return all(verdict(at.forward, at.later, name, at.later) is not False for name in later)
    if verdict(at.raw, at.earlier, "prerouting_raw", at.earlier) is False:
        return False
    has_policy = "prerouting_policy" in at.chains.chains
    if has_policy and not verdict(at.chains, at.elements, "prerouting_policy", at.first):
        return False
    return destination in OWN or verdict(at.forward, at.later, "forward", at.later) is True


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


_ADDRESS = r"(ip6?) ([sd])addr (!= )?(?:vmap @(\w+)|(\S+) )"


def judge(rule: str, elements: Elements, destination: str, packet: Sample) -> str | None:
    """Return the verdict of a rule; None if it does not match."""
    if rule.startswith(("ct state related", "ct status dnat")) or "fib daddr type != unicast" in rule:
        return None
    rest = rule
    while found := re.match(r'([io])ifname (!= )?"wg0" |counter(?: name "\w+")? |' + _ADDRESS, rest):
        interface, other, header, side, unlike, map_name, where = found.groups()
        rest = rest[found.end() :]
        if interface:
            if (packet.arrives if interface == "i" else packet.leaves) == bool(other):
                return None
        elif header:
            address = packet.source if side == "s" else destination
            if (header == "ip6") != (":" in address):
                return None
            if map_name is not None:
                return looked_up(elements, map_name, address)
            if is_at(elements, address, where) == bool(unlike):
                return None
    if found := re.fullmatch(r"ct direction (reply|original) (.*)", rest):
        if packet.reply != (found[1] == "reply"):
            return None
        # A reply can be judged by its destination.
        return judge(found[2], elements, destination, packet)
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
        return looked_up(elements, where.removeprefix("@"), address) is not None
    return ip_address(address) in ip_network(where)


def looked_up(elements: Elements, name: str, address: str) -> str | None:
    """Return the verdict of an address: empty in a set, and None if the address is missing."""
    listed = elements.get(name, {})
    if name.startswith(("networks", "zones", "reserved")):
        found = [verdict for key, verdict in listed.items() if ip_address(address) in ip_network(key)]
        assert len(found) < 2, f"the elements of {name} overlap"
        return next(iter(found), None)
    return listed.get(address)


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
            known: Verdicts = {}
            for moment in every:
                found = passes(moment, destination, packet, known)
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


# -- networks --------------------------------------------------------------------------------------

MEMBER_ADDRESSES = ("10.77.0.2", "10.77.0.3", "fd00::2")
HOSTS = ("192.168.7.5", "192.168.7.200", "10.9.0.1", "172.16.0.1", "1.1.1.1", "fd07::5", "2606:4700::1")
"""In the zones, or in none."""
ZONES = (
    frozenset({"192.168.7.0/25"}),
    frozenset({"192.168.7.0/24"}),
    frozenset({"192.168.7.128/25", "fd07::/64", "10.9.0.1/32"}),
    frozenset({"10.9.0.0/16"}),
    frozenset({"0.0.0.0/0", "::/0"}),
)
TO_NETWORKS = [
    Sample(source, reply, protocol, port, True, False)
    for source in (*MEMBER_ADDRESSES, "10.77.0.66")
    for reply, protocol, port in ((False, "tcp", 22), (False, "icmp", 0), (True, "tcp", 22))
]
FROM_NETWORKS = [
    Sample(source, True, protocol, port, False, True)
    for source in HOSTS
    for protocol, port in (("tcp", 22), ("udp", 53), ("icmp", 0))
]
receivers = st.builds(GroupRights, sides)


class Behind(NamedTuple):
    """The networks behind a node: their zones with the members and rights of each."""

    zones: dict[str, frozenset[str]]
    members: dict[str, dict[str, str]]
    rights: dict[str, dict[str, GroupRights]]


def is_without_overlap(zones: list[frozenset[str]]) -> bool:
    listed = [ip_network(each) for zone in zones for each in zone if not each.endswith("/0")]
    return not any(
        one.version == other.version and one.overlaps(other) for one, other in combinations(listed, 2)
    )


def behind(generation: int) -> st.SearchStrategy[Behind]:
    """Networks; with another number, all names of the zones are others."""
    chosen = st.lists(st.sampled_from(ZONES), unique=True, max_size=4).filter(is_without_overlap)

    def filled(found: list[frozenset[str]]) -> st.SearchStrategy[Behind]:
        names = [f"n{generation}{number}" for number in range(len(found))]
        return st.builds(
            Behind,
            st.just(dict(zip(names, found, strict=True))),
            st.fixed_dictionaries(
                {
                    name: st.dictionaries(
                        st.sampled_from(MEMBER_ADDRESSES), st.sampled_from((f"{name}m0", f"{name}m1"))
                    )
                    for name in names
                }
            ),
            st.fixed_dictionaries(
                {name: st.fixed_dictionaries({f"{name}m{n}": receivers for n in range(2)}) for name in names}
            ),
        )

    return chosen.flatmap(filled)


def other_rights(first: Behind) -> st.SearchStrategy[Behind]:
    """The same zones with other members and rights."""
    return behind(1).flatmap(
        lambda found: st.builds(
            Behind,
            st.just(first.zones),
            st.just({name: _renamed(found.members, name) for name in first.zones}),
            st.fixed_dictionaries(
                {
                    name: st.fixed_dictionaries({f"{name}m{n}": receivers for n in range(2)})
                    for name in first.zones
                }
            ),
        )
    )


def _renamed(members: dict[str, dict[str, str]], name: str) -> dict[str, str]:
    found = next(iter(members.values()), {})
    return {address: f"{name}{group[-2:]}" for address, group in found.items()}


def with_networks(policy: PolicyRules | None, found: Behind) -> Table:
    networks = frozenset().union(*found.zones.values())
    if policy is not None:
        made = {
            name: policy_rules(
                zone,
                found.members[name],
                {
                    group: each
                    for group, each in found.rights[name].items()
                    if group in found.members[name].values()
                },
            )
            for name, zone in found.zones.items()
        }
        policy = replace(policy, networks=made)
    return make_table(FirewallRules("wg0", PREFIXES, True, policy=policy, networks=networks))


def check_networks(old: Table, new: Table) -> None:
    check(old, new, HOSTS, TO_NETWORKS)
    check(old, new, MEMBER_ADDRESSES, FROM_NETWORKS)


@given(policies, policies, st.data())
@settings(max_examples=150, deadline=None)
def test_the_same_holds_for_the_packets_to_networks_and_back(
    own: PolicyRules, other: PolicyRules, data: st.DataObject
) -> None:
    """Routes come and go, and rights change with them or alone."""
    first = data.draw(behind(0))
    second = data.draw(behind(1) | other_rights(first))
    check_networks(with_networks(own, first), with_networks(other, second))


@given(policies, behind(0), behind(1), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_same_holds_for_networks_while_a_policy_comes_or_goes(
    policy: PolicyRules, first: Behind, second: Behind, comes: bool
) -> None:
    policies = (None, policy) if comes else (policy, None)
    check_networks(
        *(with_networks(each, found) for each, found in zip(policies, (first, second), strict=True))
    )
    check_networks(with_networks(None, first), with_networks(None, second))


def test_without_a_policy_members_reach_the_networks_and_nothing_else() -> None:
    zone = frozenset({"192.168.7.0/24", "::/0"})
    made = with_networks(None, Behind({"n0": zone}, {}, {}))
    (at, *_) = moments(made, made)
    member = Sample("10.77.0.2", False, "tcp", 22, True, False)
    assert passes(at, "192.168.7.5", member)
    assert not passes(at, "10.9.0.1", member)
    assert not passes(at, "1.1.1.1", member)
    assert not passes(at, "192.168.7.5", member._replace(source="192.168.8.1")), "not a member"
    assert not passes(at, "192.168.7.5", member._replace(leaves=True)), "it would enter the tunnel again"
    other = member._replace(source="fd00::2")
    assert passes(at, "2606:4700::1", other)
    assert not passes(at, "fd07::5", other), "a private network is not the internet's"
    reply = Sample("192.168.7.5", True, "tcp", 22, False, True)
    assert passes(at, "10.77.0.2", reply)
    assert not passes(at, "10.77.0.2", reply._replace(source="10.9.0.1"))

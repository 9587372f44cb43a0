"""Every table between two tables, and every mixture of them that a packet can meet.

A packet that the kernel is processing while a transaction ends is judged by the old rules and the
new elements of sets. An interpreter of the rules that dstack-vpn writes judges sample packets.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policy_rules import policy_rules

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
    lambda members, rights: policy_rules(
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

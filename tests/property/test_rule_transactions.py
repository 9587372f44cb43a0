"""Every table between two tables, and every mixture of them that a packet can meet.

A packet that the kernel is processing while a transaction ends is judged by the old rules and the
new elements of maps. An interpreter of the rules that dstack-vpn writes judges sample packets.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policy_rules import policy_rules

from dstack_vpn.adapters.firewall.rendering import make_table
from dstack_vpn.adapters.firewall.table import Chain, Table, _between
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


def table(policy: PolicyRules | None) -> Table:
    return make_table(FirewallRules("wg0", frozenset({"10.77.0.0/16", "fd00::/48"}), True, policy=policy))


def passes(chains: Table, elements: Table, packet: Sample) -> bool:
    """Return whether the chains of one table accept a packet, with the elements of another one."""
    if "prerouting_policy" not in chains.chains:
        return True
    chain = value(elements, "members6" if ":" in packet.source else "members4", packet.source)
    return chain is not None and accepts(chains, elements, chain, packet)


def value(table: Table, name: str, key: str) -> str | None:
    """Return the chain that an element of a map leads to; None without that element."""
    for element in table.elements().get(name, ()):
        ports, _, verdict = element.partition(" : ")
        if key == ports or (name.startswith("ports") and has(ports, int(key))):
            return verdict.split()[1]
    return None


def accepts(chains: Table, elements: Table, name: str, packet: Sample) -> bool:
    """Follow a chain to its end; a packet that falls through is denied.

    For a packet that is judged by the old rules, a new chain is empty.
    """
    while True:
        for rule in chains.chains.get(name, Chain("", ())).rules:
            verdict = judge(rule, elements, packet)
            if verdict == "accept":
                return True
            if verdict is not None:
                name = verdict
                break
        else:
            return False


def judge(rule: str, elements: Table, packet: Sample) -> str | None:
    """Return ``accept``, the chain that a rule leads to, or None if it does not match."""
    if re.fullmatch(r'counter name "\w+" accept', rule):
        return "accept"
    if found := re.fullmatch(r"ct direction reply goto (\w+)", rule):
        return found[1] if packet.reply else None
    if found := re.fullmatch(r"goto (\w+)", rule):
        return found[1]
    if found := re.fullmatch(r"meta l4proto \{ 1, 58 \} goto (\w+)", rule):
        return found[1] if packet.protocol == "icmp" else None
    if found := re.fullmatch(r"(tcp|udp) (sport|dport) (?:vmap @(\w+)|(.*) goto (\w+))", rule):
        _, side, map_name, ports, chain = found.groups()
        assert (side == "sport") is packet.reply, "ports of the wrong side"
        if found[1] != packet.protocol:
            return None
        if map_name is not None:
            return value(elements, map_name, str(packet.port))
        return chain if has(ports, packet.port) else None
    raise AssertionError(f"an unknown rule: {rule}")


def has(ports: str, port: int) -> bool:
    """Return whether a port or a range includes a port."""
    first, _, last = ports.partition("-")
    return int(first) <= port <= int(last or first)


def mixtures(old: Table, new: Table) -> Iterator[tuple[Table, Table]]:
    """Yield the chains and the elements that a packet can meet."""
    steps = [old, *_between(old, new), new]
    yield from ((step, step) for step in steps)
    yield from pairwise(steps)


@given(st.none() | policies, st.none() | policies)
@settings(max_examples=400, deadline=None)
def test_nothing_passes_that_neither_table_permits_and_nothing_is_lost_that_both_do(
    first: PolicyRules | None, second: PolicyRules | None
) -> None:
    old, new = table(first), table(second)
    for packet in SAMPLES:
        before, after = passes(old, old, packet), passes(new, new, packet)
        for chains, elements in mixtures(old, new):
            found = passes(chains, elements, packet)
            assert found or not (before and after), f"{packet} is lost"
            assert not found or before or after, f"{packet} passes"

"""Random registries, policies and flows: the decisions are those of a slow, obvious evaluator.

The slow evaluator lists every flow that each grant allows, over all addresses and a few ports.
"""

import ipaddress
import json
from dataclasses import replace
from itertools import product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.core.policy.examples import ALICE, BOB, PLAN, member

from dstack_vpn.core.addresses import IPAddress
from dstack_vpn.core.policy.directory import Member, MemberDirectory
from dstack_vpn.core.policy.document import parse_policy
from dstack_vpn.core.policy.evaluation import Packet, allows, decide, failures
from dstack_vpn.core.policy.network_reach import NetworkBlock, compare_networks
from dstack_vpn.core.policy.reach import compare, count, pairs
from dstack_vpn.core.policy.selectors import Protocol

TAGS, NODES = ("web", "db", "ops"), ("a", "b", "c", "d")
ROUTES = ("192.168.7.0/24", "192.168.0.0/16", "fd00:7::/64", "0.0.0.0/0", "::/0", "127.0.0.0/8")
INTERNET = dict.fromkeys(("1.1.1.1", "2606:4700::1"), "the internet")
NOT_ROUTED = {"0.0.0.0/0", "::/0", "127.0.0.0/8"}
"""The internet, and a route that no gateway can use."""
OUTSIDE = ("192.168.7.9", "192.168.9.9", "172.16.0.1", "1.1.1.1", "fd00:7::9", "2606:4700::1", "127.0.0.1")
PORTS = ("*", "tcp:*", "tcp:22", "tcp:20-80", "udp:53", "icmp:*")
FLOWS = (
    *((Protocol.TCP, port) for port in (19, 20, 22, 53, 80, 81)),
    *((Protocol.UDP, port) for port in (22, 53)),
    (Protocol.ICMP, 0),
    (None, 0),
)

members = st.lists(
    st.tuples(
        st.sampled_from((ALICE, BOB)),
        st.sets(st.sampled_from(TAGS)),
        st.sets(st.sampled_from(ROUTES), max_size=2),
    ),
    max_size=4,
).map(
    lambda found: [
        member(token, NODES[token], owner, *tags, routes=tuple(sorted(routes)))
        for token, (owner, tags, routes) in enumerate(found)
    ]
)
sources = st.sampled_from(
    [
        *("*", f"owner:{BOB}", "192.168.7.0/24", "10.77.0.0/16", "0.0.0.0/0"),
        *(f"tag:{tag}" for tag in TAGS),
        *(f"node:{node}" for node in NODES),
    ]
)
targets = sources | st.sampled_from(["autogroup:self", "autogroup:internet"])
grants = st.fixed_dictionaries(
    {
        "src": st.lists(sources, min_size=1, max_size=2),
        "dst": st.lists(targets, min_size=1, max_size=2),
        "ip": st.lists(st.sampled_from(PORTS), min_size=1, max_size=2),
    }
)
policies = st.lists(grants, max_size=3)


class Slow:
    """The flows that a policy allows, listed."""

    def __init__(self, everyone: list[Member]) -> None:
        self.members = everyone
        self.tunnel = {address: each for each in everyone for address in each.addresses}
        self.universe: list[IPAddress] = [*self.tunnel, *map(ipaddress.ip_address, OUTSIDE)]
        self.universe.append(ipaddress.ip_address("10.77.200.1"))  # no member's

    def routed(self, address: IPAddress) -> bool:
        if address in PLAN.ipv4 or address in PLAN.ipv6:
            return False
        routes = [route for each in self.members for route in each.routes]
        return any(address in route and str(route) not in NOT_ROUTED for route in routes)

    def internet(self, address: IPAddress) -> bool:
        exits = {str(route) for each in self.members for route in each.routes}
        return {"1.1.1.1": "0.0.0.0/0", "2606:4700::1": "::/0"}.get(str(address)) in exits

    def selected(self, text: str) -> set[IPAddress]:
        kind, _, value = text.partition(":")
        if text == "*":
            return {a for a in self.universe if a in self.tunnel or self.routed(a)}
        if text == "autogroup:internet":
            return {a for a in self.universe if self.internet(a) and not self.routed(a)}
        if kind == "tag":
            return {a for a, each in self.tunnel.items() if value in each.tags}
        if kind == "node":
            return {a for a, each in self.tunnel.items() if value == each.node_id}
        if kind == "owner":
            return {a for a, each in self.tunnel.items() if value == each.owner}
        network = ipaddress.ip_network(text)
        return {a for a in self.universe if self.routed(a) and a in network}

    def destinations(self, text: str, src: IPAddress) -> set[IPAddress]:
        if text != "autogroup:self":
            return self.selected(text)
        if src not in self.tunnel:
            return set()
        return {a for a, each in self.tunnel.items() if each.owner == self.tunnel[src].owner}

    def allowed(self, policy: list[dict[str, Any]]) -> set[Packet]:
        found: set[Packet] = set()
        for grant in policy:
            for source, target, ports in product(grant["src"], grant["dst"], grant["ip"]):
                for src in self.selected(source) & self.tunnel.keys():  # a network opens nothing
                    for dst, (protocol, port) in product(self.destinations(target, src), FLOWS):
                        if self.is_in(ports, protocol, port):
                            found.add(Packet(src, dst, protocol, port))
        return found

    @staticmethod
    def is_in(ports: str, protocol: Protocol | None, port: int) -> bool:
        name, _, numbers = ports.partition(":")
        if name == "*":
            return True
        if protocol is None or name != protocol.value:
            return False
        low, _, high = numbers.partition("-")
        return numbers == "*" or int(low) <= port <= int(high or low)


@settings(max_examples=150, deadline=None)
@given(members, policies)
def test_the_decisions_are_those_of_the_slow_evaluator(
    everyone: list[Member], policy: list[dict[str, Any]]
) -> None:
    slow, directory = Slow(everyone), MemberDirectory.of(everyone, PLAN.networks)
    parsed, expected = parse_policy(json.dumps({"grants": policy})), Slow(everyone).allowed(policy)
    for src, dst, (protocol, port) in product(slow.universe, slow.universe, FLOWS):
        flow = Packet(src, dst, protocol, port)
        assert allows(parsed, directory, flow) is (flow in expected), flow
        assert decide(parsed, directory, flow).allowed is (flow in expected), flow


@settings(max_examples=60, deadline=None)
@given(members, policies, grants)
def test_another_grant_takes_no_access_away(
    everyone: list[Member], policy: list[dict[str, Any]], another: dict[str, Any]
) -> None:
    slow, directory = Slow(everyone), MemberDirectory.of(everyone, PLAN.networks)
    before, after = (parse_policy(json.dumps({"grants": each})) for each in (policy, [*policy, another]))
    for src, dst, (protocol, port) in product(slow.universe, slow.universe, FLOWS[::3]):
        flow = Packet(src, dst, protocol, port)
        assert allows(after, directory, flow) or not allows(before, directory, flow)


@settings(max_examples=150, deadline=None)
@given(members, policies, policies)
def test_the_pairs_are_those_of_the_slow_evaluator(
    everyone: list[Member], first: list[dict[str, Any]], second: list[dict[str, Any]]
) -> None:
    directory, slow = MemberDirectory.of(everyone, PLAN.networks), Slow(everyone)
    before, after = (parse_policy(json.dumps({"grants": each})) for each in (first, second))
    rights = [reached(slow, policy) for policy in (first, second)]
    listed = [(src.token, dst.token) for src, dst, _ in pairs(before, directory)]
    assert set(listed) == {pair for pair, _, _ in rights[0]}
    assert len(listed) == len(set(listed))
    changes = compare(before, after, directory)
    for blocks, expected in (
        (changes.gained, rights[1] - rights[0]),
        (changes.lost, rights[0] - rights[1]),
    ):
        found = [((src.token, dst.token), ports) for block in blocks for src, dst, ports in block]
        assert len(found) == count(blocks) == len({pair for pair, _ in found})
        shown = {(pair, *flow) for pair, ports in found for flow in FLOWS if ports.contains(*flow)}
        assert shown == expected


def reached(slow: Slow, policy: list[dict[str, Any]]) -> set[tuple[tuple[int, int], Protocol | None, int]]:
    """Return the pairs of members by their tokens, with protocol and port."""
    found = set()
    for each in slow.allowed(policy):
        src, dst = slow.tunnel.get(each.src), slow.tunnel.get(each.dst)
        if src is not None and dst is not None and src != dst:
            found.add(((src.token, dst.token), each.protocol, each.port))
    return found


@settings(max_examples=150, deadline=None)
@given(members, policies, policies)
def test_the_networks_are_those_of_the_slow_evaluator(
    everyone: list[Member], first: list[dict[str, Any]], second: list[dict[str, Any]]
) -> None:
    directory = MemberDirectory.of(everyone, PLAN.networks)
    before, after = (parse_policy(json.dumps({"grants": each})) for each in (first, second))
    rights = [networks_reached(everyone, policy) for policy in (first, second)]
    changes = compare_networks(before, after, directory)
    for blocks, expected in (
        (changes.gained, rights[1] - rights[0]),
        (changes.lost, rights[0] - rights[1]),
    ):
        found = [
            (member.token, INTERNET.get(str(address), str(address)), *flow)
            for block in blocks
            for member in block.members
            for address in map(ipaddress.ip_address, OUTSIDE)
            for flow in FLOWS
            if shows(block, address) and block.ports.contains(*flow)
        ]
        assert set(found) == expected


def shows(block: NetworkBlock, address: IPAddress) -> bool:
    """Return whether a block has an address among its destinations."""
    networks = [ipaddress.ip_network(each) for each in block.destinations if "/" in each]
    assert list(ipaddress.collapse_addresses(x for x in networks if x.version == 4)) == [
        x for x in networks if x.version == 4
    ]
    public = "autogroup:internet" in block.destinations and str(address) in INTERNET
    return public or any(address in network for network in networks)


def networks_reached(
    everyone: list[Member], policy: list[dict[str, Any]]
) -> set[tuple[int, str, Protocol | None, int]]:
    """Return the tokens with the addresses behind others, and with the internet."""
    found = set()
    for own in everyone:
        defaults = {route for route in own.routes if not route.prefixlen}
        others = [
            replace(each, routes=tuple(x for x in each.routes if x not in own.routes or x in defaults))
            for each in everyone
            if each is not own
        ]
        slow = Slow([replace(own, routes=()), *others])
        found |= {
            (own.token, INTERNET.get(str(each.dst), str(each.dst)), each.protocol, each.port)
            for each in slow.allowed(policy)
            if each.src in own.addresses
            and each.dst not in slow.tunnel
            and each.src.version == each.dst.version
        }
    return found


named = st.sampled_from(
    [*(f"tag:{tag}" for tag in TAGS), *(f"node:{node}" for node in NODES), f"owner:{BOB}"]
)
aims = st.lists(
    st.tuples(named, st.sampled_from(["tcp:22", "tcp:81", "udp:53", "icmp:*", "tcp:*", "udp:*"])), max_size=2
)


@settings(max_examples=300, deadline=None)
@given(members, policies, named, aims, aims)
def test_the_failing_tests_are_those_of_the_slow_evaluator(
    everyone: list[Member],
    policy: list[dict[str, Any]],
    src: str,
    accept: list[tuple[str, str]],
    deny: list[tuple[str, str]],
) -> None:
    slow, directory = Slow(everyone), MemberDirectory.of(everyone, PLAN.networks)
    allowed = reached(slow, policy)

    def passes(dst: str, ports: str, *, wanted: bool) -> bool:
        sources, destinations = (
            {slow.tunnel[address].token for address in slow.selected(text) if address in slow.tunnel}
            for text in (src, dst)
        )
        pairs_of = [(a, b) for a, b in product(sources, destinations) if a != b]
        flows = [flow for flow in FLOWS if slow.is_in(ports, *flow)]
        right = all(((pair, *flow) in allowed) is wanted for pair in pairs_of for flow in flows)
        return bool(sources and destinations) and right

    test = {
        "src": src,
        "accept": [f"{dst}:{ports}" for dst, ports in accept],
        "deny": [f"{dst}:{ports}" for dst, ports in deny],
    }
    expected = all(passes(*aim, wanted=True) for aim in accept) and all(
        passes(*aim, wanted=False) for aim in deny
    )
    tests = [test] if accept or deny else []
    found = list(failures(parse_policy(json.dumps({"grants": policy, "tests": tests})), directory))
    assert (found == []) is expected

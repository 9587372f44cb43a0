"""The networks to which the policies let a node send, compared with the decisions about packets."""

import ipaddress
import json

from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.core.policy.compiler import CompiledPolicy, PolicyInForce, Subject
from dstack_vpn.core.policy.directory import Member, MemberDirectory
from dstack_vpn.core.policy.document import PolicyDocument, parse_policy
from dstack_vpn.core.policy.evaluation import Packet, allows
from dstack_vpn.core.policy.selectors import Protocol

OWNER = "0x" + "a" * 40
TAGS = ("web", "db")
SOURCES = ["*", "tag:web", "tag:db", "node:n1", "node:n2", f"owner:{OWNER}", "owner:0x" + "b" * 40]
TARGETS = [*SOURCES, "10.9.0.0/16", "10.9.0.6/32", "10.9.1.0/24", "autogroup:internet", "autogroup:self"]
ROUTES = ["10.9.0.0/24", "10.9.0.4/30", "10.8.0.0/29", "2001:db8::/125"]
grants = st.fixed_dictionaries(
    {
        "src": st.lists(st.sampled_from(SOURCES), min_size=1, max_size=2, unique=True),
        "dst": st.lists(st.sampled_from(TARGETS), min_size=1, max_size=2, unique=True),
        "ip": st.just(["icmp:*"]),
    }
)
policies = st.lists(grants, max_size=3).map(lambda found: parse_policy(json.dumps({"grants": found})))


@given(policies, st.integers(0, 3), st.sampled_from(ROUTES))
def test_a_network_is_reached_if_a_packet_to_it_is_allowed(
    policy: PolicyDocument, tags: int, route: str
) -> None:
    network = ipaddress.ip_network(route)
    held = frozenset(name for bit, name in enumerate(TAGS) if tags >> bit & 1)
    own_addresses = frozenset(map(ipaddress.ip_address, ("10.77.0.1", "fd77::1")))
    directory = MemberDirectory.of(
        [
            Member(1, "n1", OWNER, held, own_addresses),
            Member(2, "gw", "0x" + "c" * 40, frozenset(), frozenset(), (network,)),
        ],
        [ipaddress.ip_network("10.77.0.0/16"), ipaddress.ip_network("fd77::/48")],
    )
    src = next(address for address in own_addresses if address.version == network.version)
    expected = any(allows(policy, directory, Packet(src, dst, Protocol.ICMP)) for dst in network)
    own = Subject("n1", OWNER, tags)
    assert CompiledPolicy([PolicyInForce("p", policy)], TAGS, own).reaches((route,)) == expected


@given(policies, st.integers(0, 3))
def test_the_internet_is_reached_if_a_packet_to_it_is_allowed(policy: PolicyDocument, tags: int) -> None:
    held = frozenset(name for bit, name in enumerate(TAGS) if tags >> bit & 1)
    src, dst = ipaddress.ip_address("10.77.0.1"), ipaddress.ip_address("1.1.1.1")
    directory = MemberDirectory.of(
        [
            Member(1, "n1", OWNER, held, frozenset({src})),
            Member(2, "gw", "0x" + "c" * 40, frozenset(), frozenset(), (ipaddress.ip_network("0.0.0.0/0"),)),
        ],
        [ipaddress.ip_network("10.77.0.0/16")],
    )
    expected = allows(policy, directory, Packet(src, dst, Protocol.ICMP))
    compiled = CompiledPolicy([PolicyInForce("p", policy)], TAGS, Subject("n1", OWNER, tags))
    assert compiled.reaches(("0.0.0.0/0",)) == expected


def test_every_policy_must_permit_the_same_packets_to_a_network() -> None:
    def reaches(own: Subject | None, *policies: str) -> bool:
        grants = [[{"src": ["*"], "dst": ["*"], "ip": [ip]}] if ip else [] for ip in policies]
        found = [PolicyInForce("p", parse_policy(json.dumps({"grants": each}))) for each in grants]
        return CompiledPolicy(found, TAGS, own).reaches(("10.9.0.0/24",))

    own = Subject("n1", OWNER, 0)
    assert reaches(own, "*")
    assert not reaches(None, "*"), "this node is not a member"
    assert not reaches(own), "no policy is confirmed yet"
    assert not reaches(own, "*", "")
    assert reaches(own, "tcp:1-9", "tcp:9")
    assert not reaches(own, "tcp:1-9", "udp:1-9"), "no packet is in both"

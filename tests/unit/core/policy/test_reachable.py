"""The networks to which the policies let a node send, compared with the decisions about packets."""

import ipaddress
import json

from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.core.policy.compiler import PolicyInForce, Subject
from dstack_vpn.core.policy.directory import Member, MemberDirectory
from dstack_vpn.core.policy.document import PolicyDocument, parse_policy
from dstack_vpn.core.policy.evaluation import Packet, allows
from dstack_vpn.core.policy.reachable import may_send
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
    assert may_send([PolicyInForce("p", policy)], TAGS, own, route) == expected


def test_without_a_policy_every_network_is_reached_and_under_none_no_network() -> None:
    own = Subject("n1", OWNER, 0)
    assert may_send(None, TAGS, own, "10.9.0.0/24")
    everything = parse_policy('{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}')
    nothing = parse_policy('{"grants": []}')
    assert may_send([PolicyInForce("a", everything)], TAGS, own, "10.9.0.0/24")
    assert not may_send([PolicyInForce("a", everything)], TAGS, None, "10.9.0.0/24")
    both = [PolicyInForce("a", everything), PolicyInForce("b", nothing)]
    assert not may_send(both, TAGS, own, "10.9.0.0/24")

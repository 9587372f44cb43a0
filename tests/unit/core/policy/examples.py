"""A network and a policy for the tests."""

import ipaddress

from dstack_vpn.core.access.addressing import AddressPlan
from dstack_vpn.core.paths.destination import IPNetwork
from dstack_vpn.core.policy.directory import Member, MemberDirectory

ALICE, BOB = "0x" + "a" * 40, "0x" + "b" * 40
PLAN = AddressPlan(ipaddress.IPv4Network("10.77.0.0/16"), ipaddress.IPv6Network("fd00:77::/48"))
POLICY = """{
  // comments and trailing commas are allowed
  "grants": [
    {"src": ["tag:web"], "dst": ["tag:db"], "ip": ["tcp:5432"]},
    {"src": ["node:laptop"], "dst": ["*"], "ip": ["*"]},  /* an
      administrator */
    {"src": ["tag:ops"], "dst": ["192.168.7.0/24", "autogroup:internet"], "ip": ["tcp:20-22", "icmp:*"]},
    {"src": ["*"], "dst": ["autogroup:self"], "ip": ["udp:*"]},
  ],
  "tests": [
    {"src": "node:web-1", "accept": ["node:db:tcp:5432"], "deny": ["node:db:tcp:22", "tag:ops:icmp:*"]},
  ],
}
"""


def networks(*texts: str) -> tuple[IPNetwork, ...]:
    return tuple(map(ipaddress.ip_network, texts))


def member(token: int, node_id: str, owner: str = ALICE, *tags: str, routes: tuple[str, ...] = ()) -> Member:
    addresses = [PLAN.ipv4_of(token), PLAN.ipv6_of(token)]
    found = frozenset(address for address in addresses if address is not None)
    return Member(token, node_id, owner, frozenset(tags), found, networks(*routes))


MEMBERS = (
    member(1, "web-1", ALICE, "web"),
    member(2, "db", BOB, "db"),
    member(3, "laptop", BOB),
    member(4, "admin", ALICE, "ops"),
    member(5, "office", BOB, "gateway", routes=("192.168.7.0/24", "0.0.0.0/0")),
)
DIRECTORY = MemberDirectory.of(MEMBERS, PLAN.networks)

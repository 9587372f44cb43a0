"""Tailscale's documented examples of grants, where the subset covers them, and what it leaves out.

Sources: "Grants syntax", "Grants explained" and "ACL policy examples" in Tailscale's documentation.
Users are owners here, and devices are nodes. The scenarios are Tailscale's; the texts are ours.
"""

import json
from typing import Any

import pytest
from tests.unit.core.policy.examples import ALICE, BOB, PLAN, member

from dstack_vpn.core.policy.directory import Member, MemberDirectory
from dstack_vpn.core.policy.document import parse_policy
from dstack_vpn.core.policy.evaluation import Packet, allows
from dstack_vpn.core.policy.hujson import TextError
from dstack_vpn.core.policy.selectors import Ports

MEMBERS = {
    each.node_id: each
    for each in (
        member(1, "laptop", ALICE),
        member(2, "phone", ALICE),
        member(3, "desk", BOB),
        member(4, "db", BOB, "db"),
        member(5, "web", BOB, "web", "prod"),
        member(6, "ci", BOB, "ci"),
    )
}
DIRECTORY = MemberDirectory.of(MEMBERS.values(), PLAN.networks)


def may(grants: list[dict[str, Any]], source: str, destination: str, ports: str) -> bool:
    policy = parse_policy(json.dumps({"grants": grants}))
    src, dst = MEMBERS[source], MEMBERS[destination]
    found = Ports.parse(ports)
    packet = Packet(address(src), address(dst), found.protocol, 0 if ports == "icmp:*" else found.first)
    return allows(policy, DIRECTORY, packet)


def address(found: Member) -> Any:
    return min(found.addresses, key=lambda each: each.version)


ALLOW_ALL = [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]
OWN_DEVICES = [{"src": ["*"], "dst": ["autogroup:self"], "ip": ["*"]}]
ENGINEERS = [
    {"src": [f"owner:{ALICE}"], "dst": ["tag:db"], "ip": ["tcp:5432"]},
    {"src": ["*"], "dst": ["tag:db"], "ip": ["icmp:*"]},
]
UNION = [{"src": ["tag:ci", f"owner:{ALICE}"], "dst": ["tag:web", "tag:db"], "ip": ["tcp:80-443", "udp:53"]}]
PURPOSE = [{"src": ["tag:web"], "dst": ["tag:db"], "ip": ["tcp:3306", "tcp:5432"]}]


@pytest.mark.parametrize(
    ("grants", "source", "destination", "ports", "allowed"),
    [
        # the default policy, and an empty one: access must be granted
        (ALLOW_ALL, "laptop", "db", "tcp:22", True),
        (ALLOW_ALL, "ci", "laptop", "icmp:*", True),
        ([], "laptop", "phone", "tcp:22", False),
        # users can access their own devices
        (OWN_DEVICES, "laptop", "phone", "tcp:22", True),
        (OWN_DEVICES, "laptop", "desk", "tcp:22", False),
        # grants add up: none of them narrows another one
        (ENGINEERS, "laptop", "db", "tcp:5432", True),
        (ENGINEERS, "laptop", "db", "icmp:*", True),
        (ENGINEERS, "ci", "db", "tcp:5432", False),
        (ENGINEERS, "ci", "db", "icmp:*", True),
        ([*ENGINEERS, *ALLOW_ALL], "ci", "db", "tcp:5432", True),
        # several selectors in a list are a union, for each combination
        (UNION, "ci", "web", "tcp:80", True),
        (UNION, "phone", "db", "tcp:443", True),
        (UNION, "phone", "db", "udp:53", True),
        (UNION, "phone", "db", "tcp:444", False),
        (UNION, "desk", "web", "tcp:80", False),
        # servers by purpose: a grant has one direction
        (PURPOSE, "web", "db", "tcp:3306", True),
        (PURPOSE, "db", "web", "tcp:3306", False),
        (PURPOSE, "web", "db", "udp:3306", False),
        # a node with several tags has the grants of each
        ([{"src": ["tag:prod"], "dst": ["tag:ci"], "ip": ["tcp:443"]}], "web", "ci", "tcp:443", True),
    ],
)
def test_documented_grants(
    grants: list[dict[str, Any]], source: str, destination: str, ports: str, *, allowed: bool
) -> None:
    assert may(grants, source, destination, ports) is allowed


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        ({"acls": []}, "the key 'acls' is unknown"),
        ({"groups": {"group:eng": []}, "grants": []}, "the key 'groups' is unknown"),
        ({"grants": [ALLOW_ALL[0] | {"app": {}}]}, "the key 'app' is unknown"),
        ({"grants": [ALLOW_ALL[0] | {"via": ["tag:exit"]}]}, "the key 'via' is unknown"),
        ({"grants": [ALLOW_ALL[0] | {"srcPosture": []}]}, "the key 'srcPosture' is unknown"),
        ({"grants": [ALLOW_ALL[0] | {"src": ["group:eng"]}]}, r"expected \*, tag:NAME"),
        ({"grants": [ALLOW_ALL[0] | {"src": ["alice@example.com"]}]}, r"expected \*, tag:NAME"),
        ({"grants": [ALLOW_ALL[0] | {"dst": ["autogroup:member"]}]}, r"expected \*, tag:NAME"),
        ({"grants": [ALLOW_ALL[0] | {"ip": ["443"]}]}, "or tcp: or udp: with"),
        ({"grants": [ALLOW_ALL[0] | {"ip": ["sctp:443"]}]}, "or tcp: or udp: with"),
    ],
)
def test_what_the_subset_leaves_out_is_refused_and_not_ignored(policy: Any, problem: str) -> None:
    with pytest.raises(TextError, match=problem):
        parse_policy(json.dumps(policy))

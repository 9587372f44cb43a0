"""Decisions, their reasons, and the tests of policies."""

import ipaddress
import json
import time
from typing import Any

import pytest
from tests.unit.core.policy.examples import DIRECTORY, MEMBERS, POLICY, member

from dstack_vpn.core.policy.directory import MemberDirectory
from dstack_vpn.core.policy.document import parse_policy
from dstack_vpn.core.policy.evaluation import NO_SOURCE, Packet, allows, decide, failures, unmatched
from dstack_vpn.core.policy.selectors import Protocol

ADDRESSES = {str(each): min(a for a in each.addresses if a.version == 4) for each in MEMBERS}
FOUND = parse_policy(POLICY)


def flow(src: str, dst: str, ports: str) -> Packet:
    protocol, _, port = ports.partition(":")
    near, far = (ADDRESSES.get(text) or ipaddress.ip_address(text) for text in (src, dst))
    return Packet(near, far, Protocol(protocol) if protocol != "gre" else None, int(port or 0))


@pytest.mark.parametrize(
    ("src", "dst", "ports", "allowed", "reason"),
    [
        ("web-1", "db", "tcp:5432", True, "grant 1 allows it"),
        ("web-1", "db", "tcp:22", False, "grant 1 allows other ports, but not tcp:22"),
        ("web-1", "db", "udp:5432", False, "grant 1 allows other ports, but not udp:5432"),
        ("db", "web-1", "tcp:5432", False, "no grant for db has web-1 as a destination"),
        ("laptop", "db", "gre", True, "grant 2 allows it"),
        ("laptop", "db", "udp:1", True, "grants 2, 4 allow it"),
        ("laptop", "1.1.1.1", "tcp:443", False, "no grant for laptop has 1.1.1.1 as a destination"),
        ("admin", "192.168.7.9", "tcp:22", True, "grant 3 allows it"),
        ("admin", "192.168.7.9", "tcp:23", False, "grant 3 allows other ports, but not tcp:23"),
        ("admin", "1.1.1.1", "icmp", True, "grant 3 allows it"),
        ("admin", "192.168.8.9", "icmp", False, "192.168.8.9 is not a member's and in no member's network"),
        ("web-1", "admin", "udp:53", True, "grant 4 allows it"),
        ("192.168.7.9", "db", "udp:53", False, "the source 192.168.7.9 is not a member's: a gateway lets no"),
        ("1.1.1.1", "db", "udp:53", False, "the source 1.1.1.1 is not a member's: a gateway lets no"),
        ("10.77.9.9", "db", "udp:53", False, "the source 10.77.9.9 is not a member's"),
    ],
)
def test_a_decision_has_a_reason(src: str, dst: str, ports: str, *, allowed: bool, reason: str) -> None:
    found = decide(FOUND, DIRECTORY, flow(src, dst, ports))
    assert (found.allowed, reason in found.reason) == (allowed, True), found
    assert allows(FOUND, DIRECTORY, flow(src, dst, ports)) is allowed


@pytest.mark.parametrize("source", ["*", "192.168.7.0/24", "0.0.0.0/0"])
def test_a_network_is_no_source(source: str) -> None:
    policy = parse_policy(json.dumps({"grants": [{"src": [source], "dst": ["*"], "ip": ["*"]}]}))
    packet = flow("192.168.7.9", "db", "tcp:22")
    found = decide(policy, DIRECTORY, packet)
    assert not found.allowed and not allows(policy, DIRECTORY, packet)
    assert (found.grants, found.reason.endswith(NO_SOURCE)) == ((), True)


def test_a_source_without_any_grant_is_named() -> None:
    found = decide(parse_policy('{"grants": []}'), DIRECTORY, flow("web-1", "db", "tcp:1"))
    assert found.reason == "no grant has web-1 as a source"


def with_test(**test: Any) -> list[str]:
    document = {"grants": [{"src": ["tag:web"], "dst": ["tag:db"], "ip": ["tcp:5432"]}], "tests": [test]}
    policy = parse_policy(json.dumps(document))
    return [failure.problem for failure in failures(policy, DIRECTORY)]


def test_the_tests_of_a_policy_are_run() -> None:
    assert list(failures(FOUND, DIRECTORY)) == []
    assert with_test(src="tag:web", accept=["tag:db:tcp:5432"], deny=["tag:db:tcp:22"]) == []
    assert with_test(src="tag:web", deny=["node:db:tcp:5432"]) == [
        "web-1 to node:db:tcp:5432 must be denied, but grant 1 allows it"
    ]
    assert with_test(src="node:db", accept=["node:web-1:udp:1"]) == [
        "db to node:web-1:udp:1 must be allowed, but no grant has db as a source"
    ]


def test_a_star_stands_for_all_ports() -> None:
    assert with_test(src="tag:web", accept=["tag:db:tcp:*"]) == [
        "web-1 to tag:db:tcp:* must be allowed, but grant 1 allows other ports, but not tcp:*"
    ]
    assert with_test(src="tag:web", deny=["tag:db:tcp:*"]) == [
        "web-1 to tag:db:tcp:5432 must be denied, but grant 1 allows it"
    ]
    assert with_test(src="tag:web", deny=["tag:db:udp:*", "tag:db:icmp:*"]) == []


def test_a_test_that_would_check_nothing_fails() -> None:
    assert with_test(src="tag:none", deny=["node:db:tcp:1"]) == ["tag:none names no member"]
    assert with_test(src="tag:web", deny=["node:none:tcp:1"]) == ["node:none names no member"]


def test_a_test_needs_every_pair_and_every_address() -> None:
    two = MemberDirectory.of([*MEMBERS, member(9, "web-2", "0x" + "c" * 40)], DIRECTORY.prefixes)
    document = {
        "grants": [{"src": ["node:web-1"], "dst": ["node:db"], "ip": ["*"]}],
        "tests": [{"src": "node:web-2", "accept": ["node:db:tcp:1"]}],
    }
    (failure,) = failures(parse_policy(json.dumps(document)), two)
    assert failure.number == 1
    assert failure.problem.startswith("web-2 to node:db:tcp:1 must be allowed")


def test_selectors_that_name_no_member() -> None:
    document = {"grants": [{"src": ["tag:web", "tag:x"], "dst": ["node:y", "*", "10.0.0.0/8"], "ip": ["*"]}]}
    found = unmatched(parse_policy(json.dumps(document)), DIRECTORY)
    assert list(map(str, found)) == ["tag:x", "node:y"]


def test_a_test_about_a_thousand_members_takes_milliseconds() -> None:
    """The limit has room for a slow machine."""
    everyone = [member(n, f"n{n}", f"0x{n % 50:040x}", "web") for n in range(1000)]
    directory = MemberDirectory.of(everyone, DIRECTORY.prefixes)
    grants = [{"src": ["tag:web"], "dst": ["tag:web"], "ip": [f"tcp:{n}"]} for n in range(1, 101)]
    grants.append({"src": ["*"], "dst": ["autogroup:self"], "ip": ["udp:53"]})
    test = {"src": "tag:web", "accept": ["tag:web:tcp:100"], "deny": ["tag:web:tcp:101"]}
    passing = parse_policy(json.dumps({"grants": grants, "tests": [test] * 20}))
    failing = parse_policy(json.dumps({"grants": grants, "tests": [{**test, "accept": ["tag:web:udp:53"]}]}))
    began = time.process_time()
    assert list(failures(passing, directory)) == []
    (failure,) = failures(failing, directory)
    assert time.process_time() - began < 3
    assert failure.problem == (
        "n0 to tag:web:udp:53 must be allowed, but "
        f"grants {', '.join(map(str, range(1, 101)))} allow other ports, but not udp:53"
    )

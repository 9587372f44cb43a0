"""Pairs of members, and the pairs that a change of the policy concerns."""

import json
import time
from typing import Any

from tests.unit.core.policy.examples import ALICE, BOB, DIRECTORY, PLAN, POLICY, member

from dstack_vpn.core.policy.directory import MemberDirectory
from dstack_vpn.core.policy.document import CLOSED_POLICY, NO_POLICY, PolicyDocument, parse_policy
from dstack_vpn.core.policy.reach import PairBlock, compare, count, pairs


def policy(*grants: tuple[str, str, str]) -> PolicyDocument:
    listed: list[Any] = [{"src": [src], "dst": [dst], "ip": [ip]} for src, dst, ip in grants]
    return parse_policy(json.dumps({"grants": listed}))


def shown(blocks: tuple[PairBlock, ...]) -> set[tuple[str, str, str]]:
    found = [(str(s), str(d), " ".join(ports.texts())) for block in blocks for s, d, ports in block]
    assert len(found) == count(blocks) == len(set(found))
    return set(found)


def test_the_pairs_with_their_ports() -> None:
    listed = pairs(parse_policy(POLICY), DIRECTORY)
    found = {(str(src), str(dst)): " ".join(map(str, ports)) for src, dst, ports in listed}
    assert found == {
        ("web-1", "db"): "tcp:5432",
        ("web-1", "admin"): "udp:*",
        ("admin", "web-1"): "udp:*",
        ("laptop", "web-1"): "*",
        ("laptop", "db"): "* udp:*",
        ("laptop", "admin"): "*",
        ("laptop", "office"): "* udp:*",
        ("db", "laptop"): "udp:*",
        ("db", "office"): "udp:*",
        ("office", "db"): "udp:*",
        ("office", "laptop"): "udp:*",
    }


def test_a_change_of_one_port() -> None:
    before = policy(("tag:web", "tag:db", "tcp:20-22"), ("*", "node:office", "icmp:*"))
    after = policy(("tag:web", "node:db", "tcp:22-23"), ("*", "node:office", "icmp:*"))
    changes = compare(before, after, DIRECTORY)
    assert shown(changes.gained) == {("web-1", "db", "tcp:23")}
    assert shown(changes.lost) == {("web-1", "db", "tcp:20-21")}


def test_without_a_policy_everyone_reaches_everyone() -> None:
    changes = compare(NO_POLICY, policy(("tag:web", "tag:db", "*")), DIRECTORY)
    assert changes.gained == ()
    assert count(changes.lost) == 5 * 4 - 1
    assert ("web-1", "db", "*") not in shown(changes.lost)
    assert count(compare(CLOSED_POLICY, NO_POLICY, DIRECTORY).gained) == 5 * 4


def test_equal_rights_in_other_words_are_no_change() -> None:
    before = policy(("*", "*", "tcp:1-10"), ("tag:web", "tag:db", "tcp:3"))
    after = policy(("*", "*", "tcp:6-10"), ("*", "*", "tcp:1-5"))
    changes = compare(before, after, DIRECTORY)
    assert changes.gained == changes.lost == ()


def test_nodes_of_one_owner() -> None:
    changes = compare(CLOSED_POLICY, policy(("*", "autogroup:self", "*")), DIRECTORY)
    assert {pair[:2] for pair in shown(changes.gained)} == {
        *(("web-1", "admin"), ("admin", "web-1")),
        *((a, b) for a in ("db", "laptop", "office") for b in ("db", "laptop", "office") if a != b),
    }


def test_a_pair_needs_a_common_version_of_ip() -> None:
    beyond = [member(1, "near", ALICE), member(70_000, "far", BOB), member(70_001, "further", BOB)]
    directory = MemberDirectory.of(beyond, PLAN.networks)
    assert [len(each.addresses) for each in beyond] == [2, 1, 1]
    assert count(compare(CLOSED_POLICY, NO_POLICY, directory).gained) == 6
    assert len(list(pairs(NO_POLICY, directory))) == 6


def test_a_thousand_members_are_compared_in_seconds() -> None:
    """Three policies take 4 s. A slow machine has 15 s."""
    everyone = [
        member(token, f"n{token}", f"0x{token % 50:040x}", f"t{token % 20}", f"t{token % 7}")
        for token in range(1000)
    ]
    directory = MemberDirectory.of(everyone, PLAN.networks)
    by_tag = policy(*((f"tag:t{n % 20}", f"tag:t{n * 7 % 20}", f"tcp:{n + 1}") for n in range(100)))
    by_node = policy(*((f"node:n{n}", f"node:n{999 - n}", f"tcp:{n + 1}") for n in range(100)))
    own = policy(*((f"tag:t{n % 20}", "autogroup:self", f"tcp:{n + 1}") for n in range(100)))
    began = time.process_time()
    for after in (by_tag, by_node, own):
        changes = compare(NO_POLICY, after, directory)
        assert count(changes.lost) == 999 * 1000
        assert len(list(pairs(after, directory))) == count(compare(CLOSED_POLICY, after, directory).gained)
    assert time.process_time() - began < 15

"""The access to networks that a change of the policy gives or takes."""

import json
import time
from typing import Any

from tests.unit.core.policy.examples import ALICE, BOB, DIRECTORY, MEMBERS, PLAN, member

from dstack_vpn.core.policy.directory import MemberDirectory
from dstack_vpn.core.policy.document import CLOSED_POLICY, NO_POLICY, PolicyDocument, parse_policy
from dstack_vpn.core.policy.network_reach import NetworkBlock, compare_networks


def policy(*grants: tuple[str, str, str]) -> PolicyDocument:
    listed: list[Any] = [{"src": [src], "dst": [dst], "ip": [ip]} for src, dst, ip in grants]
    return parse_policy(json.dumps({"grants": listed}))


def shown(blocks: tuple[NetworkBlock, ...]) -> set[tuple[str, str, str]]:
    return {
        (str(member), " ".join(block.destinations), " ".join(block.ports.texts()))
        for block in blocks
        for member in block.members
    }


def test_members_lose_networks_and_the_internet() -> None:
    changes = compare_networks(NO_POLICY, policy(("tag:web", "192.168.7.0/24", "tcp:22")), DIRECTORY)
    assert changes.gained == ()
    assert shown(changes.lost) == {
        ("web-1", "192.168.7.0/24", "tcp:0-21 tcp:23-65535 udp:* icmp:* other protocols"),
        ("web-1", "autogroup:internet", "*"),
        *((name, "192.168.7.0/24 autogroup:internet", "*") for name in ("db", "laptop", "admin")),
    }, "and not office, which leads there itself"


def test_a_part_of_a_network_is_gained() -> None:
    changes = compare_networks(
        policy(("tag:web", "192.168.7.0/25", "*")), policy(("tag:web", "192.168.0.0/16", "*")), DIRECTORY
    )
    assert shown(changes.gained) == {("web-1", "192.168.7.128/25", "*")}
    assert changes.lost == ()


def test_an_exit_may_use_another_exit_but_not_another_gateway_of_its_network() -> None:
    second = member(6, "office-2", ALICE, routes=("192.168.7.0/24", "0.0.0.0/0"))
    directory = MemberDirectory.of([*MEMBERS, second], PLAN.networks)
    changes = compare_networks(CLOSED_POLICY, NO_POLICY, directory)
    assert {each for each in shown(changes.gained) if each[0].startswith("office")} == {
        ("office", "autogroup:internet", "*"),
        ("office-2", "autogroup:internet", "*"),
    }


def test_a_member_needs_an_address_of_the_networks_ip_version() -> None:
    members = [member(70_000, "far", BOB), member(2, "office", routes=("192.168.7.0/24", "fd00:7::/64"))]
    changes = compare_networks(CLOSED_POLICY, NO_POLICY, MemberDirectory.of(members, PLAN.networks))
    assert shown(changes.gained) == {("far", "fd00:7::/64", "*")}


def test_a_network_as_a_source_and_a_route_that_cannot_be_used_open_nothing() -> None:
    members = [member(1, "near"), member(2, "office", routes=("127.0.0.0/8", "192.168.7.0/24"))]
    directory = MemberDirectory.of(members, PLAN.networks)
    changes = compare_networks(CLOSED_POLICY, policy(("192.168.7.0/24", "*", "*")), directory)
    assert changes.gained == changes.lost == ()
    changes = compare_networks(CLOSED_POLICY, policy(("*", "127.0.0.0/8", "*")), directory)
    assert changes.gained == changes.lost == ()


def test_a_thousand_members_are_compared_in_seconds() -> None:
    """The limit has room for a slow machine."""
    everyone = [
        member(n, f"n{n}", f"0x{n % 50:040x}", f"t{n % 20}", routes=(f"10.{n}.0.0/16",) if n < 70 else ())
        for n in range(1, 1001)
    ]
    directory = MemberDirectory.of(everyone, PLAN.networks)
    grants = [(f"tag:t{n % 20}", f"10.{n % 70}.{n}.0/24", f"tcp:{n + 1}") for n in range(100)]
    began = time.process_time()
    changes = compare_networks(NO_POLICY, policy(*grants), directory)
    assert sum(len(block.members) for block in changes.lost) >= 1000
    assert time.process_time() - began < 10

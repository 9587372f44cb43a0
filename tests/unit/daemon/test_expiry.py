"""Expired access stays expired if the wall clock is set back; an endpoint cannot end all access."""

import ipaddress
from dataclasses import dataclass

import pytest
from tests.scripted import key, members_of

from dstack_vpn.core.access.addressing import AddressPlan, unique_local_prefix
from dstack_vpn.core.access.control import Reason
from dstack_vpn.core.access.membership import PeerPolicy
from dstack_vpn.core.chain.commands import Advanced
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.chain.registry import Registry
from dstack_vpn.core.model import BlockRef, ChainIdentity
from dstack_vpn.daemon.peers.members import Members
from dstack_vpn.ports import Checkpoint

NOW = 1_800_000_000
HOUR, DAY, YEAR = 3600, 86_400, 31_536_000
PLAN = AddressPlan(ipaddress.IPv4Network("10.77.0.0/24"), unique_local_prefix(1, "0x" + "0" * 40))
NODES = [
    Node(1, "0xa", "for-good", key(1)),
    Node(2, "0xb", "a-minute", key(2), expires_at=NOW + 60),
    Node(3, "0xc", "two-days", key(3), expires_at=NOW + 2 * DAY),
]


@dataclass
class Clock:
    """A wall clock that can be set, and a monotonic clock that cannot."""

    wall: float = NOW
    elapsed: float = 50.0

    def now(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.elapsed

    def goes_on(self, seconds: float) -> None:
        self.wall += seconds
        self.elapsed += seconds


def members_by(clock: Clock, *, paced: bool = True) -> Members:
    return members_of(PeerPolicy(), PLAN, clock, paced=paced)


def block(number: int, timestamp: float) -> BlockRef:
    return BlockRef(number, f"h{number}", f"h{number - 1}", int(timestamp))


def show(members: Members, number: int, timestamp: float) -> None:
    """Apply the followed endpoint's next block."""
    registry, at = Registry.of(NODES), block(number, timestamp)
    members.follower.bootstrapped(registry, at)
    first = frozenset(node.token_id for node in NODES) if number == 1 else frozenset[int]()
    members.advanced(Advanced(at, registry, first), members.clock.monotonic())


def tokens(members: Members) -> set[int]:
    return set(members.membership.tokens.values())


@pytest.mark.parametrize("back", [HOUR, YEAR])
def test_a_clock_that_is_set_back_brings_no_expired_token_back(back: int) -> None:
    clock = Clock()
    members = members_by(clock)
    show(members, 1, NOW - 2)
    assert tokens(members) == {1, 2, 3}
    clock.goes_on(70)
    members.expire()
    assert tokens(members) == {1, 3}
    clock.wall -= back
    for number in range(2, 5):
        clock.goes_on(2)
        show(members, number, NOW + 70 + 2 * number)
        members.expire()
        members.rebuild(clock.monotonic())
        assert tokens(members) == {1, 3}
    assert members.access.decide(2, members.now()).reason is Reason.EXPIRED


def test_a_clock_that_is_an_hour_slow_from_the_start_ends_access_in_time() -> None:
    clock = Clock(wall=NOW - HOUR)
    members = members_by(clock)
    show(members, 1, NOW + 70)
    assert tokens(members) == {1, 3}


def test_a_restart_with_a_clock_that_was_set_back_and_without_a_chain_brings_no_expired_token_back() -> None:
    clock = Clock(wall=NOW + 100 - YEAR)
    members = members_by(clock)
    identity = ChainIdentity(1, "0x" + "0" * 64, "0x" + "0" * 40)
    at = block(7, NOW + 90)
    members.restore(Checkpoint(identity, at, tuple(NODES), (), at, synced=NOW + 95.0))
    assert 2 not in tokens(members)
    assert members.now() == NOW + 90


def test_an_endpoint_that_forges_block_times_ends_no_access_that_lasts_a_day() -> None:
    clock = Clock()
    members = members_by(clock)
    show(members, 1, NOW - 2)
    clock.goes_on(2)
    show(members, 2, NOW + 10 * YEAR)
    members.expire()
    assert tokens(members) == {1, 3}  # token 2 would end within a day, and is out
    clock.goes_on(2)
    show(members, 3, NOW + 3)  # of an honest endpoint, after the forging one was left
    members.rebuild(clock.monotonic())
    assert tokens(members) == {1, 2, 3}


def test_a_development_chain_says_nothing_about_the_time() -> None:
    clock = Clock()
    members = members_by(clock, paced=False)
    show(members, 1, NOW + 10 * YEAR)
    assert tokens(members) == {1, 2, 3}

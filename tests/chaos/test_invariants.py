"""Each invariant reports a deliberate violation."""

import pytest
from tests.chaos.invariants import PROMPT, Carried, Client, Invariants

OWN, OTHER, STRANGER = "own-key", "other-key", "strange-key"
ADDRESSES = {OWN: "10.77.0.2", OTHER: "10.77.0.3"}
GOOD = {OTHER: frozenset({"10.77.0.3/32", "fd77::3/128"})}
LATE = PROMPT + 0.1


@pytest.fixture
def invariants() -> Invariants:
    made = Invariants({"a": OWN})
    made.contract(ADDRESSES, 0.0)
    made.sample("a", GOOD, 0.1)
    return made


def whats(invariants: Invariants) -> list[str]:
    return [violation.what for violation in invariants.violations]


def test_a_node_that_is_as_the_contract_says_violates_nothing(invariants: Invariants) -> None:
    for at in range(1, 100):
        invariants.sample("a", GOOD, float(at))
    assert invariants.agrees("a")
    assert invariants.violations == []


def test_a_revoked_key_that_stays_a_peer(invariants: Invariants) -> None:
    invariants.contract({OWN: ADDRESSES[OWN]}, 1.0)
    invariants.sample("a", GOOD, 1.0)
    invariants.sample("a", GOOD, 1.0 + PROMPT)
    assert whats(invariants) == []
    invariants.sample("a", GOOD, 1.0 + LATE)
    invariants.sample("a", GOOD, 5.0)
    assert whats(invariants) == ["is a peer, but not a member"]
    assert invariants.violations[0].seconds == 4.0


@pytest.mark.parametrize("device", [{}, None])
def test_a_member_that_is_no_peer(invariants: Invariants, device: dict[str, frozenset[str]] | None) -> None:
    invariants.sample("a", device, 1.0)
    invariants.sample("a", device, 1.0 + LATE)
    assert whats(invariants) == ["is a member, but not a peer"]


def test_a_gap_that_ends_in_time_is_none(invariants: Invariants) -> None:
    for at in (1.0, 10.0, 20.0):
        invariants.sample("a", {}, at)
        invariants.sample("a", GOOD, at + PROMPT)
    assert invariants.violations == []


def test_a_peer_with_somebody_elses_address(invariants: Invariants) -> None:
    wrong = {OTHER: frozenset({"10.77.0.9/32"})}
    invariants.sample("a", wrong, 1.0)
    invariants.sample("a", wrong, 1.0 + LATE)
    assert whats(invariants) == ["has ['10.77.0.9/32'] instead of 10.77.0.3"]


def test_two_peers_with_one_address_at_once(invariants: Invariants) -> None:
    invariants.sample("a", {**GOOD, STRANGER: GOOD[OTHER]}, 1.0)
    assert any(what.startswith("shares 10.77.0.3/32") for what in whats(invariants))


def test_a_fault_excuses_while_it_lasts_and_gives_a_limit_afterwards(invariants: Invariants) -> None:
    invariants.hit("a", 10.0, excused=True)
    invariants.sample("a", {}, 1.0)
    invariants.sample("a", {}, 100.0)
    invariants.freed("a", 100.0)
    invariants.sample("a", {}, 109.9)
    assert invariants.violations == []
    invariants.sample("a", {}, 110.1)
    assert whats(invariants) == ["is a member, but not a peer"]


def test_a_node_that_is_well_again_has_to_be_prompt(invariants: Invariants) -> None:
    invariants.hit("a", 10.0, excused=False)
    invariants.freed("a", 1.0)
    invariants.sample("a", GOOD, 1.5)
    invariants.well("a")
    invariants.sample("a", {}, 2.0)
    invariants.sample("a", {}, 2.0 + LATE)
    assert whats(invariants) == ["is a member, but not a peer"]


def test_removals_are_timed_from_the_block_and_from_the_end_of_the_fault(invariants: Invariants) -> None:
    invariants.hit("a", 10.0, excused=True)
    invariants.contract({OWN: ADDRESSES[OWN]}, 1.0)
    invariants.sample("a", GOOD, 2.0)
    invariants.freed("a", 4.0)
    invariants.sample("a", {}, 4.5)
    assert invariants.carried == [
        Carried("a", gone=False, after_change=0.1, after_fault=0.1, hit=False),
        Carried("a", gone=True, after_change=3.5, after_fault=0.5, hit=True),
    ]


def test_a_node_that_is_quicker_than_the_news_of_the_block_is_timed_too(invariants: Invariants) -> None:
    invariants.sample("a", {}, 1.01)
    invariants.contract({OWN: ADDRESSES[OWN]}, 1.0)
    assert invariants.carried[1].gone
    assert invariants.carried[1].after_change == pytest.approx(0.01)
    assert invariants.carried[1].after_fault == pytest.approx(0.01)


PHONE = "phone-key"
BEHIND = frozenset({"10.77.0.3/32", "10.77.0.9/32", "192.168.7.0/24"})


def with_client(gateway: str) -> Invariants:
    made = Invariants({"a": OWN})
    made.contract(ADDRESSES, 0.0, {PHONE: Client("10.77.0.9", gateway)})
    return made


def test_a_client_is_behind_its_gateways_peer() -> None:
    made = with_client(OTHER)
    made.sample("a", {OTHER: BEHIND}, 0.1)
    assert made.agrees("a")
    made.sample("a", GOOD, 1.0)
    assert not made.agrees("a")
    made.sample("a", {OTHER: BEHIND}, 1.1)
    made.contract(ADDRESSES, 2.0)
    made.sample("a", {OTHER: BEHIND}, 2.1)
    made.sample("a", {OTHER: BEHIND}, 2.1 + LATE)
    assert whats(made) == [f"has {sorted(BEHIND)} instead of 10.77.0.3"]


def test_a_client_is_a_peer_of_its_gateway_alone() -> None:
    made = with_client(OWN)
    made.sample("a", GOOD, 0.1)
    made.sample("a", GOOD, 0.1 + LATE)
    assert whats(made) == ["is a member, but not a peer"]
    made.sample("a", {**GOOD, PHONE: frozenset({"10.77.0.9/32"})}, 3.0)
    assert made.agrees("a")
    other = with_client(OTHER)
    both = {OTHER: BEHIND - {"10.77.0.9/32"}, PHONE: frozenset({"10.77.0.9/32"})}
    other.sample("a", both, 0.1)
    other.sample("a", both, 0.1 + LATE)
    assert "is a peer, but not a member" in whats(other)

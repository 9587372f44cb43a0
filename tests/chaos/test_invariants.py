"""The judge itself: each invariant, violated on purpose, is seen to be."""

import pytest
from tests.chaos.invariants import PROMPT, Carried, Invariants

OWN, OTHER, STRANGER = "own-key", "other-key", "strange-key"
ADDRESSES = {OWN: "10.77.0.2", OTHER: "10.77.0.3"}
GOOD = {OTHER: frozenset({"10.77.0.3/32", "fd77::3/128"})}
LATE = PROMPT + 0.1


@pytest.fixture
def judge() -> Invariants:
    made = Invariants({"a": OWN})
    made.contract(ADDRESSES, 0.0)
    made.sample("a", GOOD, 0.1)
    return made


def whats(judge: Invariants) -> list[str]:
    return [violation.what for violation in judge.violations]


def test_a_node_that_is_as_the_contract_says_violates_nothing(judge: Invariants) -> None:
    for at in range(1, 100):
        judge.sample("a", GOOD, float(at))
    assert judge.agrees("a")
    assert judge.violations == []


def test_a_revoked_key_that_stays_a_peer(judge: Invariants) -> None:
    judge.contract({OWN: ADDRESSES[OWN]}, 1.0)
    judge.sample("a", GOOD, 1.0)
    judge.sample("a", GOOD, 1.0 + PROMPT)
    assert whats(judge) == []
    judge.sample("a", GOOD, 1.0 + LATE)
    judge.sample("a", GOOD, 5.0)
    assert whats(judge) == ["is a peer, and no member"]
    assert judge.violations[0].seconds == 4.0


@pytest.mark.parametrize("device", [{}, None])
def test_a_member_that_is_no_peer(judge: Invariants, device: dict[str, frozenset[str]] | None) -> None:
    judge.sample("a", device, 1.0)
    judge.sample("a", device, 1.0 + LATE)
    assert whats(judge) == ["is a member, and no peer"]


def test_a_gap_that_ends_in_time_is_none(judge: Invariants) -> None:
    for at in (1.0, 10.0, 20.0):
        judge.sample("a", {}, at)
        judge.sample("a", GOOD, at + PROMPT)
    assert judge.violations == []


def test_a_peer_with_somebody_elses_address(judge: Invariants) -> None:
    wrong = {OTHER: frozenset({"10.77.0.9/32"})}
    judge.sample("a", wrong, 1.0)
    judge.sample("a", wrong, 1.0 + LATE)
    assert whats(judge) == ["has ['10.77.0.9/32'] instead of 10.77.0.3"]


def test_two_peers_with_one_address_at_once(judge: Invariants) -> None:
    judge.sample("a", {**GOOD, STRANGER: GOOD[OTHER]}, 1.0)
    assert any(what.startswith("shares 10.77.0.3/32") for what in whats(judge))


def test_a_fault_excuses_while_it_lasts_and_gives_a_limit_afterwards(judge: Invariants) -> None:
    judge.hit("a", 10.0, excused=True)
    judge.sample("a", {}, 1.0)
    judge.sample("a", {}, 100.0)
    judge.freed("a", 100.0)
    judge.sample("a", {}, 109.9)
    assert judge.violations == []
    judge.sample("a", {}, 110.1)
    assert whats(judge) == ["is a member, and no peer"]


def test_a_node_that_is_well_again_has_to_be_prompt(judge: Invariants) -> None:
    judge.hit("a", 10.0, excused=False)
    judge.freed("a", 1.0)
    judge.sample("a", GOOD, 1.5)
    judge.well("a")
    judge.sample("a", {}, 2.0)
    judge.sample("a", {}, 2.0 + LATE)
    assert whats(judge) == ["is a member, and no peer"]


def test_removals_are_timed_from_the_block_and_from_the_end_of_the_fault(judge: Invariants) -> None:
    judge.hit("a", 10.0, excused=True)
    judge.contract({OWN: ADDRESSES[OWN]}, 1.0)
    judge.sample("a", GOOD, 2.0)
    judge.freed("a", 4.0)
    judge.sample("a", {}, 4.5)
    assert judge.carried == [
        Carried("a", gone=False, after_change=0.1, after_fault=0.1, hit=False),
        Carried("a", gone=True, after_change=3.5, after_fault=0.5, hit=True),
    ]


def test_a_node_that_is_quicker_than_the_news_of_the_block_is_timed_too(judge: Invariants) -> None:
    judge.sample("a", {}, 1.01)
    judge.contract({OWN: ADDRESSES[OWN]}, 1.0)
    assert judge.carried[1].gone
    assert judge.carried[1].after_change == pytest.approx(0.01)
    assert judge.carried[1].after_fault == pytest.approx(0.01)

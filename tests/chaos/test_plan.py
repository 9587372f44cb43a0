"""The rounds depend only on the seed, and each kind of fault occurs."""

from itertools import islice

import pytest
from tests.chaos.faults import begins
from tests.chaos.plan import EVERYWHERE, KINDS, SLOTS, rounds


def test_the_same_seed_plays_the_same_rounds() -> None:
    first, second = (list(islice(rounds(7), 200)) for _ in range(2))
    assert first == second
    assert first != list(islice(rounds(8), 200))


@pytest.mark.parametrize("seed", range(5))
def test_every_fault_has_its_turn(seed: int) -> None:
    played = [fault.kind for each in islice(rounds(seed), 2 * len(KINDS)) for fault in each.faults]
    assert set(played) == set(KINDS)


def test_every_fault_can_be_made_to_happen() -> None:
    assert [kind.name for kind in KINDS if not begins(kind)] == []


def test_two_faults_hit_two_nodes_and_leave_the_chain_alone() -> None:
    twos = [each for each in islice(rounds(1), 1000) if len(each.faults) == 2]
    assert len(twos) > 50
    for each in twos:
        assert len({fault.target for fault in each.faults}) == 2
        assert EVERYWHERE not in {fault.target for fault in each.faults}


def test_holds_and_changes_are_within_their_bounds() -> None:
    for each in islice(rounds(3), 500):
        assert each.hold <= max(fault.kind.hold[1] for fault in each.faults)
        assert all(fault.target in fault.kind.targets for fault in each.faults)
        assert {change.slot for change in each.changes} <= set(SLOTS)
        if not all(fault.kind.changes for fault in each.faults):
            assert each.changes == ()
        if not all(fault.kind.own_clock for fault in each.faults):
            assert "expire" not in {change.what for change in each.changes}


def test_a_pace_shortens_what_faults_last() -> None:
    slow, quick = (sum(each.hold for each in islice(rounds(5, pace), 200)) for pace in (1.0, 0.1))
    assert quick < slow / 3

"""The age of the last confirmation by the chain, and its limit."""

import pytest

from dstack_vpn.core.access.staleness import AHEAD, Staleness, StalePolicy


def test_age_runs_from_the_last_confirmation() -> None:
    staleness = Staleness(10, StalePolicy.ISOLATE)
    assert (staleness.age(5), staleness.isolates(5)) == (None, False), "nothing is known that could be old"
    staleness.confirmed(5)
    assert (staleness.age(15), staleness.isolates(15), staleness.isolates(15.1)) == (10, False, True)
    staleness.confirmed(16)
    assert not staleness.isolates(17)


def test_whoever_keeps_never_isolates() -> None:
    staleness = Staleness(10)
    staleness.confirmed(0)
    assert not staleness.isolates(1000)


@pytest.mark.parametrize(
    ("synced", "problem"),
    [
        (None, "does not say when"),
        (989.0, "11 s ago, longer than MAX_STALENESS"),
        (1001.0 + AHEAD, "61 s from now, by this machine's clock"),
        (990.0, None),
        (1000.0 + AHEAD, None),
    ],
)
def test_what_was_stored_too_long_ago_or_in_the_future_does_not_count(
    synced: float | None, problem: str | None
) -> None:
    staleness = Staleness(10, StalePolicy.ISOLATE)
    found = staleness.restored(synced, 1000.0, 50.0)
    if problem is None:
        assert found is None
        age = staleness.age(50.0)
        assert age is not None
        assert 0 <= age <= 10, "it goes on growing old where it was"
    else:
        assert found is not None
        assert problem in found
        assert staleness.age(50.0) is None

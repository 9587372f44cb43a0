"""The time by which access expires, with a wrong wall clock or a wrong endpoint."""

from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.core.access.expiry import AHEAD, ExpiryClock

NOW = 1_800_000_000.0
HOUR, DAY, YEAR = 3600.0, 86_400.0, 31_536_000.0


def test_the_wall_clock_counts_while_it_agrees_with_the_chain() -> None:
    clock = ExpiryClock()
    assert clock.now(NOW, 10.0) == NOW
    clock.adopted(NOW - 2, 10.0)
    assert clock.now(NOW + 5, 15.0) == NOW + 5


def test_a_clock_that_is_set_back_an_hour_goes_on_by_block_time() -> None:
    clock = ExpiryClock()
    clock.adopted(NOW - 2, 10.0)
    clock.now(NOW, 10.0)
    assert clock.now(NOW - HOUR + 30, 40.0) == NOW - 2 + 30


def test_a_clock_that_was_wrong_from_the_start_is_corrected_by_up_to_a_day() -> None:
    clock = ExpiryClock()
    clock.adopted(NOW, 10.0)
    assert clock.now(NOW - HOUR, 10.0) == NOW
    assert clock.now(NOW - YEAR, 10.0) == NOW - HOUR  # the greatest reading of the wall clock counts
    clock = ExpiryClock()
    clock.adopted(NOW, 10.0)
    assert clock.now(NOW - YEAR, 10.0) == NOW - YEAR + AHEAD


def test_a_clock_that_is_set_back_a_year_while_we_run_or_between_two_lives_is_found_out() -> None:
    clock = ExpiryClock()
    clock.seen(NOW, 10.0)
    clock.adopted(NOW - 2, 12.0)
    assert clock.now(NOW - YEAR, 20.0) == NOW + 6
    restarted = ExpiryClock()
    restarted.seen(NOW, 3.0)  # from the store
    restarted.adopted(NOW + HOUR, 5.0)
    assert restarted.now(NOW - YEAR, 5.0) == NOW + 2


def test_forged_block_times_end_access_a_day_early_at_most_and_only_while_they_are_followed() -> None:
    clock = ExpiryClock()
    clock.adopted(NOW - 2, 10.0)
    clock.now(NOW, 10.0)
    clock.adopted(NOW + YEAR, 20.0)
    assert clock.now(NOW + 10, 20.0) == NOW + 10 + AHEAD
    clock.adopted(NOW + 20, 31.0)
    assert clock.now(NOW + 21, 31.0) == NOW + 21


def test_a_clock_that_ran_fast_and_was_put_right_leaves_nothing_expired() -> None:
    clock = ExpiryClock()
    clock.adopted(NOW, 10.0)
    assert clock.now(NOW + YEAR, 10.0) == NOW + YEAR
    clock.adopted(NOW + 60, 70.0)
    assert clock.now(NOW + 61, 71.0) == NOW + 61


@given(st.lists(st.tuples(st.floats(-2e8, 2e8), st.one_of(st.none(), st.floats(-2e8, 2e8))), max_size=20))
def test_it_is_never_before_the_wall_clock_nor_a_day_after_every_reading(
    history: list[tuple[float, float | None]],
) -> None:
    clock, readings = ExpiryClock(), []
    for monotonic, (wall, block) in enumerate(history):
        if block is not None:
            clock.adopted(block, float(monotonic))
        readings.append(wall - monotonic)
        judged = clock.now(wall, float(monotonic))
        assert judged >= wall
        assert judged <= max(wall + AHEAD, max(readings) + monotonic) + 1e-6

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.core.limits.backoff import Backoff, full_jitter

draws = st.floats(min_value=0, max_value=1, exclude_max=True)


def test_no_failure_means_no_pause() -> None:
    assert full_jitter(0, 0.99, base=0.2, cap=15) == 0
    assert Backoff().wait(123.0) == 0


@pytest.mark.parametrize(
    ("failures", "longest"), [(1, 0.2), (2, 0.4), (3, 0.8), (7, 12.8), (8, 15), (99, 15)]
)
def test_the_longest_pause_doubles_up_to_the_cap(failures: int, longest: float) -> None:
    assert full_jitter(failures, 1.0, base=0.2, cap=15) == pytest.approx(longest)


@given(st.integers(min_value=1, max_value=10**6), draws)
def test_a_pause_is_between_zero_and_the_cap(failures: int, draw: float) -> None:
    assert 0 <= full_jitter(failures, draw, base=0.2, cap=15) <= 15


def test_failures_add_up_and_good_service_forgives_them() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff = backoff.failed(100.0, 0.5, served=9.9)
    assert backoff.failures == 5
    assert backoff.wait(100.0) == pytest.approx(0.5 * 3.2)
    assert backoff.failed(100.0, 0.5, served=10.0).failures == 1


def test_a_wish_of_the_other_side_is_honoured_past_the_cap() -> None:
    assert Backoff().failed(100.0, 0.0, at_least=60.0).wait(110.0) == 50.0


@given(st.floats(min_value=0, max_value=1e9), draws)
def test_waiting_ends(now: float, draw: float) -> None:
    backoff = Backoff().failed(now, draw)
    assert backoff.wait(backoff.ready_at) == 0

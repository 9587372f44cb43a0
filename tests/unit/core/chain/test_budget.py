"""The pace of resyncs under a budget."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.core.chain.budget import LONGEST, Budget, BudgetStage
from dstack_vpn.core.chain.usage_days import DAY

MIDNIGHT = 20_786.0 * DAY
NOON = MIDNIGHT + DAY / 2
BUDGET = Budget(1000)


@pytest.mark.parametrize(
    ("used", "stage"),
    [
        (0, BudgetStage.WITHIN),
        (799, BudgetStage.WITHIN),
        (800, BudgetStage.NEAR),
        (999, BudgetStage.NEAR),
        (1000, BudgetStage.SPENT),
        (5000, BudgetStage.SPENT),
    ],
)
def test_the_stages(used: int, stage: BudgetStage) -> None:
    assert BUDGET.stage(used) is stage


@pytest.mark.parametrize(
    ("used", "at", "wait"),
    [
        (0, MIDNIGHT, 0.0),
        (100, MIDNIGHT, 0.0),  # what is available at once
        (109, MIDNIGHT, DAY / 100),
        (550, NOON, 0.0),  # on its pace
        (551, NOON, DAY / 900),
        (999, NOON, DAY / 2 - DAY / 900),
        (1000, NOON, math.inf),
        (2000, MIDNIGHT + DAY - 1, math.inf),
        (998, MIDNIGHT + DAY - 60, 0.0),
    ],
)
def test_a_resync_waits_for_the_pace(used: int, at: float, wait: float) -> None:
    assert BUDGET.wait(used, at) == pytest.approx(wait, abs=1e-6)


@pytest.mark.parametrize(
    ("passed", "used", "left"),
    [
        (0.0, 0, 30.0),
        (29.0, 0, 1.0),
        (31.0, 0, 0.0),
        (0.0, 551, DAY / 900),
        (31.0, 551, DAY / 900),  # the pace does not depend on the last resync
        (0.0, 1000, LONGEST),
        (3000.0, 1000, 600.0),
        (3601.0, 1000, -1.0),
    ],
)
def test_the_time_until_a_resync(passed: float, used: int, left: float) -> None:
    assert BUDGET.until_resync(passed, 30.0, used, NOON) == pytest.approx(left)


def test_a_longer_configured_interval_stays() -> None:
    assert BUDGET.until_resync(0.0, 7200.0, 1000, NOON) == 7200.0


def test_the_registry_is_confirmed_several_times_within_its_longest_age() -> None:
    strict = Budget.of(10, max_staleness=60.0)
    assert strict is not None
    assert strict.until_resync(0.0, 5.0, 10, NOON) == 15.0
    assert Budget.of(10, max_staleness=86_400.0) == Budget(10, LONGEST)
    assert Budget.of(0, max_staleness=60.0) is None


@given(st.integers(0, 2000), st.floats(0, DAY, exclude_max=True), st.floats(1, DAY))
def test_an_interval_is_within_its_limits(used: int, second: float, configured: float) -> None:
    found = BUDGET.until_resync(0.0, configured, used, MIDNIGHT + second)
    assert configured <= found <= max(configured, LONGEST)


@given(st.integers(40, 3000), st.floats(1, 600), st.integers(1, 20))
def test_resyncs_alone_use_a_budget_until_the_day_ends(resyncs: int, configured: float, each: int) -> None:
    """An hourly resync is affordable with 40 or more of them."""
    budget, used, now, last = Budget(resyncs * each), 0, MIDNIGHT, 0.0
    while now < MIDNIGHT + DAY:
        assert used < budget.calls
        used, last = used + each, now
        now += budget.until_resync(0.0, configured, used, now)
    if DAY / configured > resyncs:
        assert used >= 0.9 * budget.calls, "it is used and not saved"
        assert MIDNIGHT + DAY - last <= LONGEST

"""No use is lost or counted twice, for any clock that stays within the kept days."""

from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.core.chain.usage import Total, Usage, UsageByEndpoint, added, subtracted, total
from dstack_vpn.core.chain.usage_days import DAY, KEPT, UsageDays, day_of

NOW = 1_795_953_600.0
USES = st.builds(Usage, *[st.integers(0, 10**9)] * 3)
METHODS = st.dictionaries(st.sampled_from(["eth_call", "eth_subscription", "other"]), USES, max_size=3)
USAGE = st.dictionaries(st.sampled_from(["wss://a", "https://b"]), METHODS, max_size=2)
TIMES = st.floats(NOW, NOW + (KEPT - 1) * DAY)
STEPS = st.lists(st.tuples(TIMES, st.floats(0, 60), USAGE), max_size=20)


def recorded(steps: list[tuple[float, float, UsageByEndpoint]]) -> UsageDays:
    days = UsageDays()
    for now, seconds, usage in steps:
        days = days.record(now, seconds, usage)
    return days


def summed(steps: list[tuple[float, float, UsageByEndpoint]]) -> Total:
    found: UsageByEndpoint = {}
    for _, _, usage in steps:
        found = added(found, usage)
    return total(found)


@given(STEPS)
def test_the_days_together_have_all_use(steps: list[tuple[float, float, UsageByEndpoint]]) -> None:
    days = recorded(steps)
    assert total(days.together()) == summed(steps)
    numbers = [day.number for day in days.days]
    assert numbers == sorted(set(numbers))
    assert len(numbers) <= KEPT


@given(STEPS)
def test_each_day_has_its_own_use_if_the_clock_never_goes_back(
    steps: list[tuple[float, float, UsageByEndpoint]],
) -> None:
    steps.sort(key=lambda step: step[0])
    days = recorded(steps)
    for now, _, _ in steps:
        assert total(days.today(now).usage) == summed([x for x in steps if day_of(x[0]) == day_of(now)])


@given(STEPS, TIMES)
def test_the_present_day_is_the_last_one(
    steps: list[tuple[float, float, UsageByEndpoint]], now: float
) -> None:
    """A clock that was set back does not give a budget a second time."""
    before = recorded(steps)
    days = before.record(now, 0.0, {})
    assert days.days[-1].number == day_of(now)
    later = [total(day.usage).calls for day in before.days if day.number >= day_of(now)]
    assert total(days.today(now).usage).calls == sum(later)


@given(USAGE, USAGE)
def test_a_difference_undoes_a_sum(one: UsageByEndpoint, other: UsageByEndpoint) -> None:
    assert total(subtracted(added(one, other), other)) == total(one)

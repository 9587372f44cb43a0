import pytest

from dstack_vpn.core.chain.usage import Usage
from dstack_vpn.core.chain.usage_days import DAY, ENOUGH, KEPT, UsageDay, UsageDays, day_of

NOW = 1_795_953_600.0  # 2026-11-29, 12:00 UTC
MIDNIGHT = NOW + DAY / 2


def calls(count: int) -> dict[str, dict[str, Usage]]:
    return {"wss://a": {"eth_call": Usage(count, 10 * count, 100 * count)}}


def test_a_day_has_its_date_in_utc() -> None:
    assert UsageDay(day_of(NOW)).name == "2026-11-29"
    assert (day_of(MIDNIGHT - 0.1), day_of(MIDNIGHT)) == (day_of(NOW), day_of(NOW) + 1)


def test_a_new_day_begins_with_nothing() -> None:
    days = UsageDays().record(NOW, 5.0, calls(3)).record(NOW + 5, 5.0, calls(4))
    assert days.today(NOW).usage == calls(7)
    assert days.today(MIDNIGHT) == UsageDay(day_of(MIDNIGHT))
    later = days.record(MIDNIGHT + 1, 5.0, calls(1))
    assert [(day.usage, day.seconds) for day in later.days] == [(calls(7), 10.0), (calls(1), 5.0)]
    assert later.together() == calls(8)


def test_seven_days_are_kept() -> None:
    days = UsageDays()
    for number in range(20):
        days = days.record(NOW + number * DAY, 5.0, calls(number + 1))
    assert [day.usage for day in days.days] == [calls(number) for number in range(20 - KEPT + 1, 21)]


def test_days_of_a_clock_that_was_ahead_are_added_to_today() -> None:
    days = UsageDays().record(NOW, 5.0, calls(1)).record(NOW + 3 * DAY, 5.0, calls(10))
    assert days.record(NOW + 10, 5.0, calls(100)).days == (UsageDay(day_of(NOW), 15.0, calls(111)),)


@pytest.mark.parametrize("seconds", [0.0, ENOUGH - 1])
def test_a_short_observation_gives_no_estimate(seconds: float) -> None:
    assert UsageDays().record(NOW, seconds, calls(100)).estimate(NOW) is None


def test_an_estimate_is_the_rate_of_today() -> None:
    days = UsageDays().record(NOW - DAY, DAY, calls(1)).record(NOW, DAY / 4, calls(250))
    found = days.estimate(NOW)
    assert found is not None
    assert (found.seconds, found.usage) == (DAY / 4, calls(1000))


def test_soon_after_midnight_an_estimate_includes_the_day_before() -> None:
    days = UsageDays().record(NOW, DAY / 2 - 60, calls(499)).record(MIDNIGHT + 60, 60.0, calls(1))
    found = days.estimate(MIDNIGHT + 60)
    assert found is not None
    assert (found.seconds, found.usage) == (DAY / 2, calls(1000))
    assert days.estimate(MIDNIGHT + DAY + 60) is None, "a day without any observation is between"

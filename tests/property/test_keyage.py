"""In any history, a node's key is rotated when it is old, and attempts are never frequent."""

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.core.wireguard.key_age import (
    LONGEST,
    SETTLING,
    SHORTEST,
    START,
    KeyAction,
    Look,
    Schedule,
    age_of,
)

HOUR = 3600.0
DRAWS = st.floats(0, 1, exclude_max=True)
AGES = st.floats(-10 * HOUR, 1e9)
LOOKS = st.builds(Look, st.floats(0, 1e9), st.none() | AGES, st.booleans(), st.booleans())


@dataclass(frozen=True)
class Happens:
    """One step: time passes, and a key that is announced then has this outcome."""

    seconds: float
    mined: bool
    draw: float
    followed: bool
    registry_off: float
    """The seconds that the endpoint adds to the age; it may forge the block time."""
    clock_off: float
    """The seconds that are added to this machine's clock."""
    restarted: bool


HAPPENS = st.builds(
    Happens,
    st.floats(0.5, 4 * HOUR),
    st.booleans(),
    DRAWS,
    st.booleans(),
    st.sampled_from((0.0, 0.0, 0.0, 1e8, -1e8)),
    st.sampled_from((0.0, 0.0, 0.0, 1e8, -1e8)),
    st.sampled_from((False, False, False, True)),
)


ROUNDING = 1e-12


@given(st.floats(HOUR, 1e8), DRAWS, LOOKS)
def test_only_an_old_key_that_somebody_would_take_is_changed(
    longest: float, spread: float, look: Look
) -> None:
    schedule = Schedule(longest, spread)
    assert 0.9 - ROUNDING <= schedule.due / longest <= 0.95 + ROUNDING
    verdict = schedule.decide(look)
    if verdict is not KeyAction.REST:
        assert look.age is not None
        assert look.age >= schedule.due
    assert (verdict is KeyAction.RENEW) <= (look.member and look.able)
    assert (verdict is KeyAction.REMIND) <= (not look.able)


@given(st.none() | AGES, st.none() | AGES)
def test_no_age_is_more_than_any_clock_says(registry: float | None, file: float | None) -> None:
    age = age_of(registry=registry, file=file)
    if age is not None:
        assert age >= 0
        assert registry is not None
        assert age <= max(registry, 0)
        assert file is None or file < 0 or age <= file


@given(st.floats(HOUR, 100 * HOUR), DRAWS, st.lists(HAPPENS, max_size=80))
def test_there_is_no_history_that_makes_a_storm(
    longest: float, spread: float, happens: list[Happens]
) -> None:
    """Forged times, clock jumps, failures, lost keys: attempts of a process are a minute apart."""
    schedule = Schedule(longest, spread).started(0.0)
    now, set_at, written, clock = 0.0, 0.0, 0.0, 0.0
    last_try = born = 0.0
    for it in happens:
        now += it.seconds
        clock += it.clock_off
        if it.restarted:
            schedule, born = Schedule(longest, spread).started(now), now
            last_try = now - SHORTEST
        age = age_of(registry=now - set_at + it.registry_off, file=now + clock - written)
        if schedule.decide(Look(now, age, it.followed, able=True)) is not KeyAction.RENEW:
            continue
        assert now - born >= START
        assert now - last_try >= SHORTEST or not last_try
        last_try = now
        if it.mined:
            schedule = schedule.announced(now)
            set_at, written = now, now + clock
        else:
            schedule = schedule.failed(now, it.draw)
        assert SHORTEST <= schedule.ready_at - now <= max(SHORTEST + LONGEST, SETTLING)


@given(st.floats(HOUR, 100 * HOUR), DRAWS, st.lists(DRAWS, max_size=30))
def test_after_any_failures_it_is_changed_in_the_end(
    longest: float, spread: float, draws: list[float]
) -> None:
    schedule, now = Schedule(longest, spread).started(0.0), 10 * longest
    for draw in draws:
        schedule = schedule.failed(now, draw)
    look = Look(now, longest, member=True, able=True)
    assert schedule.decide(replace(look, now=now + SHORTEST + LONGEST)) is KeyAction.RENEW


@given(st.floats(HOUR, 1e8), DRAWS, st.floats(0, 1e8))
def test_a_liar_makes_us_pay_no_more_than_the_file_allows(
    longest: float, spread: float, forged: float
) -> None:
    """An endpoint that reports every key as old causes one new key for each KEY_MAX_AGE at most."""
    schedule = Schedule(longest, spread)
    young = age_of(registry=forged, file=0.89 * longest)
    assert schedule.decide(Look(1e9, young, member=True, able=True)) is KeyAction.REST

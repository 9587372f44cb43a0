"""Request rates: a limit for each source, a lane for each kind, and a lane for slow questions."""

from ipaddress import IPv4Network, IPv6Network

import pytest

from dstack_vpn.core.access.addressing import AddressPlan
from dstack_vpn.core.limits import pace
from dstack_vpn.core.limits.pace import Bucket, Limiter, Pace
from dstack_vpn.core.limits.shares import Kind, Source, Sources

BOUNDS = Pace()


def stranger(number: int) -> Source:
    return Source(Kind.STRANGER, str(number))


def test_after_a_burst_requests_go_through_at_the_rate() -> None:
    bucket = Bucket(rate=10, burst=3)
    waits = [bucket.take(100.0, 1.0) for _ in range(6)]
    assert waits == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3])
    assert bucket.take(200.0, 1.0) == 0


def test_who_has_too_much_waiting_is_refused_and_pays_nothing_for_it() -> None:
    bucket = Bucket(rate=10, burst=0)
    waits = [bucket.take(0.0, 1.0) for _ in range(50)]
    assert waits.count(None) == 50 - 10
    assert bucket.take(1.0, 1.0) is not None


def test_one_source_does_not_use_up_another() -> None:
    limiter = Limiter()
    for _ in range(int(BOUNDS.burst + BOUNDS.rate * BOUNDS.longest) + 10):
        limiter.take(stranger(1), 0.0)
    assert limiter.take(stranger(1), 0.0) is None
    assert limiter.take(stranger(2), 0.0) is not None


def test_all_of_a_kind_together_are_bounded() -> None:
    limiter = Limiter()
    let_in = sum(limiter.take(stranger(number), 0.0) is not None for number in range(3000))
    assert let_in == pytest.approx(BOUNDS.rate_of_kind * BOUNDS.longest + BOUNDS.burst_of_kind, abs=2)


def test_few_sources_that_ask_all_the_time_leave_the_others_their_slow_questions() -> None:
    limiter = Limiter()
    refused = 0
    for moment in range(2000):
        for number in range(8):  # more than the common lane allows, each at twice the rate of one source
            limiter.take(stranger(number), moment * 0.0025)
        if moment % 80 == 0:  # a source with five requests a second
            wait = limiter.take(stranger(99), moment * 0.0025)
            refused += wait is None or wait > 0.1
    assert refused == 0


def test_a_member_that_has_used_its_share_leaves_the_others_theirs() -> None:
    limiter = Limiter(Pace(rate=1.0, burst=2.0, longest=0.0))
    plan = AddressPlan(IPv4Network("10.77.0.0/16"), IPv6Network("fd77:1:2:3::/64"))
    sources = Sources(plan)

    def asks(token: int) -> list[bool]:
        # A member's two addresses share one limit. All members' IPv6 addresses are in one /64.
        both = (plan.ipv4_of(token), plan.ipv6_of(token))
        return [limiter.take(sources.of(both[number % 2]), 0.0) is not None for number in range(4)]

    assert asks(1) == asks(2) == [True, True, False, False]


def test_one_kind_does_not_use_up_another() -> None:
    limiter = Limiter()
    for number in range(3000):
        limiter.take(stranger(number), 0.0)
    assert limiter.take(stranger(3001), 0.0) is None
    assert limiter.take(Source(Kind.MEMBER, "token 1"), 0.0) == 0
    assert limiter.take(Source(Kind.OURS, "this machine"), 0.0) == 0


def test_health_is_not_used_up_by_others() -> None:
    limiter = Limiter()
    for number in range(2000):
        limiter.take(stranger(number), 0.0)
    assert limiter.take(stranger(3000), 0.0) is None
    assert limiter.take(stranger(3001), 0.0, shared=False) == 0


def test_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "SOURCES", 3)
    limiter = Limiter()
    for number in range(10):
        limiter.take(stranger(number), 0.0)
    assert len(limiter._sources) == 3

import pytest

from dstack_vpn.adapters.web import limits
from dstack_vpn.adapters.web.limits import BURST, LONGEST, RATE, RATE_OF_ALL, Bucket, Limiter


def test_after_a_burst_requests_go_through_at_the_rate() -> None:
    bucket = Bucket(rate=10, burst=3)
    waits = [bucket.take(100.0) for _ in range(6)]
    assert waits == pytest.approx([0, 0, 0, 0.1, 0.2, 0.3])
    assert bucket.take(200.0) == 0


def test_who_has_too_much_waiting_is_refused_and_pays_nothing_for_it() -> None:
    bucket = Bucket(rate=10, burst=0)
    waits = [bucket.take(0.0) for _ in range(50)]
    assert waits.count(None) == 50 - int(10 * LONGEST)
    assert bucket.take(LONGEST) is not None


def test_one_client_does_not_use_up_another() -> None:
    limiter = Limiter(lambda: 0.0)
    for _ in range(int(BURST + RATE * LONGEST) + 10):
        limiter.take("a")
    assert limiter.take("a") is None
    assert limiter.take("b") is not None


def test_all_together_are_bounded() -> None:
    limiter = Limiter(lambda: 0.0)
    let_in = sum(limiter.take(str(number)) is not None for number in range(3000))
    assert let_in == pytest.approx(RATE_OF_ALL * LONGEST + 2 * BURST, abs=2)


def test_health_is_not_used_up_by_others() -> None:
    limiter = Limiter(lambda: 0.0)
    for number in range(2000):
        limiter.take(str(number))
    assert limiter.take("probe") is None
    assert limiter.take("another", shared=False) == 0


def test_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLIENTS", 3)
    limiter = Limiter(lambda: 0.0)
    for number in range(10):
        limiter.take(str(number))
    assert len(limiter._clients) == 3

from dstack_vpn.core.access.retry_queue import MOST, RETRY, RetryQueue

FIRST, LONGEST = RETRY


def test_a_token_is_not_asked_about_twice_at_once() -> None:
    agenda = RetryQueue()
    assert agenda.take([1, 2], 0.0) == ([1, 2], False)
    assert agenda.take([1, 2, 3], 0.0) == ([3], False)
    agenda.answered([1, 2], [], 0.0)
    assert agenda.take([1], 0.0) == ([1], False)


def test_what_stays_open_is_asked_again_after_a_pause_that_grows() -> None:
    agenda, now = RetryQueue(), 100.0
    for pause in (FIRST, 2.0, 4.0, 8.0, LONGEST, LONGEST):
        assert agenda.take([1], now) == ([1], False)
        agenda.answered([1], [1], now)
        assert agenda.take([1], now + pause - 0.001) == ([], False)
        now += pause


def test_what_is_settled_waits_for_nothing() -> None:
    agenda = RetryQueue()
    agenda.take([1, 2], 0.0)
    agenda.answered([1, 2], [2], 0.0)
    assert agenda.postponed
    assert agenda.take([1, 2], 0.0) == ([1], False)
    assert agenda.take([2], FIRST) == ([2], False)
    agenda.answered([1, 2], [], FIRST)
    assert not agenda.postponed


def test_more_than_fit_into_one_question_come_in_the_next() -> None:
    agenda, many = RetryQueue(), range(MOST + 2)
    assert agenda.take(many, 0.0) == (list(range(MOST)), True)
    assert agenda.take(many, 0.0) == ([MOST, MOST + 1], False)

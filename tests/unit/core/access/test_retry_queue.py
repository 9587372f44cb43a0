"""The queue of tokens that wait for a quorum."""

from dataclasses import replace

from dstack_vpn.core.access.retry_queue import MOST, RETRY, RetryQueue
from dstack_vpn.core.chain.node import Node

FIRST, LONGEST = RETRY
STATE = Node(1, "0xowner", "node-1", None)
CHANGED = replace(STATE, expires_at=7)


def waiting(*tokens: int, state: Node | None = STATE) -> dict[int, Node | None]:
    return dict.fromkeys(tokens, state)


def test_a_token_is_not_queried_twice_at_once() -> None:
    queue = RetryQueue()
    assert queue.take(waiting(1, 2), 0.0) == (waiting(1, 2), False)
    assert queue.take(waiting(1, 2, 3), 0.0) == (waiting(3), False)
    queue.answered(waiting(1, 2), {}, 0.0)
    assert queue.take(waiting(1), 0.0) == (waiting(1), False)


def test_a_token_without_a_result_is_queried_again_after_a_growing_pause() -> None:
    queue, now = RetryQueue(), 100.0
    for pause in (FIRST, 2.0, 4.0, 8.0, LONGEST, LONGEST):
        assert queue.take(waiting(1), now) == (waiting(1), False)
        queue.answered(waiting(1), waiting(1), now)
        assert queue.take(waiting(1), now + pause - 0.001) == ({}, False)
        now += pause


def test_a_settled_token_is_not_postponed() -> None:
    queue = RetryQueue()
    queue.take(waiting(1, 2), 0.0)
    queue.answered(waiting(1, 2), waiting(2), 0.0)
    assert queue.postponed
    assert queue.take(waiting(1, 2), 0.0) == (waiting(1), False)
    assert queue.take(waiting(2), FIRST) == (waiting(2), False)
    queue.answered(waiting(1, 2), {}, FIRST)
    assert not queue.postponed


def test_a_new_state_is_queried_while_a_question_about_the_former_one_is_open() -> None:
    queue = RetryQueue()
    queue.take(waiting(1), 0.0)
    assert queue.take(waiting(1, state=CHANGED), 0.0) == (waiting(1, state=CHANGED), False)
    queue.answered(waiting(1), waiting(1, state=CHANGED), 0.0)
    assert queue.take(waiting(1, state=CHANGED), 0.0) == ({}, False), "its own question is still open"
    queue.answered(waiting(1, state=CHANGED), waiting(1, state=CHANGED), 0.0)
    assert queue.take(waiting(1, state=CHANGED), FIRST - 0.001) == ({}, False)
    assert queue.take(waiting(1, state=CHANGED), FIRST) == (waiting(1, state=CHANGED), False)


def test_the_end_of_a_former_states_question_keeps_the_new_states_pause() -> None:
    queue = RetryQueue()
    queue.take(waiting(1), 0.0)
    queue.take(waiting(1, state=CHANGED), 0.0)
    queue.answered(waiting(1, state=CHANGED), waiting(1, state=CHANGED), 0.0)
    queue.answered(waiting(1), waiting(1, state=CHANGED), 0.0)
    assert queue.take(waiting(1, state=CHANGED), FIRST - 0.001) == ({}, False)


def test_a_new_state_is_not_postponed_by_the_former_ones_pause() -> None:
    queue = RetryQueue()
    queue.take(waiting(1), 0.0)
    queue.answered(waiting(1), waiting(1), 0.0)
    assert queue.take(waiting(1, state=CHANGED), 0.0) == (waiting(1, state=CHANGED), False)


def test_a_pause_ends_with_its_state() -> None:
    queue = RetryQueue()
    queue.take(waiting(1), 0.0)
    queue.answered(waiting(1), waiting(1), 0.0)
    queue.take(waiting(1, state=CHANGED), 0.0)
    queue.answered(waiting(1, state=CHANGED), {}, 0.0)
    assert not queue.postponed


def test_more_than_fit_into_one_question_come_in_the_next() -> None:
    queue, many = RetryQueue(), waiting(*range(MOST + 2))
    assert queue.take(many, 0.0) == (waiting(*range(MOST)), True)
    assert queue.take(many, 0.0) == (waiting(MOST, MOST + 1), False)

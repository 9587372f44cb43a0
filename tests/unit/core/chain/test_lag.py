"""Our lag behind the chain, from the blocks of all endpoints."""

from dstack_vpn.core.chain.lag import BOUND, MOST, WORTH_A_LOOK, Lag
from dstack_vpn.core.model import BlockRef


def block(number: int) -> BlockRef:
    return BlockRef(number, f"h{number}", f"h{number - 1}", 0)


def test_the_first_block_above_the_tip_counts_whoever_shows_it() -> None:
    lag = Lag()
    lag.shown("a", 5, 10.0)
    assert lag.behind(block(5), 11.0) == (0.0, 0)
    lag.shown("b", 6, 12.0)
    lag.shown("a", 8, 13.0)
    assert lag.behind(block(5), 20.0) == (8.0, 3)
    assert lag.behind(block(6), 20.0) == (7.0, 2)
    assert lag.behind(block(8), 20.0) == (0.0, 0)
    assert lag.behind(None, 20.0) == (0.0, 0)


def test_a_block_that_is_shown_again_is_no_newer() -> None:
    lag = Lag()
    for now in (1.0, 2.0, 3.0):
        lag.shown("a", 9, now)
        lag.shown("a", 7, now)
    assert lag.behind(block(5), 4.0) == (3.0, 4)


def test_what_an_endpoint_could_not_deliver_is_void() -> None:
    lag = Lag()
    lag.shown("a", 10**9, 0.0)
    lag.shown("b", 6, 1.0)
    assert lag.overdue(block(5), BOUND) == {}
    assert lag.overdue(block(5), BOUND + 0.5) == {"a": 10**9}
    lag.void("a")
    assert lag.behind(block(5), 3.0) == (2.0, 1)


def test_an_endpoint_that_shows_many_blocks_takes_bounded_memory() -> None:
    lag = Lag()
    for height in range(1, 3 * MOST):
        lag.shown("a", height, float(height))
    assert len(lag._shown["a"]) == MOST
    assert lag.behind(block(0), 3.0 * MOST) == (3.0 * MOST - 1, 3 * MOST - 1)


def test_a_head_that_we_left_long_ago_is_stale_if_others_are_ahead() -> None:
    lag = Lag()
    for height in range(5, 10):
        lag.stands(block(height), float(height))
    long = 9.0 + WORTH_A_LOOK
    lag.shown("a", 5, long)
    assert not lag.is_stale("a", block(5), block(9), long), "the chain may have been cut short"
    lag.shown("b", 9, long)
    assert lag.is_stale("a", block(5), block(9), long)
    assert not lag.is_stale("a", block(8), block(9), long), "it is late by no more than an endpoint may be"
    assert not lag.is_stale("a", block(9), block(9), long + 99)
    lag.stands(block(6), long)
    lag.shown("b", 6, long)
    assert not lag.is_stale("a", block(6), block(6), long + 99), "a reorg to a shorter chain"

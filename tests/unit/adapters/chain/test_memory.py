from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.adapters.chain.memory import BlockSpan


def walk(limit: int, calls: int) -> tuple[int, int]:
    """Return the number of calls that an endpoint with this limit refuses, and the last span."""
    span, refused = BlockSpan(), 0
    for _ in range(calls):
        if span.size > limit:
            span.refused(span.size)
            refused += 1
        else:
            span.served()
    return refused, span.size


def test_it_starts_at_ten_thousand_and_grows_where_it_may() -> None:
    assert BlockSpan().size == 10_000
    assert walk(limit=10**9, calls=10) == (0, 80_000)


def test_a_small_limit_is_found_and_rarely_tried_again() -> None:
    refused, size = walk(limit=10, calls=500)
    assert size in (9, 18)
    assert refused < 10 + 500 / 16 + 1


@given(st.lists(st.booleans()))
def test_it_never_asks_for_nothing(outcomes: list[bool]) -> None:
    span = BlockSpan()
    for served in outcomes:
        span.served() if served else span.refused(span.size)
        assert 1 <= span.size <= 100_000

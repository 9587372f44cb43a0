import pytest

from dstack_vpn.core.chain.usage import (
    NOTIFICATION,
    OTHER,
    Total,
    Usage,
    added,
    by_method,
    shares,
    subtracted,
    total,
)

A = {"wss://a": {"eth_call": Usage(2, 20, 200), NOTIFICATION: Usage(5, 0, 500), OTHER: Usage(1, 0, 9)}}
B = {"wss://a": {"eth_call": Usage(1, 10, 100)}, "https://b": {"eth_call": Usage(1, 1, 1)}}


@pytest.mark.parametrize(
    ("size", "count", "expected"),
    [(10, 3, [4, 3, 3]), (2, 3, [1, 1, 0]), (0, 2, [0, 0]), (7, 1, [7]), (0, 0, []), (5, 0, [])],
)
def test_a_size_is_divided_without_a_rest(size: int, count: int, expected: list[int]) -> None:
    assert list(shares(size, count)) == expected


def test_notifications_and_late_replies_are_not_calls() -> None:
    assert total(A) == Total(calls=2, notifications=5, sent=20, received=709)
    assert total(A).bytes == 729


def test_a_sum_contains_all_endpoints_and_methods() -> None:
    both = added(A, B)
    assert both["wss://a"] == A["wss://a"] | {"eth_call": Usage(3, 30, 300)}
    assert both["https://b"] == B["https://b"]
    assert by_method(both)["eth_call"] == Usage(4, 31, 301)


def test_a_difference_lacks_the_methods_that_were_not_used() -> None:
    assert subtracted(added(A, B), A) == B
    assert subtracted(A, A) == {}

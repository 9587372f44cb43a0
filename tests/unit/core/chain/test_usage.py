import pytest

from dstack_vpn.core.chain.usage import Usage, shares


@pytest.mark.parametrize(
    ("size", "count", "expected"),
    [(10, 3, [4, 3, 3]), (2, 3, [1, 1, 0]), (0, 2, [0, 0]), (7, 1, [7]), (0, 0, []), (5, 0, [])],
)
def test_a_size_is_divided_without_a_rest(size: int, count: int, expected: list[int]) -> None:
    assert list(shares(size, count)) == expected


def test_uses_are_added_and_subtracted() -> None:
    assert Usage(1, 2, 3) + Usage(10, 20, 30) - Usage(1, 1, 1) == Usage(10, 21, 32)

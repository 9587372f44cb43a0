import pytest

from dstack_vpn.adapters.doctor import chain
from dstack_vpn.core.observe.check import Check, CheckStatus


@pytest.mark.parametrize(
    ("ages", "status"),
    [
        ([], CheckStatus.PASS),
        ([None], CheckStatus.PASS),
        ([3.0], CheckStatus.PASS),
        ([400.0, 2.0], CheckStatus.PASS),
        ([60.0], CheckStatus.FAIL),
        ([-30.0], CheckStatus.FAIL),
    ],
)
def test_the_clock_is_held_against_the_newest_block(ages: list[float | None], status: CheckStatus) -> None:
    seen = [chain.ProbedEndpoint(Check("rpc", CheckStatus.PASS, ""), None, age) for age in ages]
    assert chain.clock(seen).status is status

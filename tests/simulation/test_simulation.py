"""A part of the runs of `make adversaries`, and what was found by it."""

import pytest
from tests.simulation.__main__ import run

RUNS = 120
AT_ONCE = 12


@pytest.mark.parametrize("first", range(0, RUNS, AT_ONCE))
def test_fewer_than_k_liars_break_no_promise_whatever_they_do_and_when(first: int) -> None:
    for seed in range(first, first + AT_ONCE):
        world = run(seed)
        assert not world.problems, f"seed {seed}"

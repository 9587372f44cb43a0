"""The search for the newest common block, and the number of its probes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dstack_vpn.core.chain.fork_search import ForkSearch
from dstack_vpn.core.model import BlockRef


def head(number: int, parent: str) -> BlockRef:
    return BlockRef(number, f"theirs-{number}", parent, 0)


def search(ring: dict[int, str], last_common: int, target: int) -> tuple[ForkSearch, int]:
    """Search a chain that has our blocks up to a height; return the number of probes as well."""
    found, probes = ForkSearch(None), 0
    parent = ring[target - 1] if target - 1 in ring and target - 1 <= last_common else "theirs"
    found.aim(head(target, parent), ring)
    while found.high - found.low > 1:
        height = found.probe()
        found.narrow(height, equal=height <= last_common)
        probes += 1
    return found, probes


@given(st.sets(st.integers(0, 5000), min_size=1), st.data())
def test_it_ends_at_the_newest_common_block(heights: set[int], data: st.DataObject) -> None:
    ring = {height: f"ours-{height}" for height in heights}
    last_common = data.draw(st.sampled_from(sorted(heights)))
    found, probes = search(ring, last_common, max(heights) + 1)
    assert found.common == last_common
    assert found.forked == (last_common != max(heights))
    assert probes <= 2 * math.log2(len(heights) + 1) + 2


@given(st.integers(1, 1000))
def test_a_shallow_fork_costs_few_probes(depth: int) -> None:
    ring = {height: f"ours-{height}" for height in range(2000)}
    _, probes = search(ring, 1999 - depth, 2000)
    assert probes <= 2 * math.log2(depth) + 3


def test_a_head_on_top_of_ours_needs_no_probe() -> None:
    found, probes = search({1: "a", 2: "b"}, 2, 3)
    assert (found.common, found.forked, probes) == (2, False, 0)


@pytest.mark.parametrize(("target", "contested"), [(2, True), (3, False)])
def test_another_block_at_the_heads_height_is_a_fork(target: int, contested: bool) -> None:
    found = ForkSearch(None)
    found.aim(head(target, "b"), {1: "b", 2: "c"})
    assert (found.contested, found.forked) == (contested, contested)

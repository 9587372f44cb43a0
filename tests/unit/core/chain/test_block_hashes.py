import pytest

from dstack_vpn.core.chain.block_hashes import PAST, BlockHashes
from dstack_vpn.core.model import BlockRef


def block(number: int, fork: str = "a") -> BlockRef:
    return BlockRef(number, f"{fork}{number}", f"{fork}{number - 1}", 0)


def ring(*numbers: int) -> BlockHashes:
    return BlockHashes((number, block(number).hash) for number in numbers)


def test_what_lies_far_below_a_final_block_is_forgotten() -> None:
    ours = ring(1, 2, 1000, PAST + 2)
    assert ours.settle(block(PAST + 2))
    assert ours == ring(1000, PAST + 2)


def test_a_final_block_between_those_that_are_remembered_is_remembered_too() -> None:
    ours = ring(1, 9)
    assert ours.settle(block(5))
    assert ours == ring(1, 5, 9)


@pytest.mark.parametrize("final", [block(4), block(9, "b")])
def test_a_block_below_all_or_of_another_fork_settles_nothing(final: BlockRef) -> None:
    ours = ring(5, 9)
    assert not ours.settle(final)
    assert ours == ring(5, 9)


def test_what_a_reorg_replaces_is_forgotten() -> None:
    ours = ring(1, 5, 9)
    ours.drop_above(5)
    assert ours == ring(1, 5)

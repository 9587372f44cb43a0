import pytest

from dstack_vpn.adapters.chain.watchdog import HeadWatch
from dstack_vpn.core.model import BlockRef


def block(number: int, fork: str = "a") -> BlockRef:
    return BlockRef(number, f"0x{number}{fork}", f"0x{number - 1}{fork}", 0)


@pytest.mark.parametrize(("block_time", "silence"), [(0.2, 2.0), (2.0, 8.0), (12.0, 30.0)])
def test_a_known_rhythm_sets_the_patience(block_time: float, silence: float) -> None:
    watch = HeadWatch(block_time, now=100.0)
    assert watch.silence == silence
    assert watch.wait(100.0 + silence / 2) == pytest.approx(silence / 2)
    assert watch.wait(1000.0) == 0


def test_an_unknown_rhythm_is_learned_from_the_median() -> None:
    watch = HeadWatch(None, now=0.0)
    assert watch.silence == 10.0
    for number, at in enumerate((1.0, 4.0, 7.0, 57.0, 60.0)):
        watch.head(block(number), at)
    assert watch.silence == 12.0


def test_an_idle_chain_is_asked_ever_less_often() -> None:
    watch = HeadWatch(None, now=0.0)
    watch.head(block(1), 0.0)
    watch.head(block(2), 0.1)
    seen = []
    for now in range(6):
        seen.append(watch.silence)
        watch.idle(float(now))
    assert seen == [2, 4, 8, 16, 30, 30]
    watch.head(block(3), 10.0)
    assert watch.silence < 30


def test_only_a_configured_block_time_makes_idleness_a_stall() -> None:
    known, learned = HeadWatch(2.0, 0.0), HeadWatch(None, 0.0)
    for watch in (known, learned):
        watch.head(block(1), 0.0)
        watch.idle(39.0)
    assert not known.is_stalled(40.0)
    assert known.is_stalled(40.1)
    assert not learned.is_stalled(10_000.0)
    assert not HeadWatch(0.2, 0.0).is_stalled(10.0)
    assert HeadWatch(0.2, 0.0).is_stalled(10.1)


def test_blocks_are_compared_with_the_last_head() -> None:
    watch = HeadWatch(None, 0.0)
    assert watch.is_newer(block(1))
    watch.head(block(5), 1.0)
    assert not watch.is_newer(block(5))
    assert not watch.is_other(block(5))
    assert watch.is_other(block(5, "b"))
    assert watch.is_lower(block(4))
    assert watch.is_newer(block(6))

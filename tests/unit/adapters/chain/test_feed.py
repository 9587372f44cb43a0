"""The polling feed with scripted heads and a virtual clock."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from dstack_vpn.adapters.chain.feed import poll
from dstack_vpn.adapters.chain.watchdog import HeadWatch
from dstack_vpn.core.model import BlockRef
from dstack_vpn.errors import BehindError
from dstack_vpn.ports import ChainFact


def block(number: int, fork: str = "a") -> BlockRef:
    return BlockRef(number, f"{number}{fork}", f"{number - 1}{fork}", 0)


@dataclass
class Heads:
    """Scripted heads. The last one repeats, and polling advances the clock."""

    script: list[BlockRef]
    now: float = 0.0
    asked: int = field(default=0)

    async def head(self) -> BlockRef:
        self.asked += 1
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]

    async def extension(self, *known: BlockRef) -> None:
        raise AssertionError(known)

    def not_extended(self) -> None:
        raise AssertionError

    def announced(self, head: BlockRef) -> None:
        raise AssertionError(head)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    def poll(self, block_time: float | None = None) -> AsyncIterator[ChainFact]:
        watch = HeadWatch(block_time, self.now)
        return poll(watch, self, lambda: self.now, 1.0, self.sleep)


async def test_polling_tells_of_each_new_head_once() -> None:
    facts = Heads([block(1), block(1), block(1), block(2), block(5)]).poll()
    assert [await anext(facts) for _ in range(3)] == [block(1), block(2), block(5)]


async def test_a_fork_at_the_same_height_is_news() -> None:
    facts = Heads([block(1), block(1, "b")]).poll()
    assert [await anext(facts) for _ in range(2)] == [block(1), block(1, "b")]


async def test_a_backend_that_lags_is_no_news() -> None:
    facts = Heads([block(5), block(4), block(5), block(3), block(6)]).poll()
    assert [await anext(facts) for _ in range(2)] == [block(5), block(6)]


async def test_a_lower_head_that_stays_is_news() -> None:
    heads = Heads([block(5), block(4, "b")])
    facts = heads.poll()
    assert [await anext(facts) for _ in range(2)] == [block(5), block(4, "b")]
    assert heads.now >= 10.0


async def test_a_chain_that_stands_still_is_left_where_its_rhythm_is_known() -> None:
    heads = Heads([block(5)])
    facts = heads.poll(block_time=2.0)
    await anext(facts)
    with pytest.raises(BehindError, match="at block 5 for too long"):  # others are preferred
        await anext(facts)
    assert heads.now == pytest.approx(41.0)

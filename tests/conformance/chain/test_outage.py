"""Outages of a real process: a chain that ends, returns, and may be another chain."""

import asyncio

import pytest
from tests.anvil import Anvil, running_anvil

from dstack_vpn.adapters.chain import RpcPool
from dstack_vpn.core.model import BlockRef
from dstack_vpn.errors import EndpointError, WrongChainError

pytestmark = pytest.mark.anvil
DEADLINE = 20.0


def pool_of(anvil: Anvil, scheme: str) -> RpcPool:
    url = anvil.ws if scheme == "ws" else anvil.http
    return RpcPool([url], anvil.contract, chain_id=31337, poll_interval=0.05, draw=lambda: 0.0)


async def lose(anvil: Anvil, pool: RpcPool) -> None:
    """Follow the chain until it ends."""
    with pytest.raises(EndpointError):
        async with pool.session() as session, asyncio.timeout(DEADLINE):
            facts = session.facts()
            await anext(facts)
            await anvil.stop()
            async for _ in facts:
                pass


@pytest.mark.parametrize("scheme", ["ws", "http"])
async def test_a_chain_that_comes_back_is_followed_again(scheme: str) -> None:
    async with running_anvil(durable=True) as anvil:
        await anvil.mint(1)
        pool = pool_of(anvil, scheme)
        await lose(anvil, pool)
        await anvil.start()
        async with pool.session() as session, asyncio.timeout(DEADLINE):
            facts = session.facts()
            first = await anext(facts)
            assert isinstance(first, BlockRef)
            assert len(await session.read_all(first) or ()) == 1


@pytest.mark.parametrize("scheme", ["ws", "http"])
async def test_a_chain_that_comes_back_empty_is_the_wrong_one(scheme: str) -> None:
    async with running_anvil() as anvil:
        pool = pool_of(anvil, scheme)
        await lose(anvil, pool)
        await anvil.start()
        with pytest.raises(WrongChainError):
            async with pool.session():
                pass


async def test_bursts_of_blocks_arrive_without_a_gap() -> None:
    async with (
        running_anvil() as anvil,
        pool_of(anvil, "ws").session() as session,
        asyncio.timeout(DEADLINE),
    ):
        facts = session.facts()
        last = await anext(facts)
        assert isinstance(last, BlockRef)
        for _ in range(3):
            await anvil.mine(5)
            for _ in range(5):
                head = await anext(facts)
                assert isinstance(head, BlockRef)
                assert head.parent_hash == last.hash
                last = head

"""A node behind a load balancer whose backends lag independently: no change waits for an audit."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.anvil import key_of
from tests.fake_chain import registry
from tests.fake_chain.balancer import Balancer, balanced
from tests.integration.conftest import MakeRig
from tests.integration.support import Rig

BLOCK = 0.2
"""Seconds between blocks."""
MARGIN = 0.5
"""Seconds that a change may take beyond the lag."""
CASES = [(1.0, 1), (1.0, 2), (5.0, 3)]


@asynccontextmanager
async def mining(server: Balancer) -> AsyncIterator[None]:
    """Empty blocks all the while."""

    async def mine() -> None:
        while True:
            await asyncio.sleep(BLOCK)
            await server.mine()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(mine())
        try:
            yield
        finally:
            task.cancel()


async def applied_in(rig: Rig, number: int, *, granted: bool, limit: float) -> float:
    """Seconds until the device has, or lacks, the key; fails when it took longer than ``limit``."""
    began, key = time.monotonic(), key_of(number)
    while (key in rig.keys) != granted:
        took = time.monotonic() - began
        assert took < limit, f"{'grant' if granted else 'revocation'} {number} was not applied in {limit} s"
        await asyncio.sleep(0.005)
    return time.monotonic() - began


@pytest.mark.parametrize("scheme", ["http", "ws"])
@pytest.mark.parametrize(("lag", "seed"), CASES)
async def test_each_change_is_applied_within_the_lag(
    lag: float, seed: int, scheme: str, make_rig: MakeRig, log_lines: list[Any]
) -> None:
    async with balanced(lag, seed) as server:
        for _ in range(10):
            await server.mine()
        rig = make_rig(getattr(server, scheme), server.chain.contract)
        async with mining(server), rig.running():
            took = []
            for number in range(1, 5):
                mint = registry.mint(server.chain.accounts[number], f"node-{number}", str(key_of(number)), "")
                await server.mine(mint)
                took.append(await applied_in(rig, number, granted=True, limit=lag + MARGIN))
                await asyncio.sleep(server.chance.uniform(0.0, lag / 2))
                await server.mine(registry.revoke(number))
                took.append(await applied_in(rig, number, granted=False, limit=lag + MARGIN))
                await asyncio.sleep(lag / 4)
                assert key_of(number) not in rig.keys, "a backend that lags brought a revoked key back"
            left = [line for line in log_lines if line["event"] == "rpc.endpoint_left"]
            assert not left, "no session ended because a backend lagged"
            assert not [line for line in log_lines if line["event"] == "chain.reload"]

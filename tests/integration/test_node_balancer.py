"""A node behind a load balancer whose backends lag independently: no change waits for a resync."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.anvil import key_of
from tests.fake_chain import registry
from tests.fake_chain.balancer import Balancer, balanced
from tests.integration.support import ECONOMY, Rig

BLOCK = 0.2
"""Seconds between blocks."""
MARGIN = 0.5
"""Seconds that a change may take in addition to the lag."""
STALL = 0.05
"""Seconds between two steps of the event loop beyond which only processor time counts.

Then the machine did not run this process, which is the node's, the servers' and the test's.
"""
CASES = [(1.0, (1, 2), 4), (5.0, (3, 4), 2)]
"""The maximum lag of a backend in seconds, the seeds, and the number of nodes."""


@asynccontextmanager
async def mining(server: Balancer) -> AsyncIterator[None]:
    """Mine empty blocks during the context."""

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
    """Return the seconds until the device has or lacks the key; fail after ``limit`` seconds."""
    key, took = key_of(number), 0.0
    at, used = time.monotonic(), time.process_time()
    while (key in rig.keys) != granted:
        assert took < limit, f"{'grant' if granted else 'revocation'} {number} was not applied in {limit} s"
        await asyncio.sleep(0.005)
        now, used_now = time.monotonic(), time.process_time()
        took += min(now - at, STALL + used_now - used)
        at, used = now, used_now
    return took


async def follows_changes(server: Balancer, rig: Rig, changes: int) -> None:
    """Grant and revoke nodes in sequence. Each change takes effect within the lag."""
    lag = server.lag
    for number in range(1, changes + 1):
        mint = registry.mint(server.chain.accounts[number], f"node-{number}", str(key_of(number)), "")
        await server.mine(mint)
        await applied_in(rig, number, granted=True, limit=lag + MARGIN)
        await asyncio.sleep(server.chance.uniform(0.0, lag / 2))
        await server.mine(registry.revoke(number))
        await applied_in(rig, number, granted=False, limit=lag + MARGIN)
        await asyncio.sleep(lag / 4)
        assert key_of(number) not in rig.keys, "a backend that lags brought a revoked key back"


@pytest.mark.parametrize("environment", [{}, ECONOMY], ids=["full", "economy"])
@pytest.mark.parametrize("scheme", ["http", "ws"])
@pytest.mark.parametrize(("lag", "seeds", "changes"), CASES)
async def test_each_change_is_applied_within_the_lag(
    lag: float,
    seeds: tuple[int, ...],
    changes: int,
    scheme: str,
    environment: dict[str, str],
    tmp_path: Path,
    log_lines: list[Any],
) -> None:
    """Two seeds run concurrently, with separate chains and nodes, because both mostly wait."""
    async with AsyncExitStack() as stack:
        followed = []
        for seed in seeds:
            server = await stack.enter_async_context(balanced(lag, seed))
            for _ in range(10):
                await server.mine()
            state = tmp_path / str(seed)
            state.mkdir()
            rig = Rig([getattr(server, scheme)], server.chain.contract, state, environment=environment)
            await stack.enter_async_context(mining(server))
            followed.append((server, await stack.enter_async_context(rig.running()), changes))
        async with asyncio.TaskGroup() as group:
            for each in followed:
                group.create_task(follows_changes(*each))
        left = [line for line in log_lines if line["event"] == "rpc.endpoint_left"]
        assert not left, "no session ended because a backend lagged"
        assert not [line for line in log_lines if line["event"] == "chain.reload"]

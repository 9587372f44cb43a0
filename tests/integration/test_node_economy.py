"""A node with FOLLOW=economy: logs are announced, and the latest block is queried at intervals."""

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from tests.anvil import key_of
from tests.fake_chain import Fault, serve
from tests.integration.conftest import MakeRig
from tests.integration.pairs import Pair, members
from tests.integration.support import ECONOMY, Rig, eventually
from tests.integration.test_node_faults import FAULTS

SELDOM = {"FOLLOW": "economy", "HEAD_INTERVAL": "30s"}
"""No head is queried during a test, unless something needs it."""


def subscriptions(rig: Rig) -> list[object]:
    return [parameters[0] for method, parameters in rig.asked if method == "eth_subscribe"]


def tip_of(rig: Rig) -> str | None:
    tip = rig.node.chain.state.follower.tip
    return None if tip is None else tip.hash


async def test_only_logs_are_subscribed_and_an_idle_node_asks_for_heads_alone(make_rig: MakeRig) -> None:
    async with serve() as server:
        await server.chain.mint(1)
        async with make_rig(server.ws, server.chain.contract, environment=ECONOMY).running() as rig:
            assert subscriptions(rig) == ["logs"]
            await server.chain.mine_empty(40)
            await eventually(lambda: tip_of(rig) == server.chain.head.hash, "a polled head")
            begun = len(rig.asked)
            await server.chain.mine_empty(40)
            await eventually(lambda: tip_of(rig) == server.chain.head.parent_hash, "the next one")
            asked = Counter(method for method, _ in rig.asked[begun:])
            # The chain still has our tip, and this is its new end.
            assert asked == {"eth_call": 1}


async def test_a_revocation_waits_for_no_head(make_rig: MakeRig) -> None:
    async with serve() as server:
        for number in (1, 2):
            await server.chain.mint(number)
        async with make_rig(server.ws, server.chain.contract, environment=SELDOM).running() as rig:
            await rig.settle(members(server.chain), "the initial peers")
            server.faults.by_method["eth_getBlockByNumber"] = Fault(stall=True)
            await server.chain.mine_empty(40)
            await server.chain.revoke(1)
            await rig.settle(members(server.chain), "the revocation")
            assert rig.keys == {key_of(2)}


async def test_a_reorg_that_undoes_a_mint_is_found_by_a_head(make_rig: MakeRig) -> None:
    async with serve() as server:
        await server.chain.mint(1)
        async with make_rig(server.ws, server.chain.contract, environment=SELDOM).running() as rig:
            await server.chain.mine_empty(5)
            await server.chain.mint(2)
            await rig.settle(members(server.chain), "the mint")
            server.faults.mute_logs = True  # nor are logs announced as removed
            await server.chain.reorg(1)
            await server.chain.mine_empty(3)
            state = rig.node.chain.state
            await eventually(lambda: not state.needs_heads(), "the check of the mint's block")
            await rig.settle(members(server.chain), "the reorg")
            assert rig.keys == {key_of(1)}


async def test_a_grant_that_waits_for_confirmations_needs_heads(make_rig: MakeRig) -> None:
    async with serve() as server:
        await server.chain.mint(1)
        environment = SELDOM | {"GRANT_CONFIRMATIONS": "20"}
        await server.chain.mine_empty(30)
        async with make_rig(server.ws, server.chain.contract, environment=environment).running() as rig:
            await rig.settle(members(server.chain), "the initial peers")
            await server.chain.mint(2)
            await eventually(rig.node.chain.state.needs_heads, "a grant that waits")
            assert rig.keys == {key_of(1)}
            await server.chain.mine_empty(30)
            await rig.settle(members(server.chain), "the confirmed grant")


async def test_a_lost_subscription_is_found_by_a_comparison(make_rig: MakeRig) -> None:
    async with serve() as server:
        for number in (1, 2):
            await server.chain.mint(number)
        rig = make_rig(server.ws, server.chain.contract, environment=ECONOMY, resync_interval=0.3)
        async with rig.running():
            await rig.settle(members(server.chain), "the initial peers")
            server.faults.mute_logs = True
            await server.chain.revoke(1)
            await rig.settle(members(server.chain), "the revocation")
            # Another session subscribes again.
            await eventually(lambda: subscriptions(rig) == ["logs", "logs"], "another subscription")
            server.faults.mute_logs = False
            await server.chain.revoke(2)
            await rig.settle(members(server.chain), "a revocation that is announced again")


async def test_a_lost_subscription_is_found_by_the_revision_at_the_next_poll(make_rig: MakeRig) -> None:
    async with serve() as server:
        for number in (1, 2):
            await server.chain.mint(number)
        rig = make_rig(server.ws, server.chain.contract, environment=ECONOMY, resync_interval=0.3)
        async with rig.running():
            await audited(rig)
            server.faults.mute_logs = True
            resyncs = rig.node.chain.state.resyncs
            await server.chain.mine_empty(1)
            await server.chain.revoke(1)
            await rig.settle(members(server.chain), "the revocation")
            assert rig.node.chain.state.resyncs == resyncs
            await eventually(lambda: subscriptions(rig) == ["logs", "logs"], "another subscription")


async def test_polls_are_audits_too(make_rig: MakeRig) -> None:
    async with serve() as server:
        await server.chain.mint(1)
        rig = make_rig(server.ws, server.chain.contract, environment=ECONOMY, resync_interval=0.3)
        async with rig.running():
            await audited(rig)
            rig.node.chain.state.resync_interval = 0.9  # less than the time between two polls
            begun = len(rig.asked)
            for _ in range(3):
                resyncs = rig.node.chain.state.resyncs
                await server.chain.mine_empty(3)
                await eventually(partial(has_more_resyncs, rig, resyncs), "an audit by a poll")
            methods = {method for method, _ in rig.asked[begun:]}
            assert methods == {"eth_call"}


def has_more_resyncs(rig: Rig, than: int) -> bool:
    return rig.node.chain.state.resyncs > than


async def audited(rig: Rig) -> None:
    """Wait for an audit, and have no other one during the test."""
    state = rig.node.chain.state
    await eventually(lambda: state.resyncs > 1, "two audits")
    state.resync_interval = 3600.0


async def test_over_http_one_call_shows_that_nothing_happened(make_rig: MakeRig) -> None:
    async with serve() as server:
        for number in (1, 2):
            await server.chain.mint(number)
        rig = make_rig(server.http, server.chain.contract, environment=ECONOMY, resync_interval=0.3)
        async with rig.running():
            await audited(rig)
            await server.chain.mine_empty(2)
            await eventually(lambda: tip_of(rig) == server.chain.head.hash, "the tip")
            for _ in range(3):
                begun = len(rig.asked)
                await server.chain.mine_empty(2)
                parent = server.chain.head.parent_hash
                await eventually(partial(has_tip, rig, parent), "a polled head")
                asked = [method for method, _ in rig.asked[begun:]]
                assert asked[0] == "eth_call"
                assert "eth_getLogs" not in asked
                await eventually(partial(has_tip, rig, server.chain.head.hash), "the last block")
            await server.chain.revoke(1)
            await rig.settle(members(server.chain), "the revocation")
            await server.chain.mint(3)
            await rig.settle(members(server.chain), "the grant")


def has_tip(rig: Rig, block_hash: str) -> bool:
    return tip_of(rig) == block_hash


@pytest.mark.parametrize("scheme", ["ws", "http"])
async def test_an_endpoint_that_runs_no_code_is_followed_by_headers(scheme: str, make_rig: MakeRig) -> None:
    async with serve() as server:
        for number in (1, 2):
            await server.chain.mint(number)
        server.faults.no_code = True
        url = getattr(server, scheme)
        async with make_rig(url, server.chain.contract, environment=ECONOMY).running() as rig:
            for _ in range(2):
                await server.chain.mine_empty(3)
                await eventually(partial(has_tip, rig, server.chain.head.hash), "a polled head")
            await server.chain.revoke(1)
            await rig.settle(members(server.chain), "the revocation")
            codes = [p for method, p in rig.asked if method == "eth_call" and "to" not in p[0]]
            assert len(codes) == 1


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_the_second_endpoint_takes_over(
    pair: Pair, fault: Callable[[Pair], Awaitable[None]], make_rig: MakeRig
) -> None:
    for number in (1, 2):
        await pair.chain.mint(number)
    async with make_rig(pair.urls("ws"), pair.chain.contract, environment=ECONOMY).running() as rig:
        await rig.settle(members(pair.chain), "the initial peers")
        await fault(pair)
        await eventually(lambda: rig.node.chain.state.endpoint == pair.second.ws, "the other endpoint")
        await pair.chain.revoke(1)
        await rig.settle(members(pair.chain), "a revocation by the other endpoint")


async def test_a_chain_that_stands_still_is_left(pair: Pair, make_rig: MakeRig) -> None:
    await pair.chain.mint(1)
    chain = pair.chain
    rig = make_rig(pair.urls("ws"), chain.contract, environment=ECONOMY, pace=0.2)
    async with rig.running():
        pair.first.faults.lies.stuck_at = chain.head.number
        await chain.mine_empty(5)
        await eventually(lambda: rig.node.chain.state.endpoint == pair.second.ws, "the other endpoint")
        assert len(rig.sessions) == 2, "it does not return to the first one, whatever its pause"

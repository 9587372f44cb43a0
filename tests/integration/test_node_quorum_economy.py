"""A quorum of endpoints that announce only logs."""

from collections import Counter

import pytest
from tests.anvil import key_of
from tests.integration.conftest import MakeRig
from tests.integration.support import ECONOMY, eventually
from tests.integration.test_node_quorum import (
    Trio,
    by_revision,
    ever,
    keep_revision,
    mint,
    quarantined,
    running,
    settled,
    trio,
)

__all__ = ["trio"]

QUORUM = {**ECONOMY, "RPC_QUORUM": "2"}


async def test_grants_and_revocations_come_as_ever(trio: Trio, make_rig: MakeRig) -> None:
    chain = trio.chain
    await chain.mint(1)
    async with running(make_rig, trio, environment=QUORUM) as rig:
        await settled(rig, chain, "the initial peers")
        await chain.mint(2)
        await settled(rig, chain, "the grant")
        await chain.revoke(1)
        await settled(rig, chain, "the revocation")
        assert rig.keys == {key_of(2)}


async def test_one_call_shows_an_endpoint_that_nothing_happened(trio: Trio, make_rig: MakeRig) -> None:
    chain = trio.chain
    await chain.mint(1)
    async with running(make_rig, trio, environment=QUORUM) as rig:
        await settled(rig, chain, "the initial peers")
        await by_revision(rig)
        await chain.mine_empty(3)
        tip, state = chain.head.parent_hash, rig.node.chain.state
        await eventually(lambda: state.follower.tip is not None and state.follower.tip.hash == tip, "a poll")
        begun, ends = len(rig.asked), state.resyncs + 3
        await eventually(lambda: state.resyncs >= ends, "resyncs")
        asked = Counter(method for method, _ in rig.asked[begun:])
        # A poll of the followed endpoint queries the latest block as well, on a chain that is idle.
        assert asked["eth_call"] >= 3 * len(trio.servers)
        assert asked.total() - asked["eth_call"] <= 2


async def test_a_forged_grant_adds_no_peer(trio: Trio, make_rig: MakeRig) -> None:
    chain = trio.chain
    await chain.mint(1)
    async with running(make_rig, trio, environment=QUORUM) as rig:
        await settled(rig, chain, "the initial peers")
        await trio.liar.forge(mint(chain, 9))
        await eventually(lambda: trio.liar.ws in quarantined(rig), "the endpoint is quarantined")
        assert key_of(9) not in ever(rig)


@pytest.mark.parametrize("followed", [True, False])
async def test_a_revision_that_never_changes_hides_no_revocation(
    trio: Trio, make_rig: MakeRig, followed: bool
) -> None:
    chain = trio.chain
    await chain.mint(1)
    await chain.mint(2)
    async with running(make_rig, trio, environment=QUORUM) as rig:
        await settled(rig, chain, "the initial peers")
        await by_revision(rig)
        await chain.mine_empty(2)
        keep_revision(trio.servers[0])
        if not followed:
            trio.servers[0].faults.lies.revision_of = None
            keep_revision(trio.servers[1])
        await chain.revoke(1)
        await settled(rig, chain, "the revocation by another endpoint")
        assert rig.keys == {key_of(2)}

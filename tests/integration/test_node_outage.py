"""A node during outages of its real chain, with changes in between, and on a wiped chain."""

import pytest
from tests.anvil import Anvil, key_of, running_anvil
from tests.integration.conftest import MakeRig
from tests.integration.support import eventually
from tests.integration.views import members

pytestmark = pytest.mark.anvil

SCHEMES = pytest.mark.parametrize("scheme", ["ws", "http"])


async def elsewhere(anvil: Anvil) -> None:
    """Revoke token 1 and mint node 3 on another port, invisibly for the node; stop the chain."""
    port, anvil.port = anvil.port, 0
    await anvil.start()
    await anvil.revoke(1)
    await anvil.mint(3)
    await anvil.stop()
    anvil.port = port


@SCHEMES
async def test_what_happened_during_an_outage_is_caught_up(scheme: str, make_rig: MakeRig) -> None:
    async with running_anvil(durable=True) as anvil:
        await anvil.mint(1)
        await anvil.mint(2)
        async with make_rig(getattr(anvil, scheme), anvil.contract).running() as rig:
            before = await members(anvil)
            await rig.settle(before, "the initial peers")
            await anvil.stop()
            await eventually(lambda: rig.component("chain").startswith("failed: "), "health shows the outage")
            assert rig.health().ready
            await elsewhere(anvil)
            assert rig.peers == before
            await anvil.start()
            await rig.settle(await members(anvil), "the changes of the outage")
            assert rig.keys == {key_of(2), key_of(3)}
            await eventually(lambda: rig.component("chain").startswith("ok: "), "health shows the recovery")


@SCHEMES
async def test_a_daemon_that_starts_without_a_chain(scheme: str, make_rig: MakeRig) -> None:
    async with running_anvil(durable=True) as anvil:
        await anvil.mint(1)
        await anvil.mint(2)
        async with make_rig(getattr(anvil, scheme), anvil.contract).running() as first:
            before = await members(anvil)
            await first.settle(before, "the initial peers")
        await anvil.stop()
        again = make_rig(getattr(anvil, scheme), anvil.contract)
        async with again.running(settled=False):
            await eventually(lambda: again.peers == before, "the stored members", timeout=1.0)
            await eventually(lambda: again.node.chain.state.problem, "no endpoint replies")
            assert again.component("registry").startswith("warning: members are from the state directory")
            assert again.component("chain").startswith("failed: ")
            assert again.health().ready
            await elsewhere(anvil)
            await anvil.start()
            await again.settle(await members(anvil), "the chain's current members")
            await eventually(lambda: again.component("registry") == "ok: ", "the members are confirmed")


@SCHEMES
async def test_a_wiped_chain_on_the_same_port_changes_no_peer(scheme: str, make_rig: MakeRig) -> None:
    async with running_anvil() as anvil:
        await anvil.mint(1)
        await anvil.mint(2)
        rig = make_rig(getattr(anvil, scheme), anvil.contract)
        async with rig.running():
            before = await members(anvil)
            await rig.settle(before, "the initial peers")
            await anvil.stop()
            await wipe(anvil)
            await eventually(lambda: "wiped" in rig.component("chain"), "health shows the problem")
            assert await rig.node.reconciler.repair()
            assert rig.peers == before
            assert rig.health().ready
        again = make_rig(getattr(anvil, scheme), anvil.contract)
        async with again.running(settled=False):
            await eventually(lambda: "wiped" in again.component("chain"), "the next daemon's health")
            await eventually(lambda: again.peers == before, "the stored members")
            assert again.health().ready


async def wipe(anvil: Anvil) -> None:
    """Start a new chain with the same contract address and another genesis."""
    anvil.arguments = ("--timestamp", "1600000000")
    await anvil.start()
    contract = anvil.contract
    assert await anvil.deploy() == contract
    await anvil.mine(5)

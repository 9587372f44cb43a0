"""A node on endpoints with false data about logs, reorgs and members."""

from typing import Any

import pytest
from tests.anvil import key_of
from tests.fake_chain import FakeChain, FakeServer, Fault, registry
from tests.integration.conftest import MakeRig
from tests.integration.pairs import Pair, members
from tests.integration.support import Rig, eventually

from dstack_vpn.adapters.chain import ranges, session
from dstack_vpn.core.model import RemovePeer
from dstack_vpn.daemon.peers import reconciler


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pause before a repeated confirmation of held removals to 0.1 s."""
    monkeypatch.setattr(reconciler, "CONFIRM_PAUSE", 0.1)


ASKED = ("eth_getLogs", "eth_getBlockByHash")
"""The calls that fetch the blocks up to a head, and their logs. Polling uses neither."""


@pytest.mark.parametrize("scheme", ["ws", "http"])
async def test_logs_asked_for_past_the_head_are_asked_for_again(
    fake_chain: FakeServer, scheme: str, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load balancer: one backend sends the head; another, which lags, has no logs for it yet."""
    for module in (ranges, session):
        monkeypatch.setattr(module, "LAG", 1.0)  # seconds that a backend may lag
    chain, faults = fake_chain.chain, fake_chain.faults
    await chain.mint(1)
    rig = make_rig(getattr(fake_chain, scheme), chain.contract)
    async with rig.running():
        await rig.settle(members(chain), "the initial peers")
        lagging = len(chain.blocks)
        mint = registry.mint(chain.accounts[1], "node-2", str(key_of(2)))
        hidden = [chain._append([mint]), chain._append([])]
        want = members(chain)
        if scheme == "http":
            faults.by_method["eth_getBlockByNumber"] = Fault(result=hidden[-1].header(), times=1)
        del chain.blocks[lagging:]
        faults.lies_past_head = True
        before = sum(faults.calls[method] for method in ASKED)
        await fake_chain.push("newHeads", hidden[-1].header())
        await eventually(lambda: sum(faults.calls[method] for method in ASKED) > before, "a request")
        await rig.quiet()
        assert rig.tip == lagging - 1, "the cursor has not moved"
        chain.blocks += hidden
        await chain.mine()
        await rig.settle(want, "the mint that the lagging backend did not know")


async def test_removed_logs_before_the_heads_of_a_reorg(fake_chain: FakeServer, make_rig: MakeRig) -> None:
    chain = fake_chain.chain
    await chain.mint(1)
    async with make_rig(fake_chain.ws, chain.contract).running() as rig:
        await chain.mint(2)
        await chain.revoke(1)
        await rig.settle(members(chain), "before the reorg")
        moved = registry.mint(chain.accounts[1], "node-2", str(key_of(2)))
        await chain.reorg(2, moved, registry.mint(chain.accounts[1], "node-3", str(key_of(3))))
        await rig.settle(members(chain), "after the reorg")
        assert rig.keys == {key_of(1), key_of(2), key_of(3)}
        assert RemovePeer(key_of(2)) not in rig.device.applied, "it only moved to another block"


async def test_logs_that_a_subscription_lost_are_found_by_the_audit(
    fake_chain: FakeServer, make_rig: MakeRig
) -> None:
    chain = fake_chain.chain
    await chain.mint(1)
    async with make_rig(fake_chain.ws, chain.contract, resync_interval=0.1).running() as rig:
        await eventually(lambda: rig.node.chain.state.resyncs, "a resync")
        fake_chain.faults.mute_logs = True
        await chain.mint(2)
        await chain.revoke(1)
        await rig.settle(members(chain), "the changes that were not announced")
        assert rig.keys == {key_of(2)}


async def eight(*chains: FakeChain) -> None:
    for chain in chains:
        mints = [registry.mint(chain.accounts[1], f"node-{n}", str(key_of(n))) for n in range(1, 9)]
        await chain.mine(*mints)


async def revoke_six(chain: FakeChain) -> None:
    await chain.mine(*(registry.revoke(token) for token in range(1, 7)))


@pytest.mark.parametrize("scheme", ["ws", "http"])
async def test_a_mass_removal_that_the_other_endpoint_confirms(
    pair: Pair, scheme: str, make_rig: MakeRig
) -> None:
    await eight(pair.chain)
    async with make_rig(pair.urls(scheme), pair.chain.contract).running() as rig:
        await rig.settle(members(pair.chain), "the initial peers")
        asked = pair.second.faults.calls["eth_call"]
        await revoke_six(pair.chain)
        await rig.settle(members(pair.chain), "the confirmed removal")
        assert pair.second.faults.calls["eth_call"] > asked, "by the other endpoint"
        await eventually(lambda: not rig.node.reconciler.removal_guard.held, "no removal is held")


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("scheme", ["ws", "http"])
async def test_a_mass_removal_that_the_other_endpoint_contradicts(
    fake_chain: FakeServer, second_chain: FakeServer, scheme: str, make_rig: MakeRig, log_lines: list[Any]
) -> None:
    liar, honest = fake_chain.chain, second_chain.chain
    await eight(liar, honest)
    urls = [getattr(fake_chain, scheme), getattr(second_chain, scheme)]
    async with make_rig(urls, liar.contract).running() as rig:
        before = members(liar)
        await rig.settle(before, "the initial peers")
        await revoke_six(liar)
        await eventually(lambda: contradicted(log_lines), "the other endpoint contradicts")
        assert await rig.node.reconciler.repair()
        assert rig.peers == before
        assert rig.component("registry").startswith("failed: 6 removals, more than half of the peers")
        await honest_again(rig, liar, honest)


def contradicted(lines: list[Any]) -> bool:
    return any(line["event"] == "brake.contradicted" for line in lines)


async def honest_again(rig: Rig, liar: FakeChain, honest: FakeChain) -> None:
    """Revert the first endpoint to the honest chain, and check that no removal is held."""
    await liar.reorg(1)
    await honest.mine_empty(1)
    await rig.settle(members(honest), "the initial peers again")
    await eventually(lambda: not rig.node.reconciler.removal_guard.held, "no removal is held")


async def test_an_empty_registry_at_the_next_session_is_a_mass_removal(
    fake_chain: FakeServer, second_chain: FakeServer, make_rig: MakeRig
) -> None:
    """A backend that has lost its state returns no tokens and no error. The removal is held."""
    chain = fake_chain.chain
    await eight(chain, second_chain.chain)
    async with make_rig(
        [fake_chain.ws, second_chain.ws], chain.contract, resync_interval=0.1
    ).running() as rig:
        before = members(chain)
        await rig.settle(before, "the initial peers")
        object.__setattr__(chain.head, "tokens", {})
        await eventually(lambda: len(rig.node.reconciler.removal_guard.held) == 8, "the removal is held")
        assert rig.peers == before
        assert rig.component("registry").startswith("failed: 8 removals")

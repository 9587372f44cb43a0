"""The number of RPC calls to an endpoint, for events and for resyncs."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.anvil import Anvil, key_of, running_anvil
from tests.integration.conftest import MakeRig
from tests.integration.support import Rig, eventually
from tests.integration.views import Behaviour, calldata, deploy_model, members, model_call, model_members

from dstack_vpn.core.chain import agreement

pytestmark = pytest.mark.anvil

EVENT = 3
"""The maximum number of calls for an event. Pushed messages are not calls."""
AUDIT = 6 + 7
"""The maximum number of calls for a full resync of 1,000 tokens.

Seven are for the contract's own state: one request, and one call where Multicall3 is deployed.
"""
SCHEMES = pytest.mark.parametrize("scheme", ["ws", "http"])

Step = Callable[[], Awaitable[Any]]


async def cost(anvil: Anvil, rig: Rig, step: Step) -> list[str]:
    """Return the calls from a transaction until the node has processed all its effects."""
    before = len(rig.spent)
    await step()
    tip = int(await anvil.rpc("eth_blockNumber"), 16)
    await eventually(lambda: rig.tip == tip, "the transaction's block")
    await rig.quiet()
    return rig.spent[before:]


def our_steps(anvil: Anvil) -> dict[str, Step]:
    _, holder, other, *_ = anvil.accounts
    moved = calldata("transferFrom(address,address,uint256)", holder, other, 1)
    rotated = calldata("updatePublicKey(uint256,string)", 1, str(key_of(40)))
    endpoint = calldata("setEndpoint(uint256,string)", 2, "192.0.2.1:51820")
    return {
        "mint": lambda: anvil.mint(3),
        "transfer": lambda: anvil.send(moved, sender=1),
        "key": lambda: anvil.send(rotated, sender=2),
        "endpoint": lambda: anvil.send(endpoint, sender=1),
        "expiry": lambda: anvil.send(calldata("setExpiry(uint256,uint64)", 2, 2**40)),
        "revoke": lambda: anvil.revoke(2),
        "none": anvil.mine,
    }


@SCHEMES
async def test_an_event_of_our_registry(anvil: Anvil, scheme: str, make_rig: MakeRig) -> None:
    await anvil.mint(1)
    await anvil.mint(2)
    async with make_rig(getattr(anvil, scheme), anvil.contract).running() as rig:
        spent = {name: await cost(anvil, rig, step) for name, step in our_steps(anvil).items()}
        assert {name: calls for name, calls in spent.items() if len(calls) > EVENT} == {}
        if scheme == "ws":
            assert spent["mint"] == ["eth_call"], "a grant's log does not carry the token URI"
            assert not any(calls for name, calls in spent.items() if name != "mint")
        await rig.settle(await members(anvil), "the peers after all events")


@SCHEMES
async def test_a_full_audit_of_a_thousand_tokens(
    scheme: str, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "REPEATS", 0)  # no audit is the revision alone
    async with running_anvil("--gas-limit", "1000000000") as anvil:
        await anvil.mint_many(1000, per_block=1000)
        rig = make_rig(getattr(anvil, scheme), anvil.contract)
        async with rig.running():
            await rig.settle(await members(anvil), "a thousand peers")
            rig.resync_interval = 0.01
        again = make_rig(getattr(anvil, scheme), anvil.contract, resync_interval=0.01)
        async with again.running():
            await eventually(lambda: again.node.chain.state.resyncs >= 1, "a resync")
            begun = len(again.spent)
            resyncs = again.node.chain.state.resyncs
            await eventually(lambda: again.node.chain.state.resyncs > resyncs + 3, "more resyncs")
            calls, count = len(again.spent) - begun, again.node.chain.state.resyncs - resyncs
            assert 3 < calls / count <= AUDIT, again.spent[begun:]


@pytest.mark.parametrize("keep", [False, True])
async def test_an_event_of_the_deployed_registry(keep: bool, anvil: Anvil, make_rig: MakeRig) -> None:
    await deploy_model(anvil, Behaviour(transfer_keeps_key=keep))
    await anvil.mint(1)
    await anvil.mint(2)
    _, holder, other, *_ = anvil.accounts
    moved = model_call("transferFrom(address,address,uint256)", holder, other, 1)
    rotated = model_call("updatePublicKey(string)", str(key_of(40)))
    steps: dict[str, Step] = {
        "mint": lambda: anvil.mint(3),
        "transfer": lambda: anvil.send(moved, sender=1),
        "key": lambda: anvil.send(rotated, sender=2),
        "revoke": lambda: anvil.revoke(2),
        "none": anvil.mine,
    }
    async with make_rig(anvil.ws, anvil.contract).running() as rig:
        spent = {name: await cost(anvil, rig, step) for name, step in steps.items()}
        assert {name: calls for name, calls in spent.items() if len(calls) > EVENT} == {}
        await rig.settle(await model_members(anvil, [1, 2, 3]), "the peers after all events")

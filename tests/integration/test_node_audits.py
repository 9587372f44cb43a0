"""The calls of a resync on a dev chain: the revision alone, or the pages of all tokens."""

from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode
from tests.anvil import Anvil, running_anvil
from tests.integration.conftest import MakeRig
from tests.integration.support import Rig, eventually
from tests.integration.views import Behaviour, artifact, calldata, deploy_model, members, model_members

from dstack_vpn.adapters.chain.logs import LogReader
from dstack_vpn.adapters.contracts import signatures
from dstack_vpn.core.chain.events import LoggedEvent, Revoked

pytestmark = pytest.mark.anvil

INTERVAL = 0.1
"""Seconds between resyncs."""
REVISION, PAGE = signatures.REVISION, signatures.GET_NODES
RESYNCS = 40
"""Resyncs until one of them has to be the revision alone."""
FIRST = Path(__file__).parents[1] / "contracts" / "artifacts" / "AccessRegistryV1.json"
SCHEMES = pytest.mark.parametrize("scheme", ["ws", "http"])


async def audits(rig: Rig, count: int = 1) -> list[bytes | str]:
    """Return the calls of the next resyncs: the selector of an ``eth_call``, or the method."""
    state = rig.node.chain.state
    ended = state.resyncs
    await eventually(lambda: state.resyncs > ended, "the end of the resync that is under way")
    begun, ended = len(rig.asked), state.resyncs
    await eventually(lambda: state.resyncs >= ended + count, "resyncs")
    assert state.resyncs == ended + count, "a resync was missed"
    return [
        bytes.fromhex(parameters[0]["data"][2:10]) if method == "eth_call" else method
        for method, parameters in rig.asked[begun:]
        if "latest" not in parameters
    ]


async def unchanged(rig: Rig) -> None:
    """Wait until a resync is the revision alone."""
    for _ in range(RESYNCS):
        if await audits(rig) == [REVISION]:
            return
    raise AssertionError(f"none of {RESYNCS} resyncs was the revision alone")


@SCHEMES
@pytest.mark.parametrize("tokens", [5, 1000])
async def test_an_unchanged_registry_costs_one_call(scheme: str, tokens: int, make_rig: MakeRig) -> None:
    async with running_anvil("--gas-limit", "1000000000") as anvil:
        await anvil.mint_many(tokens, per_block=1000)
        async with make_rig(
            getattr(anvil, scheme), anvil.contract, resync_interval=INTERVAL
        ).running() as rig:
            await unchanged(rig)
            assert await audits(rig, 5) == [REVISION] * 5


async def test_everything_is_read_again_after_23_resyncs(anvil: Anvil, make_rig: MakeRig) -> None:
    await anvil.mint(1)
    async with make_rig(anvil.ws, anvil.contract, resync_interval=INTERVAL / 5).running() as rig:
        await unchanged(rig)
        assert (await audits(rig, 48)).count(PAGE) == 2


@SCHEMES
async def test_a_change_costs_one_full_reading(anvil: Anvil, scheme: str, make_rig: MakeRig) -> None:
    await anvil.mint(1)
    async with make_rig(getattr(anvil, scheme), anvil.contract, resync_interval=INTERVAL).running() as rig:
        await unchanged(rig)
        for change in (anvil.mint(2), anvil.send(calldata("addMinter(address)", anvil.accounts[4]))):
            begun = len(rig.asked)
            await change
            await anvil.mine(3)
            await rig.settle(await members(anvil), "the peers after the change")
            await unchanged(rig)
            pages = [1 for method, p in rig.asked[begun:] if method == "eth_call" and is_page(p)]
            assert 1 <= len(pages) <= 2, "a change during a reading leads to a second one"


def is_page(parameters: Any) -> bool:
    return str(parameters[0]["data"]).startswith("0x" + PAGE.hex())


@SCHEMES
async def test_a_revocation_whose_log_is_hidden_is_found_by_the_revision(
    anvil: Anvil, scheme: str, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, log_lines: list[Any]
) -> None:
    await anvil.mint(1)
    await anvil.mint(2)
    event = LogReader.event

    def hiding(reader: LogReader, value: Any) -> LoggedEvent | None:
        found = event(reader, value)
        return None if found is not None and isinstance(found.event, Revoked) else found

    async with make_rig(getattr(anvil, scheme), anvil.contract, resync_interval=INTERVAL).running() as rig:
        await unchanged(rig)
        monkeypatch.setattr(LogReader, "event", hiding)
        await anvil.revoke(1)
        await rig.settle(await members(anvil), "the peers without the revoked one")
        assert [x["tokens"] for x in log_lines if x["event"] == "registry.resync_differs"] == [[1]]
        await anvil.mine(3)  # the correction is final
        await unchanged(rig)


async def test_the_first_version_is_read_completely_each_time(anvil: Anvil, make_rig: MakeRig) -> None:
    first = artifact(FIRST)["bytecode"].removeprefix("0x")
    receipt = await anvil.send(bytes.fromhex(first) + encode(["address"], [anvil.accounts[0]]), to="")
    anvil.contract = receipt["contractAddress"].lower()
    await anvil.mint(1)
    async with make_rig(anvil.ws, anvil.contract, resync_interval=INTERVAL).running() as rig:
        found = await audits(rig, 5)
        assert (found.count(PAGE), found.count(REVISION)) == (5, 0)


async def test_the_deployed_contract_is_read_completely_each_time(anvil: Anvil, make_rig: MakeRig) -> None:
    await deploy_model(anvil, Behaviour())
    await anvil.mint(1)
    async with make_rig(anvil.ws, anvil.contract, resync_interval=INTERVAL).running() as rig:
        await rig.settle(await model_members(anvil, [1]), "the peer")
        found = await audits(rig, 5)
        assert (found.count(signatures.GET_NODE_ACCESS), found.count(REVISION)) == (5, 0)

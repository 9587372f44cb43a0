"""The calls of a resync on a dev chain: the revision alone, or the pages of all tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode
from tests.anvil import Anvil, running_anvil
from tests.integration.conftest import MakeRig
from tests.integration.support import Rig, eventually
from tests.integration.views import Behaviour, artifact, calldata, deploy_model, members, model_members

from dstack_vpn.adapters.chain.faults import UnsupportedError
from dstack_vpn.adapters.chain.http import HttpTransport
from dstack_vpn.adapters.chain.jsonrpc import Request
from dstack_vpn.adapters.chain.logs import LogReader
from dstack_vpn.adapters.chain.session import RpcSession
from dstack_vpn.adapters.chain.transport import Outcome
from dstack_vpn.adapters.chain.websocket import WebSocketTransport
from dstack_vpn.adapters.contracts import signatures
from dstack_vpn.core.chain import agreement
from dstack_vpn.core.chain.events import Granted, LoggedEvent, RegistryEvent, Revoked, Transferred

pytestmark = pytest.mark.anvil

INTERVAL = 0.1
"""Seconds between resyncs."""
REVISION, PAGE, PROOF = signatures.REVISION, signatures.GET_NODES, "eth_getProof"
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


async def unchanged(rig: Rig, call: bytes | str = REVISION) -> None:
    """Wait until a resync is the revision alone, or another call alone."""
    for _ in range(RESYNCS):
        if await audits(rig) == [call]:
            return
    raise AssertionError(f"none of {RESYNCS} resyncs was {call!r} alone")


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


async def test_everything_is_read_again_after_the_repetitions(
    anvil: Anvil, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "REPEATS", 23)
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


async def deploy_first_version(anvil: Anvil) -> None:
    first = artifact(FIRST)["bytecode"].removeprefix("0x")
    receipt = await anvil.send(bytes.fromhex(first) + encode(["address"], [anvil.accounts[0]]), to="")
    anvil.contract = receipt["contractAddress"].lower()


async def deploy_other(anvil: Anvil, kind: str) -> None:
    """Deploy a contract without a revision."""
    await (deploy_first_version(anvil) if kind == "first" else deploy_model(anvil, Behaviour()))


KINDS = pytest.mark.parametrize("kind", ["first", "deployed"])


@KINDS
@SCHEMES
async def test_without_a_revision_an_unchanged_registry_costs_one_proof(
    anvil: Anvil, scheme: str, kind: str, make_rig: MakeRig
) -> None:
    await deploy_other(anvil, kind)
    for number in range(1, 6):
        await anvil.mint(number)
    await anvil.mine(3)
    async with make_rig(getattr(anvil, scheme), anvil.contract, resync_interval=INTERVAL).running() as rig:
        await unchanged(rig, PROOF)
        assert await audits(rig, 5) == [PROOF] * 5
        begun = len(rig.asked)
        await anvil.mine(5)
        await unchanged(rig, PROOF)
        assert not full_readings(rig, begun), "a block without a change leads to no reading"


@SCHEMES
async def test_a_change_of_the_deployed_contract_costs_two_full_readings(
    anvil: Anvil, scheme: str, make_rig: MakeRig
) -> None:
    """The second one is for logs that the endpoint serves late."""
    await deploy_model(anvil, Behaviour())
    await anvil.mint(1)
    await anvil.mine(3)
    async with make_rig(getattr(anvil, scheme), anvil.contract, resync_interval=INTERVAL).running() as rig:
        await unchanged(rig, PROOF)
        begun = len(rig.asked)
        await anvil.mint(2)
        await anvil.mine(3)
        await rig.settle(await model_members(anvil, [1, 2]), "the peers after the change")
        await unchanged(rig, PROOF)
        assert 2 <= full_readings(rig, begun) <= 3, "a change during a reading leads to a third one"


def full_readings(rig: Rig, begun: int) -> int:
    """Return the number of resyncs that have read token 1, from that call on."""
    wanted = "0x" + (signatures.GET_NODE_ACCESS + (1).to_bytes(32, "big")).hex()
    calls = [parameters[0]["data"] for method, parameters in rig.asked[begun:] if method == "eth_call"]
    return sum(call == wanted or call.startswith("0x" + PAGE.hex()) for call in calls)


@pytest.mark.parametrize("hidden", [Revoked, Granted])
@SCHEMES
async def test_a_change_of_the_deployed_contract_whose_log_is_hidden_is_found_by_the_next_proof(
    anvil: Anvil,
    scheme: str,
    hidden: type[RegistryEvent],
    make_rig: MakeRig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The log of a revocation is lost. That of a mint is not announced, and found in the range."""
    await deploy_model(anvil, Behaviour())
    await anvil.mint(1)
    await anvil.mint(2)
    await anvil.mine(3)
    url = getattr(anvil, scheme)
    async with make_rig(url, anvil.contract, resync_interval=INTERVAL).running() as rig:
        await unchanged(rig, PROOF)
        hide(monkeypatch, hidden)
        state = rig.node.chain.state
        begun = state.resyncs
        await (anvil.revoke(1) if hidden is Revoked else anvil.mint(3))
        await rig.settle(await model_members(anvil, [1, 2, 3]), "the peers after the change")
        assert state.resyncs <= begun + 3, "the resync that was under way, and the next one"


def hide(monkeypatch: pytest.MonkeyPatch, hidden: type[RegistryEvent]) -> None:
    """Hide the logs of these events; the range of a full reading shows those of mints."""
    event, events, shown = LogReader.event, RpcSession.events, False

    def hiding(reader: LogReader, value: Any) -> LoggedEvent | None:
        found = event(reader, value)
        lost = found is not None and isinstance(found.event, (hidden, Transferred)) and not shown
        return None if lost else found

    async def of_range(session: RpcSession, first: int, last: int) -> list[LoggedEvent]:
        nonlocal shown
        shown = hidden is Granted
        try:
            return await events(session, first, last)
        finally:
            shown = False

    monkeypatch.setattr(LogReader, "event", hiding)
    monkeypatch.setattr(RpcSession, "events", of_range)


@SCHEMES
async def test_an_endpoint_without_proofs_is_read_completely_each_time(
    anvil: Anvil, scheme: str, make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = WebSocketTransport if scheme == "ws" else HttpTransport
    exchange = transport.exchange

    async def refusing(self: Any, requests: Sequence[Request], timeout: float) -> list[Outcome]:
        if [request.method for request in requests] == [PROOF]:
            return [UnsupportedError("the method eth_getProof does not exist")]
        return await exchange(self, requests, timeout)

    monkeypatch.setattr(transport, "exchange", refusing)
    await deploy_model(anvil, Behaviour())
    await anvil.mint(1)
    async with make_rig(getattr(anvil, scheme), anvil.contract, resync_interval=INTERVAL).running() as rig:
        await rig.settle(await model_members(anvil, [1]), "the peer")
        found = await audits(rig, 5)
        assert (found.count(signatures.GET_NODE_ACCESS), found.count("eth_getLogs")) == (5, 5)
        assert [method for method, _ in rig.asked].count(PROOF) == 1, "the refusal is remembered"
        await anvil.revoke(1)
        await rig.settle({}, "no peer after the revocation")

"""A node and the contract's own state: tag names, policy and roles."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from tests.anvil import Anvil, key_of
from tests.fake_chain import FakeServer, registry
from tests.integration.conftest import MakeRig
from tests.integration.pairs import Pair
from tests.integration.support import Rig, eventually
from tests.integration.test_admin_cli import KEYS
from tests.integration.views import calldata, members

from dstack_vpn.adapters.admin import invitations as inviting
from dstack_vpn.adapters.admin.signer import Signer
from dstack_vpn.adapters.contracts.invitations import redeem
from dstack_vpn.adapters.web.openapi import document
from dstack_vpn.core.chain.contract import ContractState
from dstack_vpn.core.chain.invitation import Invitation, RegistryAddress
from dstack_vpn.core.model import ZERO_ADDRESS
from dstack_vpn.core.observe.events import (
    InvitationUsed,
    MintingPaused,
    PolicyChanged,
    PolicyTextRead,
    RegistryRead,
    RoleChanged,
    TagNamed,
    TokenChanged,
)
from dstack_vpn.wiring.view import NodeView

_CONTRACTS = Path(__file__).parents[1] / "contracts" / "artifacts"
TEXT = 'allow web to db\n# \N{SNOWMAN}\x1b[2J"'


def contract(rig: Rig) -> ContractState:
    return rig.node.tunnel.members.follower.registry.contract


def text(rig: Rig) -> str | None:
    policy = contract(rig).policy
    return None if policy is None else policy.text


def published(rig: Rig, *kinds: type) -> list[Any]:
    return [entry.event for entry in rig.node.event_log.latest() if isinstance(entry.event, kinds)]


@pytest.mark.anvil
@pytest.mark.parametrize("scheme", ["ws", "http"])
async def test_the_real_contract_is_followed(anvil: Anvil, scheme: str, make_rig: MakeRig) -> None:
    owner, holder, other, *_ = (account.lower() for account in anvil.accounts)
    await anvil.mint(1)
    await anvil.send(calldata("defineTag(string)", "gateway"))
    async with make_rig(getattr(anvil, scheme), anvil.contract).running() as rig:
        await eventually(lambda: contract(rig).tag_names == ("gateway",), "the tags at the start")
        assert contract(rig).owner == owner
        await anvil.send(calldata("defineTag(string)", "web"))
        await anvil.send(calldata("setTags(uint256,uint256)", 1, 0b11))
        await anvil.send(calldata("addMinter(address)", holder))
        await anvil.send(calldata("addPolicyAdministrator(address)", other))
        await anvil.send(calldata("setPolicy(string)", TEXT), sender=2)
        await anvil.send(calldata("transferContractOwnership(address)", other))
        await anvil.send(calldata("pause()"))
        await anvil.send(calldata("cancelInvitation(bytes32)", keccak(b"code")), sender=1)
        await eventually(lambda: published(rig, InvitationUsed), "the last event")
        await eventually(lambda: text(rig) == TEXT, "the policy's text")
        found = contract(rig)
        assert (found.tag_names, found.minters, found.policy_administrators) == (
            ("gateway", "web"),
            (holder,),
            (other,),
        )
        assert (found.owner, found.pending_owner, found.paused) == (owner, other, True)
        await _shows(rig)
        hash_ = "0x" + keccak(text=TEXT).hex()
        assert found.policy is not None
        assert found.policy.hash == hash_
        assert [(e.index, e.tag) for e in published(rig, TagNamed)] == [(1, "web")]
        assert [e.detail for e in published(rig, TokenChanged)][-1:] == ["gateway, web"]
        assert [(e.role, e.account, e.held) for e in published(rig, RoleChanged)] == [
            ("minter", holder, True),
            ("policy administrator", other, True),
            ("pending owner", other, True),
        ]
        assert [e.policy for e in published(rig, PolicyChanged, PolicyTextRead)] == [hash_, hash_]
        assert [e.paused for e in published(rig, MintingPaused)] == [True]
        assert published(rig, InvitationUsed)[0].invitation == "0x" + keccak(b"code").hex()
        await anvil.send(calldata("setPolicy(string)", ""), sender=2)
        await eventually(lambda: contract(rig).policy is None, "the policy is removed")


@pytest.mark.anvil
async def test_a_redeemed_invitation_is_published_with_its_node(anvil: Anvil, make_rig: MakeRig) -> None:
    minter, holder, *_ = (account.lower() for account in anvil.accounts)
    once, key = inviting.new_claim_key(), key_of(1)
    terms = Invitation("web-1", 0, (), 0, 2**40, minter, ZERO_ADDRESS, once.address, 7)
    code = inviting.sign(Signer(KEYS[0]), RegistryAddress(31337, anvil.contract.lower()), terms, once)
    data = redeem(terms, code.signature, key, "", inviting.claim(code, holder, key, ""))
    async with make_rig(anvil.ws, anvil.contract).running() as rig:
        await anvil.send(data, sender=1)
        await rig.settle(await members(anvil), "the invited peer")
        await eventually(lambda: published(rig, InvitationUsed), "the event")
        (used,) = published(rig, InvitationUsed)
        identity = "0x" + inviting.hash_of(code).hex()
        assert (used.event, used.invitation, used.token, used.node) == ("redeemed", identity, 1, "web-1")


def check(shown: dict[str, Any], schema: str) -> None:
    """Check the members against the API's description."""
    assert shown.keys() == document("1")["components"]["schemas"][schema]["properties"].keys()


async def _shows(rig: Rig) -> None:
    """Check the API's documents against the follower's state."""
    view = NodeView(rig.node, None, None, {})
    shown, found = view.contract(), contract(rig)
    assert found.policy is not None
    assert shown["tags"] == ["gateway", "web"]
    assert shown["policy"]["text"] == TEXT
    assert shown["roles"]["owner"] == found.owner
    assert shown["in_force"] == {"tags": ["gateway", "web"], "policies": [found.policy.hash]}
    check(shown, "Contract")
    peer = await view.peer("node-1")
    assert peer is not None
    assert peer["peer"]["tags"] == ["gateway", "web"]
    check(peer["peer"], "Peer")
    _, metrics = (await view.metrics())()
    assert b"dstack_vpn_registry_tags 2.0" in metrics
    assert b"dstack_vpn_registry_policy_ready 1.0" in metrics


@pytest.mark.anvil
async def test_a_restart_keeps_the_contracts_state_and_needs_no_reading(
    anvil: Anvil, make_rig: MakeRig
) -> None:
    await anvil.send(calldata("defineTag(string)", "web"))
    await anvil.send(calldata("setPolicy(string)", TEXT))
    first = make_rig(anvil.ws, anvil.contract)
    async with first.running():
        await eventually(lambda: text(first) == TEXT, "the policy's text")
        before = contract(first)
    second = make_rig(anvil.ws, anvil.contract)
    async with second.running():
        assert contract(second) == before
        await second.quiet()
        selector = "0x" + calldata("policy()").hex()
        assert not [
            x for _, x in second.asked if x and isinstance(x[0], dict) and x[0].get("data") == selector
        ]


@pytest.mark.anvil
async def test_a_state_directory_of_an_earlier_release_is_completed(
    anvil: Anvil, make_rig: MakeRig, tmp_path: Path
) -> None:
    """Earlier releases store no state of the contract, and did not ask for its events."""
    await anvil.mint(1)
    await anvil.send(calldata("defineTag(string)", "web"))
    await anvil.send(calldata("setPolicy(string)", TEXT))
    first = make_rig(anvil.ws, anvil.contract)
    async with first.running():
        await eventually(lambda: text(first) == TEXT, "the policy's text")
    with closing(sqlite3.connect(tmp_path / "registry.sqlite")) as connection:
        connection.executescript("DROP TABLE contract; DELETE FROM event")
    second = make_rig(anvil.ws, anvil.contract)
    async with second.running():
        await eventually(lambda: text(second) == TEXT, "the policy's text is read again")
        assert contract(second).tag_names == ("web",)
        assert not published(second, RegistryRead), "the tokens come from the store"


@pytest.mark.anvil
@pytest.mark.parametrize("named", ["auto", "access-registry-v1"])
async def test_the_first_version_of_the_contract_has_no_such_state(
    anvil: Anvil, named: str, make_rig: MakeRig
) -> None:
    code = json.loads((_CONTRACTS / "AccessRegistryV1.json").read_text())["bytecode"]
    owner = encode(["address"], [anvil.accounts[0]])
    receipt = await anvil.send(bytes.fromhex(code.removeprefix("0x")) + owner, to="")
    anvil.contract = receipt["contractAddress"].lower()
    await anvil.mint(1)
    rig = make_rig(anvil.ws, anvil.contract, resync_interval=0.1, environment={"CONTRACT_ABI": named})
    async with rig.running():
        await eventually(lambda: rig.keys == {key_of(1)} and rig.node.chain.state.resyncs > 1, "the peer")
        await anvil.send(calldata("addMinter(address)", anvil.accounts[2]))
        await anvil.mint(2)
        await eventually(lambda: rig.keys == {key_of(1), key_of(2)}, "the second peer")
        assert contract(rig) == ContractState()
        assert calldata("tags()").hex() not in str(rig.asked)
        assert rig.component("registry").startswith("ok")


@pytest.mark.parametrize("quorum", [1, 2])
async def test_what_a_subscription_lost_is_found_by_a_resync(
    pair: Pair, quorum: int, make_rig: MakeRig
) -> None:
    chain = pair.chain
    await chain.mint(1)
    urls = pair.urls("ws")
    rig = make_rig(urls, chain.contract, resync_interval=0.2, environment={"RPC_QUORUM": str(quorum)})
    async with rig.running():
        await eventually(lambda: contract(rig).is_read and rig.node.chain.state.resyncs, "a resync")
        for server in (pair.first, pair.second):
            server.faults.mute_logs = True
        await chain.mine(registry.define_tag(0, "web"), registry.set_policy(TEXT), registry.set_tags(1, 1))
        await chain.mine(registry.add_minter(chain.accounts[3]))
        await eventually(lambda: contract(rig).minters == (chain.accounts[3],), "the minter")
        await eventually(lambda: text(rig) == TEXT, "the policy's text")
        assert contract(rig).tag_names == ("web",)
        node = rig.node.tunnel.members.follower.registry.get(1)
        assert node is not None
        assert node.tags == 1


async def test_a_reorg_takes_the_policy_and_its_text_back(fake_chain: FakeServer, make_rig: MakeRig) -> None:
    chain = fake_chain.chain
    async with make_rig(fake_chain.ws, chain.contract).running() as rig:
        await chain.mine(registry.set_policy("allow all"))
        await eventually(lambda: text(rig) == "allow all", "the first text")
        await chain.mine(registry.set_policy(TEXT), registry.define_tag(0, "web"))
        await eventually(lambda: text(rig) == TEXT, "the second text")
        await chain.reorg(1)
        await eventually(lambda: text(rig) == "allow all", "the first text again")
        assert contract(rig).tag_names == ()
        assert [e.undone for e in published(rig, PolicyChanged)] == [False, False, True]


@pytest.mark.parametrize("false", ["deny all", "x" * 24_001, ""])
async def test_a_text_without_the_hash_is_refused_and_its_endpoint_left(
    pair: Pair, false: str, make_rig: MakeRig, log_lines: list[Any]
) -> None:
    chain = pair.chain
    pair.first.faults.lies.contract = lambda true: _with_policy(true, false)
    async with make_rig(pair.urls("ws"), chain.contract).running() as rig:
        await eventually(lambda: contract(rig).is_read, "the state of the contract")
        await chain.mine(registry.set_policy(TEXT))
        await eventually(lambda: text(rig) == TEXT, "the text of the other endpoint")
        problems = [line.get("problem", "") for line in log_lines if line["event"] == "chain.lost"]
        assert any("invalid policy" in problem for problem in problems)
        assert not any(false and false in str(line) for line in log_lines)


def _with_policy(true: registry.Contract, false: str) -> registry.Contract:
    return registry.Contract(**{**vars(true), "policy": false if true.policy else ""})

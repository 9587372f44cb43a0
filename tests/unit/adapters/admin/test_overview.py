"""A reading of a registry contract, from replies that eth-abi encoded, and from hostile ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from eth_abi.abi import encode
from tests.unit.adapters.admin.scripted import ScriptedTransport, caller_of

from dstack_vpn.adapters.admin.overview import NodeCounts, Overview, read_accounts, read_overview
from dstack_vpn.adapters.admin.reading import RegistryReader
from dstack_vpn.adapters.chain.memory import EndpointCapabilities
from dstack_vpn.adapters.chain.session import RpcSession, SessionSettings
from dstack_vpn.adapters.contracts import AccessRegistry, AccessRegistryV1, DstackAccessNft, signatures
from dstack_vpn.core.model import ChainIdentity
from dstack_vpn.errors import CallRevertedError, EndpointError
from dstack_vpn.ports import RegistryAbi

CONTRACT, OWNER, A, B = ("0x" + digits * 20 for digits in ("c0", "11", "aa", "bb"))
HASH = "0x" + "5" * 64
BLOCK = {"number": "0x10", "hash": HASH, "parentHash": HASH, "timestamp": "0x20"}
ADMINISTERED: Mapping[bytes, bytes] = {
    signatures.OWNER: encode(["address"], [OWNER]),
    signatures.PENDING_OWNER: encode(["address"], [B]),
    signatures.PAUSED: encode(["bool"], [True]),
    signatures.MINTERS: encode(["address[]"], [[B, A]]),
    signatures.POLICY_ADMINISTRATORS: encode(["address[]"], [[]]),
    signatures.REVISION: encode(["uint64"], [2**64 - 1]),
    signatures.POLICY_HASH: encode(["bytes32"], [b"\x07" * 32]),
    signatures.TAGS: encode(["string[]"], [["web", "db"]]),
    signatures.GET_NODES: encode(["uint256[]", "uint256"], [[], 0]),
}


def reader_of(abi: RegistryAbi, replies: Mapping[bytes, bytes]) -> RegistryReader:
    def answer(params: Sequence[Any]) -> Any:
        found = replies.get(bytes.fromhex(params[0]["data"][2:10]))
        return CallRevertedError("execution reverted") if found is None else "0x" + found.hex()

    transport = ScriptedTransport({"eth_getBlockByNumber": BLOCK, "eth_getCode": "0x", "eth_call": answer})
    caller, identity = caller_of(transport), ChainIdentity(31337, HASH, CONTRACT)
    return RegistryReader(
        caller, RpcSession(caller, identity, abi, EndpointCapabilities(), SessionSettings())
    )


async def test_the_roles_and_the_state_are_read() -> None:
    assert await read_overview(reader_of(AccessRegistry(), ADMINISTERED)) == Overview(
        abi="access-registry",
        version=2,
        contract=CONTRACT,
        chain_id=31337,
        block=16,
        owner=OWNER,
        pending_owner=B,
        minters=(A, B),
        policy_administrators=(),
        paused=True,
        revision=2**64 - 1,
        policy_hash="0x" + "07" * 32,
        tags=2,
        nodes=NodeCounts(0, 0, 0),
    )


async def test_the_first_version_has_no_lists() -> None:
    found = await read_overview(reader_of(AccessRegistryV1(), ADMINISTERED))
    assert (found.version, found.owner, found.pending_owner, found.paused) == (1, OWNER, B, True)
    assert (found.minters, found.policy_administrators, found.revision, found.tags) == (None,) * 4


@pytest.mark.parametrize("owner", [None, b"", b"\xff" * 32, encode(["address"], [OWNER])])
async def test_the_deployed_contract_may_name_its_owner(owner: bytes | None) -> None:
    replies = {} if owner is None else {signatures.OWNER: owner}
    found = await read_overview(reader_of(DstackAccessNft(), replies))
    assert found.owner == (OWNER if owner == encode(["address"], [OWNER]) else None)
    assert (found.version, found.nodes, found.paused) == (None, None, None)


@pytest.mark.parametrize(
    ("question", "reply"),
    [
        (question, reply)
        for question in ADMINISTERED
        for reply in (None, b"", b"\xff" * 32, b"\x01")
        # Any word is a hash, and the pages of nodes are read elsewhere.
        if question != signatures.GET_NODES and (question != signatures.POLICY_HASH or reply != b"\xff" * 32)
    ],
)
async def test_a_hostile_reply_is_the_endpoints_error(question: bytes, reply: bytes | None) -> None:
    replies = dict(ADMINISTERED)
    del replies[question]
    with pytest.raises(EndpointError, match=r"the registry"):
        await read_overview(
            reader_of(AccessRegistry(), replies if reply is None else {**replies, question: reply})
        )


async def test_an_account_of_more_than_160_bits_is_refused() -> None:
    reply = encode(["uint256[]"], [[1 << 160]])
    with pytest.raises(EndpointError, match="160 bits"):
        await read_accounts(reader_of(AccessRegistry(), {signatures.MINTERS: reply}), signatures.MINTERS)

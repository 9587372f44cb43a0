"""The check at every connect that an endpoint serves the expected chain and contract.

A wiped or wrong chain looks like an empty registry, and an empty registry means no peers. Therefore
the chain id, the genesis hash and the contract's code are checked before any other reply is used. A
mismatch raises an error and changes nothing.
"""

from dataclasses import dataclass

from dstack_vpn.adapters.chain.caller import Caller
from dstack_vpn.adapters.chain.fields import chain_id, data, parse_header
from dstack_vpn.adapters.chain.transport import Outcome
from dstack_vpn.adapters.contracts import detect
from dstack_vpn.core.model import Address, ChainIdentity
from dstack_vpn.errors import CallRevertedError, ChainError, EndpointError, RetryError, WrongChainError
from dstack_vpn.ports import RegistryAbi


@dataclass(slots=True)
class Target:
    """The contract to follow.

    A missing field (None) is learned from the first endpoint and then expected of the others.
    """

    contract: Address
    chain_id: int | None = None
    genesis_hash: str | None = None
    abi: RegistryAbi | None = None


async def identify(caller: Caller, target: Target) -> tuple[ChainIdentity, RegistryAbi]:
    """Check the endpoint against the target.

    Raises `WrongChainError` for a mismatch, and the errors of the calls.
    """
    answers = await caller.call_each(
        [
            ("eth_chainId", ()),
            ("eth_getBlockByNumber", ("0x0", False)),
            ("eth_getCode", (target.contract, "latest")),
        ]
    )
    for answer in (answers[0], answers[2]):
        if isinstance(answer, ChainError):
            raise answer
    seen = chain_id(answers[0])
    if target.chain_id not in (None, seen):
        raise WrongChainError(
            f"the endpoint serves chain {seen}, but chain {target.chain_id} is configured:"
            " check RPC_URL, NETWORK and CHAIN_ID"
        )
    genesis = _genesis(caller, target, answers[1])
    if target.genesis_hash not in (None, genesis):
        raise WrongChainError(
            f"the endpoint's chain {seen} begins with block {genesis[:10]}..., but the chain followed so far"
            f" with {str(target.genesis_hash)[:10]}...: it was wiped or replaced; if this is intended, clear"
            " STATE_DIR"
        )
    if not data(answers[2], "contract code"):
        raise WrongChainError(
            f"there is no contract at {target.contract} on chain {seen}: check CONTRACT_ADDRESS and NETWORK"
        )
    abi = target.abi or await _detect(caller, target.contract)
    target.chain_id, target.genesis_hash, target.abi = seen, genesis, abi
    return ChainIdentity(seen, genesis, target.contract), abi


def _genesis(caller: Caller, target: Target, answer: Outcome) -> str:
    """Return the hash of block 0.

    If the endpoint pruned it, the hash must be known from another endpoint.
    """
    if isinstance(answer, RetryError) or (isinstance(answer, ChainError) and caller.transport.failure):
        raise answer
    if answer is not None and not isinstance(answer, ChainError):
        return parse_header(answer).hash
    if target.genesis_hash is not None:
        return target.genesis_hash
    raise EndpointError(
        "the endpoint does not have block 0 (it keeps no old blocks), so its chain can't be distinguished "
        "from a wiped one: put an endpoint that has block 0 first in RPC_URL"
    )


async def _detect(caller: Caller, contract: Address) -> RegistryAbi:
    async def call(calldata: bytes) -> bytes | None:
        try:
            reply = await caller.call("eth_call", {"to": contract, "data": "0x" + calldata.hex()}, "latest")
        except CallRevertedError:
            return None
        return data(reply, "call result")

    return await detect(call)

"""Is this the chain and the contract that we follow? Asked at every connect, before anything is believed.

A wiped or a wrong chain looks exactly like an empty registry, and an empty registry means no peers. So the
chain's id, its genesis and the contract's code are checked first, and a mismatch is an error that changes
nothing.
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
    """The contract to follow. The first endpoint fills in fields left open (None), which bind the others."""

    contract: Address
    chain_id: int | None = None
    genesis_hash: str | None = None
    abi: RegistryAbi | None = None


async def identify(caller: Caller, target: Target) -> tuple[ChainIdentity, RegistryAbi]:
    """Check the endpoint against the target; raises `WrongChainError` or what the calls raise."""
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
            f"the endpoint's chain {seen} begins with block {genesis[:10]}..., but the one followed so far"
            f" with {str(target.genesis_hash)[:10]}...: it was wiped or replaced; if that is meant, clear"
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
    """The hash of block 0. An endpoint may have pruned it: then it has to be known from another one."""
    if isinstance(answer, RetryError) or (isinstance(answer, ChainError) and caller.transport.failure):
        raise answer
    if answer is not None and not isinstance(answer, ChainError):
        return parse_header(answer).hash
    if target.genesis_hash is not None:
        return target.genesis_hash
    raise EndpointError(
        "the endpoint does not have block 0 (it keeps no old blocks), so its chain can't be distinguished "
        "from a wiped one: name an endpoint that has it first in RPC_URL"
    )


async def _detect(caller: Caller, contract: Address) -> RegistryAbi:
    async def call(calldata: bytes) -> bytes | None:
        try:
            reply = await caller.call("eth_call", {"to": contract, "data": "0x" + calldata.hex()}, "latest")
        except CallRevertedError:
            return None
        return data(reply, "call result")

    return await detect(call)

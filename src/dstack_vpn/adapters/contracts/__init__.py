"""The registry contracts that dstack-vpn supports, and the detection of the one at an address."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

from dstack_vpn.adapters.contracts import signatures
from dstack_vpn.adapters.contracts.abi import WORD, Reader, encode
from dstack_vpn.adapters.contracts.access_registry import AccessRegistry
from dstack_vpn.adapters.contracts.artifact import Artifact, load_artifact
from dstack_vpn.adapters.contracts.dstack_access_nft import DstackAccessNft
from dstack_vpn.adapters.contracts.reverts import describe_revert
from dstack_vpn.errors import FormatError, WrongChainError
from dstack_vpn.ports import RegistryAbi

__all__ = [
    "ABIS",
    "AccessRegistry",
    "Artifact",
    "DstackAccessNft",
    "by_name",
    "describe_revert",
    "detect",
    "load_artifact",
]

ABIS: Final[Mapping[str, RegistryAbi]] = {abi.name: abi for abi in (AccessRegistry(), DstackAccessNft())}
"""Every supported registry contract, by the name that ``CONTRACT_ABI`` takes."""

Call: TypeAlias = Callable[[bytes], Awaitable[bytes | None]]
"""An ``eth_call`` of the contract with that calldata; None if it reverted."""


def by_name(name: str) -> RegistryAbi:
    """The registry ABI of that name; raises `FormatError` for an unknown one."""
    if name not in ABIS:
        raise FormatError(f"unknown contract ABI: expected one of {', '.join(ABIS)}")
    return ABIS[name]


async def detect(call: Call) -> RegistryAbi:
    """Find out which registry contract ``call`` reaches, in two to seven calls.

    Ours announces itself by ERC-165. The deployed one does not, so it is recognized by answers of the right
    form. Raises `WrongChainError` if it is neither; errors of ``call`` itself pass through.
    """
    if await _supports(call, signatures.ACCESS_REGISTRY_ID):
        if not await _supports(call, signatures.NO_INTERFACE_ID):
            return ABIS[AccessRegistry.name]
    elif await _answers_like_deployed(call):
        return ABIS[DstackAccessNft.name]
    raise WrongChainError(
        "the contract at this address is not a registry that dstack-vpn knows: check CONTRACT_ADDRESS and"
        f" NETWORK, or name its interface by CONTRACT_ABI ({' or '.join(ABIS)})"
    )


async def _supports(call: Call, interface_id: bytes) -> bool:
    argument = interface_id + bytes(WORD - len(interface_id))
    reply = await call(signatures.SUPPORTS_INTERFACE + argument)
    return reply is not None and _is_flag(reply) and reply[-1] == 1


# An account without a holder, and a node id that no registry needs to know.
_PROBE: Final = encode(1, "dstack-vpn-probe")


async def _answers_like_deployed(call: Call) -> bool:
    """Return True if a function of its own gives a well-formed answer, and an undefined one gives none.

    Any one function may revert (for an unknown node, say); a fallback that answers everything must not pass.
    """
    probes: tuple[tuple[bytes, Callable[[bytes], bool]], ...] = (
        (signatures.HAS_NODE_ACCESS + _PROBE, _is_flag),
        (signatures.VERIFY_ACCESS + _PROBE, _is_flag),
        (signatures.GET_PUBLIC_KEY_BY_OWNER + encode(1), _is_text),
        (signatures.GET_NODE_ACCESS + encode(1), _is_access),
        (signatures.GET_NODE_ACCESS + encode(0), _is_access),
    )
    for calldata, well_formed in probes:
        reply = await call(calldata)
        if reply is not None and well_formed(reply):
            return not await call(signatures.NO_INTERFACE_ID)
    return False


def _is_flag(reply: bytes) -> bool:
    return len(reply) == WORD and int.from_bytes(reply, "big") <= 1


def _is_text(reply: bytes) -> bool:
    return _reads(lambda: Reader(reply).blob(0, 0))


def _is_access(reply: bytes) -> bool:
    data = Reader(reply)
    return _reads(lambda: (data.blob(0, 0), data.blob(0, WORD), data.uint(2 * WORD), data.flag(3 * WORD)))


def _reads(read: Callable[[], object]) -> bool:
    try:
        read()
    except FormatError:
        return False
    return True

"""The registry contracts that dstack-vpn supports, and the detection of the one at an address."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

from dstack_vpn.adapters.contracts import signatures
from dstack_vpn.adapters.contracts.abi import WORD, Reader, encode
from dstack_vpn.adapters.contracts.access_registry import AccessRegistry, AccessRegistryV1
from dstack_vpn.adapters.contracts.artifact import Artifact, load_artifact
from dstack_vpn.adapters.contracts.dstack_access_nft import DstackAccessNft
from dstack_vpn.adapters.contracts.reverts import describe_revert
from dstack_vpn.errors import FormatError, WrongChainError
from dstack_vpn.ports import RegistryAbi

__all__ = [
    "ABIS",
    "AccessRegistry",
    "AccessRegistryV1",
    "Artifact",
    "DstackAccessNft",
    "by_name",
    "describe_revert",
    "detect",
    "load_artifact",
]

ABIS: Final[Mapping[str, RegistryAbi]] = {
    abi.name: abi for abi in (AccessRegistry(), AccessRegistryV1(), DstackAccessNft())
}
"""The supported registry contracts, by their names in ``CONTRACT_ABI``."""

_INTERFACES: Final = {
    AccessRegistry.name: signatures.ACCESS_REGISTRY_ID,
    AccessRegistryV1.name: signatures.ACCESS_REGISTRY_V1_ID,
}
"""The ERC-165 interface ids by which contracts announce themselves."""

Call: TypeAlias = Callable[[bytes], Awaitable[bytes | None]]
"""An ``eth_call`` of the contract with the given calldata; returns None if it reverted."""


def by_name(name: str) -> RegistryAbi:
    """Return the registry ABI with a name; raises `FormatError` for an unknown name."""
    if name not in ABIS:
        raise FormatError(f"unknown contract ABI: expected one of {', '.join(ABIS)}")
    return ABIS[name]


async def detect(call: Call) -> RegistryAbi:
    """Return the ABI of the registry contract that ``call`` reaches, in two to eight calls.

    AccessRegistry announces itself by ERC-165. DstackAccessNft does not, so it is recognized by
    well-formed replies. Raises `WrongChainError` for any other contract, and the errors of
    ``call``.
    """
    for name, interface_id in _INTERFACES.items():
        if await _supports(call, interface_id):
            if not await _supports(call, signatures.NO_INTERFACE_ID):
                return ABIS[name]
            break
    else:
        if await _answers_like_deployed(call):
            return ABIS[DstackAccessNft.name]
    raise WrongChainError(
        "the contract at this address is not a registry that dstack-vpn supports: check CONTRACT_ADDRESS "
        f"and NETWORK, or set its interface with CONTRACT_ABI ({' or '.join(ABIS)})"
    )


async def _supports(call: Call, interface_id: bytes) -> bool:
    argument = interface_id + bytes(WORD - len(interface_id))
    reply = await call(signatures.SUPPORTS_INTERFACE + argument)
    return reply is not None and _is_flag(reply) and reply[-1] == 1


# The arguments of the probes: the account 1, and a node id that need not be registered.
_PROBE: Final = encode(1, "dstack-vpn-probe")


async def _answers_like_deployed(call: Call) -> bool:
    """Return True if a DstackAccessNft function replies, and an undefined function fails.

    Any single function may revert, for example for an unknown node. A contract whose fallback
    answers every call must not pass.
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

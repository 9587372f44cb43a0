"""The expected peers, computed independently: from the contract's view functions by eth-abi.

No decoder, follower or decision of the project is involved.
"""

import hashlib
import ipaddress
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from eth_abi.abi import decode, encode
from tests.anvil import Anvil, AnvilError
from tests.integration.support import OWN_KEY, Peers

_ROOT = Path(__file__).parents[2]
_MODEL = _ROOT / "tests" / "contracts" / "artifacts" / "DstackAccessNFT.json"
_OURS = _ROOT / "src" / "dstack_vpn" / "adapters" / "contracts" / "artifacts" / "AccessRegistry.json"
_NODES = "(uint256,address,string,string,string,string,uint64,uint64,uint64,bool,bool,uint256,bytes32[])[]"

# -- what a contract says, by eth-abi --------------------------------------------------------------


def addresses(contract: str, token: int) -> frozenset[str]:
    """Return a token's tunnel addresses in the default range on chain 31337."""
    digest = hashlib.sha256(f"dstack-vpn:31337:{contract.lower()}".encode()).digest()
    ula = ipaddress.IPv6Address(b"\xfd" + digest[:5] + bytes(10)) + token + 1
    return frozenset({f"{ipaddress.IPv4Address('10.77.0.1') + token}/32", f"{ula}/128"})


@cache
def artifact(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def calldata(signature: str, *arguments: Any, path: Path = _OURS) -> bytes:
    """A call by the compiler's own selector, encoded by eth-abi."""
    types = signature.partition("(")[2].removesuffix(")")
    selector = bytes.fromhex(artifact(path)["functions"][signature][2:])
    return selector + bytes(encode(types.split(",") if types else [], arguments))


async def call(anvil: Anvil, data: bytes) -> bytes | None:
    """Return the contract's reply; None if it reverts."""
    try:
        reply = await anvil.rpc("eth_call", {"to": anvil.contract, "data": "0x" + data.hex()}, "latest")
    except AnvilError:
        return None
    return bytes.fromhex(reply[2:])


async def members(anvil: Anvil) -> Peers:
    """The peers that a node with `OWN_KEY` should have, from the contract's ``getNodes``."""
    reply = await call(anvil, calldata("getNodes(uint256,uint256)", 0, 10_000))
    assert reply is not None
    nodes, _ = decode([_NODES, "uint256"], reply)
    latest = await anvil.rpc("eth_getBlockByNumber", "latest", False)
    now = max(time.time(), int(latest["timestamp"], 16))  # noqa: TID251  # the test's own clock
    return {
        key: (addresses(anvil.contract, token), endpoint or None)
        for token, _, _, key, endpoint, _, _, _, expires_at, active, *_ in nodes
        if active and key != str(OWN_KEY) and (expires_at == 0 or expires_at >= now)
    }


# -- contracts on anvil ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Behaviour:
    """The behaviour that the deployed contract's interface leaves open (tests/contracts)."""

    revoke_burns: bool = False
    transfer_keeps_key: bool = False
    key_per_owner: bool = False
    first_id: int = 1


async def deploy_model(anvil: Anvil, behaviour: Behaviour) -> None:
    """Deploy the model of the deployed contract as ``anvil.contract``."""
    flags = (behaviour.revoke_burns, behaviour.transfer_keeps_key, behaviour.key_per_owner)
    arguments = bytes(encode(["(bool,bool,bool,uint256)"], [(*flags, behaviour.first_id)]))
    code = bytes.fromhex(artifact(_MODEL)["bytecode"].removeprefix("0x"))
    receipt = await anvil.send(code + arguments, to="")
    anvil.contract = receipt["contractAddress"].lower()


async def model_members(anvil: Anvil, tokens: Sequence[int], *, suspended: Sequence[int] = ()) -> Peers:
    """Return the peers by the model's ``getNodeAccess`` and ``ownerOf``, without suspended ones."""
    found: dict[str, tuple[frozenset[str], str | None]] = {}
    for token in tokens:
        owner = await call(anvil, model_call("ownerOf(uint256)", token))
        access = await call(anvil, model_call("getNodeAccess(uint256)", token))
        if owner is None or access is None or token in suspended:
            continue
        _, key, _, active = decode(["string", "string", "uint256", "bool"], access)
        if active and key:
            found[key] = (addresses(anvil.contract, token), None)
    return found


def model_call(signature: str, *arguments: Any) -> bytes:
    """A call to the model, encoded by eth-abi."""
    return calldata(signature, *arguments, path=_MODEL)


def raw_mint(to: str, node_id: bytes, key: bytes, uri: bytes = b"") -> bytes:
    """A mint of the model with any bytes at all where texts should be: both are encoded alike."""
    selector = bytes.fromhex(
        artifact(_MODEL)["functions"]["mintNodeAccess(address,string,string,string)"][2:]
    )
    return selector + bytes(encode(["address", "bytes", "bytes", "bytes"], [to, node_id, key, uri]))

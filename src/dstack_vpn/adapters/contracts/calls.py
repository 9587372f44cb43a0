"""Calldata of the transactions that admin commands send, and of a deployment of AccessRegistry.

Texts are encoded without checks: the contract validates them and reverts with a named error.
"""

from collections.abc import Sequence

from dstack_vpn.adapters.contracts import signatures
from dstack_vpn.adapters.contracts.abi import WORD, address_word, encode
from dstack_vpn.adapters.contracts.artifact import load_artifact
from dstack_vpn.core.chain.invitation import route_word
from dstack_vpn.core.model import Address, Cidr, TokenId
from dstack_vpn.core.wireguard.keys import PublicKey


def deploy(owner: Address) -> bytes:
    """Encode a deployment: the creation code, and the contract's first owner."""
    return load_artifact().bytecode + encode(address_word(owner))


def mint(to: Address, node_id: str, key: PublicKey, token_uri: str = "") -> bytes:
    """Encode the registration of a node (both contracts)."""
    return signatures.MINT_NODE_ACCESS + encode(address_word(to), node_id, str(key), token_uri)


def revoke(token_id: TokenId) -> bytes:
    """Encode the revocation of a node's access (both contracts)."""
    return signatures.REVOKE_NODE_ACCESS + encode(token_id)


def transfer(sender: Address, recipient: Address, token_id: TokenId) -> bytes:
    """Encode the transfer of a node with ERC-721's ``transferFrom`` (both contracts)."""
    return signatures.TRANSFER_FROM + encode(address_word(sender), address_word(recipient), token_id)


def update_key(token_id: TokenId, key: PublicKey) -> bytes:
    """Encode a new key of a node (AccessRegistry)."""
    return signatures.UPDATE_PUBLIC_KEY + encode(token_id, str(key))


def set_endpoint(token_id: TokenId, endpoint: str) -> bytes:
    """Encode a new endpoint of a node; the empty text clears it (AccessRegistry)."""
    return signatures.SET_ENDPOINT + encode(token_id, endpoint)


def set_expiry(token_id: TokenId, expires_at: int) -> bytes:
    """Encode the expiry of a node's access in Unix seconds; 0 for never (AccessRegistry)."""
    return signatures.SET_EXPIRY + encode(token_id, expires_at)


def define_tag(name: str) -> bytes:
    """Encode the definition of a tag (AccessRegistry)."""
    return signatures.DEFINE_TAG + encode(name)


def set_tags(token_id: TokenId, mask: int) -> bytes:
    """Encode the tags of a node: bit i stands for the i-th defined tag (AccessRegistry)."""
    return signatures.SET_TAGS + encode(token_id, mask)


def set_routes(token_id: TokenId, routes: Sequence[Cidr]) -> bytes:
    """Encode the networks behind a node, in ascending order (AccessRegistry)."""
    return signatures.SET_ROUTES + encode(token_id, 2 * WORD, len(routes)) + b"".join(map(route_word, routes))


def multicall(parts: Sequence[bytes]) -> bytes:
    """Encode several calls of the contract in one transaction (AccessRegistry)."""
    heads, tail = [WORD, len(parts)], b""
    for part in parts:
        heads.append(WORD * len(parts) + len(tail))
        tail += encode(len(part)) + part + bytes(-len(part) % WORD)
    return signatures.MULTICALL + encode(*heads) + tail


def add_minter(account: Address) -> bytes:
    """Encode the right of an account to mint, revoke and set expiries (AccessRegistry)."""
    return signatures.ADD_MINTER + encode(address_word(account))


def remove_minter(account: Address) -> bytes:
    """Encode the removal of that right (AccessRegistry)."""
    return signatures.REMOVE_MINTER + encode(address_word(account))


def add_policy_administrator(account: Address) -> bytes:
    """Encode the right of an account to set the policy (AccessRegistry)."""
    return signatures.ADD_POLICY_ADMINISTRATOR + encode(address_word(account))


def remove_policy_administrator(account: Address) -> bytes:
    """Encode the removal of that right (AccessRegistry)."""
    return signatures.REMOVE_POLICY_ADMINISTRATOR + encode(address_word(account))


def set_policy(text: str) -> bytes:
    """Encode a new policy; the empty text removes it (AccessRegistry)."""
    return signatures.SET_POLICY + encode(text)


def pause() -> bytes:
    """Encode a stop of minting (AccessRegistry)."""
    return signatures.PAUSE


def unpause() -> bytes:
    """Encode the end of that stop (AccessRegistry)."""
    return signatures.UNPAUSE


def transfer_contract_ownership(owner: Address) -> bytes:
    """Encode a transfer of the contract (both; in AccessRegistry, the new owner must accept)."""
    return signatures.TRANSFER_CONTRACT_OWNERSHIP + encode(address_word(owner))


def accept_ownership() -> bytes:
    """Encode the acceptance of that transfer (AccessRegistry)."""
    return signatures.ACCEPT_OWNERSHIP


def token_id_by_node_id(node_id: str) -> bytes:
    """Encode a query for the token of a node id (both; AccessRegistry reverts without one)."""
    return signatures.GET_TOKEN_ID_BY_NODE_ID + encode(node_id)

"""Calldata of the transactions that admin commands send, and of deploying our own contract.

Texts are encoded as they are: the contract validates them, and names what it refuses.
"""

from dstack_vpn.adapters.contracts import signatures
from dstack_vpn.adapters.contracts.abi import address_word, encode
from dstack_vpn.adapters.contracts.artifact import load_artifact
from dstack_vpn.core.model import Address, TokenId
from dstack_vpn.core.wireguard.keys import PublicKey


def deploy(owner: Address) -> bytes:
    """Creation code with its constructor's argument, the contract's first owner."""
    return load_artifact().bytecode + encode(address_word(owner))


def mint(to: Address, node_id: str, key: PublicKey, token_uri: str = "") -> bytes:
    """Register a node (either contract)."""
    return signatures.MINT_NODE_ACCESS + encode(address_word(to), node_id, str(key), token_uri)


def revoke(token_id: TokenId) -> bytes:
    """Take a node's access away (either contract)."""
    return signatures.REVOKE_NODE_ACCESS + encode(token_id)


def transfer(sender: Address, recipient: Address, token_id: TokenId) -> bytes:
    """Hand a node over, by ERC-721's ``transferFrom`` (either contract)."""
    return signatures.TRANSFER_FROM + encode(address_word(sender), address_word(recipient), token_id)


def update_key(token_id: TokenId, key: PublicKey) -> bytes:
    """Set a node's key (our contract)."""
    return signatures.UPDATE_PUBLIC_KEY + encode(token_id, str(key))


def set_endpoint(token_id: TokenId, endpoint: str) -> bytes:
    """Set a node's endpoint, or clear it by the empty text (our contract)."""
    return signatures.SET_ENDPOINT + encode(token_id, endpoint)


def set_expiry(token_id: TokenId, expires_at: int) -> bytes:
    """Let a node's access end at that Unix second; 0 for never (our contract)."""
    return signatures.SET_EXPIRY + encode(token_id, expires_at)


def add_minter(account: Address) -> bytes:
    """Let an account mint, revoke and set expiries (our contract)."""
    return signatures.ADD_MINTER + encode(address_word(account))


def remove_minter(account: Address) -> bytes:
    """Take that right away (our contract)."""
    return signatures.REMOVE_MINTER + encode(address_word(account))


def pause() -> bytes:
    """Stop minting (our contract)."""
    return signatures.PAUSE


def unpause() -> bytes:
    """Allow minting again (our contract)."""
    return signatures.UNPAUSE


def transfer_contract_ownership(owner: Address) -> bytes:
    """Offer the contract to a new owner (either contract; with ours the new owner has to accept)."""
    return signatures.TRANSFER_CONTRACT_OWNERSHIP + encode(address_word(owner))


def accept_ownership() -> bytes:
    """Accept such an offer (our contract)."""
    return signatures.ACCEPT_OWNERSHIP


def token_id_by_node_id(node_id: str) -> bytes:
    """Ask for the token of a node's name (either contract; ours reverts if it is missing)."""
    return signatures.GET_TOKEN_ID_BY_NODE_ID + encode(node_id)

"""The closed union of registry events: what any supported registry contract can tell us.

`adapters.contracts` translates raw logs into these, with every field already validated; `core.chain.registry`
folds them. `Observed` is not a log: it is what a token's state was read to be after a block's last log,
and it replaces what the events alone made us believe.
"""

from dataclasses import dataclass
from typing import TypeAlias

from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import Address, Malformed, TokenId
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.keys import PublicKey


@dataclass(frozen=True, slots=True)
class Granted:
    """A token was minted, or an existing one was given access again."""

    token_id: TokenId
    owner: Address
    node_id: str | Malformed
    public_key: PublicKey | Malformed | None


@dataclass(frozen=True, slots=True)
class Revoked:
    """A token lost its access, or was burned."""

    token_id: TokenId


@dataclass(frozen=True, slots=True)
class Transferred:
    """A token changed hands: the previous owner's key is out until the new owner sets one."""

    token_id: TokenId
    recipient: Address


@dataclass(frozen=True, slots=True)
class KeyUpdated:
    """A token's key was set by its holder."""

    token_id: TokenId
    public_key: PublicKey | Malformed | None


@dataclass(frozen=True, slots=True)
class OwnerKeyUpdated:
    """An owner's key was set, for every token that it holds (the deployed contract names no token)."""

    owner: Address
    public_key: PublicKey | Malformed | None


@dataclass(frozen=True, slots=True)
class EndpointUpdated:
    """A token's endpoint was set or cleared by its holder."""

    token_id: TokenId
    endpoint: PeerEndpoint | Malformed | None


@dataclass(frozen=True, slots=True)
class ExpiryUpdated:
    """A token's access was given an end, in Unix seconds; 0 takes the end away."""

    token_id: TokenId
    expires_at: int


@dataclass(frozen=True, slots=True)
class TokenState:
    """A token's whole state after a block; ``node`` is None where the token does not exist (any more)."""

    token_id: TokenId
    node: Node | None


RegistryEvent: TypeAlias = (
    Granted
    | Revoked
    | Transferred
    | KeyUpdated
    | OwnerKeyUpdated
    | EndpointUpdated
    | ExpiryUpdated
    | TokenState
)


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event and the log that carried it."""

    block_number: int
    block_hash: str
    log_index: int
    event: RegistryEvent
    removed: bool = False
    """The endpoint says that a reorg undid it. A hint only: some endpoints never say so."""

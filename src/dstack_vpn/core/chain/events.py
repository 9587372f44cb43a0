"""Registry events: a closed union over all supported registry contracts.

`adapters.contracts` translates raw logs into these and validates every field; `core.chain.registry`
folds them. `TokenState`, `ContractRead` and `PolicyRead` do not come from a log: they are states as
read after a block's last log, and they replace the state that the events alone led to.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from dstack_vpn.core.chain.contract import ContractState, Hash, Policy
from dstack_vpn.core.chain.node import Node
from dstack_vpn.core.model import Address, Cidr, Malformed, TokenId
from dstack_vpn.core.paths.peer_endpoint import PeerEndpoint
from dstack_vpn.core.wireguard.keys import PublicKey


@dataclass(frozen=True, slots=True)
class Granted:
    """A mint, or a new grant of access to an existing token."""

    token_id: TokenId
    owner: Address
    node_id: str | Malformed
    public_key: PublicKey | Malformed | None


@dataclass(frozen=True, slots=True)
class Revoked:
    """A revocation of a token's access, or a burn."""

    token_id: TokenId


@dataclass(frozen=True, slots=True)
class Transferred:
    """A transfer: the previous owner's key is suspended until the new owner sets one."""

    token_id: TokenId
    recipient: Address


@dataclass(frozen=True, slots=True)
class KeyUpdated:
    """A new key for a token, set by its holder."""

    token_id: TokenId
    public_key: PublicKey | Malformed | None


@dataclass(frozen=True, slots=True)
class OwnerKeyUpdated:
    """A new key for every token of an owner (the deployed contract does not name a token)."""

    owner: Address
    public_key: PublicKey | Malformed | None


@dataclass(frozen=True, slots=True)
class EndpointUpdated:
    """A new endpoint for a token, or its removal, by the holder."""

    token_id: TokenId
    endpoint: PeerEndpoint | Malformed | None


@dataclass(frozen=True, slots=True)
class ExpiryUpdated:
    """A new expiry of a token's access, in Unix seconds; 0 removes the expiry."""

    token_id: TokenId
    expires_at: int


@dataclass(frozen=True, slots=True)
class TagsUpdated:
    """New tags for a token, as a bit mask, set by a minter."""

    token_id: TokenId
    tags: int


@dataclass(frozen=True, slots=True)
class RoutesUpdated:
    """New networks behind a token's node, set by a minter."""

    token_id: TokenId
    routes: tuple[Cidr, ...] | Malformed


@dataclass(frozen=True, slots=True)
class TokenState:
    """A token's whole state after a block; ``node`` is unset if it does not exist (any more)."""

    token_id: TokenId
    node: Node | None


@dataclass(frozen=True, slots=True)
class TagDefined:
    """A name for a bit of the tokens' tags; it is never changed."""

    index: int
    """Below `contract.MAX_TAGS`."""
    name: str


@dataclass(frozen=True, slots=True)
class PolicyUpdated:
    """A new policy, of which the log has only the hash; None removes the policy."""

    hash: Hash | None


Role: TypeAlias = Literal["minter", "policy administrator"]


@dataclass(frozen=True, slots=True)
class RoleUpdated:
    """A role that an account has from now on, or has lost."""

    role: Role
    account: Address
    held: bool


@dataclass(frozen=True, slots=True)
class OwnerOffered:
    """An offer of the contract to a new owner; None withdraws the offer."""

    account: Address | None


@dataclass(frozen=True, slots=True)
class OwnerUpdated:
    """A new owner of the contract."""

    account: Address


@dataclass(frozen=True, slots=True)
class PauseUpdated:
    """A stop of minting, or its end."""

    paused: bool


@dataclass(frozen=True, slots=True)
class InvitationRedeemed:
    """A token that was minted with an invitation; its grant is an event of its own."""

    hash: Hash
    token_id: TokenId


@dataclass(frozen=True, slots=True)
class InvitationCancelled:
    """An invitation that can't be redeemed any more."""

    hash: Hash


@dataclass(frozen=True, slots=True)
class ContractRead:
    """The contract's own state after a block, except the text of its policy."""

    state: ContractState


@dataclass(frozen=True, slots=True)
class PolicyRead:
    """The policy with its text after a block; None without a policy."""

    policy: Policy | None


ContractEvent: TypeAlias = (
    TagDefined
    | PolicyUpdated
    | RoleUpdated
    | OwnerOffered
    | OwnerUpdated
    | PauseUpdated
    | InvitationRedeemed
    | InvitationCancelled
    | ContractRead
    | PolicyRead
)
"""The events that concern the contract itself and change no token."""

Reading: TypeAlias = TokenState | ContractRead | PolicyRead
"""A state that was read, and not logged."""

RegistryEvent: TypeAlias = (
    Granted
    | Revoked
    | Transferred
    | KeyUpdated
    | OwnerKeyUpdated
    | EndpointUpdated
    | ExpiryUpdated
    | TagsUpdated
    | RoutesUpdated
    | TokenState
    | ContractEvent
)


def token_of(event: RegistryEvent) -> TokenId | None:
    """Return the one token that an event may change; None for an owner or the contract."""
    return None if isinstance(event, OwnerKeyUpdated | ContractEvent) else event.token_id


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event and the position of its log."""

    block_number: int
    block_hash: str
    log_index: int
    event: RegistryEvent
    removed: bool = False
    """The endpoint reports that a reorg undid it. A hint only: some endpoints never report that."""

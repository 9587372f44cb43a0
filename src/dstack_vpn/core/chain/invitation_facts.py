"""The state of an invitation in its registry, and the reason why it can't be redeemed.

The contract makes the same checks. They are made here first, so that a refusal has a readable
reason, costs no gas and changes nothing.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from dstack_vpn.core.chain.contract import ContractState, tag_texts
from dstack_vpn.core.chain.invitation import Invitation
from dstack_vpn.core.model import ZERO_ADDRESS, Address, TokenId


class Use(Enum):
    """The use of an invitation so far."""

    OPEN = "open"
    REDEEMED = "redeemed"
    CANCELLED = "cancelled"
    USED = "redeemed or cancelled"
    """The endpoint does not serve the logs that contain the difference."""


@dataclass(frozen=True, slots=True)
class RegistryRights:
    """The state of a registry for an account that invites, and for a node id."""

    time: int
    """The block's time, in Unix seconds."""
    may_invite: bool
    """True if the account is the contract's owner or a minter."""
    paused: bool
    tags: tuple[str | None, ...]
    """The names of the defined tags; None for a malformed one."""
    token: TokenId | None
    """The token that has the node id and is not revoked."""


@dataclass(frozen=True, slots=True)
class InvitationFacts:
    """An invitation in its registry."""

    rights: RegistryRights
    use: Use
    signed: bool
    """True if the signature is the minter's, by the contract's rules."""


def refusal(terms: Invitation, facts: InvitationFacts, redeemer: Address | None = None) -> str | None:
    """Return the reason why an invitation can't be redeemed; None if it can.

    Without a redeemer, its holder is not compared.
    """
    rights = facts.rights
    if facts.use is not Use.OPEN:
        return f"the invitation was {facts.use.value}: ask its minter for another one"
    if rights.time > terms.deadline:
        return f"the invitation expired at {moment(terms.deadline)}: ask its minter for another one"
    if not rights.may_invite:
        return f"the invitation's signer {terms.minter} is not a minter any more: ask a present minter"
    if not facts.signed:
        return (
            f"the invitation was altered, or is of another registry: its signature is not by {terms.minter}; "
            "ask for the code again"
        )
    if redeemer is not None and terms.holder not in {ZERO_ADDRESS, redeemer}:
        return f"the invitation is for the account {terms.holder}, and CONTRACT_PRIVATE_KEY is of {redeemer}"
    return registry_refusal(terms, rights)


def registry_refusal(terms: Invitation, rights: RegistryRights) -> str | None:
    """Return the reason why the registry can't give what an invitation promises; None if it can."""
    if rights.paused:
        return "the registry is paused: no node can be registered until its owner continues"
    if rights.token is not None:
        return (
            f"the node id {terms.node_id} belongs to token {rights.token}: invite with another id, or revoke "
            "that node first"
        )
    if terms.tags >> len(rights.tags):
        return "the invitation has tags that the registry does not define: ask its minter for another one"
    if terms.expires_at and terms.expires_at < rights.time:
        return f"the access that the invitation gives ended at {moment(terms.expires_at)}: ask for another"
    return None


def moment(second: int) -> str:
    """Return a Unix second as a date in UTC, or as a number if it is too far away."""
    try:
        return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"second {second}"


def tag_mask(names: tuple[str, ...], defined: tuple[str | None, ...]) -> int:
    """Return the bits of tags; raises `LookupError` with the first name that is not defined."""
    mask = 0
    for name in names:
        if name not in defined:
            raise LookupError(name)
        mask |= 1 << defined.index(name)
    return mask


def tag_names(mask: int, defined: tuple[str | None, ...]) -> list[str]:
    """Return the names of the tags in a mask; ``#N`` for an unknown one."""
    contract = ContractState(tag_names=tuple(name or "" for name in defined))
    return tag_texts(contract.tags_of(mask))

"""The fold of the contract's own events into its state."""

from dataclasses import replace

from dstack_vpn.core.chain.contract import ContractState, Policy
from dstack_vpn.core.chain.events import (
    ContractEvent,
    ContractRead,
    InvitationCancelled,
    InvitationRedeemed,
    OwnerOffered,
    OwnerUpdated,
    PauseUpdated,
    PolicyRead,
    PolicyUpdated,
    RoleUpdated,
    TagDefined,
)
from dstack_vpn.core.model import Address, Position


def contract_after(state: ContractState, event: ContractEvent, at: Position) -> ContractState:
    """Return the contract's state after an event at the position ``at``."""
    match event:
        case ContractRead(read):
            return replace(read, policy=_policy_over(state.policy, read.policy, at))
        case TagDefined(index, name):
            return replace(state, tag_names=_named(state.tag_names, index, name))
        case PolicyUpdated(hash_):
            policy = None if hash_ is None else Policy(hash_)
            return replace(state, policy=_policy_over(state.policy, policy, at))
        case PolicyRead(policy):
            return replace(state, policy=_policy_over(state.policy, policy, at))
        case _:
            return _with_roles(state, event)


_RoleEvent = (
    RoleUpdated | OwnerOffered | OwnerUpdated | PauseUpdated | InvitationRedeemed | InvitationCancelled
)


def _with_roles(state: ContractState, event: _RoleEvent) -> ContractState:
    match event:
        case RoleUpdated("minter", account, held):
            return replace(state, minters=_with(state.minters, account, held=held))
        case RoleUpdated(_, account, held):
            found = _with(state.policy_administrators, account, held=held)
            return replace(state, policy_administrators=found)
        case OwnerOffered(account):
            return replace(state, pending_owner=account)
        case OwnerUpdated(owner):
            return replace(state, owner=owner, pending_owner=None)
        case PauseUpdated(paused):
            return replace(state, paused=paused)
        case InvitationRedeemed() | InvitationCancelled():
            return state  # clients keep no invitations


def _named(names: tuple[str, ...], index: int, name: str) -> tuple[str, ...]:
    """Return the names with another one. A name that another bit has is not accepted."""
    if name in names:
        return names
    found = [*names, *[""] * (index + 1 - len(names))]
    found[index] = name
    return tuple(found)


def _with(accounts: tuple[Address, ...], account: Address, *, held: bool) -> tuple[Address, ...]:
    return tuple(sorted({*accounts, account} if held else {*accounts} - {account}))


def _policy_over(old: Policy | None, new: Policy | None, at: Position) -> Policy | None:
    """Return the new policy, set at ``at``; of the same hash, the old one with the new text."""
    if new is None:
        return None
    if old is None or old.hash != new.hash:
        return replace(new, since=at)
    return old if new.text is None else replace(old, text=new.text)

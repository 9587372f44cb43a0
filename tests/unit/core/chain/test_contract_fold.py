"""The contract's own events, one after the other."""

import pytest

from dstack_vpn.core.chain.contract import ContractState, Policy
from dstack_vpn.core.chain.contract_fold import contract_after
from dstack_vpn.core.chain.events import (
    ContractEvent,
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
from dstack_vpn.core.model import Position

A, B = "0x" + "a" * 64, "0x" + "b" * 64
AT = Position(7, 3)


def after(*events: ContractEvent, state: ContractState | None = None) -> ContractState:
    state = state or ContractState()
    for event in events:
        state = contract_after(state, event, AT)
    return state


def test_tags_in_any_order() -> None:
    assert after(TagDefined(2, "db"), TagDefined(0, "web")).tag_names == ("web", "", "db")


def test_two_bits_never_have_one_name() -> None:
    """The contract refuses that; a forged log must not move a name to another bit."""
    assert after(TagDefined(0, "web"), TagDefined(1, "web")).tag_names == ("web",)


def test_a_policy_has_no_text_until_it_was_read() -> None:
    assert after(PolicyUpdated(A)).policy == Policy(A, AT)
    assert after(PolicyUpdated(A), PolicyRead(Policy(A, text="x"))).policy == Policy(A, AT, "x")
    assert after(PolicyUpdated(A), PolicyRead(Policy(A, text="x")), PolicyUpdated(B)).policy == Policy(B, AT)
    assert after(PolicyUpdated(A), PolicyUpdated(None)).policy is None


def test_another_policy_than_the_logged_one_replaces_it() -> None:
    """A log was forged, or missed."""
    assert after(PolicyUpdated(A), PolicyRead(Policy(B, text="x"))).policy == Policy(B, AT, "x")
    assert after(PolicyUpdated(A), PolicyRead(None)).policy is None


def test_roles() -> None:
    both = after(RoleUpdated("minter", B, True), RoleUpdated("minter", A, True))
    assert (both.minters, both.policy_administrators) == ((A, B), ())
    assert after(RoleUpdated("minter", A, False), state=both).minters == (B,)
    assert after(RoleUpdated("policy administrator", A, True), state=both).policy_administrators == (A,)


def test_an_offer_of_the_ownership_ends_when_it_is_accepted_or_withdrawn() -> None:
    assert after(OwnerOffered(A)).pending_owner == A
    assert after(OwnerOffered(A), OwnerOffered(None)).pending_owner is None
    accepted = after(OwnerOffered(A), OwnerUpdated(A))
    assert (accepted.owner, accepted.pending_owner) == (A, None)


def test_a_pause() -> None:
    assert after(PauseUpdated(True)).paused
    assert not after(PauseUpdated(True), PauseUpdated(False)).paused


@pytest.mark.parametrize("event", [InvitationRedeemed(A, 1), InvitationCancelled(A)])
def test_invitations_change_nothing(event: ContractEvent) -> None:
    assert after(event) == ContractState()

"""The reasons why an invitation can't be redeemed, and the names of tags."""

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.core.chain.invited import FOR_HOLDER, HOLDER, MINTER, TERMS

from dstack_vpn.core.chain.invitation_facts import (
    InvitationFacts,
    RegistryRights,
    Use,
    moment,
    refusal,
    tag_mask,
    tag_names,
)

TAGS = ("web", "db", "gateway")
RIGHTS = RegistryRights(time=TERMS.deadline, may_invite=True, paused=False, tags=TAGS, token=None)
FACTS = InvitationFacts(RIGHTS, Use.OPEN, signed=True)


def test_an_open_invitation_can_be_redeemed() -> None:
    assert refusal(TERMS, FACTS) is None
    assert refusal(TERMS, FACTS, MINTER) is None
    assert refusal(FOR_HOLDER.invitation, FACTS, HOLDER) is None
    assert refusal(FOR_HOLDER.invitation, FACTS) is None


@pytest.mark.parametrize(
    ("facts", "rights", "problem"),
    [
        ({"use": Use.REDEEMED}, {}, "was redeemed: ask"),
        ({"use": Use.CANCELLED}, {}, "was cancelled: ask"),
        ({"use": Use.USED}, {}, "was redeemed or cancelled: ask"),
        ({"signed": False}, {}, "was altered"),
        ({}, {"time": TERMS.deadline + 1}, "expired at 2033-05-18 03:33:20 UTC"),
        ({}, {"may_invite": False}, f"{MINTER} is not a minter any more"),
        ({}, {"paused": True}, "is paused"),
        ({}, {"token": 3}, "web-1 belongs to token 3"),
        ({}, {"tags": ("web", "db")}, "tags that the registry does not define"),
    ],
)
def test_each_reason(facts: dict[str, Any], rights: dict[str, Any], problem: str) -> None:
    found = refusal(TERMS, replace(FACTS, **facts, rights=replace(RIGHTS, **rights)), HOLDER)
    assert found is not None and problem in found


def test_an_invitation_for_another_account() -> None:
    found = refusal(FOR_HOLDER.invitation, FACTS, MINTER)
    assert found is not None and f"is for the account {HOLDER}" in found


def test_an_access_that_has_ended() -> None:
    found = refusal(replace(TERMS, expires_at=TERMS.deadline - 1), FACTS)
    assert found is not None and "ended at 2033-05-18 03:33:19 UTC" in found


def test_times() -> None:
    assert moment(0) == "1970-01-01 00:00:00 UTC"
    assert moment(2**64 - 1) == f"second {2**64 - 1}"


def test_tags_and_their_bits() -> None:
    assert tag_mask(("gateway", "web"), TAGS) == 5
    assert tag_names(5, TAGS) == ["web", "gateway"]
    assert tag_names(5, ("web",)) == ["web", "#2"]
    assert tag_names(1, (None,)) == ["#0"]
    with pytest.raises(LookupError, match="office"):
        tag_mask(("web", "office"), TAGS)

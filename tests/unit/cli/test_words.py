"""Every kind of event has a description."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from dstack_vpn.cli.words import describe
from dstack_vpn.core.observe.events import EVENTS

KEY = "nOKUqvjA3kwlcXOy3vhPvL1TBVsDVU8sLIjAUZ3ckHc="
BODIES: dict[str, dict[str, object]] = {
    "access.decided": {"token": 7, "node": "web-1", "granted": True, "reason": "active", "cause": "12-3"},
    "chain.event": {"event": "granted", "token": 7, "node": None, "owner": None, "block": 12, "undone": True},
    "chain.tag": {"index": 3, "tag": "web", "block": 12, "log_index": 0, "undone": False},
    "chain.policy": {"policy": "0x58722cff4cfe", "block": 12, "log_index": 0, "undone": True},
    "chain.policy_read": {"policy": "0x58722cff4cfe", "bytes": 40, "block": 12},
    "chain.role": {"role": "minter", "account": "0xab", "held": False, "block": 12, "undone": False},
    "chain.paused": {"paused": True, "block": 12, "undone": False},
    "chain.invitation": {
        "event": "redeemed",
        "invitation": "0x58722cff4cfe",
        "token": 7,
        "node": "web-1",
        "block": 12,
        "undone": False,
    },
    "peer.set": {"peer": KEY, "token": None, "node": None, "reason": "active", "added": True},
    "of.another.version": {"granted": True, "undone": False, "more_of": 3, "text": ""},
}
SENTENCES = {
    "access.decided": "web-1 (token 7): access granted: active [access.decided]",
    "chain.event": "token 7: granted in block 12, undone by a reorg [chain.event]",
    "chain.tag": "tag web is defined as number 3 in block 12 [chain.tag]",
    "chain.policy": "the policy is 0x58722cff... in block 12, undone by a reorg [chain.policy]",
    "chain.policy_read": "the policy 0x58722cff... was read: 40 bytes [chain.policy_read]",
    "chain.role": "0xab is no longer minter in block 12 [chain.role]",
    "chain.paused": "registrations are paused from block 12 [chain.paused]",
    "chain.invitation": (
        "invitation 0x58722cff... was redeemed by web-1 (token 7) in block 12 [chain.invitation]"
    ),
    "peer.set": "key nOKUqvjA...: peer added: active [peer.set]",
    "of.another.version": "granted, more of 3 [of.another.version]",
}


@pytest.mark.parametrize("kind", BODIES)
def test_events_are_sentences(kind: str) -> None:
    assert describe(kind, BODIES[kind]) == SENTENCES[kind]
    assert describe(kind, json.loads(json.dumps(BODIES[kind]))) == SENTENCES[kind]


class _Any(dict[str, object]):
    """An event body that has every field."""

    def __missing__(self, name: str) -> object:
        return 1


@pytest.mark.parametrize(
    "kind", [*EVENTS, "admin.invitation", "admin.resume", "admin.rollback", "admin.transaction"]
)
@pytest.mark.parametrize("body", [dict, _Any])
def test_every_kind_has_words_and_no_raw_flag(kind: str, body: Callable[[], dict[str, Any]]) -> None:
    said = describe(kind, body())
    assert said.endswith(f"[{kind}]")
    assert "True" not in said and "False" not in said
    assert body is dict or not said.startswith("[")

"""The contract's own state as JSON values."""

import json

from dstack_vpn.core.access.contract_quorum import Rules
from dstack_vpn.core.chain.contract import ContractState, Policy
from dstack_vpn.core.model import Position
from dstack_vpn.wiring.contract_view import describe

HASH = "0x" + "ab" * 32
STATE = ContractState(
    is_read=True,
    tag_names=("web", "", "db"),
    policy=Policy(HASH, Position(7, 2), "\N{SNOWMAN}\x1b[2J"),
    minters=("0xb", "0xc"),
    policy_administrators=("0xd",),
    owner="0xa",
    pending_owner="0xb",
    paused=True,
)


def test_everything() -> None:
    found = describe(STATE, Rules.of(STATE))
    assert found == {
        "known": True,
        "tags": ["web", None, "db"],
        "policy": {"hash": HASH, "block": 7, "bytes": 7, "text": "\N{SNOWMAN}\x1b[2J"},
        "roles": {
            "owner": "0xa",
            "pending_owner": "0xb",
            "minters": ["0xb", "0xc"],
            "policy_administrators": ["0xd"],
        },
        "paused": True,
        "in_force": {"tags": ["web", None, "db"], "policies": [HASH]},
    }
    assert json.dumps(found).isprintable(), "control characters are escaped"


def test_nothing_is_known_at_first() -> None:
    found = describe(ContractState(), Rules())
    assert (found["known"], found["policy"], found["roles"]["owner"]) == (False, None, None)
    assert found["in_force"] == {"tags": [], "policies": []}


def test_a_policy_whose_text_was_not_read() -> None:
    policy = describe(ContractState(policy=Policy(HASH)), Rules((), (None,)))["policy"]
    assert (policy["hash"], policy["bytes"], policy["text"]) == (HASH, None, None)

"""The contract's own state as JSON values: tag names, policy and roles."""

from typing import Any

from dstack_vpn.core.access.contract_quorum import Rules
from dstack_vpn.core.chain.contract import ContractState, Policy


def describe(state: ContractState, rules: Rules) -> dict[str, Any]:
    """Return the state; ``known`` is false before it was read, or if the contract has none.

    ``in_force`` has the names of tags and the policies that count, after a quorum.
    """
    return {
        "known": state.is_read,
        "tags": [name or None for name in state.tag_names],
        "policy": None if state.policy is None else _policy(state.policy),
        "roles": {
            "owner": state.owner if state.is_read else None,
            "pending_owner": state.pending_owner,
            "minters": list(state.minters),
            "policy_administrators": list(state.policy_administrators),
        },
        "paused": state.paused,
        "in_force": {
            "tags": [name or None for name in rules.tag_names],
            "policies": [None if policy is None else policy.hash for policy in rules.policies],
        },
    }


def _policy(policy: Policy) -> dict[str, Any]:
    text = policy.text
    return {
        "hash": policy.hash,
        "block": policy.since.block,
        "bytes": None if text is None else len(text.encode()),
        "text": text,
    }

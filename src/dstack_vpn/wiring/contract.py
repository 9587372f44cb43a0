"""The contract's own state as JSON values: tag names, policy and roles."""

from typing import Any

from dstack_vpn.core.chain.contract import ContractState, Policy


def describe(state: ContractState) -> dict[str, Any]:
    """Return the state; ``known`` is false before it was read, or if the contract has none."""
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
    }


def _policy(policy: Policy) -> dict[str, Any]:
    text = policy.text
    return {
        "hash": policy.hash,
        "block": policy.since.block,
        "bytes": None if text is None else len(text.encode()),
        "text": text,
    }
